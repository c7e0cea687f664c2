"""Patch tokens as colours: what lies in the foreground, and its three main directions as red, green and blue.

Paper: Oquab et al. 2023 (arXiv:2304.07193), section 7.5 and Figure 1; Xu et al. 2025 (arXiv:2501.11755), Figure 4.
Origin: written for this project from the papers. Licence: Apache-2.0.
"""

from __future__ import annotations

import torch
from torch import Tensor

BINS = 256
SHOWN = (0.01, 0.99)  # shares of the foreground between which a component runs from dark to bright


def components(tokens: Tensor, count: int) -> Tensor:
    """The first principal components of tokens.

    Args:
        tokens: (P, d).
        count: how many.

    Returns:
        (P, count) float64, by falling variance, 0 where there are no more; a component's largest value is positive.
    """
    centred = tokens.double() - tokens.double().mean(0)
    left, lengths, _ = torch.linalg.svd(centred, full_matrices=False)
    scores = (left * lengths)[:, :count]
    extremes = scores.gather(0, scores.abs().argmax(0, keepdim=True))
    scores = scores * torch.where(extremes < 0, -1.0, 1.0)
    return torch.nn.functional.pad(scores, (0, count - scores.shape[1]))


def foreground(tokens: Tensor, brightness: Tensor) -> Tensor:
    """Which patches do not show background: those on the brighter side of the first component.

    The component's values are divided where that separates them best (Otsu); of the two sides, the one that goes with
    brighter patches is the foreground, as air and what lies outside of a scan are dark.

    Args:
        tokens: (P, d).
        brightness: (P,) mean intensity of each patch.

    Returns:
        (P,) bool.

    Source: Oquab et al. 2023, section 7.5 (the first component thresholded).
    """
    first = components(tokens, 1)[:, 0]
    bright = brightness.double() - brightness.double().mean()
    if (first * bright).sum() < 0:
        first = -first
    return first > otsu(first)


def otsu(values: Tensor) -> float:
    """The threshold that divides values into two groups whose means lie furthest apart, weighed by their sizes.

    Source: Otsu 1979 (doi:10.1109/TSMC.1979.4310076).
    """
    values = values.double()
    low, high = float(values.min()), float(values.max())
    if low == high:
        return low
    counts = torch.histc(values, BINS, low, high).double()
    edges = torch.linspace(low, high, BINS + 1, dtype=torch.float64)
    centres = (edges[1:] + edges[:-1]) / 2
    below, sums = counts.cumsum(0), (counts * centres).cumsum(0)
    above = below[-1] - below
    apart = sums / below.clamp(min=1) - (sums[-1] - sums) / above.clamp(min=1)
    between = below * above * apart**2
    # Between two groups every threshold separates alike: the middle of them.
    best = (between >= between.max() * (1 - 1e-9)).nonzero()[:, 0]
    return float(edges[1:][best].mean())


def pca_colours(tokens: Tensor, kept: Tensor) -> Tensor:
    """The first three components of the kept tokens as colours.

    Args:
        tokens: (P, d).
        kept: (P,) bool, the foreground.

    Returns:
        (P, 3) from 0 to 1; what is not kept is black.
    """
    colours = torch.zeros(len(tokens), 3, dtype=torch.float64)
    if not kept.any():
        return colours
    scores = components(tokens[kept], 3)
    low, high = (torch.quantile(scores, share, dim=0) for share in SHOWN)
    width = torch.where(high > low, high - low, 1.0)
    colours[kept] = ((scores - low) / width).clamp(0, 1)
    return colours
