"""The anatomy of the chest in Hounsfield units, for the CT phantoms. Places follow `solids`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from slivit.phantoms.cases import Generator
from slivit.phantoms.solids import Place, Space, fill, ribs
from slivit.phantoms.texture import Image, smooth_noise, step

AIR, FAT, MUSCLE, BLOOD, LIVER, CORTEX, MARROW = -1000.0, -95.0, 55.0, 42.0, 60.0, 620.0, 170.0


@dataclass(frozen=True)
class Chest:
    """One patient's chest.

    Args:
        half_x, half_y: half-axes of the body in mm.
        fat, wall: thickness in mm of the fat under the skin, and of muscle and ribs.
        lung: density of the lungs in HU.
        breath: by how many mm the diaphragm stands higher than usual.
        heart: size of the heart, 1 for usual.
        turn: where along z the ribs and vertebrae begin, in mm.
    """

    half_x: float
    half_y: float
    fat: float
    wall: float
    lung: float
    breath: float
    heart: float
    turn: float


@dataclass
class Thorax:
    """Maps (D, H, W): HU, depth in mm inside the lungs, and the part of each voxel that lies in a lung's vessel."""

    hu: Image
    lung: Image
    vessels: Image


def draw_chest(rng: Generator) -> Chest:
    """Draw a patient's build."""
    fat = rng.uniform(5, 24)
    return Chest(
        half_x=rng.uniform(132, 148) + fat,
        half_y=rng.uniform(92, 106) + 0.6 * fat,
        fat=fat,
        wall=rng.uniform(20, 26),
        lung=rng.uniform(-885, -815),
        breath=rng.uniform(-14, 10),
        heart=rng.uniform(0.86, 1.12),
        turn=rng.uniform(0, 26),
    )


def draw_thorax(space: Space, chest: Chest, patient: Generator, scan: Generator) -> Thorax:
    """Build the anatomy of one scan; the lungs hold no nodule yet.

    Args:
        space: the raster.
        chest: the patient's build.
        patient: the patient's generator, for the vessels.
        scan: the scan's generator, for the depth of the breath.
    """
    hu = np.full(space.shape, AIR, np.float32)
    cage = _cage(space, chest)
    _paint_wall(hu, space, chest, cage)
    lung = np.minimum(_lungs(space, chest, cage, patient), _above_diaphragm(space, chest.breath + 5 * scan.normal()))
    _paint_middle(hu, space, chest, cage, lung)
    vessels = np.zeros(space.shape, np.float32)
    for start, end, radius, end_radius in _vessel_tree(patient):
        space.add_tube(vessels, start, end, radius, end_radius)
    inside = space.inside(lung)
    # Blood sinks: the back of the lung is denser.
    tissue = chest.lung + 0.45 * space.y + 14 * smooth_noise(patient, space.shape, (4, 14, 14))
    fill(hu, tissue, inside)
    fill(hu, BLOOD - 10, vessels * inside)
    # Vessels too thin to follow, each a faint dot in one slice.
    dots = smooth_noise(patient, space.shape, (space.extent / 5, space.field / 5, space.field / 5))
    fill(hu, -420.0, step(dots - 2.2, 0.5) * inside)
    _paint_airways(hu, space)
    _paint_spine(hu, space, chest)
    return Thorax(hu, lung, vessels * inside)


def _cage(space: Space, chest: Chest) -> Image:
    """Depth inside the chest wall's inner surface, which narrows to the top."""
    narrow = np.sqrt(np.clip(1 - (np.clip(space.z + 25, 0, None) / 150) ** 2, 0.05, 1))
    shrink = chest.fat + chest.wall
    return space.trunk((chest.half_x - shrink) * narrow, (chest.half_y - shrink + 4) * narrow**0.5, -2.0, 2.2)


