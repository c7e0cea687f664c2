"""The geometry of a beating heart in the apical four-chamber view: the left ventricle's border in every frame.

The border is that of a bullet whose length and width follow the beat so that its volume, by the area-length method,
falls by the ejection fraction.

Source: area-length volume 8 A^2 / (3 pi L), Lang et al. 2015, recommendations for chamber quantification, "LV volumes".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from slivit.phantoms.cases import Case

Points = npt.NDArray[np.float64]
Number = TypeVar("Number", float, npt.NDArray[np.float32])


@dataclass(frozen=True)
class Heart:
    """One heart in one recording. Lengths are parts of the frame; times are parts of a beat.

    Args:
        apex: (x, y) of the inner apex in diastole.
        turn: angle of the long axis against the vertical, in radians.
        length: inner long axis in diastole.
        half_width: inner half-width in diastole.
        wall: thickness of the wall in diastole.
        ef: the ejection fraction aimed at, 0 to 1.
        shortening: the part of the long axis that systole takes away.
        beat: frames in a beat.
        phase: where in the beat the recording starts.
    """

    apex: tuple[float, float]
    turn: float
    length: float
    half_width: float
    wall: float
    ef: float
    shortening: float
    beat: float
    phase: float


def draw_heart(case: Case) -> Heart:
    """Draw the patient's heart, and how this recording holds it."""
    patient, scan = case.patient_rng(), case.scan_rng()
    # A later visit finds nearly the same function.
    ef = 0.17 + 0.57 * case.level + (0.02 * scan.normal() if case.visit else 0.0)
    length = patient.uniform(0.37, 0.47)
    return Heart(
        apex=(0.56 + scan.normal(0, 0.015), 0.20 + scan.normal(0, 0.012)),
        turn=patient.normal(-0.10, 0.06) + scan.normal(0, 0.04),
        length=length,
        half_width=length * patient.uniform(0.24, 0.33),
        wall=patient.uniform(0.035, 0.05),
        ef=ef,
        shortening=0.32 * ef * patient.uniform(0.8, 1.2),
        beat=patient.uniform(17, 26) * scan.uniform(0.95, 1.05),
        phase=scan.uniform(),
    )


def beat_time(heart: Heart, frame: float) -> float:
    """Where in the beat a frame lies, in [0, 1): systole begins at 0."""
    return (frame / heart.beat + heart.phase) % 1.0


def contraction(heart: Heart, frame: float) -> float:
    """How far the ventricle is emptied at a frame: 0 in diastole, 1 at the end of systole.

    Ejection takes a third of the beat; filling is quick at first, then rests, then the atrium adds its part.
    """
    knots = (0.0, 0.05, 0.19, 0.33, 0.40, 0.55, 0.66, 0.84, 0.94, 1.0)
    emptied = (0.0, 0.04, 0.62, 0.97, 1.0, 0.38, 0.22, 0.17, 0.02, 0.0)
    return float(np.interp(beat_time(heart, frame), knots, emptied))


def valve_opening(heart: Heart, frame: float) -> float:
    """How far the valves between atria and ventricles are open: shut in systole, widest in early filling."""
    knots, opened = (0.0, 0.40, 0.47, 0.60, 0.72, 0.82, 0.90, 0.98, 1.0), (0.0, 0.0, 1.0, 0.8, 0.35, 0.4, 0.7, 0.0, 0.0)
    return float(np.interp(beat_time(heart, frame), knots, opened))


def ventricle(heart: Heart, frame: float) -> tuple[float, float]:
    """Inner length and half-width of the left ventricle at a frame, so that the volume falls by `ef` in systole."""
    emptied = contraction(heart, frame)
    length = heart.length * (1 - heart.shortening * emptied)
    # By area-length the volume grows with length x half_width^2.
    left = 1 - heart.ef * emptied
    return length, heart.half_width * float(np.sqrt(left * heart.length / length))


def profile(u: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Half-width of a ventricle along its axis, 1 at the widest, from the apex (u = 0) to the valve (u = 1)."""
    towards_apex = np.sqrt(np.clip(1 - (1 - u / 0.62) ** 2, 0, None))
    return np.where(u < 0.62, towards_apex, 1 - 0.22 * ((u - 0.62) / 0.38) ** 2) * (u >= 0)


def contour(heart: Heart, frame: float, points: int = 96) -> Points:
    """The inner border of the left ventricle, from one hinge of the mitral valve round the apex to the other.

    Returns:
        (points, 2) x and y as parts of the frame; the first and the last point are the hinges.
    """
    length, half_width = ventricle(heart, frame)
    # Dense near the apex, where the border turns.
    u = np.sin(np.linspace(-np.pi / 2, np.pi / 2, points)) ** 2
    side = np.where(np.arange(points) < points // 2, -1.0, 1.0) * profile(u) * half_width
    return _to_frame(heart, side, u * length + apex_shift(heart, length))


def area_length_volume(border: Points) -> float:
    """Volume of a ventricle from its border by the area-length method.

    Args:
        border: (N, 2) points from hinge to hinge, as `contour` gives them.

    Returns:
        The volume in cubed units of the points.
    """
    x, y = border.T
    area = 0.5 * abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))
    valve = (border[0] + border[-1]) / 2
    length = float(np.linalg.norm(border - valve, axis=1).max())
    return 8 * area**2 / (3 * np.pi * length)


def apex_shift(heart: Heart, length: Number) -> Number:
    """How far the inner apex moves along the axis: a fifth of the shortening; the rest is the valve plane's."""
    return 0.2 * (heart.length - length)


def to_axes(heart: Heart, x: npt.NDArray[np.floating], y: npt.NDArray[np.floating]) -> tuple[Points, Points]:
    """Turn frame coordinates into distances across and along the heart's axis, from the apex in diastole."""
    sin, cos = np.sin(heart.turn), np.cos(heart.turn)
    x, y = x - heart.apex[0], y - heart.apex[1]
    return x * cos - y * sin, x * sin + y * cos


def _to_frame(heart: Heart, across: npt.NDArray[np.floating], along: npt.NDArray[np.floating]) -> Points:
    sin, cos = np.sin(heart.turn), np.cos(heart.turn)
    x = heart.apex[0] + across * cos + along * sin
    y = heart.apex[1] - across * sin + along * cos
    return np.stack([x, y], axis=-1)
