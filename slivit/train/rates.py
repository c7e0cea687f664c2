"""One training for each of several learning rates, of which the best is kept."""

from __future__ import annotations

import logging
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from slivit.errors import CheckpointError, RecipeError, message
from slivit.files import read_mapping, whole_file, write_json, write_tensors
from slivit.folder import HISTORY, PROGRESS, RATES, RunFolder
from slivit.train.recipe import Labelled

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)
SCORE, WEIGHTS, TABLE = "score.json", "best.safetensors", f"{RATES}.json"
Score = dict[str, Any]


class TrainOne(Protocol):
    """What trains by a recipe with one rate: a `slivit.train.run.Trial`."""

    def __call__(
        self, recipe: Labelled, folder: Path, *, resume: bool = False, earlier: int = 0
    ) -> tuple[nn.Module, Score]:
        """The model, and what came of it: `best_epoch`, and the monitored value under the monitor's name."""

    def model(self, recipe: Labelled) -> nn.Module:
        """A model of the recipe."""


def best_trial(trial: TrainOne, recipe: Labelled, folder: RunFolder) -> tuple[nn.Module, Score]:
    """Train by a recipe once with each of its rates.

    A rate whose training diverges is recorded and left. Each of several rates has a folder of its own in `rates/`; a
    search that died goes on with the rate at which it died.

    Args:
        trial: trains with one rate.
        recipe: its `fit.lr` is a list.
        folder: of the run; `rates.json` lists the scores, `history.csv` is that of the best rate.

    Returns:
        The model with the best weights, and what came of the best rate.

    Raises:
        RecipeError: no rate led anywhere.
    """
    from slivit.train.callbacks import Diverged

    rates, search = cast(tuple[float, ...], recipe.fit.lr), Search(folder, recipe.fit.monitor)
    for number, rate in enumerate(rates, 1):
        if search.knows(rate):
            continue
        log.info("rate %d of %d: %g", number, len(rates), rate)
        one = recipe.model_copy(update={"fit": recipe.fit.model_copy(update={"lr": rate})})
        own, resume = search.begin(rate)
        try:
            search.keep(rate, *trial(one, own, resume=resume, earlier=(number - 1) * recipe.fit.epochs))
        except Diverged as error:
            log.warning("rate %g: %s", rate, error)
            search.keep(rate, None, {"lr": rate, "error": message(error)})
    return search.best(trial.model(recipe))


class Search:
    """The scores of the rates that were tried, and the weights of the best so far.

    Args:
        folder: of the run.
        monitor: by which the best is chosen.
    """

    def __init__(self, folder: RunFolder, monitor: str) -> None:
        self.run, self.folder, self.monitor = folder, folder.file(RATES), monitor
        self.scores: list[Score] = []

    def knows(self, rate: float) -> bool:
        """Take over the score of a rate that was tried before the search died."""
        file = self._own(rate) / SCORE
        if not self.run.resume or not file.is_file():
            return False
        self.scores.append(read_mapping(file))
        return True

    def begin(self, rate: float) -> tuple[Path, bool]:
        """The folder of a rate, and whether its training goes on there."""
        own = self._own(rate)
        own.mkdir(parents=True, exist_ok=True)
        return own, self.run.resume and (own / PROGRESS).is_file()

    def keep(self, rate: float, model: nn.Module | None, score: Score) -> None:
        """Keep the score of a rate, and the weights of its best epoch as long as no other rate is better."""
        own = self._own(rate)
        if model is not None and not math.isfinite(score[self.monitor]):
            model, score = None, {"lr": rate, "error": f"{self.monitor} was never defined"}
        if model is not None:
            write_tensors(own / WEIGHTS, model.state_dict())
        write_json(own / SCORE, score)
        (own / PROGRESS).unlink(missing_ok=True)
        self.scores.append(score)
        best = best_score(self.scores, self.monitor)
        for other in (s for s in self.scores if s is not best):
            (self._own(other["lr"]) / WEIGHTS).unlink(missing_ok=True)

    def best(self, model: nn.Module) -> tuple[nn.Module, Score]:
        """Write the table of scores, and bring the weights and the history of the best rate to their places.

        Args:
            model: gets the best weights.

        Raises:
            RecipeError: no rate led anywhere.
        """
        from safetensors.torch import load_file

        best = best_score(self.scores, self.monitor)
        table = {"monitor": self.monitor, "rates": self.scores, "best": best and best["lr"]}
        write_json(self.run.file(TABLE), table)
        lines = "; ".join(self._line(score) for score in self.scores)
        if best is None:
            raise RecipeError(f"no rate of fit.lr led anywhere: {lines}")
        log.info("rates: %s; the best is %g", lines, best["lr"])
        own = self._own(best["lr"])
        if not (own / WEIGHTS).is_file():
            raise CheckpointError(f"{own / WEIGHTS}: the weights of the best rate are gone; start the run anew")
        model.load_state_dict(load_file(own / WEIGHTS))
        with whole_file(self.run.path / HISTORY) as partial:
            shutil.copyfile(own / HISTORY, partial)
        return model, best

    def _own(self, rate: float) -> Path:
        return self.folder / f"{rate:g}"

    def _line(self, score: Score) -> str:
        result = f"failed ({score['error']})" if "error" in score else f"{self.monitor} {score[self.monitor]:.4f}"
        return f"{score['lr']:g} {result}"


def best_score(scores: list[Score], monitor: str) -> Score | None:
    """The best of the scores that have a value, the first of equals; None where none has."""
    from slivit.train.callbacks import better

    best: Score | None = None
    for score in (s for s in scores if "error" not in s):
        if best is None or better(monitor)(score[monitor], best[monitor]):
            best = score
    return best
