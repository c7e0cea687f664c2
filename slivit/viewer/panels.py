"""What belongs to a scan, as plain values: its prediction, how far it can be trusted, its neighbours, its masks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slivit.data.readers.address import parts_of, short_name
from slivit.explanation import METHODS, TITLES, number_of
from slivit.models.registry import spec_of
from slivit.report.style import amount, number
from slivit.targets.task import Task, is_missing
from slivit.viewer import pictures
from slivit.viewer.bench import Bench, Opened, Row

MASKS, SUFFIXES = "masks", (".nii.gz", ".nii")
PLACES = (MASKS, f"evaluation/{MASKS}")


def about(bench: Bench) -> dict[str, Any]:
    """What the page is about: the model, its task, and what can be asked for."""
    task = bench.checkpoint.task
    return {
        "dense": task.dense,
        "structures": list(task.parts) if task.dense else [],
        "run": bench.name,
        "model": spec_of(bench.checkpoint.model).name,
        "outputs": list(task.outputs),
        "targets": list(task.targets),
        "calls": task.makes_calls,
        "exclusive": task.exclusive,
        "two_ways": bool(task.allowed),
        "unit": task.unit,
        "scans": len(bench.rows),
        "method": "occlusion" if bench.members else "gradcam",
        "colours": pictures.COLOURS,
        "different": pictures.DIFFERENT,
        "methods": [{"name": m, "title": TITLES[m], "says": explained(m, task)} for m in METHODS if not task.dense],
    }


def opened_facts(bench: Bench, opened: Opened, target: str) -> dict[str, Any]:
    """Everything about an opened scan but its pictures."""
    task = bench.checkpoint.task
    predictions = predictions_of(bench, opened)
    value = float(predictions[column_of(task, target)])
    return {
        **scan_facts(bench, opened),
        "target": target,
        "shown": number(value) if task.makes_calls else amount(number(value, 2), task.unit),
        "what": f"probability of {target}" if task.makes_calls else target,
        "outputs": [[name, number(float(predictions[column_of(task, name)]))] for name in task.outputs],
        "sentences": [*calls(bench, predictions, target), *known(bench, opened)],
        "trust": bench.record.sentence(target, value),
        "plot": bench.record.drawn,
        "trust_title": "Calibration" if task.makes_calls else "Predicted and true",
        "masks": [
            {"name": name, "number": i, "colour": first_colour(i)}
            for i, name in enumerate(masks_of(bench.run, opened.row))
        ],
    }


def first_colour(number: int) -> int:
    """With which of the colours the labels of a scan's mask begin, so that several masks are told apart."""
    return 2 * number % len(pictures.COLOURS)


def scan_facts(bench: Bench, opened: Opened) -> dict[str, Any]:
    """What the page says of a scan whatever the model predicts."""
    scan = opened.scan
    return {
        "name": opened.name,
        "path": str(opened.row.get("path", "")),
        "patient": str(opened.row.get("patient", "")),
        "split": str(opened.row.get("split") or ""),
        "notes": list(scan.notes),
        "shape": list(scan.shape),
        "spacing": list(scan.spacing) if scan.spacing else None,
        "placed": scan.affine is not None,
        "sampled": scan.sampled.tolist(),
        "aspect": scan.aspect,
        "channels": channels_of(bench, opened),
        "input": list(scan.stack.shape),
    }


def channels_of(bench: Bench, opened: Opened) -> list[str]:
    """The names of the channels that can be shown; empty where there is one."""
    if opened.scan.stack.ndim == 3:
        return []
    names = bench.settings.channels if isinstance(bench.settings.channels, tuple | list) else ()
    return [str(names[i]) if i < len(names) else f"channel {i}" for i in range(len(opened.scan.stack))]


def predictions_of(bench: Bench, opened: Opened) -> Row:
    """The prediction that the run's files hold of a scan, or else the one that was made when it was opened."""
    from slivit.data.reviews import scan_key

    stored = bench.known.get(scan_key(opened.row)) if opened.row else None
    complete = stored is not None and not any(
        is_missing(stored.get(c)) for c in bench.checkpoint.task.prediction_columns
    )
    return stored if stored is not None and complete else opened.predictions


