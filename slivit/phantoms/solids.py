"""Solid shapes in a patient's space, from which the liver MRI and the chest CT are built.

Places are (x, y, z) in mm from the middle of the scan: x grows to the patient's left, y to the back, z to the head.
A shape is a map of depth in mm: above 0 inside, below 0 outside, and true to scale near its border.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from slivit.phantoms.texture import Image, step

Place = tuple[float, float, float]


@dataclass(frozen=True)
class Space:
    """The raster of a scan: axial slices from the feet to the head, seen from the feet.

    Args:
        slices: D.
        size: H and W.
        field: extent of a slice, in mm.
        extent: extent of all slices together, in mm.
    """

    slices: int
    size: int
    field: float
    extent: float

    @property
    def spacing(self) -> Place:
        """Distance in mm between columns, rows and slices: (x, y, z)."""
        pixel = self.field / self.size
        return pixel, pixel, self.extent / self.slices

    @property
    def shape(self) -> tuple[int, int, int]:
        """(D, H, W)."""
        return self.slices, self.size, self.size

    @property
    def soft(self) -> float:
        """Width in mm over which an edge is spread: a voxel holds what is in and what is out."""
        return 1.2 * self.spacing[0]

    @cached_property
    def x(self) -> Image:
        """(1, 1, W) in mm."""
        return _axis(self.size, self.spacing[0])[None, None]

    @cached_property
    def y(self) -> Image:
        """(1, H, 1) in mm."""
        return _axis(self.size, self.spacing[1])[None, :, None]

    @cached_property
    def z(self) -> Image:
        """(D, 1, 1) in mm."""
        return _axis(self.slices, self.spacing[2])[:, None, None]

    def ellipsoid(self, centre: Place, radii: Place) -> Image:
        """Depth inside an ellipsoid: (D, H, W)."""
        axes = zip((self.x, self.y, self.z), centre, radii, strict=True)
        x, y, z = (((axis - middle) / radius) ** 2 for axis, middle, radius in axes)
        return 0.5 * min(radii) * (1 - x - y - z)

    def trunk(self, half_x: float | Image, half_y: float | Image, middle_y: float = 0.0, power: float = 2.5) -> Image:
        """Depth inside an upright tube with a rounded, rather square cross-section, such as a body's outline."""
        radius = abs(self.x / half_x) ** power + abs((self.y - middle_y) / half_y) ** power
        return (1 - radius ** np.float32(1 / power)) * np.minimum(half_x, half_y)

    def inside(self, depth: Image) -> Image:
        """The part of each voxel that lies inside a shape, 0 to 1."""
        return step(depth, self.soft)

    def add_tube(self, image: Image, start: Place, end: Place, radius: float, end_radius: float | None = None) -> None:
        """Raise `image` (D, H, W), the part of each voxel inside some tubes, by one more tube with round ends."""
        end_radius = radius if end_radius is None else end_radius
        box = self._box(start, end, max(radius, end_radius) + self.soft)
        x, y, z = self.x[..., box[2]] - start[0], self.y[:, box[1]] - start[1], self.z[box[0]] - start[2]
        if 0 in (x.size, y.size, z.size):
            return
        dx, dy, dz = (b - a for a, b in zip(start, end, strict=True))
        place = np.clip((x * dx + y * dy + z * dz) / max(dx**2 + dy**2 + dz**2, 1e-6), 0, 1)
        distance = np.sqrt((x - place * dx) ** 2 + (y - place * dy) ** 2 + (z - place * dz) ** 2)
        part = image[box]
        np.maximum(part, self.inside(radius + (end_radius - radius) * place - distance), out=part)

    def _box(self, start: Place, end: Place, margin: float) -> tuple[slice, ...]:
        """The (D, H, W) slices of the voxels within `margin` mm of a line."""
        box = []
        for a, b, spacing, size in zip(start, end, self.spacing, self.shape[::-1], strict=True):
            low, high = ((edge / spacing) + (size - 1) / 2 for edge in (min(a, b) - margin, max(a, b) + margin))
            box.append(slice(max(int(np.floor(low)), 0), max(int(np.ceil(high)) + 1, 0)))
        return tuple(box[::-1])


def fill(image: Image, value: Image | float, part: Image) -> None:
    """Replace `part` (0 to 1) of each voxel of `image` by `value`."""
    image += part * (value - image)


def ribs(space: Space, cage: Image, thickness: float, turn: float) -> Image:
    """The part of each voxel that lies in a rib.

    Args:
        space: the raster.
        cage: depth inside the inner surface of the chest wall.
        thickness: of a rib across the wall, in mm.
        turn: where along z the ribs begin, in mm.
    """
    # Ribs run downwards from the spine to the front, so that a slice cuts each of them once.
    from_spine = abs(np.arctan2(space.x, space.y))
    along = (space.z + turn + 32 * from_spine) % 26 - 13
    wall = 0.5 * thickness - abs(cage + 0.5 * thickness)
    return space.inside(np.minimum(wall, 5.5 - abs(along))) * step(2.5 - from_spine, 0.2)


def _axis(size: int, spacing: float) -> Image:
    return ((np.arange(size) - (size - 1) / 2) * spacing).astype(np.float32)
