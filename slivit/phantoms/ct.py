"""Made-up chest CT: NIfTI files in Hounsfield units, with a lung nodule or without.

A nodule is a roundish ball of soft tissue. The lung's vessels have its density and, cut across, its size, but go on
from slice to slice.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slivit.phantoms.cases import Case, Generator, whole_number
from slivit.phantoms.solids import Place, Space, fill
from slivit.phantoms.texture import Image, blur, smooth_noise, white_noise
from slivit.phantoms.thorax import Thorax, draw_chest, draw_thorax

DEFAULT_N = 100
FIELD, EXTENT = 360.0, 168.0


@dataclass(frozen=True)
class Options:
    """Slices of a scan, and rows and columns of a slice."""

    slices: int = whole_number(28, 12, 256)
    size: int = whole_number(128, 64, 512)


def scan_path(case: Case) -> str:
    """The NIfTI file."""
    return f"scans/{case.name}.nii.gz"


def draw(case: Case, options: Options) -> tuple[npt.NDArray[np.int16], dict[str, Any]]:
    """Draw one scan.

    Returns:
        (D, H, W) int16 in HU, from the feet to the head, rows to the back, columns to the patient's left; and the
        answers: `nodule` 0 or 1; where there is one, the voxel in its middle, `lesion_slice`, `lesion_row` and
        `lesion_col`, counted from 0, its `diameter_mm`, and the slices that show it, `nodule_slices`, as "12-14".
    """
    space, patient, rng = Space(options.slices, options.size, FIELD, EXTENT), case.patient_rng(), case.scan_rng()
    thorax = draw_thorax(space, draw_chest(patient), patient, rng)
    truth = dict.fromkeys(("lesion_slice", "lesion_row", "lesion_col", "diameter_mm", "nodule_slices"))
    if nodule := int(case.level >= 0.5):
        truth = add_nodule(thorax, space, rng)
    return _scan(thorax.hu, rng), {"nodule": nodule, **truth}


def add_nodule(thorax: Thorax, space: Space, rng: Generator) -> dict[str, Any]:
    """Put a nodule somewhere into the lungs.

    Args:
        thorax: its `hu` is changed in place.
        space: the raster.
        rng: the source of randomness.

    Returns:
        Where it is, and how large.
    """
    radius = rng.uniform(5.5, 12)
    voxel = _free_place(thorax, radius, rng)
    centre = _place(space, voxel)
    scale = rng.uniform(0.85, 1.15, 3)
    uneven = 1 + 0.14 * smooth_noise(rng, space.shape, [e / 9 for e in (space.extent, space.field, space.field)])
    ball = space.ellipsoid(centre, (radius * scale[0], radius * scale[1], radius * scale[2])) + radius * (uneven - 1)
    part = space.inside(ball)
    if rng.uniform() < 0.4:
        _add_spicules(part, space, centre, radius, rng)
    shown = part * space.inside(thorax.lung)
    fill(thorax.hu, rng.uniform(0, 55), shown)
    slices = np.flatnonzero(shown.max(axis=(1, 2)) >= 0.5)
    return {**voxel, "diameter_mm": round(2 * radius, 1), "nodule_slices": f"{slices[0]}-{slices[-1]}"}


def save(volume: npt.NDArray[np.int16], path: Path, case: Case, options: Options) -> None:
    """Write a scan as compressed NIfTI."""
    write_nifti(volume, path, Space(options.slices, options.size, FIELD, EXTENT))


def write_nifti(volume: npt.NDArray[np.int16], path: Path, space: Space) -> None:
    """Write (D, H, W) as compressed NIfTI, with the spacing of its space in the affine."""
    import nibabel as nib

    # NIfTI counts x to the right and y to the front: (D, H, W) to (x, y, z), with falling x and y.
    affine = np.diag([-space.spacing[0], -space.spacing[1], space.spacing[2], 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(space.shape[::-1]) - 1) / 2)
    image = nib.Nifti1Image(volume.transpose(2, 1, 0), affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    # No name and no time in the archive, so that the same scan is the same file.
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 3, raw, mtime=0) as packed:
        packed.write(image.to_bytes())


def _free_place(thorax: Thorax, radius: float, rng: Generator) -> dict[str, int]:
    """Choose a voxel deep enough inside a lung, not within a vessel, and not in the outermost slices."""
    fits = (thorax.lung > radius + 2.5) & (thorax.vessels < 0.1)
    margin = max(2, len(fits) // 12)
    fits[:margin] = fits[-margin:] = False
    places = np.argwhere(fits)
    names = ("lesion_slice", "lesion_row", "lesion_col")
    return dict(zip(names, map(int, places[rng.integers(len(places))]), strict=True))


def _place(space: Space, voxel: dict[str, int]) -> Place:
    x, y, z = space.x.ravel(), space.y.ravel(), space.z.ravel()
    return float(x[voxel["lesion_col"]]), float(y[voxel["lesion_row"]]), float(z[voxel["lesion_slice"]])


def _add_spicules(part: Image, space: Space, centre: Place, radius: float, rng: Generator) -> None:
    """Thin strands that run from a nodule into the lung."""
    for _ in range(rng.integers(4, 9)):
        heading = rng.normal(size=3)
        tip = np.array(centre) + heading / np.linalg.norm(heading) * radius * rng.uniform(1.4, 2.0)
        space.add_tube(part, centre, (float(tip[0]), float(tip[1]), float(tip[2])), 0.3 * radius, 0.6)


def _scan(hu: Image, rng: Generator) -> npt.NDArray[np.int16]:
    """Sharpness and noise of a reconstruction."""
    noise = rng.uniform(12, 38) * white_noise(rng, hu.shape)
    sharp = rng.uniform(0.45, 0.7)
    # The detector's noise is blurred by the reconstruction as the anatomy is, and so is coarser than a voxel.
    image = np.stack([blur(frame, sharp, sharp) for frame in hu + 1.6 * noise])
    return np.clip(np.rint(image), -1024, 3071).astype(np.int16)
