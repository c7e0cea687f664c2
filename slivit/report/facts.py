"""What a page can tell of the data and the model, from `metrics.json`, the checkpoint's config and the history."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slivit.report.style import number
from slivit.targets.task import Task

Table = tuple[list[str], list[list[str]]]
"""A heading and rows of texts."""


def facts_of(metrics: Mapping[str, Any], split: Mapping[str, Any], config: Mapping[str, Any] | None) -> set[str]:
    """The names of the facts that a page tells; `checklist.toml` says which items they answer."""
    data = metrics["data"]
    names = {"counts", "metrics", "intervals", "errors", "readable"}
    names |= {"output", "diagnostic"} if metrics["operating_point"] else set()
    names |= {"subgroups"} & set(split) | {"readers"} & set(split)
    names |= {"site"} if metrics["settings"]["site"] else set()
    names |= {"temperature"} if metrics["operating_point"] and metrics["operating_point"]["temperature"] else set()
    names |= {"run"} if data.get("run") else set()
    if data.get("external") is not None:
        names.add("external" if data["external"] else "internal")
    if config:
        names |= {"model", "preprocessing", "versions"}
        names |= {"recipe", "split", "disjoint", "start", "best_epoch"} if config["training"].get("recipe") else set()
    return names


def data_table(metrics: Mapping[str, Any], split: Mapping[str, Any], name: str, task: Task) -> Table:
    """Scans, patients and classes of the evaluated rows beside those of the run."""
    parts: dict[str, Mapping[str, Any]] = {}
    run = metrics["data"].get("run") or {}
    order = [s for s in ("train", "val", "test") if s in run]
    parts |= {s: run[s] for s in order if not (s == name and metrics["data"].get("external") is False)}
    parts["evaluated"] = split
    rows = [["scans", *(f"{p['scans']:,}" for p in parts.values())]]
    rows.append(["patients", *(f"{p['patients']:,}" for p in parts.values())])
    for target in task.targets:
        rows += _target_rows(target, parts, task)
    return ["", *parts], rows


def _target_rows(target: str, parts: Mapping[str, Mapping[str, Any]], task: Task) -> list[list[str]]:
    counts = [p["counts"][target] for p in parts.values()]
    if words := task.class_words(target):
        rows = [[text, *(_share(k, c) for k in counts)] for c, text in words.items()]
    else:
        unit = f" ({task.unit})" if task.unit else ""
        rows = [[f"{target}, mean ± SD{unit}", *(_mean(c) for c in counts)]]
        rows.append([f"{target}, range", *(f"{number(c.get('min'), 1)} to {number(c.get('max'), 1)}" for c in counts)])
    if any(c["missing"] for c in counts):
        rows.append([f"{target}: no label", *(f"{c['missing']:,}" for c in counts)])
    return rows


def _share(counts: Mapping[str, Any], name: str) -> str:
    n = counts["classes"][name]
    return f"{n:,} ({n / counts['n']:.0%})" if counts["n"] else f"{n:,}"


def _mean(counts: Mapping[str, Any]) -> str:
    if "mean" not in counts:
        return "none"
    return f"{number(counts['mean'], 1)} ± {number(counts['std'], 1)}" if "std" in counts else number(counts["mean"], 1)


def data_sentences(
    metrics: Mapping[str, Any], split: Mapping[str, Any], config: Mapping[str, Any] | None, notes: int
) -> list[str]:
    """How scans were split, what was left out, and what was odd about the rest, one sentence each.

    Args:
        metrics: all of `metrics.json`.
        split: the split that the page shows.
        config: the checkpoint's `config.json`.
        notes: on how many of its scans the reader noted something.
    """
    data = metrics["data"]
    recipe = ((config or {}).get("training") or {}).get("recipe")
    sentences = [_split(recipe["data"])] if recipe else []
    if "rows" in data and "excluded" in data:
        sentences.append(
            f"The table of scans has {data['rows']:,} rows; {split['scans']:,} of them are evaluated here."
        )
    sentences += [f"{e['scans']:,} rows are left out because they are {e['why']}." for e in data.get("excluded", [])]
    missing = {t: c["missing"] for t, c in split["counts"].items() if c["missing"]}
    sentences += [
        f"{n:,} scans have no label for {t}; they are left out of its metrics alone." for t, n in missing.items()
    ]
    sentences.append(
        "Every evaluated scan could be read." if not notes else f"The reader noted something on {notes:,} scans."
    )
    return sentences


def model_facts(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The model, its preprocessing and its training as terms and descriptions."""
    training, recipe = config["training"], config["training"].get("recipe", {})
    facts = [("Network", config["model"]["name"]), ("Its arguments", _pairs(config["model"]["args"]))]
    facts.append(("Preprocessing", _pairs(config["preprocessing"])))
    if "source" in training:
        facts.append(("Trained on", str(training["source"])))
    if recipe:
        facts.append(("Training", _pairs(recipe["fit"])))
        facts.append(("Augmentation", _pairs(recipe.get("augmentation", {})) or "none"))
        facts.append(("Class weights", str(config["task"].get("class_weights") or "none")))
    if "best_epoch" in training:
        facts.append(
            ("Chosen epoch", f"{training['best_epoch']}, the best by {recipe['fit']['monitor']} on validation")
        )
    facts.append(("Started from", _start(training)))
    facts.append(("Software", _pairs(config.get("versions", {}))))
    facts.append(("Weights (SHA-256)", config["sha256"]))
    return [(term, text) for term, text in facts if text]


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} = {_plain(v)}" for k, v in values.items() if v not in (None, "", {}, []))


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "(" + ", ".join(_plain(v) for v in value) + ")"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _split(data: Mapping[str, Any]) -> str:
    shares = " / ".join(f"{f:.0%}" for f in data["fractions"])
    text = "No patient is in two parts. Scans are in the part that the split column of their table names; where it has "
    text += f"none, patients were drawn, stratified, {shares} for training, validation and test "
    text += f"(seed {data['split_seed']})."
    if data["train_fraction"] < 1:
        text += f" {data['train_fraction']:.0%} of the training patients were used."
    return text


def _start(training: Mapping[str, Any]) -> str:
    """The chain of checkpoints behind the weights."""
    steps, start = [], training.get("started_from")
    while start:
        steps.append(
            str(start.get("model") or start.get("file")) + (f" ({start['stage']})" if "stage" in start else "")
        )
        start = start.get("started_from")
    if steps:
        return ", which started from ".join(steps)
    return "random weights, or those that the network's arguments name" if training.get("recipe") else ""
