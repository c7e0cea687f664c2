"""A scan in memory: what every reader returns and everything after it takes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from slivit.errors import ReadError


@dataclass(frozen=True, eq=False)
class Volume:
    """A stack of grey slices with its geometry. A 2D image is a volume with D = 1.

    Args:
        array: (D, H, W), in the precision in which the values are stored (HU for CT after rescaling).
        spacing: distance in mm between slices, rows and columns, in the order (D, H, W); None where the format does
            not say (video, frames, MedMNIST).
        source: the file or folder that it was read from.
        affine: (4, 4) float64, from the homogeneous voxel index (d, h, w, 1) to RAS coordinates in mm; None where
            unknown.
        indices: which slices of the scan `array` holds, in order, where only some were read; None for all.
        depth: the number of slices of the whole scan.
        notes: what the reader noticed and the user should know (missing slices, a guessed order, ...).

    Example:
        >>> slivit.Volume(np.zeros((6, 24, 24), np.int16), spacing=(3, 1, 1), source="made up")
        Volume(6 x 24 x 24, int16, spacing 3 x 1 x 1 mm, made up)
    """

    array: npt.NDArray[np.generic]
    spacing: tuple[float, float, float] | None
    source: str
    affine: npt.NDArray[np.float64] | None = None
    indices: tuple[int, ...] | None = None
    depth: int = 0
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if self.array.ndim != 3 or 0 in self.array.shape:
            raise ReadError(
                f"{self.source}: expected a non-empty (D, H, W) array, got shape {self.array.shape}. "
                "Choose one frame or channel when reading."
            )
        if self.depth == 0:
            object.__setattr__(self, "depth", self.array.shape[0])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(D, H, W) of the array."""
        depth, height, width = self.array.shape
        return depth, height, width

    def _repr_html_(self) -> str:
        """Three planes, or a contact sheet, and the geometry: what Jupyter shows."""
        from slivit.display import facts, patient_axes, picture, volume_image

        rows = {
            "shape (D, H, W)": " x ".join(map(str, self.shape)) + ("" if self.indices is None else f" of {self.depth}"),
            "spacing": "unknown" if self.spacing is None else " x ".join(f"{s:.3g}" for s in self.spacing) + " mm",
            "view": "the patient's right on the left, head or front up" if patient_axes(self.affine) else "",
            "values": f"{self.array.dtype}, {self.array.min():.4g} to {self.array.max():.4g}",
            "notes": "; ".join(self.notes),
        }
        name = self.source.replace("\\", "/").rstrip("/").rpartition("/")[2]
        image = volume_image(self.array, self.spacing, self.affine)
        return facts(f"Volume {name}", rows, picture(image, f"slices of {name}"))

    def __repr__(self) -> str:
        spacing = "unknown" if self.spacing is None else " x ".join(f"{s:.3g}" for s in self.spacing) + " mm"
        shape = " x ".join(str(n) for n in self.shape)
        part = "" if self.indices is None else f" of {self.depth} slices"
        return f"Volume({shape}{part}, {self.array.dtype}, spacing {spacing}, {self.source})"
