"""Made-up brain MRI with a tumour: two sequences as NIfTI, and the mask of its parts.

Only FLAIR shows the oedema. The core is bright in T1, as are vessels that have nothing to do with it, so that it takes
both sequences to tell it. The receiver's gain and its uneven field are drawn anew for each sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slivit.phantoms.cases import Case, Generator, whole_number
from slivit.phantoms.ct import write_nifti
from slivit.phantoms.solids import Place, Space, fill
from slivit.phantoms.texture import Image, smooth_noise, white_noise

DEFAULT_N = 60
FIELD, EXTENT = 192.0, 144.0
FILES = ("t1", "flair", "mask")
OEDEMA, CORE = 1, 2
"""The labels in the mask."""


@dataclass(frozen=True)
class Options:
    """Slices of a scan, and rows and columns of a slice."""

    slices: int = whole_number(24, 8, 128)
    size: int = whole_number(64, 32, 256)


def scan_path(case: Case) -> str:
    """The folder of the sequences and the mask."""
    return f"scans/{case.name}"


def draw(case: Case, options: Options) -> tuple[npt.NDArray[np.int16], dict[str, Any]]:
    """Draw one patient.

    Returns:
        (3, D, H, W) int16: T1, FLAIR and the mask; and where they lie, beside the volume of each label in mL.
    """
    space, patient, rng = Space(options.slices, options.size, FIELD, EXTENT), case.patient_rng(), case.scan_rng()
    t1, flair, brain = _head(space, patient)
    core, oedema = (part * brain for part in _tumour(space, patient, case.level))
    vessels = _vessels(space, patient, oedema) * brain
    fill(flair, 165.0, oedema)
    fill(t1, 88.0, oedema)
    fill(flair, 130.0, core)
    fill(t1, 185.0, np.maximum(core, vessels))
    mask = np.where(core >= 0.5, CORE, np.where(oedema >= 0.5, OEDEMA, 0)).astype(np.int16)
    voxel = float(np.prod(space.spacing)) / 1000
    places = {name: f"{scan_path(case)}/{name}.nii.gz" for name in FILES}
    volumes = {f"ml_{n}": round(float((mask == v).sum()) * voxel, 3) for n, v in (("oedema", OEDEMA), ("core", CORE))}
    return np.stack([_received(t1, rng), _received(flair, rng), mask]), {"path": places["t1"], **places, **volumes}


def save(scan: npt.NDArray[np.int16], path: Path, case: Case, options: Options) -> None:
    """Write the sequences and the mask into the empty folder `path`."""
    space = Space(options.slices, options.size, FIELD, EXTENT)
    for name, volume in zip(FILES, scan, strict=True):
        write_nifti(volume, path / f"{name}.nii.gz", space)


def _head(space: Space, rng: Generator) -> tuple[Image, Image, Image]:
    """T1 and FLAIR of a head without a tumour (scalp, brain and ventricles), and the part of voxels in the brain."""
    scale = rng.uniform(0.93, 1.05, 3)
    head, brain = (
        space.inside(space.ellipsoid((0, 0, 0), (r * scale[0], (r + 14) * scale[1], (r - 8) * scale[2])))
        for r in (74, 66)
    )
    t1, flair = 150 * head, 120 * head
    fill(t1, 100 + 8 * smooth_noise(rng, space.shape, (5, 12, 12)), brain)
    fill(flair, 90 + 5 * smooth_noise(rng, space.shape, (5, 12, 12)), brain)
    for side in (-1, 1):
        ventricle = space.inside(space.ellipsoid((side * 11, 0, 6), (6 * scale[0], 26 * scale[1], 14 * scale[2])))
        fill(t1, 35.0, ventricle)
        fill(flair, 20.0, ventricle)
    return t1, flair, brain


def _somewhere(rng: Generator) -> Place:
    """A place in the brain, away from the ventricles."""
    x, y, z = rng.uniform(28, 42) * rng.choice((-1, 1)), rng.uniform(-38, 38), rng.uniform(-28, 28)
    return float(x), float(y), float(z)


def _tumour(space: Space, rng: Generator, level: float) -> tuple[Image, Image]:
    """The part of each voxel that lies in the core, and in the core or its oedema."""
    centre, radius = _somewhere(rng), 9 + 8 * level
    uneven = 0.16 * smooth_noise(rng, space.shape, [e / 14 for e in (EXTENT, FIELD, FIELD)])
    parts = [
        space.inside(space.ellipsoid(centre, (r, r * 1.1, r * 0.9)) + r * uneven)
        for r in (radius, radius * rng.uniform(1.6, 1.9))
    ]
    return parts[0], np.maximum(*parts)


def _vessels(space: Space, rng: Generator, oedema: Image) -> Image:
    """The part of each voxel that lies in a vessel, none of them in the tumour or its oedema."""
    part = np.zeros(space.shape, np.float32)
    for _ in range(rng.integers(5, 9)):
        start, turn = _somewhere(rng), rng.normal(size=3)
        end = np.array(start) + turn / np.linalg.norm(turn) * rng.uniform(8, 20)
        space.add_tube(part, start, (float(end[0]), float(end[1]), float(end[2])), rng.uniform(4.5, 8))
    return np.asarray(part * (oedema < 0.01))


def _received(signal: Image, rng: Generator) -> npt.NDArray[np.int16]:
    """Coil field, noise and gain."""
    uneven = np.exp(0.08 * smooth_noise(rng, signal.shape, (1, 1.3, 1.3)))
    noisy = signal * uneven + rng.uniform(4, 8) * white_noise(rng, signal.shape)
    return np.clip(np.rint(noisy * 10 ** rng.uniform(-0.3, 0.3)), 0, 4095).astype(np.int16)
