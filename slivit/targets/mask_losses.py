"""Losses of segmentation: Dice and cross-entropy over classes or over regions that overlap, with voxels to ignore.

MONAI's losses know no voxels to ignore. Without such voxels these give MONAI's numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MaskLossName = Literal["dice_ce", "dice", "vis_mae"]
SMOOTH = 1e-5


class MaskLoss(nn.Module):
    """Dice and cross-entropy of logits (B, K, *) against a map of labels (B, *), where * are the axes of voxels.

    Args:
        regions: for each output the labels that belong to it: outputs are independent (sigmoid) and may overlap. None:
            output k is label k, and labels exclude each other (softmax).
        dice: weight of the Dice loss.
        cross_entropy: weight of the cross-entropy, binary for regions.
        squared: square the probabilities in Dice's denominator.
        background: output 0 counts in the Dice loss too; regions have no background.
        together: one Dice for all cases of a batch instead of one a case.
        of_all: divide the sum over outputs by the number of all outputs, the background's among them, even where that
            is left out.
        ignore: the label of voxels that count nowhere.

    Source: Milletari et al. 2016 (arXiv:1606.04797), section 3 (Dice).
    """

    def __init__(
        self,
        *,
        regions: Sequence[Sequence[int]] | None = None,
        dice: float = 1.0,
        cross_entropy: float = 1.0,
        squared: bool = False,
        background: bool = True,
        together: bool = False,
        of_all: bool = False,
        ignore: int | None = None,
    ) -> None:
        super().__init__()
        self.regions = None if regions is None else tuple(tuple(labels) for labels in regions)
        self.dice, self.cross_entropy, self.squared = dice, cross_entropy, squared
        self.background, self.together, self.of_all, self.ignore = background, together, of_all, ignore

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss, a number; 0 with gradients of 0 where all voxels are ignored."""
        logits = logits.as_subclass(Tensor).float()
        labels = labels.as_subclass(Tensor).to(logits.device).long()  # a whole scan's logits are stitched elsewhere
        known = torch.ones_like(labels, dtype=torch.bool) if self.ignore is None else labels != self.ignore
        truth = self._truth(labels.where(known, 0), logits.shape[1])
        loss = logits.new_zeros(())
        if self.dice:
            loss = loss + self.dice * self.dice_loss(logits, truth, known[:, None])
        if self.cross_entropy:
            loss = loss + self.cross_entropy * self._cross_entropy(logits, truth, known)
        return loss

    def dice_loss(self, logits: Tensor, truth: Tensor, known: Tensor) -> Tensor:
        """1 - Dice, on average over outputs and cases.

        Args:
            logits: (B, K, *).
            truth: (B, K, *) of 0 and 1.
            known: (B, 1, *) bool, whether a voxel counts.
        """
        probabilities = (logits.softmax(1) if self.regions is None else logits.sigmoid()) * known
        truth = truth * known
        if self.regions is None and not self.background:
            probabilities, truth = probabilities[:, 1:], truth[:, 1:]
        axes = [0] * self.together + list(range(2, logits.ndim))
        sizes = (probabilities.square() if self.squared else probabilities).sum(axes) + truth.sum(axes)
        shares = 1 - (2 * (probabilities * truth).sum(axes) + SMOOTH) / (sizes + SMOOTH)
        return shares.mean() * (probabilities.shape[1] / logits.shape[1] if self.of_all else 1)

    def _truth(self, labels: Tensor, outputs: int) -> Tensor:
        """(B, *) labels -> (B, K, *) float of 0 and 1."""
        if self.regions is None:
            return F.one_hot(labels, outputs).movedim(-1, 1).float()
        members = [torch.isin(labels, labels.new_tensor(wanted)) for wanted in self.regions]
        return torch.stack(members, dim=1).float()

    def _cross_entropy(self, logits: Tensor, truth: Tensor, known: Tensor) -> Tensor:
        if self.regions is None:
            losses = -(logits.log_softmax(1) * truth).sum(1)
        else:
            losses = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(1)
        return (losses * known).sum() / known.sum().clamp(min=1)


NAMED: dict[MaskLossName, dict[str, Any]] = {
    "dice_ce": {},
    "dice": {"cross_entropy": 0.0, "squared": True},
    "vis_mae": {
        "dice": 0.6,
        "cross_entropy": 0.4,
        "squared": True,
        "background": False,
        "together": True,
        "of_all": True,
    },
}


def mask_loss(
    name: MaskLossName, regions: Sequence[Sequence[int]] | None = None, ignore: int | None = None
) -> MaskLoss:
    """A loss of the papers by its name.

    Args:
        name: "dice_ce" (Dice and cross-entropy, 3DINO's for classes), "dice" (squared, 3DINO's for the overlapping
            regions of BraTS), or "vis_mae" (0.4 cross-entropy and 0.6 Dice over the classes but the background, whose
            sum the released code divides by all classes).
        regions: see `MaskLoss`.
        ignore: see `MaskLoss`.

    Source: Xu et al. 2025 (arXiv:2501.11755), Methods, segmentation; Liu et al. 2024 (arXiv:2402.01034), methods.
    """
    return MaskLoss(regions=regions, ignore=ignore, **NAMED[name])
