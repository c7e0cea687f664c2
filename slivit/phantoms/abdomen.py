"""The anatomy of the upper abdomen as maps of water and fat: what an MR scanner measures in the liver phantoms.

Places follow `solids`. Organs sit in the belly's cavity and grow with it: their in-plane places are parts of its
half-axes, u to the left and v to the back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from slivit.phantoms.cases import Generator
from slivit.phantoms.solids import Place, Space, fill, ribs
from slivit.phantoms.texture import Image, smooth_noise, step

# T1-weighted signal of the water in a tissue, as a part of the liver's.
MUSCLE, SPLEEN, KIDNEY, BLOOD, BILE, STOMACH, MARROW, CORD = 0.50, 0.60, 0.56, 0.34, 0.42, 0.22, 0.42, 0.25
FAT = 1.15


@dataclass(frozen=True)
class Build:
    """One patient's build.

    Args:
        half_x, half_y: half-axes of the body in mm.
        fat, wall: thickness in mm of the fat under the skin, and of the muscle.
        liver, spleen: size of the organ, 1 for usual.
        turn: where along z the ribs and vertebrae begin, in mm.
    """

    half_x: float
    half_y: float
    fat: float
    wall: float
    liver: float
    spleen: float
    turn: float

    @property
    def cavity(self) -> tuple[float, float, float]:
        """Half-axes of the belly's cavity, and the y of its middle: the back has more muscle than the front."""
        shrink = self.fat + self.wall
        return self.half_x - shrink, self.half_y - shrink - 6, -6.0


@dataclass
class Abdomen:
    """Maps (D, H, W): signal of water and of fat, and the part of each voxel that lies in the liver or the spleen."""

    water: Image
    fat: Image
    liver: Image
    spleen: Image

    def paint(self, part: Image, water: Image | float, fat: Image | float = 0.0) -> None:
        """Put a tissue in place of `part` of each voxel."""
        for image, value in ((self.water, water), (self.fat, fat), (self.liver, 0.0), (self.spleen, 0.0)):
            fill(image, value, part)


def draw_build(rng: Generator) -> Build:
    """Draw a patient's build."""
    fat = rng.uniform(6, 26)
    return Build(
        half_x=rng.uniform(134, 156) + fat,
        half_y=rng.uniform(92, 108) + 0.8 * fat,
        fat=fat,
        wall=rng.uniform(11, 16),
        liver=rng.uniform(0.9, 1.1),
        spleen=rng.uniform(0.8, 1.15),
        turn=rng.uniform(0, 26),
    )


def draw_abdomen(space: Space, build: Build, rng: Generator) -> Abdomen:
    """Build the anatomy of one patient; the liver holds no fat yet.

    Args:
        space: the raster.
        build: the patient's build.
        rng: the patient's generator.

    Returns:
        The tissues, each painted over those before it.
    """
    abdomen = Abdomen(*np.zeros((4, *space.shape), np.float32))
    half_x, half_y, middle = build.cavity
    cavity = space.trunk(half_x, half_y, middle)
    u, v = space.x / half_x, (space.y - middle) / half_y
    above = space.z - _diaphragm(u, v)
    _paint_wall(abdomen, space, build, cavity)
    _paint_bowel(abdomen, space, cavity, rng)
    belly = np.minimum(cavity - 1, -above - 2)
    _paint_liver(abdomen, space, build, belly, rng)
    _paint_left_side(abdomen, space, build, belly, rng)
    _paint_vessels(abdomen, space, build, rng)
    _paint_spine(abdomen, space, build)
    _paint_chest(abdomen, space, np.minimum(cavity - 1, above))
    return abdomen


def _diaphragm(u: Image, v: Image) -> Image:
    """Height of the diaphragm in mm: a dome over the liver, a lower one over the stomach and the spleen."""
    right = 74 - 100 * (((u + 0.42) / 0.68) ** 2 + ((v - 0.02) / 1.08) ** 2) ** 2
    left = 62 - 100 * (((u - 0.46) / 0.62) ** 2 + ((v - 0.05) / 1.08) ** 2) ** 2
    return np.maximum(np.maximum(right, left), -40)


