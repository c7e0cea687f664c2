"""Made-up 2D OCT images: JPEG files in the class folders NORMAL, DRUSEN, CNV and DME, named as in the Kermany set.

NORMAL is a healthy retina. DRUSEN has small domes under the pigment epithelium. CNV has a broad, uneven neovascular
membrane under a broken pigment epithelium, with fluid over it. DME has a swollen retina with dark cysts and exudates.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slivit.phantoms.cases import BLOCK, Case, Generator, number, whole_number
from slivit.phantoms.oct import draw_drusen
from slivit.phantoms.retina import Findings, Grid, Surfaces, add_speckle, draw_surfaces, paint, screen
from slivit.phantoms.texture import Image, smooth_noise, to_bytes

DEFAULT_N = 800
LABELS = ("NORMAL", "DRUSEN", "CNV", "DME")


@dataclass(frozen=True)
class Options:
    """Rows and columns of an image, and the part of images that show a border of white, as exported crops do."""

    height: int = whole_number(160, 48, 1024)
    width: int = whole_number(208, 48, 1024)
    white_corners: float = number(0.2, 0, 1)


def scan_path(case: Case) -> str:
    """The image file: split/LABEL/LABEL-patient-number.jpeg."""
    return f"{_split(case)}/{_label(case)}/{_label(case)}-{_patient_code(case)}-{case.visit + 1}.jpeg"


def draw(case: Case, options: Options) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
    """Draw one image.

    Returns:
        (H, W) uint8, and the answers: `label`, one of `LABELS`; and `split`, "train" or "test".
    """
    grid = Grid(1, options.height, options.width)
    rng, label = case.scan_rng(), _label(case)
    shape = draw_surfaces(case.patient_rng(), rng, grid, mirrored=case.visit == 1)
    # The image is a slice through the macula, not always through the middle of the fovea.
    shape.fovea = shape.fovea * np.float32(rng.uniform(0.2, 1))
    findings = {"NORMAL": _healthy, "DRUSEN": _drusen, "CNV": _cnv, "DME": _dme}[label](shape, rng, grid)
    image = screen(add_speckle(paint(shape, findings, rng, grid), rng, rng.uniform(0.06, 0.12)), rng)[0]
    if rng.uniform() < options.white_corners:
        _whiten_corners(image, rng, grid)
    return to_bytes(image), {"label": label, "split": _split(case)}


def save(image: npt.NDArray[np.uint8], path: Path, case: Case, options: Options) -> None:
    """Write an image as JPEG."""
    from PIL import Image as pillow

    pillow.fromarray(image).save(path, quality=90)


def _label(case: Case) -> str:
    return LABELS[int(case.level * len(LABELS))]


def _split(case: Case) -> str:
    # Whole blocks of patients, so that the test set holds every class and shares no patient.
    return "test" if case.patient // BLOCK % 5 == 1 else "train"


def _patient_code(case: Case) -> int:
    # 7919 shares no factor with 9,000,000: no two patients of a set get the same seven digits.
    return 1_000_000 + (7919 * (case.patient + 1) + 104_729 * case.seed) % 9_000_000


def _healthy(shape: Surfaces, rng: Generator, grid: Grid) -> Findings:
    return Findings()


def _drusen(shape: Surfaces, rng: Generator, grid: Grid) -> Findings:
    shape.lift = np.max(list(draw_drusen(rng, grid)), axis=0)
    return Findings()


def _cnv(shape: Surfaces, rng: Generator, grid: Grid) -> Findings:
    place, half_width = rng.uniform(0.3, 0.7), rng.uniform(0.08, 0.16)
    uneven = 1 + 0.22 * smooth_noise(rng, (1, grid.width), (0, rng.uniform(6, 14)))
    shape.lift = rng.uniform(0.06, 0.12) * np.maximum(uneven, 0.2) * grid.bump(0.5, place, 1, half_width, 3.0)
    beside = place + rng.normal(0, 0.5) * half_width
    shape.fluid = rng.uniform(0.0, 0.06) * grid.bump(0.5, beside, 1, 1.3 * half_width, 3.0)
    shape.fovea = shape.fovea * np.float32(rng.uniform(0.1, 0.8))
    cysts = [_cyst(rng, place, 0.8 * half_width) for _ in range(rng.integers(0, 3))]
    return Findings(content=rng.uniform(0.42, 0.64), ragged=1.0, cysts=cysts)


def _dme(shape: Surfaces, rng: Generator, grid: Grid) -> Findings:
    place, half_width = rng.uniform(0.38, 0.62), rng.uniform(0.13, 0.24)
    dome = grid.bump(0.5, place, 1, half_width)
    shape.swelling = 1 + rng.uniform(0.3, 0.8) * dome
    shape.fovea = shape.fovea * np.float32(rng.uniform(0.0, 0.5))
    if rng.uniform() < 0.3:
        shape.fluid = rng.uniform(0.02, 0.06) * grid.bump(0.5, place, 1, 0.6 * half_width, 3.0)
    cysts = [_cyst(rng, place, 0.7 * half_width) for _ in range(rng.integers(4, 11))]
    exudates = [(0.5, rng.normal(place, half_width), rng.uniform(0.35, 0.8)) for _ in range(rng.integers(2, 9))]
    return Findings(cysts=cysts, exudates=exudates)


def _cyst(rng: Generator, place: float, spread: float) -> tuple[float, ...]:
    # Fluid gathers in the inner and outer nuclear layers; the largest cysts lie near the fovea.
    offset, depth = rng.normal(0, 1), rng.choice([rng.uniform(0.35, 0.5), rng.uniform(0.58, 0.75)])
    size = rng.uniform(0.7, 1.9) / (1 + 0.4 * abs(offset))
    return 0.5, place + spread * offset, depth, 0.026 * size, 0.045 * size


def _whiten_corners(image: Image, rng: Generator, grid: Grid) -> None:
    """Fill what lies outside a turned crop with white."""
    slope, x = rng.uniform(0.08, 0.2) * rng.choice([-1, 1]), grid.x - 0.5
    if rng.uniform() < 0.7:
        image[grid.z < slope * x - 0.02] = 1
    else:
        image[grid.z > 1 + slope * x + 0.02] = 1
