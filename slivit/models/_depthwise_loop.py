"""The loop behind `slivit.models._depthwise`, compiled by numba once for a machine and kept on its disk."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

Array = npt.NDArray[np.float32]


@njit(nogil=True, fastmath={"contract"}, cache=True)
def row_sums(x: Array, gradient: Array, kernel: int, i: int) -> Array:
    """One row of the gradient of a depth-wise convolution's weights.

    A row of the image is summed by itself first, as sums of few numbers round less. Other threads may run beside it.

    Args:
        x: (B, H, W, C) the input.
        gradient: (B, H, W, C) of the output.
        kernel: side K of the kernel.
        i: the row.

    Returns:
        (K, C).
    """
    batch, height, width, channels = x.shape
    half = kernel // 2
    own = np.zeros((kernel, channels), np.float32)
    line = np.zeros((kernel, channels), np.float32)
    for b in range(batch):
        for row in range(max(0, half - i), min(height, height + half - i)):
            line[:] = 0
            for column in range(width):
                g = gradient[b, row, column]
                for j in range(max(0, half - column), min(kernel, width + half - column)):
                    v = x[b, row + i - half, column + j - half]
                    total = line[j]
                    for c in range(channels):
                        total[c] += g[c] * v[c]
            own += line
    return own
