"""A scan in three planes, with what a network makes of it: patch tokens as colours, and attention as heat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from slivit.report.draw import styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = npt.NDArray[Any]
PLANES = ("sagittal", "coronal", "axial")  # across the axes to the right, to the front and to the top
EDGES = (("anterior", "posterior"), ("right", "left"), ("right", "left"))  # left and right of each picture
HEAT, VEIL, SIDE = "inferno", 0.6, 2.6


def planes_figure(
    scan: Array,
    colours: Array,
    attention: Array | None,
    *,
    spacing: Sequence[float],
    at: Sequence[int],
    title: str,
    oriented: bool = True,
) -> Figure:
    """Draw three planes of a scan: by itself, its patches in colours, and the attention over it.

    Args:
        scan: (X, Y, Z), axes to the right, to the front and to the top.
        colours: (X, Y, Z, 3) from 0 to 1.
        attention: (X, Y, Z), or None to leave it out.
        spacing: mm along the three axes.
        at: the voxel that the planes go through.
        title: of the figure.
        oriented: whether the axes are known to be the patient's; else planes are not called axial and so on.
    """
    from matplotlib.figure import Figure

    sizes = [_size(scan.shape, spacing, axis) for axis in (2, 1, 0)]
    widths = [SIDE * width / max(max(size) for size in sizes) for width, _ in sizes]
    tallest = SIDE * max(height for _, height in sizes) / max(max(size) for size in sizes)
    rows = 2 if attention is None else 3
    with styled():
        figure = Figure(figsize=(sum(widths) + 0.9, rows * (tallest + 0.25) + 0.5), layout="constrained")
        grid: Any = figure.subplots(rows, 3, squeeze=False, width_ratios=widths)
        grey = _grey(scan)
        for column, axis in enumerate((2, 1, 0)):
            options = {"aspect": _aspect(spacing, axis), "interpolation": "nearest"}
            grid[0, column].set_title(_plane_name(axis, at, oriented), fontsize=9)
            grid[0, column].imshow(plane(grey, axis, at[axis]), cmap="gray", vmin=0, vmax=1, **options)
            grid[1, column].imshow(plane(_blend(grey, colours), axis, at[axis]), **options)
            if oriented:
                _name_edges(grid[0, column], axis)
        for row, name in enumerate(("scan", "patch tokens (PCA)", "attention")[:rows]):
            grid[row, 0].set_ylabel(name, fontsize=9)
        if attention is not None:
            _draw_attention(figure, grid[2], grey, attention, spacing, at)
        for axes in grid.flat:
            axes.set(xticks=[], yticks=[])
            axes.grid(False)
            axes.spines[:].set_visible(False)
        figure.suptitle(title, fontsize=10)
    return figure


def plane(volume: Array, axis: int, index: int) -> Array:
    """One plane as radiologists view it: the patient's right on the left (in front, where seen from the side), top up.

    Args:
        volume: (X, Y, Z, ...), axes to the right, to the front and to the top.
        axis: across the plane.
        index: along that axis.

    Returns:
        (rows, columns, ...).
    """
    return np.flip(np.swapaxes(np.take(volume, index, axis), 0, 1), (0, 1))


def _draw_attention(
    figure: Figure, row: Any, grey: Array, attention: Array, spacing: Sequence[float], at: Sequence[int]
) -> None:
    drawn: Any = None
    low, high = float(attention.min()), float(attention.max())
    for axes, axis in zip(row, (2, 1, 0), strict=True):
        options: Any = {"aspect": _aspect(spacing, axis)}
        axes.imshow(plane(grey, axis, at[axis]), cmap="gray", vmin=0, vmax=1, interpolation="nearest", **options)
        heat = plane(attention, axis, at[axis])
        drawn = axes.imshow(heat, cmap=HEAT, alpha=VEIL, vmin=low, vmax=high, **options)
    bar = figure.colorbar(drawn, ax=list(row), fraction=0.03, pad=0.01)
    bar.ax.tick_params(labelsize=7)


def _blend(grey: Array, colours: Array) -> Array:
    """Colours where there are some, the scan where the background is."""
    shown = colours.any(axis=-1, keepdims=True)
    return np.where(shown, (1 - VEIL) * grey[..., None] + VEIL * colours, 0.35 * grey[..., None])


def _grey(scan: Array) -> Array:
    """The scan from 0 to 1, between its 1st and 99th percentile."""
    values = np.nan_to_num(np.asarray(scan, np.float32))
    low, high = np.percentile(values, (1, 99))
    return np.clip((values - low) / ((high - low) or 1.0), 0, 1)


def _plane_name(axis: int, at: Sequence[int], oriented: bool) -> str:
    return PLANES[axis] if oriented else ("across columns", "across rows", "across slices")[axis]


def _name_edges(axes: Axes, axis: int) -> None:
    for x, name in zip((0.02, 0.98), EDGES[axis], strict=True):
        place: Any = {"ha": "left" if x < 0.5 else "right", "va": "bottom", "fontsize": 7, "color": "white"}
        veil = {"facecolor": "black", "alpha": 0.6, "pad": 1.0, "linewidth": 0}  # for letters over bright tissue
        axes.text(x, 0.02, name[0].upper(), transform=axes.transAxes, bbox=veil, **place)


def _size(shape: Sequence[int], spacing: Sequence[float], axis: int) -> tuple[float, float]:
    """Width and height of a plane in mm."""
    across, up = (i for i in range(3) if i != axis)
    return shape[across] * spacing[across], shape[up] * spacing[up]


def _aspect(spacing: Sequence[float], axis: int) -> float:
    """Height of a pixel over its width."""
    across, up = (i for i in range(3) if i != axis)
    return spacing[up] / spacing[across]
