"""The model card: what others must know of a model, from its run and from what its makers wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from slivit.data.training_range import AXES, TrainingRange, range_of
from slivit.models.registry import ModelSpec
from slivit.recipe import toml_text
from slivit.report import summary, tables
from slivit.sharing.checking import Difference
from slivit.sharing.notes import CardNotes
from slivit.sharing.texts import SAFETY, described_patches, described_preprocessing, how_to_use
from slivit.targets.decision import Decision
from slivit.targets.task import Task

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

MISSING = "*Not stated by the makers of this model.*"
Config = Mapping[str, Any]


def write_card(
    config: Config,
    spec: ModelSpec,
    metrics: Mapping[str, Any] | None,
    notes: CardNotes,
    *,
    format: str,
    difference: Difference,
    name: str,
) -> str:
    """A model card as Markdown, with Hugging Face's front matter.

    Args:
        config: the exported `config.json`.
        spec: of the network.
        metrics: the run's `metrics.json`; None where there is none.
        notes: what its makers wrote.
        format: "safetensors", "onnx" or "torch-export".
        difference: how the export differs from the original.
        name: of the model, where the notes give none.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    task, training = Task(**config["task"]), config["training"]
    name = notes.name or name
    pages = Environment(
        loader=PackageLoader("slivit", "sharing"), undefined=StrictUndefined, keep_trailing_newline=True
    )
    facts = _facts(config, spec, metrics, task) | {"name": name, "difference": str(difference)}
    text = pages.get_template("card.md.j2").render(
        **as_plain_text(facts),
        front=_front(name, task, metrics, notes, format),
        notes=notes,
        missing=MISSING,
        format=format,
        bf16=config.get("weights") == "bfloat16",
        how=how_to_use(
            format, config.get("plugins", {}), config.get("adapter"), as_plain_text(config["task"].get("inputs", []))
        ),
        recipe=_recipe(training),
        safety=SAFETY[format],
    )
    return _tidy(text)


def _facts(config: Config, spec: ModelSpec, metrics: Mapping[str, Any] | None, task: Task) -> dict[str, Any]:
    """What the card says of a model, as nested values."""
    training = config["training"]
    parts = list(_parts(metrics, task)) if metrics else []
    return {
        "summary": f"Predicts {task.promise} from a volumetric scan (network: {spec.name}).",
        "network": f"{spec.name}, {_size(spec)}; {spec.source}",
        "outputs": _outputs(task),
        "decision": _decision(config, task),
        "columns": list(parts[0]["cells"]) if parts else [],
        "parts": parts,
        "ranges": _ranges(range_of(training)),
        "tables": list(_tables(metrics, task)) if metrics else [],
        "limits": list(_limits(metrics, training, task)),
        "preprocessing": (described_patches if task.dense else described_preprocessing)(config["preprocessing"]),
        "training": list(_training(training)),
        "origin": spec.licence or MISSING,
    }


def as_plain_text(value: Any) -> Any:
    """Nested values with their texts as Markdown shows them: what names a target may come from anybody's table."""
    if isinstance(value, Mapping):
        return {key: as_plain_text(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain_text(part) for part in value]
    if not isinstance(value, str):
        return value
    for sign, name in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "&#124;")):
        value = value.replace(sign, name)
    return " ".join(value.split())


def _tidy(text: str) -> str:
    """Without the runs of empty lines that a template leaves."""
    lines: list[str] = []
    for line in text.splitlines():
        if line.strip() or (lines and lines[-1]):
            lines.append(line.rstrip())
    joined = "\n".join(lines) + "\n"
    return joined.replace("|\n\n|", "|\n|")


def _front(name: str, task: Task, metrics: Mapping[str, Any] | None, notes: CardNotes, format: str) -> str:
    from huggingface_hub import ModelCardData

    known = bool(notes.licence) and " " not in notes.licence
    licence: dict[str, Any] = {"license": notes.licence} if known else {"license": "other"}
    if not known:
        licence["license_name"] = notes.licence.replace(" ", "-") or "not-stated"
    results = _results(metrics, task) if metrics else []
    data = ModelCardData(
        library_name="slivit",
        tags=["medical-imaging", "slivit", "fastai", task.kind, *([] if format == "safetensors" else [format])],
        pipeline_tag="image-classification" if task.makes_calls else "image-segmentation" if task.dense else None,
        model_name=name if results else None,
        eval_results=results or None,
        **licence,
    )
    return f"---\n{data}\n---"


def _results(metrics: Mapping[str, Any], task: Task) -> list[EvalResult]:
    """The main metrics of the test scans, for the hub's tables."""
    from huggingface_hub import EvalResult

    tested = metrics["splits"].get("test", {"metrics": {}})["metrics"]
    kinds = {task.makes_calls: "image-classification", task.dense: "image-segmentation"}
    hub_task = kinds.get(True, "tabular-regression")
    values = {m: tested[m]["value"] for m in task.measures.main if m in tested}
    return [
        EvalResult(hub_task, "test", "test scans of the run", metric_type=m, metric_value=round(value, 4))
        for m, value in values.items()
        if value is not None
    ]


