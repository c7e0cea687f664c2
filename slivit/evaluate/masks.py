"""Predicted masks against true ones: a table of cases and structures, and metrics with intervals."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slivit.data.case import Align, read_mask
from slivit.data.manifest_checks import split_place
from slivit.data.notes import joined_notes
from slivit.data.preprocessing import Preprocessing
from slivit.data.table import read_shown, write_table
from slivit.errors import RecipeError, SlivitError
from slivit.evaluate.details import details_of
from slivit.evaluate.measure import SCHEMA, drawn_cases, log_headlines, metrics_of
from slivit.evaluate.recipe import Testing
from slivit.files import write_json
from slivit.folder import CASES, MASKS, METRICS
from slivit.predict.engine import Engine
from slivit.predict.masks import Segmented, case_names, segment, write_masks
from slivit.statistics import MaskScores, Plan, score_mask, summarise_masks
from slivit.statistics.segmentation import CASE_METRICS
from slivit.targets.segmentation import IGNORED, Segmentation

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)
NO_SPACING = "has no spacing in mm, so no distances and volumes; give the table a column `spacing`"
SCORES = tuple(field.name for field in fields(MaskScores))
OF_STRUCTURES = ("case", "structure", *SCORES, "volume_error_ml", "notes")
"""The columns of a table of cases that are not the case's own."""


def scored_cases(
    engine: Engine,
    rows: Sequence[Mapping[str, Any]],
    testing: Testing,
    folder: Path,
    *,
    align: Align = "error",
    progress: bool = False,
) -> pd.DataFrame:
    """Predict scans, write their masks, and score them against the true ones on the scans' own voxels.

    A scan or mask that cannot be read has its error in the table, and does not stop the others.

    Args:
        engine: with a model that gives masks.
        rows: of a manifest, with masks.
        testing: its tolerance.
        folder: where the masks go, into `masks`.
        align: see `slivit.data.case.read_mask`.
        progress: show a progress bar.

    Returns:
        One row a case and structure: `case`, `path`, `patient`, `split`, the row's other columns, `structure`, the
        scores, `notes`, `error`.
    """
    task: Any = engine.task
    settings = engine.settings
    return score_rows(
        lambda row, _: segment(engine, row), rows, task, settings, testing, folder, align=align, progress=progress
    )


def score_rows(
    segmented_of: Callable[[Mapping[str, Any], str], Segmented],
    rows: Sequence[Mapping[str, Any]],
    task: Segmentation,
    settings: Preprocessing,
    testing: Testing,
    folder: Path,
    *,
    align: Align = "error",
    progress: bool = False,
) -> pd.DataFrame:
    """As `scored_cases`, of masks from anywhere.

    Args:
        segmented_of: the predicted masks of a row, whose case has this name.
        rows: of a manifest, with masks.
        task: its structures.
        settings: whose reader options count.
        testing: its tolerance.
        folder: where the masks go, into `masks`.
        align: see `slivit.data.case.read_mask`.
        progress: show a progress bar.
    """
    import pandas as pd
    from tqdm import tqdm

    names = case_names([str(row["path"]) for row in rows])
    shown = tqdm(rows, desc="segment", unit="scan", disable=None if progress else True, leave=False)
    records: list[dict[str, Any]] = []
    for row, name in zip(shown, names, strict=True):
        about = {key: row.get(key, "") for key in ("path", "patient", "split")}
        about |= {key: value for key, value in row.items() if key not in (*task.targets, *settings.channels)}
        error, notes, scores = "", "", dict[str, MaskScores | None](dict.fromkeys(task.structures))
        try:
            segmented = segmented_of(row, name)
            truth = read_mask(row, segmented.volume, task, settings, align)
            write_masks(folder / MASKS, name, segmented, task, str(row["path"]))
            scores |= score_case(segmented, truth, task, testing.tolerance_mm)
            notes = _notes(segmented, row)
        except (SlivitError, MemoryError) as problem:
            log.warning("%s: is not measured: %s", row["path"], problem)
            error = str(problem) or "there is not enough memory"
        records += [
            {"case": name, **about, **_record(s, score), "notes": notes, "error": error} for s, score in scores.items()
        ]
    table = pd.DataFrame(records)
    numbers = [*SCORES, "volume_error_ml"]
    table[numbers] = table[numbers].apply(pd.to_numeric)
    return table


def _notes(segmented: Segmented, row: Mapping[str, Any]) -> str:
    """What is to be known of a case that was measured."""
    if segmented.volume.spacing:
        return joined_notes(segmented.volume.notes)
    log.warning("%s: %s", row["path"], NO_SPACING)
    return joined_notes((*segmented.volume.notes, NO_SPACING))


def _record(structure: str, score: MaskScores | None) -> dict[str, Any]:
    """The cells of one structure of a case; empty where it was not measured."""
    values = {key: getattr(score, key) if score else None for key in (*SCORES, "volume_error_ml")}
    return {"structure": structure, **values}


