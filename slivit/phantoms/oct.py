"""Made-up OCT volumes: folders of TIFF frames, with drusen or without.

Drusen are deposits under the retinal pigment epithelium: domes that raise its bright line over some neighbouring
slices.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slivit.phantoms.cases import Case, Generator, whole_number
from slivit.phantoms.retina import Findings, Grid, Surfaces, add_speckle, draw_surfaces, paint, screen
from slivit.phantoms.texture import to_bytes

DEFAULT_N = 160


@dataclass(frozen=True)
class Options:
    """Slices of a volume, and rows and columns of a slice."""

    slices: int = whole_number(12, 5, 256)
    height: int = whole_number(128, 48, 1024)
    width: int = whole_number(160, 48, 1024)


def scan_path(case: Case) -> str:
    """The volume's folder."""
    return f"scans/{case.name}"


def draw(case: Case, options: Options) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
    """Draw one volume.

    Returns:
        (D, H, W) uint8, and the answers: `eye`; `drusen` 0 or 1; and of the tallest druse, where there is one, its
        `lesion_slice`, `lesion_row` and `lesion_col`, counted from 0.
    """
    grid = Grid(options.slices, options.height, options.width)
    rng = case.scan_rng()
    shape = draw_surfaces(case.patient_rng(), rng, grid, mirrored=case.visit == 1)
    drusen = int(case.level >= 0.5)
    if drusen:
        shape.lift = np.max(list(draw_drusen(rng, grid)), axis=0)
    image = add_speckle(paint(shape, Findings(), rng, grid), rng, rng.uniform(0.08, 0.13))
    truth = {"eye": ("OD", "OS")[case.visit], "drusen": drusen, **_tallest(shape, grid)}
    return to_bytes(screen(image, rng)), truth


def draw_drusen(rng: Generator, grid: Grid) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the height of each druse over Bruch's membrane, as (D, W) maps; the first is never a small one."""
    for number in range(rng.integers(3, 7)):
        height = rng.uniform(0.055 if number == 0 else 0.03, 0.095)
        # Wide enough to be seen in three neighbouring slices at the least.
        half_width = rng.uniform(0.022, 0.05)
        across = max(1.5 / grid.slices, rng.uniform(0.8, 1.4) * half_width)
        yield height * grid.bump(rng.uniform(0.15, 0.85), rng.uniform(0.12, 0.88), across, half_width, power=2.6)


def save(volume: npt.NDArray[np.uint8], path: Path, case: Case, options: Options) -> None:
    """Write a volume as frame_1.tif, frame_2.tif, ... into the empty folder `path`."""
    import tifffile

    for number, frame in enumerate(volume, start=1):
        tifffile.imwrite(path / f"frame_{number}.tif", frame, metadata=None)


def _tallest(shape: Surfaces, grid: Grid) -> dict[str, int | None]:
    if not shape.lift.any():
        return {"lesion_slice": None, "lesion_row": None, "lesion_col": None}
    slice_, col = np.unravel_index(int(shape.lift.argmax()), shape.lift.shape)
    row = (shape.bruch - shape.lift)[slice_, col] * grid.height
    return {"lesion_slice": int(slice_), "lesion_row": round(float(row)), "lesion_col": int(col)}
