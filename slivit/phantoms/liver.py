"""Made-up liver MRI: opposed-phase gradient-echo images as DICOM series, with the liver's fat fraction (PDFF).

In opposed phase the signals of fat and water cancel each other, so a fatty liver is darker than the spleen, and every
border between fat and water is etched black. The receiver's gain and its uneven field are drawn anew for each scan:
only the liver compared with the organs around it gives the fraction.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slivit.phantoms.abdomen import FAT, Abdomen, draw_abdomen, draw_build
from slivit.phantoms.cases import Case, Generator, number, whole_number
from slivit.phantoms.solids import Space
from slivit.phantoms.texture import blur, smooth_noise, white_noise

DEFAULT_N = 80
FIELD, EXTENT = 384.0, 150.0


@dataclass(frozen=True)
class Options:
    """Slices of a series, rows and columns of a slice, and by how many degrees the slices lean forward."""

    slices: int = whole_number(16, 5, 128)
    size: int = whole_number(128, 64, 512)
    tilt: float = number(0.0, -45, 45)


def scan_path(case: Case) -> str:
    """The folder of the series."""
    return f"scans/{case.name}"


def draw(case: Case, options: Options) -> tuple[npt.NDArray[np.uint16], dict[str, Any]]:
    """Draw one series.

    Returns:
        (D, H, W) uint16 from the feet to the head, and the answer: `pdff`, the mean over the liver in %.
    """
    space, patient, rng = Space(options.slices, options.size, FIELD, EXTENT), case.patient_rng(), case.scan_rng()
    abdomen = draw_abdomen(space, draw_build(patient), patient)
    fraction = _fraction(case, rng)
    add_fat(abdomen, fraction, rng)
    return _receive(abdomen, rng), {"pdff": round(100 * fraction, 2)}


def add_fat(abdomen: Abdomen, fraction: float, rng: Generator) -> None:
    """Put fat into the liver, a little more here and less there.

    Args:
        abdomen: changed in place.
        fraction: the mean proton density fat fraction over the liver, 0 to 1.
        rng: the source of randomness.
    """
    local = np.clip(1 + 0.15 * smooth_noise(rng, abdomen.liver.shape, (3, 5, 5)), 0, None)
    local *= fraction * abdomen.liver.sum() / (local * abdomen.liver).sum()
    abdomen.fat += abdomen.liver * local * FAT
    abdomen.water -= abdomen.liver * local


def save(volume: npt.NDArray[np.uint16], path: Path, case: Case, options: Options) -> None:
    """Write a series into the empty folder `path`, one file a slice; the order of the names is not that of slices."""
    from slivit.phantoms.dicom import Geometry, write_series

    space = Space(options.slices, options.size, FIELD, EXTENT)
    geometry = Geometry(space.spacing[::-1], options.tilt)
    write_series(volume, path, case, geometry)


def _fraction(case: Case, rng: Generator) -> float:
    # Most livers hold little fat; some hold up to 40%.
    change = 0.008 * rng.normal() if case.visit else 0.0
    return float(np.clip(0.005 + 0.385 * case.level**1.6 + change, 0.002, 0.4))


def _receive(abdomen: Abdomen, rng: Generator) -> npt.NDArray[np.uint16]:
    """Opposed-phase signal as a scanner stores it: point spread, coil field, a ghost of breathing, noise, gain."""
    # The difference is blurred before its magnitude is taken: that is what etches the borders.
    signal = np.stack([blur(frame, 0.55, 0.55) for frame in abdomen.water - abdomen.fat])
    signal = abs(signal) * np.exp(0.22 * smooth_noise(rng, signal.shape, (1, 1.3, 1.3)))
    signal += rng.uniform(0.0, 0.05) * np.roll(signal, signal.shape[1] // 3, axis=1)
    noise = rng.uniform(0.02, 0.05)
    signal = np.hypot(signal + noise * white_noise(rng, signal.shape), noise * white_noise(rng, signal.shape))
    gain = 420 * 10 ** rng.uniform(-0.4, 0.4)
    return np.clip(gain * signal + 0.5, 0, 4095).astype(np.uint16)