def _size(spec: ModelSpec) -> str:
    slices, height, width = spec.size
    return f"{slices} slices of {height} x {width} pixels"


def _outputs(task: Task) -> str:
    if task.dense:
        columns = ", ".join(f"`{c}`" for c in task.prediction_columns)
        return f"masks of {', '.join(task.parts)} on the scan's own voxels; {columns}: volumes in mL."
    values = "probabilities from 0 to 1" if task.makes_calls else "values" + (f", in {task.unit}" if task.unit else "")
    return f"{', '.join(f'`{c}`' for c in task.prediction_columns)}: {values}."


def _decision(config: Config, task: Task) -> str:
    if not task.makes_calls:
        return ""
    if not config.get("operating_point"):
        return "no operating point was fixed, so the model gives probabilities and makes no calls."
    point = Decision(**config["operating_point"])
    chosen = f", chosen on {point.chosen_on}" if point.chosen_on else ""
    temperature = f" Logits are divided by a temperature of {point.temperature:.4g}." if point.temperature else ""
    return f"{task.said_calls(point)}{chosen}.{temperature}"


def _parts(metrics: Mapping[str, Any], task: Task) -> Iterator[dict[str, Any]]:
    """Scans, patients and classes of every split of the run."""
    for name, part in ((metrics.get("data") or {}).get("run") or {}).items():
        cells = task.tallies(part["counts"])
        yield {"name": name, "scans": part["scans"], "patients": part["patients"], "cells": cells}


def _ends(ends: tuple[float, float], digits: str) -> str:
    """A range in words; one number where both ends are the same."""
    low, high = (format(end, digits) for end in ends)
    return low if low == high else f"{low} to {high}"


def _ranges(known: TrainingRange | None) -> dict[str, Any] | None:
    if known is None:
        return None
    lines = [f"{axis}: {_ends(ends, 'g')}" for axis, ends in zip(AXES, known.shape, strict=True)]
    if known.spacing:
        lines += [f"between {a}: {_ends(ends, '.3g')} mm" for a, ends in zip(AXES, known.spacing, strict=True)]
    names = {"low": "1st percentile", "middle": "median", "high": "99th percentile"}
    lines += [f"{w} of intensities: {_ends(getattr(known, n), 'g')}" for n, w in names.items()]
    return {"scans": known.scans, "of": known.of, "lines": lines}


def _tables(metrics: Mapping[str, Any], task: Task) -> Iterator[dict[str, Any]]:
    """The metrics of every split that was not used to choose anything; those of validation where there is no other."""
    splits = metrics["splits"]
    for name in [n for n in splits if n != "val"] or list(splits):
        split = splits[name]
        level = f"{metrics['settings']['level']:.0%}"
        where = f"On the {name} scans of the run: {split['scans']} scans of {split['patients']} patients."
        cautions = list(summary.cautions(split, task, metrics, name)) if name != "val" else []
        yield {"where": where, "level": level, "lines": tables.performance(split, task), "cautions": cautions}


def _limits(metrics: Mapping[str, Any] | None, training: Mapping[str, Any], task: Task) -> Iterator[str]:
    if not metrics or "test" not in metrics["splits"]:
        yield "It was not tested on scans that it had not seen."
    elif not (metrics.get("data") or {}).get("external"):
        yield "It was tested on scans from where its training scans come from, not on those of another place."
    if not training.get("scans_range"):
        yield "What its training scans were like was not recorded, so odd intensities and spacings are not noticed."
    if metrics and not metrics["settings"].get("subgroups"):
        yield "Whether it works alike for all groups of patients was not measured."
    if task.makes_calls:
        yield "Predictive values hold at the share of positives of the test scans alone; elsewhere they differ."


def _training(training: Mapping[str, Any]) -> Iterator[str]:
    if "scans" in training:
        yield "Scans: " + ", ".join(f"{split} {count}" for split, count in training["scans"].items())
    if "source" in training:
        yield f"Table of scans: {training['source']}"
    if "best_epoch" in training:
        yield f"Weights of epoch {training['best_epoch']}, the best on validation scans"
    start = training.get("started_from")
    while start:
        origin = start.get("model") or start.get("file") or "weights"
        stage = f" ({start['stage']} on {start.get('source', 'unknown scans')})" if "stage" in start else ""
        yield f"Started from {origin}{stage}" + (f", SHA-256 {start['sha256']}" if "sha256" in start else "")
        start = start.get("started_from")


def _recipe(training: Mapping[str, Any]) -> str:
    return toml_text(training["recipe"]) if training.get("recipe") else ""
