"""From a teacher's logits to the probabilities that a student learns: Sinkhorn-Knopp, or centring and a softmax.

Origin: written for this project after Caron et al. 2020 (arXiv:2006.09882, Sinkhorn-Knopp) and Caron et al. 2021
(arXiv:2104.14294, centring). Licence: Apache-2.0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch import distributed as dist


@torch.no_grad()
def sinkhorn_knopp(logits: Tensor, temperature: float, iterations: int = 3) -> Tensor:
    """Probabilities that use all prototypes about equally, over the batch of all processes.

    Prototypes and rows are scaled in turn to equal sums, prototypes first, so that rows end as probabilities.

    Args:
        logits: (N, K), the teacher's, a row a volume or a masked patch; processes may have different numbers of rows.
        temperature: divides the logits; low ones sharpen.
        iterations: how often both are scaled.

    Returns:
        (N, K) float32 probabilities, each row with the sum 1.

    Source: Caron et al. 2020, section 3.2 and appendix A; Oquab et al. 2023, section 4.
    """
    scaled = logits.float() / temperature
    # The largest logit of all becomes 0: this changes no result, and no exponential overflows.
    scaled = scaled.sub_(_over_processes(_largest(scaled), dist.ReduceOp.MAX)).exp_()
    tiny = torch.finfo(scaled.dtype).tiny
    for _ in range(iterations):
        prototypes = _over_processes(scaled.sum(0), dist.ReduceOp.SUM)
        scaled.div_(prototypes.clamp_min_(tiny))
        scaled.div_(scaled.sum(1, keepdim=True))
    return scaled


class SoftmaxCentring(nn.Module):
    """Probabilities of logits from which a running mean is taken; the mean goes with the checkpoint.

    Args:
        prototypes: K, the length of the logits.
        momentum: share of the old mean that an update keeps.

    Source: Caron et al. 2021, section 3.1, "Avoiding collapse".
    """

    center: Tensor

    def __init__(self, prototypes: int, momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("center", torch.zeros(1, prototypes))

    @torch.no_grad()
    def forward(self, logits: Tensor, temperature: float) -> Tensor:
        """(N, K) logits of the teacher -> (N, K) float32 probabilities, with the mean of the batches before."""
        return ((logits.float() - self.center) / temperature).softmax(dim=-1)

    @torch.no_grad()
    def update(self, logits: Tensor) -> None:
        """Move the mean towards that of (N, K) logits, over the rows of all processes."""
        total = _over_processes(logits.float().sum(0, keepdim=True), dist.ReduceOp.SUM)
        rows = _over_processes(torch.tensor(float(len(logits)), device=logits.device), dist.ReduceOp.SUM)
        # Without a single row the mean stays; asked on the device, so that nothing waits for the answer.
        self.center.lerp_(total / rows.clamp_min(1), (1 - self.momentum) * (rows > 0))


def _largest(values: Tensor) -> Tensor:
    """The largest value of all, or minus infinity where there is none."""
    return values.max() if values.numel() else values.new_tensor(-torch.inf)


def _over_processes(value: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
    """The sum or maximum of every process's `value`; `value` itself, changed in place, or untouched in one process."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(value, operation)
    return value
