"""Losses of masks: MONAI's numbers, VIS-MAE's, and voxels to ignore."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from slivit.targets.mask_losses import MaskLoss, mask_loss

REGIONS = ((1, 3), (1, 2, 3), (3,))


def drawn(outputs: int = 4, labels: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(2, outputs, 4, 5, 6, generator=generator, requires_grad=True),
        torch.randint(0, labels, (2, 4, 5, 6), generator=generator),
    )


@pytest.mark.slow
def test_numbers_are_monais() -> None:
    pytest.importorskip("monai", reason="MONAI is not installed (the extra baselines)")
    from monai.losses import DiceCELoss, DiceLoss

    logits, labels = drawn()
    theirs = DiceCELoss(to_onehot_y=True, softmax=True)(logits, labels[:, None])
    torch.testing.assert_close(mask_loss("dice_ce")(logits, labels), theirs)
    logits, labels = drawn(3)
    truth = torch.stack([torch.isin(labels, torch.tensor(region)) for region in REGIONS], 1).float()
    torch.testing.assert_close(
        mask_loss("dice", REGIONS)(logits, labels), DiceLoss(sigmoid=True, squared_pred=True)(logits, truth)
    )
    # MONAI's DiceCELoss would have a cross-entropy over regions, as if they excluded each other.
    both = DiceLoss(sigmoid=True)(logits, truth) + torch.nn.functional.binary_cross_entropy_with_logits(logits, truth)
    torch.testing.assert_close(MaskLoss(regions=REGIONS)(logits, labels), both)


def test_dice_by_its_definition() -> None:
    logits, labels = drawn(3)
    got = mask_loss("dice", REGIONS)(logits, labels)
    shares = []
    for case in range(2):
        for output, region in enumerate(REGIONS):
            p, t = logits[case, output].sigmoid().flatten().tolist(), labels[case].flatten().tolist()
            inside = [value in region for value in t]
            both = sum(x for x, yes in zip(p, inside, strict=True) if yes)
            shares.append(1 - 2 * both / (sum(x * x for x in p) + sum(inside)))
    assert got.item() == pytest.approx(sum(shares) / 6, abs=1e-5)


def test_vis_maes_numbers(reference: Path) -> None:
    """On logits of which the softmax is known: 0.4 and 0.6, and Dice of K - 1 classes divided by K."""
    golden = json.loads((reference / "vis_mae.json").read_text())["swin_unet"]["img128"]["loss"]
    assert 0.4 * golden["cross_entropy"] + 0.6 * golden["dice_loss"] == pytest.approx(golden["total"], abs=1e-5)
    labels = torch.tensor([[[0, 1], [2, 3]]])
    certain = 40.0 * torch.nn.functional.one_hot(labels, 4).movedim(-1, 1)
    assert mask_loss("vis_mae")(certain, labels).item() == pytest.approx(0, abs=1e-6)
    even = torch.zeros(1, 4, 2, 2)
    # Three classes, each with one voxel of four: 1 - 2 * 0.25 / (4 * 0.25**2 + 1) = 0.6.
    assert mask_loss("vis_mae")(even, labels).item() == pytest.approx(
        0.4 * torch.log(torch.tensor(4.0)).item() + 0.6 * 0.6 * 3 / 4, abs=1e-5
    )


@pytest.mark.parametrize("loss", [mask_loss("dice_ce", ignore=255), mask_loss("dice", REGIONS, ignore=255)])
def test_ignored_voxels_change_nothing(loss: MaskLoss) -> None:
    logits, labels = drawn(4 if loss.regions is None else 3)
    plain = MaskLoss(regions=loss.regions, cross_entropy=loss.cross_entropy, squared=loss.squared)
    torch.testing.assert_close(loss(logits, labels), plain(logits, labels))
    hidden = labels.clone()
    hidden[:, :, :, 3:] = 255
    torch.testing.assert_close(loss(logits, hidden), plain(logits[..., :3], labels[..., :3]))
    (gradient,) = torch.autograd.grad(loss(logits, hidden), logits)
    assert gradient[..., 3:].abs().max() == 0
    assert gradient[..., :3].abs().min() > 0
    nothing = loss(logits, torch.full_like(labels, 255))
    (gradient,) = torch.autograd.grad(nothing, logits)
    assert nothing.item() == pytest.approx(0)
    assert gradient.abs().max() == 0
