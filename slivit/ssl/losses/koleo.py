"""The KoLeo regulariser, which spreads the features of a batch.

Origin: written for this project after Sablayrolles et al. 2019 (arXiv:1806.03198) and Oquab et al. 2023
(arXiv:2304.07193). Licence: Apache-2.0.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from slivit.errors import ModelError
from slivit.parallel import rank_and_size
from slivit.train.replicas import gather_rows

EPSILON = 1e-8


def koleo_loss(features: Tensor) -> Tensor:
    """Minus the mean log distance of each feature, at length 1, to its nearest neighbour in the batch.

    Args:
        features: (B, dim), one view of each volume; neighbours are looked for in all processes, B at least 2 over them.

    Returns:
        A scalar; lower where features lie further apart. With several processes its mean over them, and that of its
        gradients, is that of one process with all volumes.

    Raises:
        ModelError: fewer than two volumes.

    Source: Sablayrolles et al. 2019, section 3.3; Oquab et al. 2023, section 4, "KoLeo regularizer".
    """
    rank, size = rank_and_size()
    if len(features) * size < 2:
        raise ModelError(
            f"koleo_loss takes at least 2 volumes, between which there is a distance; got {len(features)}. "
            "Take a larger batch, or leave the regulariser out."
        )
    with torch.autocast(features.device.type, enabled=False):
        unit = F.normalize(features.float(), dim=-1, eps=EPSILON)
        everyone = gather_rows(unit)
        with torch.no_grad():
            own = torch.arange(len(unit), device=unit.device)
            likeness = unit @ everyone.T
            likeness[own, own + rank * len(unit)] = -2
            nearest = likeness.argmax(dim=1)
        distance = F.pairwise_distance(unit, everyone[nearest], eps=EPSILON)
        return -(distance + EPSILON).log().mean()