def _place(build: Build, u: float, v: float, z: float) -> Place:
    half_x, half_y, middle = build.cavity
    return u * half_x, v * half_y + middle, z


def _organ(space: Space, build: Build, rng: Generator, centre: Place, radii: Place) -> Image:
    """Depth inside an ellipsoid whose in-plane places and radii are parts of the cavity's half-axes.

    No two patients' organs lie quite alike: each is shifted and scaled a little.
    """
    half_x, half_y, _ = build.cavity
    (u, v, z), scale = centre, 1 + 0.05 * rng.normal()
    middle = _place(build, u + 0.03 * rng.normal(), v + 0.03 * rng.normal(), z + 4 * rng.normal())
    return space.ellipsoid(middle, (scale * radii[0] * half_x, scale * radii[1] * half_y, scale * radii[2]))


def _paint_wall(abdomen: Abdomen, space: Space, build: Build, cavity: Image) -> None:
    skin = space.trunk(build.half_x, build.half_y)
    abdomen.paint(space.inside(skin), 0.35)
    abdomen.paint(space.inside(skin - 2.5), 0.06, FAT)
    abdomen.paint(space.inside(skin - build.fat), MUSCLE, 0.04)
    abdomen.paint(space.inside(cavity), 0.06, FAT)
    rib = ribs(space, cavity, 9.0, build.turn)
    abdomen.paint(rib, 0.15, 0.35)


def _paint_bowel(abdomen: Abdomen, space: Space, cavity: Image, rng: Generator) -> None:
    """Loops of bowel in the fat below the liver and the stomach."""
    loops = smooth_noise(rng, space.shape, (5, 16, 16))
    inside = space.inside(np.minimum(cavity - 6, 40 - space.z)) * step(40 - space.y, 30)
    abdomen.paint(inside * step(loops + 0.4, 0.4), 0.46 + 0.1 * smooth_noise(rng, space.shape, (6, 16, 16)))
    abdomen.paint(inside * step(loops - 1.3, 0.3), 0.05)


def _paint_liver(abdomen: Abdomen, space: Space, build: Build, belly: Image, rng: Generator) -> None:
    """The right lobe under the right dome, the left lobe across the middle, and the gall bladder."""
    size = build.liver
    right = _organ(space, build, rng, (-0.52, 0.06, 0), (0.68 * size, 1.05, 92 * size))
    left = _organ(space, build, rng, (0.05, -0.42, 34), (0.62 * size, 0.50, 52 * size))
    shape = np.maximum(right, left) + 3.0 * smooth_noise(rng, space.shape, (3, 5, 5))
    liver = space.inside(np.minimum(shape, belly))
    abdomen.paint(liver, 1.0)
    np.maximum(abdomen.liver, liver, out=abdomen.liver)
    abdomen.paint(space.inside(_organ(space, build, rng, (-0.30, -0.42, -38), (0.12, 0.19, 26))), BILE)
    _paint_kidney(abdomen, space, build, -0.44, -58)


def _paint_left_side(abdomen: Abdomen, space: Space, build: Build, belly: Image, rng: Generator) -> None:
    """The stomach with air in front, the spleen and the left kidney."""
    stomach = np.minimum(_organ(space, build, rng, (0.44, -0.14, 22), (0.36, 0.46, 44)), belly)
    abdomen.paint(space.inside(stomach), MUSCLE)
    abdomen.paint(space.inside(stomach - 4), STOMACH)
    front = _place(build, 0, -0.30, 0)[1]
    abdomen.paint(space.inside(np.minimum(stomach - 4, front - space.y)), 0.02)
    size = build.spleen
    body = _organ(space, build, rng, (0.68, 0.46, 12), (0.38 * size, 0.58 * size, 62 * size))
    hilum = _organ(space, build, rng, (0.40, 0.06, 4), (0.26, 0.42, 60))
    spleen = space.inside(np.minimum(np.minimum(body, -hilum), belly))
    abdomen.paint(spleen, SPLEEN)
    np.maximum(abdomen.spleen, spleen, out=abdomen.spleen)
    _paint_kidney(abdomen, space, build, 0.44, -46)


