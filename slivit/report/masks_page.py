"""The page of a segmentation: cases with their masks, spread over cases, and volumes, from `cases.csv`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from slivit.data.case import Align, mask_options, read_mask, read_scan
from slivit.data.preprocessing import Preprocessing
from slivit.data.readers import read_volume
from slivit.errors import SlivitError
from slivit.folder import MASKS
from slivit.report.draw import Plot, new_figure, nothing, styled
from slivit.report.page import render, shown_split
from slivit.report.plots_groups import subgroup_plots
from slivit.report.plots_regression import LIMITS, bland_altman
from slivit.report.style import INK, PALETTE, QUIET, count, in_words, metric_name, number
from slivit.report.summary import largest_gap
from slivit.report.tables import Grid, cell, site_grid, subgroup_grids
from slivit.targets.segmentation import Segmentation
from slivit.targets.task import Task
from slivit.volume import Volume

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("dice", "hd95", "surface_dice", "volume_error_ml", "absolute_volume_error_ml")
Numbers = npt.NDArray[np.uint8]


def write_masks_page(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    cases: pd.DataFrame,
    metrics: Mapping[str, Any],
    settings: Preprocessing,
    align: Align,
    masks: Path | None = None,
) -> Path:
    """Write the page of a segmentation into `report`, beside the table and the masks that it shows.

    Args:
        folder: of the evaluation.
        rows: of the manifest.
        cases: `cases.csv`.
        metrics: `metrics.json`.
        settings: the checkpoint's preprocessing, by which scans are read.
        align: as masks were read.
        masks: where the predicted masks are; in `folder` where None.

    Returns:
        The page.
    """
    task: Any = Task(**metrics["task"])
    split = shown_split(metrics)
    shown = metrics["splits"][split]
    part = cases[(cases["split"] == split) & (cases["error"] == "")]
    failed = cases[(cases["split"] == split) & (cases["error"] != "")].drop_duplicates("case")
    context = {
        "title": f"Segmentation: {', '.join(task.structures)}",
        "split": split,
        "structures": task.structures,
        "sentences": list(sentences(shown, task)),
        "table": structures_grid(shown, task),
        "failed": failed_grid(failed) if len(failed) else None,
        "settings": metrics["settings"],
        "subgroups": subgroup_grids(shown, task) if "subgroups" in shown else [],
        "sites": site_grid(shown, metrics, task),
    }
    own = {str(row["path"]): row for row in rows}
    with styled():
        plots = {
            "overlays": list(overlays(masks or folder / MASKS, own, part, task, settings, align)),
            "boxes": [box_plot(part, task, name) for name in ("dice", "hd95")],
            "volumes": [volume_plot(part, s, i, metrics["settings"]) for i, s in enumerate(task.structures)],
            "subgroups": list(subgroup_plots(shown, task)) if "subgroups" in shown else [],
        }
        return render("masks.html.j2", context, plots, folder / "report")


def sentences(split: Mapping[str, Any], task: Segmentation) -> Iterator[str]:
    """The results in plain words."""
    metrics = split["metrics"]
    yield (
        f"{count(split['scans'], 'scan')} of {count(split['patients'], 'patient')}, "
        f"{count(len(task.structures), 'structure')}. The mean Dice over structures and cases is "
        f"{in_words(metrics['dice'])}, the mean HD95 {in_words(metrics['hd95'], 'mm', 2)}."
    )
    if metrics["hd95"]["value"] is not None and (why := metrics["hd95"]["why"]):
        yield f"HD95: {why}."
    failed = next(iter(split["counts"].values()))["missing"]
    if failed:
        yield f"{count(failed, 'case')} could not be measured, and {'counts' if failed == 1 else 'count'} nowhere."
    if "subgroups" in split:
        yield from largest_gap(split, task)


def structures_grid(split: Mapping[str, Any], task: Segmentation) -> Grid:
    """The metrics of each structure."""
    rows = [(name, tuple(_cell(split["structures"][name], m) for m in COLUMNS)) for name in task.structures]
    if len(task.structures) > 1:
        rows.append(("mean of structures", tuple(_cell(split["metrics"], m) for m in COLUMNS)))
    notes = [
        f"{name}, {metric_name(m)}: {split['structures'][name][m]['why']}."
        for name in task.structures
        for m in COLUMNS[:3]
        if split["structures"][name][m]["why"]
    ]
    return Grid("Structures", tuple((metric_name(m), "") for m in COLUMNS), tuple(rows), " ".join(notes))


def _cell(estimates: Mapping[str, Any], metric: str) -> tuple[str, str]:
    return cell(estimates[metric]) if metric in estimates else ("", "")


def failed_grid(failed: pd.DataFrame) -> Grid:
    """The cases that could not be measured, and why."""
    rows = [(str(row["case"]), ((str(row["error"]), ""),)) for row in failed.to_dict("records")]
    return Grid("Cases that could not be measured", (("why", ""),), tuple(rows))


# -- pictures of cases ------------------------------------------------------------------------------------------------


def overlays(
    masks: Path,
    rows: Mapping[str, Mapping[str, Any]],
    cases: pd.DataFrame,
    task: Segmentation,
    settings: Preprocessing,
    align: Align,
) -> Iterator[Plot]:
    """The best, the median and the worst case by mean Dice, in three planes: true masks above, predicted ones below."""
    means = cases.groupby("case")["dice"].mean().dropna().sort_values(kind="stable")
    if means.empty or (task.regions and task.label_of_regions() is None):
        return
    chosen = {"best": len(means) - 1, "median": (len(means) - 1) // 2, "worst": 0}
    for word, place in chosen.items():
        name = str(means.index[place])
        row = rows.get(str(cases.loc[cases["case"] == name, "path"].iloc[0]))
        if row is None:
            continue
        try:
            volume = read_scan(row, settings)
            true = read_mask(row, volume, task, settings, align)
            options = mask_options(volume, row, settings)
            predicted = task.numbered(read_volume(str(masks / f"{name}.nii.gz"), **options).array)
        except SlivitError:
            continue  # a file that went away meanwhile; the table has the case all the same
        title = f"{word.capitalize()}: {name}, Dice {number(float(means.iloc[place]))}"
        yield overlay_plot(volume, true, predicted, task, f"case-{word}", title)


def overlay_plot(volume: Volume, true: Numbers, predicted: Numbers, task: Segmentation, key: str, title: str) -> Plot:
    """One case in three planes through the middle of its mask.

    Args:
        volume: the scan.
        true: (D, H, W) numbers of labels.
        predicted: as `true`, predicted.
        task: the names of labels.
        key: of the figure's files.
        title: above it.
    """
    from matplotlib.patches import Patch

    either = np.argwhere(((true > 0) & (true < 255)) | (predicted > 0))
    at = np.median(either, 0).astype(int) if len(either) else np.array(true.shape) // 2
    spacing = volume.spacing or (1.0, 1.0, 1.0)
    figure, axes = new_figure(5.2, width=7.2, nrows=2, ncols=3, squeeze=False)
    grey = windowed(volume.by_channel()[0].array)
    for line, (numbers, word) in enumerate(((true, "true"), (predicted, "predicted"))):
        for across in range(3):
            ax, others = axes[line, across], [i for i in range(3) if i != across]
            aspect = spacing[others[0]] / spacing[others[1]]
            options: Any = {"aspect": aspect, "interpolation": "nearest", "origin": "lower" if across else "upper"}
            ax.imshow(np.take(grey, at[across], across), cmap="gray", vmin=0, vmax=1, **options)
            ax.imshow(coloured(np.take(numbers, at[across], across)), **options)
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            ax.set_title(f"{('slice', 'row', 'column')[across]} {at[across]}" if not line else "", fontsize=8.5)
        axes[line, 0].set_ylabel(word)
    handles = [Patch(color=PALETTE[i % len(PALETTE)], label=name) for i, name in enumerate(task.labels)]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    caption = "Three planes through the middle of the masks: the true mask above, the predicted one below."
    return Plot(key, title, caption, figure, f"{title}: true and predicted masks over three planes of the scan")


def windowed(array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Values between 0 and 1, from the 1st to the 99th percentile."""
    values = np.nan_to_num(array.astype(np.float32))
    low, high = np.percentile(values, (1, 99))
    return ((values - low) / max(float(high - low), 1e-6)).clip(0, 1)


