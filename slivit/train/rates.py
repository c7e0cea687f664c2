"""A search for the learning rate: one training a rate, of which the best on the validation rows is kept."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slivit.errors import CheckpointError, RecipeError, message
from slivit.files import whole_file, write_json, write_tensors
from slivit.folder import HISTORY, PROGRESS, RATES
from slivit.train.recipe import TrainingRecipe

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)
SCORE, WEIGHTS, TABLE = "score.json", "best.safetensors", "rates.json"
Score = dict[str, Any]
TrainOne = Callable[[TrainingRecipe, Path, bool], "tuple[nn.Module, Score]"]


def search_rates(
    recipe: TrainingRecipe, model: nn.Module, folder: Path, train_one: TrainOne, *, resume: bool = False
) -> Score:
    """Train once with each rate of a recipe, and leave the weights of the best in a model.

    A rate whose training diverges is recorded and left. Each rate has a folder of its own in `rates/`; a search that
    died goes on with the rate at which it died.

    Args:
        recipe: its `fit.lr` is a list.
        model: gets the best weights.
        folder: of the run; `rates.json` lists the scores, `history.csv` is that of the best rate.
        train_one: trains by a recipe with one rate in a folder, perhaps going on there; returns the model and what
            came of it: `best_epoch`, and the monitored value under the monitor's name.
        resume: go on with a search that died.

    Returns:
        What came of the best rate.

    Raises:
        RecipeError: no rate led anywhere.
    """
    monitor = recipe.fit.monitor
    scores: list[Score] = []
    for number, rate in enumerate(rates := _rates(recipe), 1):
        own = folder / RATES / f"{rate:g}"
        score = _read(own) if resume else None
        if score is None:
            log.info("rate %d of %d: %g", number, len(rates), rate)
            score = _train(recipe, rate, own, train_one, resume=resume)
        scores.append(score)
        _keep_best(scores, folder, monitor)
    best = best_score(scores, monitor)
    write_json(folder / TABLE, {"monitor": monitor, "rates": scores, "best": best and best["lr"]})
    if best is None:
        raise RecipeError(f"no rate of fit.lr led anywhere: {'; '.join(_told(s, monitor) for s in scores)}")
    log.info("rates: %s; the best is %g", "; ".join(_told(s, monitor) for s in scores), best["lr"])
    _take(model, folder, best)
    return best


def best_score(scores: list[Score], monitor: str) -> Score | None:
    """The best of the scores that have a value, the first of equals; None where none has."""
    from slivit.train.callbacks import better

    best: Score | None = None
    for score in (s for s in scores if "error" not in s):
        if best is None or better(monitor)(score[monitor], best[monitor]):
            best = score
    return best


def _rates(recipe: TrainingRecipe) -> tuple[float, ...]:
    if not isinstance(recipe.fit.lr, tuple):
        raise RecipeError(f"fit.lr is {recipe.fit.lr}, not a list, so there is nothing to search")
    return recipe.fit.lr


def _read(own: Path) -> Score | None:
    return json.loads((own / SCORE).read_text("utf-8")) if (own / SCORE).is_file() else None


def _train(recipe: TrainingRecipe, rate: float, own: Path, train_one: TrainOne, *, resume: bool) -> Score:
    """Train with one rate, and keep its score and the weights of its best epoch."""
    from slivit.train.callbacks import Diverged

    own.mkdir(parents=True, exist_ok=True)
    alone = recipe.model_copy(update={"fit": recipe.fit.model_copy(update={"lr": rate})})
    try:
        model, score = train_one(alone, own, resume and (own / PROGRESS).is_file())
        value = score[recipe.fit.monitor]
        score = score if math.isfinite(value) else {"lr": rate, "error": f"{recipe.fit.monitor} was never defined"}
    except Diverged as error:
        log.warning("rate %g: %s", rate, error)
        score = {"lr": rate, "error": message(error)}
    if "error" not in score:
        write_tensors(own / WEIGHTS, model.state_dict())
    write_json(own / SCORE, score)
    (own / PROGRESS).unlink(missing_ok=True)
    return score


def _keep_best(scores: list[Score], folder: Path, monitor: str) -> None:
    """Remove the weights of every rate but the best so far."""
    best = best_score(scores, monitor)
    for score in scores:
        if score is not best:
            (folder / RATES / f"{score['lr']:g}" / WEIGHTS).unlink(missing_ok=True)


def _take(model: nn.Module, folder: Path, best: Score) -> None:
    """Bring the weights and the history of the best rate to their places, and remove its copy."""
    from safetensors.torch import load_file

    own = folder / RATES / f"{best['lr']:g}"
    if not (own / WEIGHTS).is_file():
        raise CheckpointError(f"{own / WEIGHTS}: the weights of the best rate are gone; start the run anew")
    model.load_state_dict(load_file(own / WEIGHTS))
    with whole_file(folder / HISTORY) as partial:
        shutil.copyfile(own / HISTORY, partial)


def _told(score: Score, monitor: str) -> str:
    return f"{score['lr']:g} " + (
        f"failed ({score['error']})" if "error" in score else f"{monitor} {score[monitor]:.4f}"
    )