def _paint_wall(hu: Image, space: Space, chest: Chest, cage: Image) -> None:
    """Skin, fat, muscle, ribs, shoulder blades, breast bone, and the table below."""
    skin = space.trunk(chest.half_x, chest.half_y)
    fill(hu, 20.0, space.inside(skin))
    fill(hu, FAT, space.inside(skin - 2.5))
    fill(hu, MUSCLE, space.inside(skin - chest.fat))
    fill(hu, FAT, 0.5 * space.inside(3 - abs(cage + 15)) * step(skin - chest.fat, 4))
    fill(hu, CORTEX, ribs(space, cage, 9.0, chest.turn))
    fill(hu, MARROW, ribs(space, cage + 1.8, 5.4, chest.turn))
    fill(hu, MUSCLE, space.inside(cage))
    _paint_bones(hu, space, chest, cage)
    table = 2.5 - abs(space.y - chest.half_y - 5 + (space.x / 60) ** 2)
    fill(hu, -250.0, space.inside(np.minimum(table, 150 - abs(space.x))) * (1 - space.inside(skin)))


def _paint_bones(hu: Image, space: Space, chest: Chest, cage: Image) -> None:
    """Shoulder blades, flat on the back of the chest wall, and the breast bone."""
    from_spine = abs(np.arctan2(space.x, space.y))
    blade = np.minimum(3 - abs(cage + 18), 70 * (0.42 - abs(from_spine - 0.85 - 0.002 * space.z)))
    _paint_bone(hu, space, np.minimum(blade, space.z - 5), 1.5)
    front = -(chest.half_y - chest.fat - 12)
    _paint_bone(hu, space, space.ellipsoid((0, front, 20), (19, 6.5, 110)), 2.0)


def _spine_y(chest: Chest) -> float:
    """Where the middle of the vertebral bodies lies: partly within the cage, so that the lungs reach beside them."""
    return chest.half_y - chest.fat - chest.wall - 12


def _paint_spine(hu: Image, space: Space, chest: Chest) -> None:
    """Vertebrae with discs between them, the canal, the processes and the muscles of the back."""
    y = _spine_y(chest)
    column = [((0, 22), (15, 12)), ((-21, 20), (13, 4.5)), ((21, 20), (13, 4.5)), ((0, 37), (3.5, 9))]
    for (x, back), (half_x, half_y) in column:
        _paint_bone(hu, space, space.ellipsoid((x, y + back, 0), (half_x, half_y, 1e6)) + 0 * space.z, 1.5)
    body = space.ellipsoid((0, y, 0), (18, 15, 1e6)) + 0 * space.z
    _paint_bone(hu, space, body, 2.0)
    disc = step(abs((space.z + chest.turn) % 28 - 14) - 11.5, 2.0)
    fill(hu, 90.0, space.inside(body) * disc)
    fill(hu, 25.0, space.inside(space.ellipsoid((0, y + 21, 0), (9.5, 8, 1e6)) + 0 * space.z))


def _paint_bone(hu: Image, space: Space, depth: Image, cortex: float) -> None:
    fill(hu, CORTEX, space.inside(depth))
    fill(hu, MARROW, space.inside(depth - cortex))


def _lungs(space: Space, chest: Chest, cage: Image, rng: Generator) -> Image:
    """Depth inside the two lungs: the cage without what lies between them."""
    # The mediastinum is broad at the heart, narrow behind the breast bone, and as broad as the vertebrae at the back.
    broad = 24 + 12 * step(-space.z - 5, 70) - 16 * step(-space.y - 55, 50) - 6 * step(space.y - 18, 50)
    broad = broad + 3.5 * smooth_noise(rng, space.shape, (3, 6, 0))
    spine = space.ellipsoid((0, _spine_y(chest), 0), (25, 21, 1e6))
    return np.minimum(np.minimum(cage - 2, abs(space.x - 4) - broad), -spine)


def _above_diaphragm(space: Space, height: float) -> Image:
    right = -42 - 75 * (((space.x + 62) / 78) ** 2 + ((space.y + 5) / 100) ** 2)
    left = -54 - 75 * (((space.x - 66) / 72) ** 2 + ((space.y + 5) / 100) ** 2)
    return 0.8 * (space.z - np.maximum(right, left) - height)


