"""A scan in memory: what every reader returns and everything after it takes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from slivit.errors import ReadError


@dataclass(frozen=True, eq=False)
class Volume:
    """A stack of grey slices with its geometry. A 2D image is a volume with D = 1.

    The one rule of shapes: the last three axes are slices, rows and columns; before them stands an axis of channels
    where a scan has several (the sequences of an MRI, say), and nowhere else.

    Args:
        array: (D, H, W), or (C, D, H, W) of several channels, in the precision in which the values are stored (HU for
            CT after rescaling).
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
        if self.array.ndim not in (3, 4) or 0 in self.array.shape:
            raise ReadError(
                f"{self.source}: expected a non-empty (D, H, W) or (C, D, H, W) array, got shape {self.array.shape}. "
                "Choose one frame or channel when reading."
            )
        if self.depth == 0:
            object.__setattr__(self, "depth", self.shape[0])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(D, H, W) of the array, whatever channels it has."""
        depth, height, width = self.array.shape[-3:]
        return depth, height, width

    @property
    def channels(self) -> int:
        """The number of channels: 1 of an array without an axis of them."""
        return self.array.shape[0] if self.array.ndim == 4 else 1

    def by_channel(self) -> list[Volume]:
        """Each channel as a volume of its own, with the same geometry."""
        if self.array.ndim == 3:
            return [self]
        return [replace(self, array=array) for array in self.array]

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """Three planes as a widget where the place of the scan is known and ipyniivue is there; else a picture."""
        from slivit.display import DEEP, bundle, nifti_bytes, percentiles, planes_widget

        widget = None
        if self.affine is not None and self.indices is None and self.shape[0] >= DEEP:
            first = self.array[0] if self.array.ndim == 4 else self.array
            low, high = percentiles(first)
            layer = {"data": nifti_bytes(first, self.affine, self.spacing), "name": "scan.nii", "colormap": "gray"}
            widget = planes_widget([{**layer, "cal_min": low, "cal_max": high}])
        return bundle(repr(self), self._repr_html_(), widget)

    def _repr_html_(self) -> str:
        """Three planes, or a contact sheet, and the geometry: what Jupyter shows."""
        from slivit.display import facts, patient_axes, picture, volume_image

        rows = {
            "shape (D, H, W)": " x ".join(map(str, self.shape)) + ("" if self.indices is None else f" of {self.depth}"),
            "channels": self.channels if self.array.ndim == 4 else "",
            "spacing": "unknown" if self.spacing is None else " x ".join(f"{s:.3g}" for s in self.spacing) + " mm",
            "view": "the patient's right on the left, head or front up" if patient_axes(self.affine) else "",
            "values": f"{self.array.dtype}, {self.array.min():.4g} to {self.array.max():.4g}",
            "notes": "; ".join(self.notes),
        }
        name = self.source.replace("\\", "/").rstrip("/").rpartition("/")[2]
        shown = [volume_image(part.array, self.spacing, self.affine) for part in self.by_channel()]
        return facts(f"Volume {name}", rows, "".join(picture(image, f"slices of {name}") for image in shown))

    def __repr__(self) -> str:
        spacing = "unknown" if self.spacing is None else " x ".join(f"{s:.3g}" for s in self.spacing) + " mm"
        shape = " x ".join(str(n) for n in self.array.shape)
        part = "" if self.indices is None else f" of {self.depth} slices"
        return f"Volume({shape}{part}, {self.array.dtype}, spacing {spacing}, {self.source})"
