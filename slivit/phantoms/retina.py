"""The retina as optical coherence tomography shows it: layers, fovea, vessels with shadows, speckle, and four findings.

Shared by the OCT volumes and the 2D OCT images. Depths are fractions of the image height, growing downwards; x and s
run from 0 to 1 across the image and across the slices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from slivit.phantoms.cases import Generator
from slivit.phantoms.texture import Image, blur, smooth_noise, step, white_noise

# Thickness outside the fovea as a part of the retina's, and brightness on the screen, from the vitreous side outwards.
INNER = {"nfl": (0.10, 0.74), "gcl": (0.15, 0.53), "ipl": (0.13, 0.60), "inl": (0.12, 0.37), "opl": (0.08, 0.58)}
OUTER = {"onl": (0.20, 0.27), "is": (0.05, 0.36), "ez": (0.05, 0.84), "os": (0.05, 0.52), "rpe": (0.07, 0.95)}
VITREOUS, FLUID, DRUSE, CHOROID, SCLERA = 0.06, 0.08, 0.56, 0.58, 0.20


@dataclass
class Surfaces:
    """The shape of one retina, as (D, W) maps in fractions of the image height.

    Args:
        bruch: depth of Bruch's membrane.
        thickness: of the retina outside the fovea.
        fovea: how far the inner layers are pushed aside, 0 to 1.
        lift: how far deposits raise the pigment epithelium from Bruch's membrane.
        fluid: how far fluid raises the retina from the pigment epithelium.
        swelling: factor of the inner layers' thickness.
    """

    bruch: Image
    thickness: float
    fovea: Image
    lift: Image
    fluid: Image
    swelling: Image


@dataclass
class Findings:
    """What is drawn into a retina beside its layers.

    Args:
        content: brightness inside the deposits.
        ragged: how much the pigment epithelium over deposits is broken, 0 to 1.
        cysts: (s, x, depth within the retina, half-width, half-height) of dark cysts.
        exudates: (s, x, depth within the retina) of bright dots.
    """

    content: float = DRUSE
    ragged: float = 0.0
    cysts: Sequence[tuple[float, ...]] = field(default_factory=list)
    exudates: Sequence[tuple[float, ...]] = field(default_factory=list)


@dataclass(frozen=True)
class Grid:
    """The raster of a scan: D slices of H x W pixels."""

    slices: int
    height: int
    width: int

    @property
    def s(self) -> Image:
        """(D, 1) slice coordinates, 0 to 1."""
        return ((np.arange(self.slices, dtype=np.float32) + 0.5) / self.slices)[:, None]

    @property
    def x(self) -> Image:
        """(1, W) lateral coordinates, 0 to 1."""
        return ((np.arange(self.width, dtype=np.float32) + 0.5) / self.width)[None]

    @property
    def z(self) -> Image:
        """(H, 1) depths, 0 to 1."""
        return ((np.arange(self.height, dtype=np.float32) + 0.5) / self.height)[:, None]

    def bump(self, s: float, x: float, sigma_s: float, sigma_x: float, power: float = 2.0) -> Image:
        """(D, W) dome of height 1 around (s, x); a higher `power` makes its top flatter and its sides steeper."""
        distance = ((self.s - s) / sigma_s) ** 2 + ((self.x - x) / sigma_x) ** 2
        return np.exp(-0.5 * distance ** (power / 2))


def draw_surfaces(patient: Generator, scan: Generator, grid: Grid, *, mirrored: bool) -> Surfaces:
    """A healthy retina: its shape from the patient, its place in the frame from the scan.

    Args:
        patient: the patient's generator.
        scan: the scan's generator.
        grid: the raster.
        mirrored: the other eye.
    """
    bow, wave, thickness = patient.uniform(-0.03, 0.10), patient.uniform(0.002, 0.007), patient.uniform(0.27, 0.36)
    tilt, pit, width = patient.normal(0, 0.05), patient.uniform(0.75, 1.0), patient.uniform(0.075, 0.12)
    x, s, side = grid.x, grid.s, -1 if mirrored else 1
    bruch = scan.uniform(0.66, 0.76) - bow * (2 * x - 1) ** 2 - 0.4 * bow * (2 * s - 1) ** 2
    bruch = bruch + side * tilt * (x - 0.5) + scan.normal(0, 0.03) * (x - 0.5) + scan.normal(0, 0.02) * (s - 0.5)
    bruch = bruch + wave * smooth_noise(scan, (grid.slices, grid.width), (2, 4))
    # The eye moves between slices.
    bruch = bruch + 0.006 * white_noise(scan, (grid.slices, 1))
    fovea = pit * grid.bump(0.5 + scan.normal(0, 0.06), 0.5 + side * scan.normal(0.02, 0.05), 1.6 * width, width)
    flat = np.zeros((grid.slices, grid.width), np.float32)
    return Surfaces(bruch.astype(np.float32), thickness, fovea, flat, flat.copy(), flat + 1)


def layer_edges(shape: Surfaces) -> tuple[list[Image], list[float]]:
    """The upper edges of all layers from the vitreous down to Bruch's membrane.

    Returns:
        (D, W) depths, and the brightness below each.
    """
    lifted = shape.bruch - shape.lift
    names, steps = [*OUTER.items()][::-1], []
    depth = lifted
    for name, (part, bright) in names:
        size = part * shape.thickness * np.ones_like(depth)
        if name == "onl":
            # The fovea's cone nuclei fill part of the pit; deposits press the outer nuclear layer flat.
            size = np.maximum(size * (1 + 0.7 * shape.fovea) - 0.7 * shape.lift, 0.2 * size)
        depth = depth - size
        steps.append((depth, bright))
        if name == "rpe":
            steps.append((depth - shape.fluid, FLUID))
            depth = depth - shape.fluid
    for part, bright in [*INNER.values()][::-1]:
        depth = depth - part * shape.thickness * shape.swelling * (1 - shape.fovea)
        steps.append((depth, bright))
    steps.reverse()
    return [d for d, _ in steps], [b for _, b in steps]


def paint(shape: Surfaces, findings: Findings, rng: Generator, grid: Grid) -> Image:
    """Paint a retina as a scanner shows it, before speckle and gain.

    Returns:
        (D, H, W) brightness on a logarithmic screen, about 0 to 1.
    """
    edges, bright = layer_edges(shape)
    edges += [shape.bruch - shape.lift, shape.bruch]
    bright += [findings.content, CHOROID]
    soft = max(0.012, 1.2 / grid.height)
    image = np.full((grid.slices, grid.height, grid.width), VITREOUS, np.float32)
    z, before = grid.z, VITREOUS
    for edge, value in zip(edges, bright, strict=True):
        image += (value - before) * step(z - edge[:, None], soft)
        before = value
    _paint_choroid(image, shape, rng, grid)
    _break_epithelium(image, shape, findings, rng, grid)
    _paint_spots(image, edges[0], shape, findings, grid)
    _cast_shadows(image, edges[0], rng, grid)
    return image


def add_speckle(image: Image, rng: Generator, grain: float) -> Image:
    """Speckle of a logarithmic screen: grains a little wider than high, with a longer tail to the dark side.

    Args:
        image: (D, H, W) brightness.
        rng: the source of randomness.
        grain: standard deviation of the brightness.
    """
    noise = white_noise(rng, image.shape)
    noise = np.stack([blur(frame, 0.45, 0.6) for frame in noise])
    noise /= noise.std()
    return image + grain * (noise - 0.2 * (noise**2 - 1))


def screen(image: Image, rng: Generator) -> Image:
    """Contrast, brightness and gamma as an operator sets them: none of them says anything about the eye."""
    gamma, contrast, offset = rng.uniform(0.8, 1.3), rng.uniform(0.65, 1.0), rng.uniform(-0.04, 0.14)
    return contrast * np.clip(image, 0, 1.2) ** gamma + offset


def _paint_choroid(image: Image, shape: Surfaces, rng: Generator, grid: Grid) -> None:
    """Dark vessels and a fading signal below Bruch's membrane."""
    below = grid.z - shape.bruch[:, None]
    depth = rng.uniform(0.09, 0.16)
    vessels = smooth_noise(rng, image.shape, (grid.slices / 2, 26, 26))
    texture = -0.20 * step(vessels - 0.3, 0.8) * step(below - 0.022, 0.02)
    fade = (SCLERA - CHOROID) * np.clip(below / depth, 0, 1) - 0.5 * np.clip(below - depth, 0, 0.28)
    image += np.where(below > 0, texture + fade, 0).astype(np.float32)


