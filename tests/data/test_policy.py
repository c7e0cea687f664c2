"""AutoAugment's ImageNet policy on volumes."""

import pytest
import torch

from slivit.data.augmentation import Augmentation, apply_augmentation, draw_augmentation
from slivit.data.policy import apply_policy, draw_policy


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_single_slice_is_changed_as_torchvision_changes_an_image():
    from torchvision.transforms import AutoAugment

    theirs = AutoAugment()
    image = torch.randint(0, 256, (1, 24, 20), dtype=torch.uint8, generator=seeded())
    for seed in range(200):
        torch.manual_seed(seed)
        expected = theirs(image)
        torch.manual_seed(seed)
        assert torch.equal(apply_policy(image, draw_policy(24, 20)), expected)


@pytest.mark.parametrize("seed", range(25))
def test_slices_that_are_alike_stay_alike(seed):
    image = torch.randint(0, 256, (1, 24, 20), dtype=torch.uint8, generator=seeded())
    out = apply_policy(image.repeat(5, 1, 1), draw_policy(24, 20, seeded(seed)))
    assert torch.equal(out, out[:1].expand_as(out))


@pytest.mark.parametrize("operation", ["Equalize", "AutoContrast", "Contrast", "Solarize", "Posterize", "Invert"])
def test_a_grey_value_becomes_the_same_in_all_slices(operation):
    volume = torch.randint(40, 90, (6, 16, 16), dtype=torch.uint8, generator=seeded())
    volume[3:] += 80  # the slices differ in brightness
    out = apply_policy(volume, ((operation, 4.0 if operation == "Posterize" else 0.5),))
    for value in volume.unique():
        assert len(out[volume == value].unique()) == 1


def test_a_draw_can_be_replayed_and_no_operation_changes_nothing():
    assert draw_policy(8, 8, seeded(4)) == draw_policy(8, 8, seeded(4))
    volume = torch.randint(0, 256, (2, 8, 8), dtype=torch.uint8)
    assert torch.equal(apply_policy(volume, ()), volume)


def test_every_volume_of_a_batch_has_its_own_draw():
    settings = Augmentation(policy="imagenet")
    assert settings.active
    draw = draw_augmentation(settings, 16, 3, seeded(1), size=(12, 12))
    assert len(set(draw.policies)) > 4
    volumes = torch.randint(0, 256, (16, 3, 12, 12), dtype=torch.uint8, generator=seeded())
    out = apply_augmentation(volumes, draw)
    for volume, operations, changed in zip(volumes, draw.policies, out, strict=True):
        assert torch.equal(changed, apply_policy(volume, operations).float())
    assert torch.equal(apply_augmentation(volumes.float(), draw), out)
