import pytest
import torch
from pydantic import ValidationError

from slivit.data.augmentation import Augmentation, apply_augmentation, draw_augmentation

FULL = Augmentation(
    flip_horizontal=True, flip_vertical=True, flip_slices=True, rotate90=True, rotate=10, translate=0.1,
    zoom=(0.9, 1.1), crop=(0.5, 1.0), shift_slices=2,
)  # fmt: skip


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_off_by_default():
    x = torch.rand(3, 4, 8, 8)
    draw = draw_augmentation(Augmentation(), 3, 4)
    assert torch.equal(apply_augmentation(x, draw), x)
    assert not Augmentation().active
    assert FULL.active


def test_all_slices_of_a_volume_change_alike():
    image = torch.rand(2, 1, 16, 16).expand(2, 5, 16, 16) * 255
    out = apply_augmentation(image, draw_augmentation(FULL, 2, 5, seeded()))
    for s in range(1, 5):
        assert torch.allclose(out[:, s], out[:, 0])
    assert not torch.allclose(out[0], image[0])


def test_volumes_of_a_batch_change_apart():
    x = torch.rand(1, 3, 16, 16).expand(8, 3, 16, 16)
    out = apply_augmentation(x, draw_augmentation(Augmentation(rotate=30), 8, 3, seeded()))
    assert len({round(float(v.sum()), 3) for v in out}) == 8


def test_a_draw_can_be_replayed():
    x = torch.rand(2, 4, 8, 8)
    first, second = (draw_augmentation(FULL, 2, 4, seeded(3)) for _ in range(2))
    assert torch.equal(apply_augmentation(x, first), apply_augmentation(x, second))


@pytest.mark.parametrize(("setting", "axis"), [("flip_horizontal", 3), ("flip_vertical", 2), ("flip_slices", 1)])
def test_a_flip_is_exact_and_happens_half_of_the_time(setting, axis):
    x = torch.rand(200, 3, 4, 4)
    out = apply_augmentation(x, draw_augmentation(Augmentation(**{setting: True}), 200, 3, seeded()))
    flipped = torch.tensor([torch.allclose(o, i.flip(axis - 1), atol=1e-5) for o, i in zip(out, x, strict=True)])
    kept = torch.tensor([torch.allclose(o, i, atol=1e-5) for o, i in zip(out, x, strict=True)])
    assert (flipped | kept).all()
    assert 0.35 < flipped.float().mean() < 0.65


def test_quarter_turns_are_exact():
    x = torch.rand(64, 2, 6, 6)
    out = apply_augmentation(x, draw_augmentation(Augmentation(rotate90=True), 64, 2, seeded()))
    seen = set()
    for o, i in zip(out, x, strict=True):
        turns = [k for k in range(4) if torch.allclose(o, torch.rot90(i, k, (1, 2)), atol=1e-4)]
        assert turns
        seen.add(turns[0])
    assert seen == {0, 1, 2, 3}


def test_a_crop_stays_inside_the_image():
    x = torch.full((64, 1, 32, 32), 255.0)
    out = apply_augmentation(x, draw_augmentation(Augmentation(crop=(0.3, 0.9)), 64, 1, seeded()))
    assert out[..., 1:-1, 1:-1].min() > 254


def test_a_rotation_keeps_the_mean_place_of_a_centred_spot():
    x = torch.zeros(1, 1, 33, 33)
    x[..., 16, 16] = 255.0
    out = apply_augmentation(x, draw_augmentation(Augmentation(rotate=45), 1, 1, seeded()))
    assert out[0, 0].argmax() == 16 * 33 + 16


def test_slices_shift_and_repeat_the_border():
    x = torch.arange(5.0).view(1, 5, 1, 1).expand(40, 5, 2, 2)
    out = apply_augmentation(x, draw_augmentation(Augmentation(shift_slices=1), 40, 5, seeded()))[:, :, 0, 0]
    rows = {tuple(r.tolist()) for r in out}
    assert rows == {(0, 1, 2, 3, 4), (0, 0, 1, 2, 3), (1, 2, 3, 4, 4)}


@pytest.mark.parametrize("bad", [{"crop": (0.5, 1.5)}, {"zoom": (2, 1)}, {"rotate": 200}, {"rotation": 5}])
def test_bad_settings(bad):
    with pytest.raises(ValidationError):
        Augmentation(**bad)


def test_a_turned_slice_keeps_its_shapes_also_where_it_is_not_square():
    rows, columns = torch.meshgrid(torch.arange(40) - 19.5, torch.arange(80) - 39.5, indexing="ij")
    disc = 255 * (12.5 - (rows**2 + columns**2).sqrt()).clamp(0, 1)
    draw = draw_augmentation(Augmentation(rotate=60), 8, 1, seeded(), (40, 80))
    turned = apply_augmentation(disc.expand(8, 1, 40, 80), draw)
    assert float(draw.theta[:, 0, 1].abs().max()) > 0.2, "some are turned far"
    assert float((turned - disc).abs().mean((1, 2, 3)).max()) < 2, "a disc in the middle stays where and what it is"