def _paint_kidney(abdomen: Abdomen, space: Space, build: Build, u: float, z: float) -> None:
    x, y, z = _place(build, u, 0.62, z)
    abdomen.paint(space.inside(space.ellipsoid((x, y, z), (31, 29, 56))), 0.06, FAT)
    abdomen.paint(space.inside(space.ellipsoid((x, y, z), (27, 25, 52))), KIDNEY)
    abdomen.paint(space.inside(space.ellipsoid((x, y, z), (14, 13, 40))), 0.6 * KIDNEY)
    abdomen.paint(space.inside(space.ellipsoid((0.8 * x, y, z), (11, 7, 22))), 0.06, FAT)


def _paint_vessels(abdomen: Abdomen, space: Space, build: Build, rng: Generator) -> None:
    """Aorta and vena cava; hepatic veins that meet at the cava, and the branches of the portal vein."""
    blood = np.zeros(space.shape, np.float32)
    aorta, cava = _place(build, 0.06, 0.42, 0), _place(build, -0.20, 0.30, 0)
    space.add_tube(blood, (*aorta[:2], -120), (*aorta[:2], 120), 11)
    space.add_tube(blood, (*cava[:2], -120), (*cava[:2], 70), 12)
    portal = _place(build, -0.28, -0.02, -2)
    space.add_tube(blood, _place(build, 0.0, 0.1, -45), portal, 7)
    inner = np.zeros(space.shape, np.float32)
    for root, height in (((*cava[:2], 40.0), 6), (portal, -10)):
        for u, v in ((-0.80, 0.25), (-0.62, -0.45), (-0.05, -0.50)):
            end = _place(build, u + 0.06 * rng.normal(), v + 0.08 * rng.normal(), height + 16 * rng.normal())
            space.add_tube(inner, root, end, 5.5, 2)
    abdomen.paint(np.maximum(blood, inner * step(abdomen.liver - 0.3, 0.4)), BLOOD)


def _paint_spine(abdomen: Abdomen, space: Space, build: Build) -> None:
    """A vertebra in each slice, the cord behind it, the crura of the diaphragm beside it."""
    _, y, _ = _place(build, 0, 0.76, 0)
    for side in (-1, 1):
        abdomen.paint(space.inside(_column(space, side * 20, y - 4, 13, 17)), MUSCLE)
    abdomen.paint(space.inside(_column(space, 0, y, 22, 18)), 0.12)
    disc = step(abs((space.z + build.turn) % 34 - 17) - 13.5, 2.0)
    abdomen.paint(space.inside(_column(space, 0, y, 20, 16)), MARROW - 0.12 * disc, 0.18 * (1 - disc))
    abdomen.paint(space.inside(_column(space, 0, y + 24, 14, 11)), 0.10, 0.15)
    abdomen.paint(space.inside(_column(space, 0, y + 24, 9, 8)), CORD)
    abdomen.paint(space.inside(_column(space, 0, y + 36, 4, 8)), 0.12, 0.3)


def _column(space: Space, x: float, y: float, half_x: float, half_y: float) -> Image:
    return space.ellipsoid((x, y, 0), (half_x, half_y, 1e6)) + 0 * space.z


def _paint_chest(abdomen: Abdomen, space: Space, chest: Image) -> None:
    """Above the diaphragm: lungs, and the heart on its left dome."""
    abdomen.paint(space.inside(chest), 0.04)
    heart = np.minimum(space.ellipsoid((20, -26, 92), (64, 50, 46)), chest)
    abdomen.paint(space.inside(heart + 4), 0.06, 0.6 * FAT)
    abdomen.paint(space.inside(heart), 0.55)
    abdomen.paint(space.inside(heart - 11), BLOOD)
