"""Contrastive losses over the images of all processes: NT-Xent of SimCLR, and that of SiT with a teacher.

Origin: written for this project after Chen et al. 2020 (arXiv:2002.05709) and Atito et al. 2021 (arXiv:2104.03602).
Licence: Apache-2.0.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from slivit.errors import ModelError
from slivit.parallel import rank_and_size
from slivit.train.replicas import gather_rows


def nt_xent(first: Tensor, second: Tensor, temperature: float = 0.1) -> Tensor:
    """Each image is to be found by its other view among the views of all other images.

    Args:
        first: (B, D) projections of one view.
        second: (B, D) projections of the other, in the same order.
        temperature: divides the cosine similarities.

    Returns:
        A scalar. With several processes the images of all of them are compared, and the mean over processes of this
        scalar, and of its gradients, is that of one process with all images.

    Raises:
        ModelError: shapes that differ.

    Source: Chen et al. 2020, section 2.1, equation 1.
    """
    if first.shape != second.shape or first.ndim != 2:
        raise ModelError(f"nt_xent takes two (B, D) tensors; got {tuple(first.shape)} and {tuple(second.shape)}")
    with torch.autocast(first.device.type, enabled=False):
        views = [F.normalize(view.float(), dim=1) for view in (first, second)]
        everyone = [gather_rows(view) for view in views]
        here = torch.arange(len(first), device=first.device) + rank_and_size()[0] * len(first)
        count = len(everyone[0])
        losses = []
        for own, other in ((0, 1), (1, 0)):
            same = views[own] @ everyone[own].T / temperature
            same = same.masked_fill(F.one_hot(here, count).bool(), float("-inf"))
            across = views[own] @ everyone[other].T / temperature
            losses.append(F.cross_entropy(torch.cat([across, same], 1), here))
    return (losses[0] + losses[1]) / 2


def found_by_teacher(student: Tensor, teacher: Tensor, temperature: float = 0.2) -> Tensor:
    """The student's view of each image is to find the teacher's other view of it among those of all other images.

    Args:
        student: (2 * B, D) projections, the first views of all images before the second ones.
        teacher: (2 * B, D) likewise; no gradient goes there.
        temperature: divides the cosine similarities, and twice of it weighs each of the two directions.

    Returns:
        A scalar; with several processes as `nt_xent`.

    Raises:
        ModelError: shapes that differ, or no two views.

    Source: the released code of Atito et al. 2021 (weight and directions); Chen et al. 2021, MoCo v3, arXiv:2104.02057,
        section 3.
    """
    if student.shape != teacher.shape or student.ndim != 2 or len(student) % 2:
        raise ModelError(
            f"found_by_teacher takes two (2 B, D) tensors; got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    with torch.autocast(student.device.type, enabled=False):
        own = F.normalize(student.float(), dim=1).chunk(2)
        other = [gather_rows(view) for view in F.normalize(teacher.detach().float(), dim=1).chunk(2)]
        count = len(own[0])
        here = torch.arange(count, device=student.device) + rank_and_size()[0] * count
        losses = [F.cross_entropy(own[a] @ other[b].T / temperature, here) for a, b in ((0, 1), (1, 0))]
    return 2 * temperature * (losses[0] + losses[1])