def _break_epithelium(image: Image, shape: Surfaces, findings: Findings, rng: Generator, grid: Grid) -> None:
    """Uneven brightness inside and over ragged deposits, as in a neovascular membrane."""
    if findings.ragged == 0:
        return
    top = (shape.bruch - shape.lift - 0.09 * shape.thickness)[:, None]
    raised = step(shape.lift - 0.015, 0.01)[:, None]
    inside = raised * step(grid.z - top, 0.02) * step(shape.bruch[:, None] - grid.z, 0.02)
    image += findings.ragged * 0.28 * inside * smooth_noise(rng, image.shape, (0, 18, 22))


def _paint_spots(image: Image, top: Image, shape: Surfaces, findings: Findings, grid: Grid) -> None:
    """Dark cysts with soft walls, and bright exudates, at depths counted as parts of the local retina."""
    depth = (grid.z - top[:, None]) / np.maximum(shape.bruch - shape.lift - top, 0.02)[:, None]
    unit = (shape.bruch - top).mean()
    s, x = grid.s[:, None], grid.x[:, None]
    for cs, cx, cz, half_width, half_height in findings.cysts:
        distance = ((x - cx) / half_width) ** 2 + ((depth - cz) * unit / half_height) ** 2 + ((s - cs) / 0.1) ** 2
        inside = step(1 - distance, 0.35)
        image += inside * (FLUID + 0.02 - image)
    for cs, cx, cz in findings.exudates:
        distance = ((x - cx) / 0.008) ** 2 + ((depth - cz) * unit / 0.011) ** 2 + ((s - cs) / 0.1) ** 2
        image += 0.55 * np.exp(-distance)


def _cast_shadows(image: Image, top: Image, rng: Generator, grid: Grid) -> None:
    """Vessels in the inner retina, the shadows under them, and slow changes of brightness along the slice."""
    shade = 0.05 * smooth_noise(rng, top.shape, (2, 5))
    for _ in range(rng.integers(2, 6)):
        path = rng.uniform(0, 1) + rng.normal(0, 0.12) * (grid.s - 0.5)
        half = rng.uniform(0.006, 0.014)
        profile = np.exp(-(((grid.x - path) / half) ** 2))
        shade = shade - rng.uniform(0.10, 0.26) * profile
        lumen = (grid.z - (top + 0.035)[:, None]) / (1.1 * half)
        image += 0.25 * profile[:, None] * np.exp(-(lumen**2))
    inside = step(grid.z - (top + 0.04)[:, None], 0.03)
    image += inside * shade[:, None]
