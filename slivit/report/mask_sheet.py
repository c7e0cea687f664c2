"""Masks over their scans in one picture, so that misplaced ones are seen before training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slivit.data.case import Align, read_mask, read_scan
from slivit.data.preprocessing import Preprocessing
from slivit.errors import SlivitError
from slivit.files import whole_file
from slivit.report.draw import new_figure, styled
from slivit.report.masks_page import coloured, windowed
from slivit.report.style import PALETTE, short
from slivit.targets.segmentation import Segmentation

MOST, PER_ROW = 24, 6


def write_mask_sheet(
    path: Path, rows: Sequence[Mapping[str, Any]], task: Segmentation, settings: Preprocessing, align: Align = "error"
) -> Path:
    """Draw of each scan the slice with most of its mask, the mask in colour; evenly chosen scans where there are many.

    Args:
        path: of the PNG.
        rows: of a manifest.
        task: the labels.
        settings: whose reader options count.
        align: as masks are read.

    Returns:
        The picture; scans or masks that cannot be read are said so in their place.
    """
    from matplotlib.patches import Patch

    chosen = [rows[int(i)] for i in np.linspace(0, len(rows) - 1, min(MOST, len(rows))).round()]
    lines = -(-len(chosen) // PER_ROW)
    with styled():
        figure, axes = new_figure(1.9 * lines + 0.4, width=1.7 * PER_ROW, nrows=lines, ncols=PER_ROW, squeeze=False)
        for ax in axes.flat:
            ax.set_axis_off()
        for ax, row in zip(axes.flat, chosen, strict=False):
            _draw(ax, row, task, settings, align)
        handles = [Patch(color=PALETTE[i % len(PALETTE)], label=name) for i, name in enumerate(task.labels)]
        figure.legend(handles=handles, loc="outside lower center", ncols=6)
        with whole_file(path) as partial:
            figure.savefig(partial, format="png", dpi=110)
    return path


def _draw(ax: Any, row: Mapping[str, Any], task: Segmentation, settings: Preprocessing, align: Align) -> None:
    name = str(row["path"]).replace("\\", "/").rpartition("/")[2]
    try:
        volume = read_scan(row, settings)
        mask = read_mask(row, volume, task, settings, align)
    except SlivitError as error:
        ax.set_title(short(name), fontsize=7)
        ax.text(0.5, 0.5, short(str(error).rpartition(": ")[2], 40), ha="center", va="center", fontsize=6, wrap=True)
        return
    sizes = ((mask > 0) & (mask < 255)).sum((1, 2))
    place = int(sizes.argmax()) if sizes.any() else len(mask) // 2
    aspect = volume.spacing[1] / volume.spacing[2] if volume.spacing else 1.0
    grey = windowed(volume.by_channel()[0].array[place])
    ax.imshow(grey, cmap="gray", vmin=0, vmax=1, aspect=aspect, interpolation="nearest")
    ax.imshow(coloured(mask[place]), aspect=aspect, interpolation="nearest")
    ax.set_title(f"{short(name)}\nslice {place}", fontsize=7)