def _paint_middle(hu: Image, space: Space, chest: Chest, cage: Image, lung: Image) -> None:
    """Fat, heart and great vessels between the lungs; the liver, and the spleen in fat, below the diaphragm."""
    below = np.minimum(cage - 1, -_above_diaphragm(space, chest.breath))
    middle = np.minimum(cage - 2, -lung)
    # Fat with nodes and small vessels in it.
    fill(hu, FAT + 45 + 25 * np.sin(space.z / 9), space.inside(middle))
    fill(hu, LIVER, space.inside(np.minimum(below, 25 - space.x)))
    fill(hu, 50.0, space.inside(np.minimum(below, space.x - 42)))
    size = chest.heart
    heart = space.ellipsoid((20 * size, -26, -42), (62 * size, 46 * size, 60 * size))
    fill(hu, BLOOD + 8, space.inside(heart))
    fill(lung, -20.0, space.inside(heart + 3))
    fill(hu, BLOOD, _great_vessels(space, chest))


def _great_vessels(space: Space, chest: Chest) -> Image:
    """The part of each voxel in the aorta with its arch, the upper vena cava or the pulmonary arteries."""
    blood = np.zeros(space.shape, np.float32)
    back = _spine_y(chest) - 24
    tubes: list[tuple[Place, Place, float]] = [
        ((24, back, -110), (22, back, 30), 12),
        ((-8, -24, -20), (-6, -22, 28), 15),
        ((-6, -22, 28), (20, back, 36), 13),
        ((-28, -20, -30), (-26, -22, 100), 9),
        ((8, -26, -10), (4, -6, 12), 13),
        ((4, -6, 12), (-46, 2, 4), 10),
        ((4, -6, 12), (46, 6, 8), 10),
        ((14, 0, 40), (26, -4, 110), 6),
        ((-8, -12, 40), (-18, -10, 110), 6),
        ((6, back - 16, -110), (4, back - 16, 110), 6),
    ]
    for start, end, radius in tubes:
        space.add_tube(blood, start, end, radius)
    return blood


def _paint_airways(hu: Image, space: Space) -> None:
    """Windpipe and main bronchi, with thin walls."""
    for extra, value in ((2.0, 40.0), (0.0, AIR + 20)):
        air = np.zeros(space.shape, np.float32)
        space.add_tube(air, (0, 6, 110), (0, 10, 22), 8.5 + extra)
        space.add_tube(air, (0, 10, 22), (-44, 14, -4), 6.5 + extra, 5 + extra)
        space.add_tube(air, (0, 10, 22), (46, 16, -8), 6 + extra, 4.5 + extra)
        for side in (-1, 1):
            space.add_tube(air, (side * 45, 15, -6), (side * 62, 28, -50), 4 + extra, 2 + 0.6 * extra)
        fill(hu, value, air)


def _vessel_tree(rng: Generator) -> Iterator[tuple[Place, Place, float, float]]:
    """Yield the branches of the lungs' vessels, from the root of each lung outwards: start, end, radius at each."""
    courses = (
        (0.5, -0.3, 0.9), (0.7, 0.4, 0.6), (1.0, -0.6, 0.2), (1.0, 0.3, 0.0), (0.5, 0.7, -0.8),
        (0.7, 0.8, -0.1), (0.7, -0.2, -0.6), (0.4, -1.0, 0.4),
    )  # fmt: skip
    for side in (-1, 1):
        root = np.array([side * 40.0, 5.0, 3.0])
        for course in courses:
            heading = np.array([side * course[0], *course[1:]])
            yield from _branches(rng, root + 4 * rng.normal(size=3), heading, rng.uniform(3.4, 5.4), 5)


def _branches(
    rng: Generator, start: np.ndarray, heading: np.ndarray, radius: float, levels: int
) -> Iterator[tuple[Place, Place, float, float]]:
    heading = heading / np.linalg.norm(heading)
    end = start + heading * rng.uniform(4.5, 7.0) * (radius + 1.0)
    yield tuple(start), tuple(end), radius, 0.86 * radius
    # What is too thin to be seen, or has left the chest, need not be followed.
    if levels and radius > 1.2 and np.sum((end / (125, 85, 90)) ** 2) < 1:
        for share in (0.84, 0.70):
            yield from _branches(rng, end, heading + 0.38 * rng.normal(size=3), share * radius, levels - 1)