def score_case(segmented: Segmented, truth: Any, task: Segmentation, tolerance_mm: float) -> dict[str, MaskScores]:
    """The scores of every structure of a case, on the scan's own voxels.

    Args:
        segmented: the predicted masks.
        truth: (D, H, W) numbers of labels.
        task: its structures, and whether voxels are ignored.
        tolerance_mm: of the surface Dice.
    """
    ignored = truth == IGNORED if task.ignore is not None else None
    return {
        name: score_mask(
            task.structure(truth, place),
            segmented.masks[place],
            segmented.volume.spacing,
            tolerance_mm=tolerance_mm,
            ignore=ignored,
        )
        for place, name in enumerate(task.structures)
    }


def scores_of(cases: pd.DataFrame) -> list[MaskScores | None]:
    """The scores of each row of a table of cases, read back from its cells; None where there is an error."""
    kinds = {field.name: field.type for field in fields(MaskScores)}

    def value(name: str, cell: Any) -> Any:
        if cell is None or (isinstance(cell, float) and math.isnan(cell)):
            return None
        return int(cell) if kinds[name] == "int" else float(cell)

    return [
        None if row["error"] else MaskScores(**{name: value(name, row[name]) for name in SCORES})
        for row in cases.to_dict("records")
    ]


def measure_masks(
    cases: pd.DataFrame, task: Segmentation, testing: Testing, data: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Every metric of every split, with intervals, as plain values for `metrics.json`.

    Args:
        cases: from `scored_cases`, or read back with `read_cases`.
        task: its structures.
        testing: intervals, and what a missed structure counts as.
        data: where the scans come from.

    Returns:
        As `docs/metrics-schema.md` describes: in each split `metrics` are means over structures, `structures` has those
        of each.
    """
    splits = {}
    for split in sorted(set(cases["split"]), key=split_place):
        part = cases[cases["split"] == split]
        whole = part[part["error"] == ""]
        counts = {"n": int(whole["case"].nunique()), "missing": int(part.loc[part["error"] != "", "case"].nunique())}
        structures = {
            name: _plain(summarise_masks(_known(own), plan=_plan(own, testing), penalty_mm=testing.penalty_mm))
            for name in task.structures
            for own in [whole[whole["structure"] == name]]
        }
        drawn = drawn_cases(by_case(part, task, testing.penalty_mm), task, testing)
        splits[str(split)] = {
            "scans": int(part["case"].nunique()),
            "patients": int(part["patient"].nunique()),
            "counts": {task.targets[0]: counts},
            "metrics": metrics_of(drawn, testing),
            "structures": structures,
            **(details_of(drawn, testing) if split != "val" or len(set(cases["split"])) == 1 else {}),
        }
    return {
        **SCHEMA,
        "task": task.model_dump(mode="json"),
        "settings": testing.model_dump(mode="json"),
        "operating_point": None,
        "data": dict(data or {}),
        "splits": splits,
    }


def _known(cases: pd.DataFrame) -> list[MaskScores]:
    return [score for score in scores_of(cases) if score is not None]


def _plan(cases: pd.DataFrame, testing: Testing) -> Plan:
    groups = cases["patient"].astype(str).to_numpy() if testing.by_patient else None
    return Plan(level=testing.level, draws=testing.draws, groups=groups)


def _plain(estimates: Mapping[str, Any]) -> dict[str, Any]:
    return {name: estimate.to_dict() for name, estimate in estimates.items()}


def by_case(cases: pd.DataFrame, task: Segmentation, penalty_mm: float | None = None) -> pd.DataFrame:
    """One row a case, as comparisons, curves and studies take it: the manifest's columns, `error`, `task.measured`.

    The value of a case is the mean over those structures where it is defined.

    Args:
        cases: one row a case and structure.
        task: its structures.
        penalty_mm: what the infinite distance of a missed structure counts as; None leaves it out.
    """
    scored = cases.assign(absolute_volume_error_ml=cases["volume_error_ml"].abs())
    scored["hd95"] = scored["hd95"].replace(math.inf, math.nan if penalty_mm is None else penalty_mm)
    grouped = scored.groupby("case", sort=False)
    out = grouped[[name for name in cases if name not in OF_STRUCTURES]].first()
    for metric in CASE_METRICS:
        out[metric] = grouped[metric].mean()
        own = scored.pivot(index="case", columns="structure", values=metric)
        for structure in task.structures:
            out[f"{metric}/{structure}"] = own[structure]
    return out.reset_index()


def write_cases(folder: Path, cases: pd.DataFrame, task: Segmentation, metrics: dict[str, Any]) -> None:
    """Write `cases.csv` and `metrics.json`, and log the main figures of every split.

    An infinite distance stands as inf in the table.
    """
    write_table(folder / CASES, cases)
    write_json(folder / METRICS, metrics)
    log_headlines(metrics, task)


def read_cases(path: Path) -> pd.DataFrame:
    """A table of cases as it was written.

    Raises:
        RecipeError: no such table.
    """
    if not path.is_file():
        raise RecipeError(f"{path}: cannot be read: there is no such file")
    table = read_shown(path, dtype=dict.fromkeys(("case", "path", "patient", "split", "structure"), str))
    if missing := [name for name in ("case", "structure", *SCORES) if name not in table]:
        raise RecipeError(f'{path}: is no table of cases: it has no column "{missing[0]}"')
    return table.assign(
        **{name: table[name].astype(object).fillna("") for name in ("notes", "error", "split", "patient")}
    )