def coloured(numbers: Numbers) -> npt.NDArray[np.float64]:
    """(h, w) numbers of labels -> (h, w, 4) colours, clear where there is none; what is ignored is grey."""
    from matplotlib.colors import to_rgba

    out = np.zeros((*numbers.shape, 4))
    for value in np.unique(numbers):
        if value:
            out[numbers == value] = to_rgba(QUIET if value == 255 else PALETTE[(value - 1) % len(PALETTE)], 0.55)
    return out


# -- spread and volumes -----------------------------------------------------------------------------------------------


def box_plot(cases: pd.DataFrame, task: Segmentation, metric: str) -> Plot:
    """A metric of all cases, structure by structure."""
    values = [_finite(cases.loc[cases["structure"] == name, metric]) for name in task.structures]
    infinite = int(np.isinf(cases[metric].to_numpy(float)).sum())
    figure, ax = new_figure(3.6)
    if any(len(v) for v in values):
        ax.boxplot(values, showfliers=False, widths=0.5, medianprops={"color": INK})
        draws = np.random.default_rng(0)
        for place, column in enumerate(values, 1):
            spots = place + draws.uniform(-0.14, 0.14, len(column))
            ax.scatter(spots, column, s=12, alpha=0.6, linewidths=0, color=PALETTE[(place - 1) % len(PALETTE)])
        ax.set_xticks(range(1, len(values) + 1), list(task.structures), rotation=30 if len(values) > 4 else 0)
        ax.set_ylabel(metric_name(metric))
        ax.grid(True, axis="y")
    else:
        nothing(ax, "no case has a value")
    caption = "Each point is a case; the box holds the middle half, the line is the median."
    if infinite:
        caption += f" {count(infinite, 'value')} of missed structures are infinite and not drawn."
    return Plot(
        f"box-{metric}", f"{metric_name(metric)} of all cases", caption, figure, f"Box plot of {metric_name(metric)}"
    )


