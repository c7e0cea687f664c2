"""Windows of consecutive slices: where they lie in a scan, and how their scores become the scan's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from slivit.errors import SlivitError

if TYPE_CHECKING:
    from torch import Tensor

Score = Literal["max", "mean", "top_k"]


class Windows(BaseModel):
    """How a scan is cut into windows of as many consecutive slices as the model takes.

    Args:
        stride: slices from the start of one window to that of the next; 0 for a window's length, without overlap.
        score: of a scan, from the predictions of its windows: "max", "mean", or "top_k", the mean of the k highest.
        k: for "top_k"; all windows where there are fewer.

    Source: Ke et al. 2023 (arXiv:2304.00546), Methods; Huang et al. 2020 (doi:10.1038/s41746-020-0266-y), Methods.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    stride: int = Field(default=0, ge=0)
    score: Score = "max"
    k: int = Field(default=3, ge=1)

    def starts(self, depth: int, length: int) -> list[int]:
        """The first slices of the windows of a scan.

        Every slice lies in a window: the last window is moved back to end with the last slice. A scan that is shorter
        than a window has one, which `short` of the preprocessing fills.

        Args:
            depth: the number of slices of the scan.
            length: the number of slices of a window.

        Raises:
            SlivitError: a stride that would leave slices out.

        Example:
            >>> Windows(stride=16).starts(70, 32), Windows().starts(64, 32), Windows().starts(20, 32)
            ([0, 16, 32, 38], [0, 32], [0])
        """
        stride = self.stride or length
        if stride > length:
            raise SlivitError(
                f"windows.stride is {stride} and a window has {length} slices, so {stride - length} slices between two "
                f"windows would never be seen; give at most {length}, or 0 for no overlap"
            )
        last = max(depth - length, 0)
        return [*range(0, last, stride), last]

    def cut(self, stack: Tensor, length: int, at_once: int) -> Iterator[Tensor]:
        """Cut a scan into batches of windows.

        Args:
            stack: (D, H, W), or (C, D, H, W) of several channels, D at least `length`.
            length: the number of slices S of a window.
            at_once: the most windows of a batch.

        Yields:
            (n, S, H, W) or (n, C, S, H, W) with n of 1 to `at_once`, in the order of the slices.
        """
        import torch

        starts = self.starts(stack.shape[-3], length)
        for first in range(0, len(starts), at_once):
            yield torch.stack([stack[..., s : s + length, :, :] for s in starts[first : first + at_once]])

    def aggregate(self, scores: Tensor) -> Tensor:
        """The predictions of a scan from those of its windows.

        Args:
            scores: (windows, outputs) probabilities, or values in the target's unit.

        Returns:
            (outputs,).
        """
        if self.score == "max":
            return scores.amax(0)
        if self.score == "mean":
            return scores.mean(0)
        return scores.topk(min(self.k, len(scores)), dim=0).values.mean(0)