def calls(bench: Bench, predictions: Row, target: str) -> list[str]:
    """What is called of the prediction, or why nothing is."""
    task, decision = bench.checkpoint.task, bench.checkpoint.operating_point
    if not task.makes_calls:
        return []
    if task.exclusive:
        best = max(task.classes, key=lambda name: float(predictions[f"prob_{name}"]))
        return [f"Called {best}, the most probable class."]
    if decision is None or target not in decision.thresholds:
        return ["No operating point is fixed in this checkpoint, so there is no call."]
    threshold = decision.threshold(target)
    positive = float(predictions[f"prob_{target}"]) >= threshold
    how = f"operating point {decision.rule}" + (f", chosen on {decision.chosen_on}" if decision.chosen_on else "")
    return [f"Called {'with' if positive else 'without'} {target}: the threshold is {number(threshold)} ({how})."]


def known(bench: Bench, opened: Opened) -> list[str]:
    """The known answers of a scan of the manifest."""
    task, split = bench.checkpoint.task, opened.row.get("split") or ""
    answers = [f"{target} {amount(str(value), task.unit)}" for target, value in bench.truth(opened).items()]
    sentences = [f"Known: {', '.join(answers)}."] if answers else []
    if split == "val" and bench.members:
        sentences.append("Predicted out of fold; the saved model was then fitted on this scan, too.")
    return sentences + ([f"The model was trained on this scan (split {split})."] if split == "train" else [])


def column_of(task: Task, target: str) -> str:
    """The column of an output's prediction."""
    return task.prediction_columns[number_of(task, target)]


def explained(method: str, task: Task) -> str:
    """What the bars and colours of a method mean."""
    unit = "the log-odds" if task.makes_calls else "the prediction"
    return {
        "occlusion": f"Bars: by how much {unit} would fall without the slice; below the line, it would rise.",
        "rollout": "Bars: the part of what the model reads at the end that came from the slice, by all attention.",
        "gradcam": "Colours: where features speak for the output, relative to the scan's highest. Bars: the mean.",
    }[method]


def neighbours_facts(bench: Bench, opened: Opened) -> dict[str, Any]:
    """The nearest training scans, and how many have no features yet."""
    neighbours = bench.neighbours
    nearest = neighbours.nearest(opened.features, but=str(opened.row.get("path", "")))
    return {
        "training": len(neighbours.rows),
        "missing": neighbours.missing,
        "unreadable": neighbours.unreadable,
        "nearest": [
            {
                "name": short_name(str(near.row["path"])),
                "answers": _answers(bench.checkpoint.task, near.row),
                "similarity": number(near.similarity, 2),
                "row": row_of(bench, near.row),
                "number": near.number,
            }
            for near in nearest
        ],
    }


def row_of(bench: Bench, row: Row) -> int | None:
    """The number of a scan in the worklist, by its path."""
    return next((i for i, own in enumerate(bench.rows) if own["path"] == row["path"]), None)


def _answers(task: Task, row: Mapping[str, Any]) -> str:
    return ", ".join(f"{t} {row[t]}" for t in task.targets if t in row and not is_missing(row[t]))


def masks_of(run: Path, row: Row) -> dict[str, Path]:
    """Where the masks of a scan lie, by what the page calls them.

    Args:
        run: the folder of the run; it may hold `masks/CASE.nii.gz` of its predictions, CASE being the scan's file
            without suffixes, or its patient.
        row: of the manifest; a cell that names a NIfTI file is a mask. Empty for a scan that was dropped.
    """
    if not row:
        return {}
    masks = {}
    names = [stem_of(str(row["path"])), str(row.get("patient", ""))]
    for place in PLACES:
        files = [run / place / f"{name}{suffix}" for name in names if name for suffix in SUFFIXES]
        there = next((file for file in files if file.is_file()), None)
        if there:
            masks["predicted"] = there
    channels = parts_of(str(row["path"]))
    for column, cell in row.items():
        if str(cell) in channels or column == "path" or is_missing(cell):
            continue
        if str(cell).lower().endswith(SUFFIXES):
            file = Path(str(cell))
            file = file if file.is_absolute() else Path(str(row["path"])).parent / file
            if file.is_file():
                masks[str(column)] = file
    return masks


def stem_of(path: str) -> str:
    """The name of a scan's file or folder without `.nii.gz` and the like."""
    name = Path(parts_of(path)[0]).name
    suffix = next((s for s in SUFFIXES if name.lower().endswith(s)), Path(name).suffix)
    return name[: len(name) - len(suffix)] if suffix else name