def _finite(column: pd.Series) -> npt.NDArray[np.float64]:
    values = column.to_numpy(float)
    return np.asarray(values[np.isfinite(values)])


def volume_plot(cases: pd.DataFrame, structure: str, place: int, settings: Mapping[str, Any]) -> Plot:
    """Predicted less true volume of a structure against their mean, with bias and limits of agreement.

    Args:
        cases: of one split.
        structure: its name.
        place: its number, for the figure's files.
        settings: of `metrics.json`: level and draws of the intervals.
    """
    from slivit.statistics import Plan
    from slivit.statistics import bland_altman as agreement

    own = cases[cases["structure"] == structure]
    true, predicted = own["true_ml"].to_numpy(float), own["predicted_ml"].to_numpy(float)
    kept = np.isfinite(true) & np.isfinite(predicted)
    groups = own.loc[kept, "patient"].to_numpy(str) if settings["by_patient"] else None
    plan = Plan(level=settings["level"], draws=settings["draws"], groups=groups)
    agreed = agreement(true[kept], predicted[kept], plan=plan)
    lines = {name: getattr(agreed, name).to_dict() for name in LIMITS}
    key, title = f"volume-{place + 1}", f"Volume of {structure}"
    return bland_altman(lines, structure, true[kept], predicted[kept], "mL", key, title)
