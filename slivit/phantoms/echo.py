"""Made-up echocardiograms: AVI videos of the apical four-chamber view, with the left ventricle's ejection fraction.

The left ventricle lies right of the septum with its apex near the probe, as on a scanner's screen. The speckle lies on
arcs round the probe, and what lies deep or at the sides is fainter.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slivit.phantoms.cases import Case, Generator, whole_number
from slivit.phantoms.heart import (
    Heart,
    apex_shift,
    area_length_volume,
    contour,
    contraction,
    draw_heart,
    profile,
    to_axes,
    valve_opening,
    ventricle,
)
from slivit.phantoms.texture import Image, blur, smooth_noise, step, to_bytes, white_noise

DEFAULT_N = 100
# Brightness of what the sector shows, as a part of full scale.
BLOOD, MUSCLE, AROUND, BRIGHT = 0.07, 0.46, 0.24, 0.85


@dataclass(frozen=True)
class Options:
    """Rows and columns of the square frames, and how many frames: `frames` and up to `extra_frames` more."""

    size: int = whole_number(112, 64, 512)
    # Not below 28, so that every video holds a whole beat.
    frames: int = whole_number(32, 28, 512)
    extra_frames: int = whole_number(16, 0, 512)


def scan_path(case: Case) -> str:
    """The video file."""
    return f"scans/{case.name}.avi"


def draw(case: Case, options: Options) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
    """Draw one video.

    Returns:
        (T, H, W) uint8, and the answers: `ef` in %, from the contours of the frames; `ef_below_50`, 0 or 1; the frames
        `frame_ed` and `frame_es` with the largest and the smallest ventricle; the number of `frames`.
    """
    heart, rng = draw_heart(case), case.scan_rng()
    frames = options.frames + int(rng.integers(0, options.extra_frames + 1))
    volumes = np.array([area_length_volume(contour(heart, t)) for t in range(frames)])
    ef = round(100 * float(1 - volumes.min() / volumes.max()), 2)
    truth = {"ef": ef, "ef_below_50": int(ef < 50), "frame_ed": int(volumes.argmax())}
    truth |= {"frame_es": int(volumes.argmin()), "frames": frames}
    return to_bytes(_film(heart, frames, options.size, rng)), truth


def save(video: npt.NDArray[np.uint8], path: Path, case: Case, options: Options) -> None:
    """Write a video as AVI with Motion-JPEG frames, 30 a second.

    Raises:
        OSError: OpenCV cannot write the file.
    """
    import cv2

    fourcc = cv2.VideoWriter.fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(path), cv2.CAP_OPENCV_MJPEG, fourcc, 30.0, video.shape[:0:-1])
    if not writer.isOpened():
        raise OSError(f"{path}: OpenCV cannot write Motion-JPEG here")
    writer.set(cv2.VIDEOWRITER_PROP_QUALITY, 92)
    for frame in video:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR))
    writer.release()


@dataclass
class _Scene:
    """One heart at one moment, on (H, W) maps of where each pixel lies across and along the heart's axis."""

    heart: Heart
    frame: int
    across: Image
    along: Image
    texture: Image

    @cached_property
    def emptied(self) -> float:
        """How far the ventricles are emptied."""
        return contraction(self.heart, self.frame)

    @cached_property
    def inner(self) -> tuple[float, float]:
        """Length and half-width of the left ventricle."""
        return ventricle(self.heart, self.frame)

    @cached_property
    def apex(self) -> float:
        """Place of the inner apex along the axis."""
        return apex_shift(self.heart, self.inner[0])

    @cached_property
    def valves(self) -> float:
        """Place of the valve plane along the axis."""
        return self.apex + self.inner[0]

    @cached_property
    def soft(self) -> float:
        """Width of an edge."""
        return 1.6 / len(self.across)

    @cached_property
    def above(self) -> Image:
        """1 on the ventricles' side of the valve plane."""
        return step(self.valves - self.along, self.soft)

    def bullet(self, centre: float, tip: float, half_width: float) -> Image:
        """Depth inside a ventricle's shape that ends at the valve plane: above 0 inside."""
        u = (self.along - tip) / (self.valves - tip)
        return np.minimum(half_width * profile(u) - abs(self.across - centre), 0.8 * (self.along - tip))

    def oval(self, centre: float, middle: float, across: float, along: float) -> Image:
        """Depth inside an ellipse, right near its border: above 0 inside."""
        return 0.5 * across * (1 - ((self.across - centre) / across) ** 2 - ((self.along - middle) / along) ** 2)

    def leaflet(self, hinge: tuple[float, float], tip: tuple[float, float], thickness: float) -> Image:
        """Brightness of a valve's leaflet: a thin line from its hinge to its tip, both (across, along)."""
        step_x, step_y = tip[0] - hinge[0], tip[1] - hinge[1]
        x, y = self.across - hinge[0], self.along - hinge[1]
        place = np.clip((x * step_x + y * step_y) / (step_x**2 + step_y**2), 0, 1)
        return np.exp(-((x - place * step_x) ** 2 + (y - place * step_y) ** 2) / thickness**2)


