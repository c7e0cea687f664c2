"""A recipe trained several times, on every fold of its scans or from several seeds: tested as one, kept as one model.

Each training is an ordinary run in a folder of its own. The checkpoint is the average of all of them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from slivit.checkpoint import load_checkpoint, save_checkpoint, store_operating_point
from slivit.data.covariates import with_covariates
from slivit.data.manifest import Manifest
from slivit.data.preprocessing import Preprocessing
from slivit.data.sources import load_manifest
from slivit.data.splits import fold_tested, given_folds
from slivit.data.table import write_table
from slivit.errors import RecipeError
from slivit.evaluate.baselines import NAMED, add_baseline
from slivit.evaluate.details import check_subgroups
from slivit.evaluate.measure import measure, write_results
from slivit.evaluate.tables import read_baseline, read_predictions
from slivit.folder import BASELINE, CHECKPOINT, PREDICTIONS, PROGRESS, RECIPE, SPLIT, RunFolder, is_finished
from slivit.models._covariates import rebased_state
from slivit.models._lora import merged
from slivit.models.registry import COVARIATES, create_model, spec_of
from slivit.recipe import check_recipe
from slivit.targets.cases import describe_rows, describe_splits
from slivit.targets.covariates import width_of
from slivit.targets.task import Task
from slivit.train.recipe import TrainingRecipe

if TYPE_CHECKING:
    from slivit.models.ensemble import NetworkMember
    from slivit.models.registry import ModelSpec
    from slivit.predict.engine import Engine
    from slivit.predict.masks import Segmented

log = logging.getLogger(__name__)
COPIES = "copies"
"""The folder of the trainings in that of the run."""


@dataclass(frozen=True)
class Copy:
    """One of the trainings.

    Args:
        name: of its folder.
        recipe: its own.
        fold: the one that it tests, where there are folds.
    """

    name: str
    recipe: TrainingRecipe
    fold: int | None


def run_copies(recipe: TrainingRecipe, *, resume: bool = False, overwrite: bool = False) -> Path:
    """Train a recipe on every fold and from every seed, pool what the folds predicted, and keep the average.

    Args:
        recipe: whose `data.folds` or `fit.seeds` ask for it.
        resume: go on with a run that died: trainings that are finished stay.
        overwrite: replace a run in the same folder.

    Returns:
        The run's folder, as one training leaves it; the trainings are in `copies/`.
    """
    from slivit.train.run import fitted_preprocessing, measure_again

    with RunFolder.opened(recipe, resume=resume, overwrite=overwrite) as folder:
        if resume and folder.finished:
            return measure_again(recipe, folder)
        manifest = _manifest(recipe)
        settings = fitted_preprocessing(recipe)
        _square(None if manifest.task.dense else settings.size)
        folder.begin()
        # the model that is kept has seen the scans of all folds
        kept = Manifest(manifest.frame.assign(split="train"), manifest.task, manifest.source)
        (kept if recipe.data.folds else manifest).to_csv(folder.file(SPLIT))
        copies = list(_copies(recipe, manifest, folder))
        for number, copy in enumerate(copies, 1):
            log.info("training %d of %d: %s", number, len(copies), copy.name)
            _train(copy)
        _keep(recipe, folder, manifest, copies)
        folder.finish()
    return folder.path


def _keep(recipe: TrainingRecipe, folder: RunFolder, manifest: Manifest, copies: Sequence[Copy]) -> None:
    """Save the average of the trained models, and measure what they predicted."""
    from slivit.train.run import fitted_preprocessing

    places = [Path(copy.recipe.out) for copy in copies]
    task = manifest.task.fitted(manifest.rows() if recipe.data.folds else manifest.rows("train"))
    record: dict[str, Any] = {"stage": recipe.stage, "recipe": recipe.model_dump(mode="json")}
    record |= {"source": manifest.source, "scans": {"train": len(manifest)}, "copies": [place.name for place in places]}
    model, settings = average_of(places, task), fitted_preprocessing(recipe)
    save_checkpoint(folder.file(CHECKPOINT), model, task, settings, record)
    if task.dense:
        _segment(recipe, folder, manifest, copies, task, settings)
        return
    if recipe.testing.baselines and all((place / BASELINE).is_file() for place in places):
        write_table(folder.file(BASELINE), pooled(places, task, BASELINE))
    _measure(recipe, folder, manifest, pooled(places, task), task)


def _manifest(recipe: TrainingRecipe) -> Manifest:
    """The scans; under `data.folds` with the column `fold`, whatever splits they came in."""
    data, task = recipe.data, recipe.task
    plain = data.model_copy(update={"folds": 0})
    if not data.folds:
        manifest = load_manifest(plain, task)
    else:
        unsplit = plain.model_copy(update={"val_from_train": 0.0, "train_fraction": 1.0})
        manifest = load_manifest(unsplit, task, (), split=False)
        frame = manifest.frame
        if manifest.has_split:
            log.info("%s: its splits are left aside, as every scan is tested by one of the folds", manifest.source)
        folds = given_folds(frame, task, data.folds, data.split_seed)
        manifest = Manifest(frame.assign(split="", fold=folds), task, manifest.source, manifest.warnings)
    check_subgroups(manifest.frame, recipe.testing)
    manifest = with_covariates(manifest, recipe.preprocessing.reader, data.processes)
    if task.exclusive:  # each fold has the outputs of all
        task = task.model_copy(update={"classes": task.fitted(manifest.rows()).classes})
    return manifest.with_task(task)


def _square(size: tuple[int, int, int] | None) -> None:
    if size and size[1] != size[2]:
        raise RecipeError(f"data.folds and fit.seeds average models of square slices, and these are {size[1:]}")


def _copies(recipe: TrainingRecipe, manifest: Manifest, folder: RunFolder) -> Iterator[Copy]:
    """The trainings, each with its recipe; writes the table of each fold."""
    place = folder.file(COPIES)
    place.mkdir(exist_ok=True)
    for fold in range(recipe.data.folds) if recipe.data.folds else (None,):
        csv = place / (f"fold_{fold}.csv" if fold is not None else "scans.csv")
        rows = manifest if fold is None else manifest.with_split(_splits(recipe, manifest, fold))
        rows.to_csv(csv)
        for seed in range(recipe.fit.seeds):
            parts = [f"fold_{fold}"] * (fold is not None) + [f"seed_{seed}"] * (recipe.fit.seeds > 1)
            name = "_".join(parts)
            yield Copy(name, _recipe_of(recipe, manifest.task, csv, place / name, recipe.seed + seed), fold)


def _splits(recipe: TrainingRecipe, manifest: Manifest, fold: int) -> pd.Series:
    data, frame = recipe.data, manifest.frame
    return fold_tested(frame, manifest.task, fold, val=data.val_from_train or 0.1, seed=data.split_seed)


def _recipe_of(recipe: TrainingRecipe, task: Task, csv: Path, out: Path, seed: int) -> TrainingRecipe:
    data: dict[str, Any] = recipe.data.model_dump(
        include={
            "workers",
            "cache",
            "cache_gb",
            "root",
            "slice_labels",
            "train_fraction",
            "split_seed",
            "align",
            "channels",
        }
    )
    if not recipe.data.folds:  # its table is one in which that was done already
        data["train_fraction"] = 1.0
    testing = recipe.testing.model_dump()
    values: dict[str, Any] = recipe.model_dump() | {
        "out": str(out),
        "seed": seed,
        "task": task.model_dump(),
        "testing": testing,
    }
    values |= {"data": data | {"manifest": str(csv)}, "fit": values["fit"] | {"seeds": 1}}
    copied: TrainingRecipe = check_recipe(type(recipe), values, str(out))
    return copied


def _train(copy: Copy) -> None:
    from slivit.train.run import run

    folder = Path(copy.recipe.out)
    if is_finished(copy.recipe):
        return
    begun = (folder / RECIPE).is_file() and (folder / PROGRESS).is_file()
    run(copy.recipe, resume=begun, overwrite=not begun)


def pooled(places: Sequence[Path], task: Task, name: str = PREDICTIONS) -> pd.DataFrame:
    """The predictions of several runs as one table; a scan that several predicted in one split is averaged."""
    read = read_baseline if name == BASELINE else lambda file, task: read_predictions(file, task)[0]
    table = pd.concat([read(place / name, task) for place in places], ignore_index=True)
    outputs = list(task.prediction_columns)
    keys = [key for key in ("split", "path", NAMED) if key in table]
    how = {column: "mean" if column in outputs else "first" for column in table if column not in keys}
    return table.groupby(keys, sort=False, as_index=False).agg(how)[list(table.columns)]


def average_of(places: Sequence[Path], task: Task) -> Any:
    """The average of the models of several runs, as one model.

    Args:
        places: the runs' folders.
        task: in whose units the outputs of a regression are.
    """
    first = spec_of(load_checkpoint(places[0]).model)
    if task.dense:
        return _masks_of(first, places, task)
    slices, side, _ = first.size
    beside = {COVARIATES: width_of(task.inputs)} if task.inputs else {}
    member: dict[str, Any] = {"kind": "network", "name": first.name, "copies": len(places)}
    member["args"] = dict(first.args) | beside
    own: dict[str, Any] = {"members": [member], "activation": activation_of(task), **beside}
    if len(first.mean) > 1 and first.input == "volume":
        own["in_chans"] = len(first.mean)
    model: Any = create_model("ensemble", task.out_dim, slices=slices, image_size=side, **own)
    fill_copies(model.backbone[0], places, task)
    return model.eval()


def _masks_of(first: ModelSpec, places: Sequence[Path], task: Task) -> Any:
    """The average of runs that segment; see `average_of`."""
    activation = "sigmoid" if getattr(task, "regions", {}) else "softmax"
    own: dict[str, Any] = {
        "network": first.name,
        "args": dict(first.args),
        "copies": len(places),
        "activation": activation,
    }
    model: Any = create_model("mask_ensemble", task.out_dim, **own)
    for network, place in zip(model.backbone, places, strict=True):
        network.load_state_dict(merged(load_checkpoint(place).model).state_dict())
    return model.eval()


def activation_of(task: Task) -> str:
    """What the ensemble of a task makes probabilities with."""
    return "softmax" if task.exclusive else "sigmoid" if task.makes_calls else "identity"


def fill_copies(member: NetworkMember, places: Sequence[Path], task: Task) -> None:
    """Give the networks of a member the weights of runs, for the covariates and the units of a task."""
    import torch

    for number, (network, place) in enumerate(zip(member.networks, places, strict=True)):
        loaded = load_checkpoint(place)
        model = merged(loaded.model)
        state = model.state_dict()
        if task.inputs:  # each standardised them by its own training rows
            state = rebased_state(model, loaded.task.inputs, task.inputs)
        network.load_state_dict(state)
        if not task.makes_calls:
            center, spread = torch.tensor(task.center), torch.tensor(task.spread)
            member.scale[number] = torch.tensor(loaded.task.spread) / spread
            member.shift[number] = (torch.tensor(loaded.task.center) - center) / spread


def _segment(
    recipe: TrainingRecipe,
    folder: RunFolder,
    manifest: Manifest,
    copies: Sequence[Copy],
    task: Task,
    settings: Preprocessing,
) -> None:
    """Segment every scan that is tested by the average of the models that never saw its patient, and measure it."""
    from slivit.predict.masks import segment
    from slivit.train.mask_testing import keep_cases, mask_engine

    rows: Sequence[Mapping[str, Any]]
    if recipe.data.folds:
        rows = sorted((dict(row) | {"split": "test"} for row in manifest.rows()), key=lambda row: int(row["fold"]))
    else:
        rows = [*manifest.rows("val"), *(manifest.rows("test") if "test" in manifest.splits else ())]

    @lru_cache(1)  # the rows of a fold lie together
    def engine_of(fold: int | None) -> Engine:
        places = [Path(copy.recipe.out) for copy in copies if copy.fold == fold]
        return mask_engine(recipe, average_of(places, task), task, settings)

    def masks_of(row: Mapping[str, Any]) -> Segmented:
        return segment(engine_of(int(row["fold"]) if recipe.data.folds else None), row)

    keep_cases(folder, recipe, recipe.data, masks_of, rows, (task, settings), _described(manifest, task))


def _described(manifest: Manifest, task: Task) -> dict[str, Any]:
    """What `metrics.json` says of the scans."""
    rows = describe_splits(manifest.frame[manifest.frame["split"] != ""], task)
    rows = rows or {"test": describe_rows(manifest.frame, task)}
    return {"source": manifest.source, "external": False, "run": rows}


def _measure(recipe: TrainingRecipe, folder: RunFolder, manifest: Manifest, table: pd.DataFrame, task: Task) -> None:
    """Measure the pooled predictions as those of one run."""
    from slivit.train.run import decided

    decision = decided(recipe, table, task)
    if decision:
        store_operating_point(folder.path, decision)
    metrics = measure(table, task, recipe.testing, decision=decision, data=_described(manifest, task))
    if recipe.testing.baselines:
        add_baseline(metrics, table, task, recipe.testing, folder.path)
    for name in recipe.results:
        folder.file(name)
    write_results(folder.path, table, task, metrics)
