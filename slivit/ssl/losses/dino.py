"""DINO's loss on class tokens and iBOT's on masked patches: the student's logits against the teacher's probabilities.

Origin: written for this project after Caron et al. 2021 (arXiv:2104.14294), Zhou et al. 2022 (arXiv:2111.07832) and
Oquab et al. 2023 (arXiv:2304.07193). Licence: Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from slivit.errors import ModelError


def dino_loss(students: Sequence[Tensor], teachers: Sequence[Tensor], temperature: float = 0.1) -> Tensor:
    """Cross-entropy between every view of the student and every one of the teacher, summed over these pairs.

    Leave pairs of the same view out by calling it for each; divide by the number of pairs for their mean.

    Args:
        students: (B, K) logits of each view.
        teachers: (B, K) probabilities of each view, from `sinkhorn_knopp` or `SoftmaxCentring`.
        temperature: of the student.

    Returns:
        A scalar: for each pair the mean over the batch, summed.

    Source: Oquab et al. 2023, section 4, "Image-level objective".
    """
    # The cross-entropy is linear in the target, so the teacher's views are added up first.
    target = torch.stack(list(teachers)).sum(0)
    losses = [_cross_entropy(student, target, temperature).mean() for student in students]
    return torch.stack(losses).sum()


def multi_crop_loss(large: Tensor, small: Tensor, teacher: Tensor, temperature: float = 0.1, views: int = 2) -> Tensor:
    """DINO's loss over crops: the mean over all pairs of a student's and a teacher's view that are not the same crop.

    Args:
        large: (views * B, K) logits of the student, the first crops of all images before the second ones.
        small: (n * B, K) those of smaller crops, which the teacher does not see; n may be 0.
        teacher: (views * B, K) probabilities of the teacher.
        temperature: of the student.
        views: large crops an image.

    Source: Caron et al. 2021, section 3.1, equation 3.
    """
    students, teachers = large.chunk(views), teacher.chunk(views)
    others = small.split(len(students[0])) if len(small) else ()
    losses = [
        dino_loss([student], [*teachers[:i], *teachers[i + 1 :]], temperature) for i, student in enumerate(students)
    ]
    losses += [dino_loss(others, teachers, temperature)] if others else []
    return torch.stack(losses).sum() / (views * (views - 1) + views * len(others))


def ibot_loss(student: Tensor, teacher: Tensor, mask: Tensor, temperature: float = 0.1) -> Tensor:
    """Cross-entropy at masked patches, where the student saw the mask token and the teacher the patch.

    Each volume counts alike, however many of its patches are masked; one without masked patches counts as 0.

    Args:
        student: (M, K) logits of the masked patches, volume by volume in the order of `mask`.
        teacher: (M, K) probabilities of the same patches.
        mask: (B, P) bool, True where a patch is masked; M times in all.
        temperature: of the student.

    Returns:
        A scalar: for each volume the mean over its masked patches, then the mean over the B volumes.

    Raises:
        ModelError: rows that are not those of the mask.

    Source: Zhou et al. 2022, section 3.1; Oquab et al. 2023, section 4, "Patch-level objective".
    """
    masked = mask.sum(1)
    count = int(masked.sum())
    if student.shape != teacher.shape or len(student) != count:
        raise ModelError(
            f"ibot_loss: the mask has {count} masked patches; got {tuple(student.shape)} logits of the "
            f"student and {tuple(teacher.shape)} probabilities of the teacher"
        )
    weights = (1 / masked.clamp_min(1)).repeat_interleave(masked, output_size=count)
    return (_cross_entropy(student, teacher, temperature) * weights).sum() / len(mask)


def _cross_entropy(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    """(N, K) logits and target -> (N,) in float32, whatever the precision round it."""
    with torch.autocast(logits.device.type, enabled=False):
        return F.cross_entropy(logits.float() / temperature, target.float(), reduction="none")
