"""Shipped studies in small, from their recipes to their pages: small networks, made-up scans, one epoch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from slivit.experiments import study
from slivit.experiments.recipe_study import StudyRecipe
from slivit.experiments.study_grid import layered
from slivit.models.registry import model_spec
from slivit.recipe import check_recipe, find_recipe, read_values, shipped_recipes

NETWORK = {"slices": 1, "image_size": 32}
VIT = NETWORK | {"backbone_args": {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}}
SWIN = NETWORK | {
    "backbone_args": {"patch_size": 4, "window_size": 4, "embed_dim": 8, "depths": [2, 2], "num_heads": [1, 2]}
}
RESNET = {"layers": [1, 1, 1, 1], "channels": [8, 16, 32, 64]}
MODELS: dict[str, tuple[str, ...]] = {
    "slivit_ablation": ("convnext_tiny_5", "mean", "attention", "gated", "gru"),
    "slivit_benchmarks": ("slivit", "slivernet", "resnet3d_18"),
    "video_pretraining": ("resnet18_2d", "penet"),
}
"""Those that are trained where a study has many of a kind; `tests/test_papers.py` makes all of them."""
STARTS: dict[str, tuple[str, ...]] = {
    "initialisations": ("random", "combined", "organ", "chest", "mixed", "simclr"),
    "krones": ("imagenet", "dino", "gmml", "sit"),
    "vis_mae": ("random", "imagenet", "simclr", "all", "ct"),
}
"""Likewise, of starts that differ in their data alone."""
BEFORE: dict[str, dict[str, Any]] = {
    "kermany_oct": {"model": {"image_size": 32, "backbone": "test_convnext", "stride": 16}},
    "slivernet": {"model": {"image_size": 32, "backbone": "resnet18", "stride": 32, "backbone_args": RESNET}},
    "simclr": {"pretext": {"hidden": 8, "projection": 8}, "model": {"image_size": 32}},
    "dino": {
        "model": VIT,
        "pretext": {"small_size": 16, "small_crops": 1, "prototypes": 16, "head_hidden": 16, "bottleneck": 8},
    },
    "gmml": {"model": VIT},
    "sit": {"model": VIT},
    "vis_mae": {"model": SWIN, "pretext": {"unit": 8}},
}
"""What the runs that others start from take, by their recipe."""


@pytest.fixture(scope="module")
def scans(blob_scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The blobs under the names that the studies' targets have."""
    table = pd.read_csv(blob_scans)
    table["path"] = [str(blob_scans.parent / path) for path in table["path"]]
    names = ("ihrf", "sdd", "hdc", "atelectasis", "cardiomegaly", "consolidation", "edema", "pleural_effusion")
    table = table.assign(**dict.fromkeys(names, table["both"]), drusen=table["bright"], pe=table["bright"])
    table["label"], table["modality"] = table["grade"], "CT"
    table["age"], table["sex"] = range(40, 40 + len(table)), ["F", "M"] * (len(table) // 2)
    table["found"] = table["pe"].map({0: "", 1: "1-4"})
    file = tmp_path_factory.mktemp("studies") / "scans.csv"
    table.to_csv(file, index=False)
    return file


def small(name: str, scans: Path, out: Path) -> StudyRecipe:
    """A shipped study with few networks and starts, all of them small, on made-up scans."""
    values = read_values(find_recipe("study", name))
    table = {"manifest": str(scans), "workers": 0, "importer": "", "importer_options": {}}
    models = {m: values["models"][m] for m in MODELS.get(name, values["models"])}
    starts = {s: values["starts"][s] for s in STARTS.get(name, values.get("starts", {}))}
    values |= {"out": str(out), "seeds": [0], "fractions": [1.0], "rates_from": 0.0, "redraw": False}
    values["models"] = {key: layered(model, {"set": _network(key, model)}) for key, model in models.items()}
    values["starts"] = {key: _start(start, table) for key, start in starts.items()}
    values["tests"] = {key: {**test, **table, "split": "test"} for key, test in _of(values, "tests")}
    values["tasks"] = dict(list(values.get("tasks", {}).items())[:2])
    values["groups"] = {g: v | {"models": [m for m in v["models"] if m in models]} for g, v in _of(values, "groups")}
    for exclusion in values.get("exclude", ()):
        exclusion["models"] = [m for m in exclusion["models"] if m in models]
    values["exclude"] = [e for e in values.get("exclude", ()) if e["models"]]
    given = values.get("reference", [])
    values["reference"] = [_without(r, "fraction") for r in (given if isinstance(given, list) else [given])]
    if "shuffles" in values:
        values["shuffles"] = values["shuffles"] | {"copies": 2}
    values["set"] = layered(values.get("set", {}), _fine_tuning(values, table))
    return check_recipe(StudyRecipe, values, name)


def _of(values: dict[str, Any], key: str) -> Any:
    return values.get(key, {}).items()


def _without(values: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in keys}


def _network(key: str, model: dict[str, Any]) -> dict[str, Any]:
    """The changes of one network, smaller than any that is used."""
    own = dict(model.get("set", {}).get("model", {}))
    tiny = dict(model_spec(own.get("name", key)).small)
    if own.get("reads") == "contrastive":
        tiny["slices"] = 64
    if own.get("name", key) == "slice_vit":
        tiny = VIT
    if own.get("name", key) == "slice_swin":
        tiny = SWIN
    if own.get("slices") == 1:
        tiny["slices"] = 1
    own = {k: v for k, v in own.items() if k not in ("backbone", "vit_depth", "temporal_dim")}
    backbone = {"backbone": "resnet18"} if "convnext" in str(model.get("set")) and "backbone" not in tiny else {}
    changes = _without(model.get("set", {}), "model", "data") | {"model": own | backbone | tiny | {"weights": ""}}
    if "data" in model.get("set", {}):
        changes["data"] = {"slice_labels": {"column": "found", "min_positive_slices": 1}}
    return changes


def _start(start: dict[str, Any], table: dict[str, Any]) -> dict[str, Any]:
    """A start without downloads, whose runs come first on the same scans."""
    made = _without(start, "models") | {"set": layered(start.get("set", {}), _no_weights(start.get("set", {})))}
    if "before" in start:
        made["before"] = _before(start["before"], table)
    if "before_models" in start:
        made["before_models"] = {
            model: _before(before, table, model if model in BEFORE else "")
            for model, before in start["before_models"].items()
        }
    return made


def _no_weights(changes: dict[str, Any]) -> dict[str, Any]:
    return {"model": {"pretrained": False}} if "model" in changes else {}


def _before(before: dict[str, Any], table: dict[str, Any], model: str = "") -> dict[str, Any]:
    """A pre-training in small: of labelled images, of several sets, or without labels."""
    recipe = before["recipe"]
    values = read_values(find_recipe("pretrain", recipe))
    own = before.get("set", {})
    kept = {k: v for k, v in own.get("data", {}).items() if k == "where"}
    labelled = "task" in values or "sets" in values
    fit = {"epochs": 1, "lr": 1e-3, "batch_size": 8, "precision": "float32", "device": "cpu"}
    changes: dict[str, Any] = {"data": table | kept, "fit": fit}
    if labelled:
        changes["data"] |= {"val_from_train": 0.0}
        changes["testing"] = {"draws": 10, "baselines": False}
        changes["fit"] |= {"patience": 0}
    else:
        changes["images"], changes["pictures"] = {"slices": 1}, {"every": 0}
        changes["fit"] |= {"warmup": 1, "accumulate": 1}
    if "sets" in values:
        part = {"data": table, "task": {"kind": "multiclass", "targets": ["label"]}}
        several = {"data": table, "task": {"kind": "multilabel", "targets": ["drusen", "ihrf"]}}
        changes = _without(changes, "data") | {"sets": {"kermany": part, "organ": part, "chest": several}}
    if recipe == "chestmnist":
        changes["task"] = {"targets": ["drusen", "ihrf"]}
    if recipe == "ct_indomain":
        changes["data"]["slice_labels"] = {"column": "found", "min_positive_slices": 1}
        changes["preprocessing"] = {"resize": [36, 36]}
    supervised = BEFORE["kermany_oct"] if labelled and recipe != "ct_indomain" else {}
    whole = layered(_without(own, "data"), changes, supervised, BEFORE.get(model or recipe, {}))
    if "model" in whole:
        whole["model"] = {**whole["model"], "pretrained": False, "weights": ""}
    if recipe == "simclr":  # the network of the study's own model
        whole["model"] |= SWIN if whole["model"].get("name") == "slice_swin" else BEFORE["kermany_oct"]["model"]
    return before | {"set": whole}


def _fine_tuning(values: dict[str, Any], table: dict[str, Any]) -> dict[str, Any]:
    """The changes of every run that is compared."""
    testing = {"draws": 20, "baselines": False}
    if values.get("stage") == "probe":
        linear = {"iterations": 20, "batch_size": 8, "rates": [0.1]}
        task = {"kind": "binary", "targets": ["drusen"]}
        return {
            "data": {"manifest": table["manifest"], "workers": 0},
            "task": task,
            "linear": linear,
            "testing": testing,
        }
    base = read_values(find_recipe("finetune", values["recipe"]))
    fit = {"epochs": 1, "lr": 1e-3, "batch_size": 8, "patience": 0, "precision": "float32", "device": "cpu"}
    data: dict[str, Any] = {**table, "val_from_train": 0.0}
    changes: dict[str, Any] = {"fit": fit, "testing": testing, "data": data}
    if values["recipe"] == "small_scans":
        changes["task"] = {"targets": ["drusen"]}
    if "windows" in base.get("preprocessing", {}):
        data["slice_labels"] = {"column": "found", "min_positive_slices": 1}
        changes["preprocessing"] = {"resize": [36, 36]}
        changes["model"] = {"slices": 4, "image_size": 32}
    return changes


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(shipped_recipes("study")) - {"demo"}))
def test_a_shipped_study_is_trained_in_small(name: str, scans: Path, tmp_path: Path) -> None:
    recipe = small(name, scans, tmp_path / name)
    found = study.run(recipe, processes=0)
    reasons = [json.loads((folder / "outcome.json").read_text())["reason"] for folder in found.failed]
    assert not reasons
    assert set(found.states.values()) == {"done"}
    assert found.page is not None
    tables = [tmp_path / name / task / "study.csv" for task in recipe.tasks or ("",)]
    for table in map(pd.read_csv, tables):
        assert table["roc_auc"].notna().all()
        assert set(table["model"]) == set(recipe.models)
