"""Probing: a frozen network and labelled scans in; what its features are worth, measured on the test rows, out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slivit.checkpoint import Checkpoint, read_config, save_checkpoint
from slivit.data.manifest import Manifest
from slivit.data.recipe import cache_of
from slivit.data.sources import imported_frame, load_manifest, named_source
from slivit.data.table import write_table
from slivit.errors import RecipeError, nearest, one_of
from slivit.evaluate.command import REPORT
from slivit.evaluate.deciding import decide
from slivit.evaluate.details import check_subgroups
from slivit.evaluate.measure import check_testing, measure, write_results
from slivit.files import write_json, write_tensors, write_text
from slivit.folder import RECIPE, SPLIT, logged, open_results
from slivit.models.registry import COVARIATES, create_model, spec_of
from slivit.probing.networks import load_network
from slivit.probing.recipe import ProbeRecipe
from slivit.recipe import resolved_toml
from slivit.targets.cases import describe_splits
from slivit.targets.task import Task

if TYPE_CHECKING:
    from torch import nn

    from slivit.probing.extract import Extracted
    from slivit.probing.heads import Choice, Probed
    from slivit.probing.table import TableRecipe

log = logging.getLogger(__name__)
GRID, PROBE, HEAD, KNN, CHECKPOINT = "grid.csv", "probe.json", "head.safetensors", "knn", "checkpoint"


def run(recipe: ProbeRecipe, *, overwrite: bool = False, resume: bool = False) -> Path:
    """Probe a network: its features once for every scan, all heads at once, the best by validation, measured on test.

    Args:
        recipe: see `ProbeRecipe`.
        overwrite: replace a probe in the same folder.
        resume: the same: the heads are trained anew, on the features that are there.

    Returns:
        The folder with `predictions.csv`, `metrics.json`, `report/index.html`, `grid.csv` (every head's metric on the
        validation rows), `probe.json`, `head.safetensors`, and `checkpoint/` where the network's own head reads what
        was chosen; those of the nearest neighbours are in `knn/`.
    """
    from slivit.probing.heads import chosen_metric

    network = load_network(recipe, recipe.data.channels)
    manifest = fitted_manifest(recipe, network)
    check_testing(recipe.testing, manifest.task)
    check_subgroups(manifest.frame, recipe.testing)
    metric = chosen_metric(manifest.task, recipe.choose_by)
    folder = open_results(Path(recipe.out), overwrite=overwrite or resume)
    with logged(folder):
        log.info("%r", manifest)
        write_text(folder / RECIPE, resolved_toml(recipe))
        manifest.to_csv(folder / SPLIT)
        extracted = extracted_features(recipe, network, manifest)
        probed = probed_splits(recipe, network, manifest, extracted)
        results = {"linear": _linear(folder, recipe, network, manifest, probed, metric)}
        if recipe.knn.run:
            results["knn"] = _neighbours(folder / KNN, recipe, manifest, probed, metric)
        write_json(folder / PROBE, {**described(network, extracted, probed), **results})
    return folder


def _linear(
    folder: Path, recipe: ProbeRecipe, network: Checkpoint, manifest: Manifest, probed: Probed, metric: str
) -> dict[str, Any]:
    """Train the grid, keep the chosen head and report on it; what `probe.json` tells of it."""
    from slivit.probing.heads import probe_linear

    begun = time.perf_counter()
    choice, grid = probe_linear(probed, recipe.linear, metric, recipe.seed, _progress(recipe.linear.iterations))
    seconds = time.perf_counter() - begun
    name, rate = choice.chosen["features"], choice.chosen["learning_rate"]
    keep_head(folder, grid.head(name, rate, probed.scaler(name)), name, network, manifest)
    report(folder, recipe, manifest, choice)
    return {"chosen": dict(choice.chosen), "heads": len(choice.grid), "seconds": seconds}


def _neighbours(folder: Path, recipe: ProbeRecipe, manifest: Manifest, probed: Probed, metric: str) -> dict[str, Any]:
    """The same for nearest neighbours."""
    from slivit.probing.heads import probe_knn

    begun = time.perf_counter()
    choice = probe_knn(probed, recipe.knn, metric)
    seconds = time.perf_counter() - begun
    folder.mkdir(exist_ok=True)
    report(folder, recipe, manifest, choice)
    return {"chosen": dict(choice.chosen), "seconds": seconds}


def fitted_manifest(recipe: ProbeRecipe, network: Checkpoint) -> Manifest:
    """The labelled scans under the task, completed by the training rows.

    Raises:
        RecipeError: nothing says what to predict.
        ManifestError: all that is wrong with the table.
    """
    task = recipe.task or _suggested_task(recipe) or network.trained_for
    if task is None:
        raise RecipeError(
            "what to predict is not said: give --kind and --target, such as --kind binary --target drusen (task.kind "
            "and task.targets)"
        )
    if recipe.task and recipe.task.covariates:
        raise RecipeError("a probe's heads read the features of scans alone; leave task.covariates out")
    task = task.model_copy(update={"covariates": (), "inputs": ()})
    manifest = load_manifest(recipe.data, task, channels=network.preprocessing.channels)
    return manifest.with_task(task.fitted(manifest.rows("train")))


def _suggested_task(recipe: ProbeRecipe) -> Task | None:
    """The task that the importer of a public data set suggests; None for a table."""
    path, importer = named_source(recipe.data)
    if not importer:
        return None
    task: Task | None = imported_frame(importer, path, recipe.data).attrs.get("task")
    return task


def extracted_features(recipe: ProbeRecipe, network: Checkpoint, manifest: Manifest) -> Extracted:
    """The features of all rows, in the order of the manifest."""
    from slivit.probing.extract import extract

    extracted = extract(
        network.model,
        [str(row["path"]) for row in manifest.rows()],
        network.preprocessing,
        recipe.features.folder or Path(recipe.out).parent / "features",
        device=recipe.device,
        batch_size=recipe.features.batch_size,
        workers=recipe.data.processes,
        precision=recipe.features.precision,
        cache=cache_of(recipe.data),
        progress=True,
    )
    there = len(manifest) - extracted.computed
    log.info("features: %d scans computed in %.1f s, %d were there", extracted.computed, extracted.seconds, there)
    return extracted


def probed_splits(recipe: ProbeRecipe, network: Checkpoint, manifest: Manifest, extracted: Extracted) -> Probed:
    """Features and answers by split, on the device, standardised by the training rows where asked.

    Raises:
        RecipeError: sets of features that the model has not.
    """
    import numpy as np
    import torch

    from slivit.device import choose_device
    from slivit.predict.features import feature_sets
    from slivit.probing.heads import Probed
    from slivit.probing.linear import Scaler

    sets = _chosen_sets(recipe, feature_sets(network.model, extracted.parts))
    device, task = choose_device(recipe.device), manifest.task
    used = {part for names in sets.values() for part in names}
    rows = manifest.rows()
    places = {s: torch.tensor([i for i, row in enumerate(rows) if row["split"] == s]) for s in manifest.splits}
    fit = Scaler.fitted if recipe.features.standardise else Scaler.plain
    scalers = {name: fit(part[places["train"]]) for name, part in extracted.parts.items() if name in used}
    scaled = {name: scaler(extracted.parts[name]).to(device) for name, scaler in scalers.items()}
    y = torch.from_numpy(np.stack([np.asarray(task.encode(row)) for row in rows]))
    return Probed(
        task,
        {split: {name: part[i.to(device)] for name, part in scaled.items()} for split, i in places.items()},
        {split: y[i].to(device) for split, i in places.items()},
        sets,
        scalers,
    )


def _chosen_sets(recipe: ProbeRecipe, offered: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    for name in recipe.features.sets:
        if name not in offered:
            raise RecipeError(
                f'features.sets: the model has no features "{name}".{nearest(name, offered)} It has {one_of(offered)}.'
            )
    return {name: parts for name, parts in offered.items() if name in recipe.features.sets or not recipe.features.sets}


def report(folder: Path, recipe: ProbeRecipe | TableRecipe, manifest: Manifest, choice: Choice) -> None:
    """Measure the predictions of the chosen head, and write them, the grid and a page."""
    from slivit.predict.table import prediction_table
    from slivit.report.page import write_report

    task = manifest.task
    log.info("chosen on validation: %s", ", ".join(f"{key} {_short(value)}" for key, value in choice.chosen.items()))
    rows = [row for split in choice.predictions for row in manifest.rows(split)]
    predicted = [p for part in choice.predictions.values() for p in part.cpu().tolist()]
    table = prediction_table(rows, task, dict(enumerate(predicted)))
    val = table[table["split"] == "val"]
    decision = None if not task.makes_calls else decide(val, task, recipe.testing)
    table = decision.apply(table, task) if decision else table
    parts = describe_splits(manifest.frame, task)
    data = {"source": manifest.source, "external": False, "run": parts}
    metrics = measure(table, task, recipe.testing, decision=decision, data=data)
    write_results(folder, table, task, metrics)
    write_table(folder / GRID, choice.grid)
    if recipe.page:
        kept = folder / CHECKPOINT
        page = write_report(folder / REPORT, metrics, table, config=read_config(kept) if kept.is_dir() else None)
        log.info("page: %s", page)


def keep_head(folder: Path, head: nn.Linear, features: str, network: Checkpoint, manifest: Manifest) -> None:
    """Write the chosen head; as a checkpoint too, where a model of this kind can read the chosen features itself."""
    write_tensors(folder / HEAD, head.state_dict())
    args = getattr(network.model, "head_args", lambda _: None)(features)
    if args is None:
        return
    spec = spec_of(network.model)
    own = {key: value for key, value in spec.args.items() if key not in ("pretrained", COVARIATES)}
    model: Any = create_model(spec.name, manifest.task.out_dim, **own | args)
    model.backbone.load_state_dict(network.model.get_submodule("backbone").state_dict())
    model.head.load_state_dict(head.state_dict())
    counts = {split: len(manifest.rows(split)) for split in manifest.splits}
    training = {"stage": "probe", "source": manifest.source, "scans": counts, "started_from": dict(network.origin)}
    # Heads are trained on features of scans as they are, so predictions are not averaged over mirror images.
    settings = network.preprocessing.model_copy(update={"flips": ()})
    save_checkpoint(folder / CHECKPOINT, model, manifest.task, settings, training)


def described(network: Checkpoint, extracted: Extracted, probed: Probed) -> dict[str, Any]:
    """What `probe.json` tells of the network and its features, as plain values."""
    widths = {name: part.shape[1] for name, part in extracted.parts.items()}
    return {
        "network": dict(network.origin),
        "weights": extracted.weights,
        "features": {
            "parts": widths,
            "sets": {name: list(parts) for name, parts in probed.sets.items()},
            "computed": extracted.computed,
            "seconds": extracted.seconds,
        },
    }


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _progress(steps: int) -> Callable[[int], None]:
    """A function that moves a progress bar of the heads' steps."""
    from tqdm import tqdm

    bar = tqdm(total=steps, desc="heads", unit="step", disable=None, leave=False)

    def move(step: int) -> None:
        if step % 100 == 99 or step + 1 == steps:
            bar.update(step + 1 - bar.n)
        if step + 1 == steps:
            bar.close()

    return move