def _film(heart: Heart, frames: int, size: int, rng: Generator) -> Image:
    """Paint all frames as a scanner shows them: (T, H, W) brightness, 0 outside the sector."""
    places = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = np.meshgrid(places, places)
    across, along = (axis.astype(np.float32) for axis in to_axes(heart, x, y))
    around = AROUND * rng.uniform(0.7, 1.2) * (1 + 0.35 * smooth_noise(rng, x.shape, (5, 5)))
    texture = MUSCLE * (1 + 0.22 * smooth_noise(rng, x.shape, (9, 9)))
    scenes = (_Scene(heart, t, across, along, texture) for t in range(frames))
    image = _compress(np.stack([_paint(scene, around) for scene in scenes]), rng, x, y)
    half_angle, depth = rng.uniform(0.66, 0.76), rng.uniform(0.92, 0.96)
    radius, angle = np.hypot(x - 0.5, y - 0.01), np.arctan2(x - 0.5, y - 0.01)
    sector = step(half_angle - abs(angle), 0.02) * step(depth - radius, 0.012) * step(radius - 0.03, 0.012)
    return image * sector


def _paint(scene: _Scene, around: Image) -> Image:
    """Echogenicity of what lies in the sector: (H, W)."""
    heart, half_width = scene.heart, scene.inner[1]
    # A wall that moves well thickens well.
    wall = heart.wall * (1 + (0.25 + 0.5 * heart.ef) * scene.emptied)
    image = around.copy()
    _paint_right_heart(image, scene, wall)
    _paint_atrium(image, scene, 0.0, 1.02 * heart.half_width * (1 + 0.18 * scene.emptied))
    outer = scene.bullet(0.0, scene.apex - 0.8 * wall, half_width + wall)
    _mix(image, scene.texture, step(outer, scene.soft) * scene.above)
    # The pericardium shines outside the lateral wall.
    rim = np.exp(-(((outer + 0.006) / 0.011) ** 2)) * step(scene.across - 0.3 * heart.half_width, 0.06)
    _mix(image, BRIGHT, 0.7 * rim * scene.above)
    _mix(image, BLOOD, step(scene.bullet(0.0, scene.apex, half_width), scene.soft) * scene.above)
    _paint_valve(image, scene, 0.0, 0.8 * half_width)
    return image


def _mix(image: Image, value: Image | float, part: Image) -> None:
    image += part * (value - image)


def _paint_right_heart(image: Image, scene: _Scene, wall: float) -> None:
    """The right ventricle and atrium, left of the septum on the screen."""
    heart, soft = scene.heart, scene.soft
    half_width = 0.72 * heart.half_width * float(np.sqrt(1 - 0.8 * heart.ef * scene.emptied))
    centre = -(1.62 * heart.half_width + heart.wall)
    tip = scene.apex + 0.24 * heart.length
    _mix(image, MUSCLE, step(scene.bullet(centre, tip - 0.02, half_width + 0.5 * wall), soft) * scene.above)
    _mix(image, BLOOD, step(scene.bullet(centre, tip, half_width), soft) * scene.above)
    _paint_atrium(image, scene, centre, 0.9 * heart.half_width * (1 + 0.12 * scene.emptied))
    _paint_valve(image, scene, centre, 0.8 * half_width)


def _paint_atrium(image: Image, scene: _Scene, centre: float, half_width: float) -> None:
    """A thin-walled chamber that hangs from the valve plane."""
    height = 1.25 * half_width
    middle, below = scene.valves + 0.82 * height, 1 - scene.above
    _mix(image, 0.85 * MUSCLE, step(scene.oval(centre, middle, half_width + 0.018, height + 0.018), scene.soft) * below)
    _mix(image, BLOOD, step(scene.oval(centre, middle, half_width, height), scene.soft) * below)


def _paint_valve(image: Image, scene: _Scene, centre: float, half_width: float) -> None:
    """Two leaflets that meet in the middle in systole and swing into the ventricle in diastole."""
    opening = valve_opening(scene.heart, scene.frame)
    for side in (-1, 1):
        tip_across = centre + side * half_width * (0.02 + 0.72 * opening)
        tip = (tip_across, scene.valves - half_width * (0.12 + 0.75 * opening))
        _mix(image, 0.75, 0.85 * scene.leaflet((centre + side * half_width, scene.valves), tip, 0.010))


def _compress(image: Image, rng: Generator, x: Image, y: Image) -> Image:
    """Speckle on arcs round the probe, fading with depth and at the sides, clutter near the probe, gain."""
    radius, angle = np.hypot(x - 0.5, y - 0.01), np.arctan2(x - 0.5, y - 0.01)
    fade = 1.05 - rng.uniform(0.15, 0.45) * radius - rng.uniform(0.1, 0.5) * (angle / 0.75) ** 2
    fade = fade * (1 + 0.12 * smooth_noise(rng, x.shape, (0, 7)))
    clutter = 0.16 * np.exp(-radius / 0.12) + 0.03
    speckle = _speckle(len(image), rng, radius, angle)
    image = (image * np.clip(fade, 0.15, None) + clutter) * speckle
    gain, offset = rng.uniform(0.7, 1.35), rng.uniform(-0.03, 0.06)
    return gain * np.clip(image, 0, None) ** rng.uniform(0.8, 1.15) + offset


def _speckle(frames: int, rng: Generator, radius: Image, angle: Image) -> Image:
    """Rayleigh speckle of mean 1 that lies on arcs and changes from frame to frame: (T, H, W)."""
    import cv2

    size = radius.shape[0]
    rows, cols = (radius * size).astype(np.float32), ((angle + 0.8) / 1.6 * size).astype(np.float32)
    field, films = np.zeros((2, size, size), np.float32), []
    for _ in range(frames):
        # Part of the tissue stays in the plane, so part of its speckle stays.
        field = 0.6 * field + 0.8 * np.stack([blur(part, 0.7, 1.6) for part in white_noise(rng, field.shape)])
        films.append(cv2.remap(np.hypot(*field), cols, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT))
    speckle = np.stack(films)
    return 0.25 + 0.75 * speckle / speckle.mean()
