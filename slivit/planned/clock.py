"""The time of a run: what is left of it, what a network still needs, and what is left out or cut short for it.

Decisions are written down when they are taken, so that a run that was stopped goes on as it was decided.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

from slivit.experiments.study_schedule import spoken_time
from slivit.files import read_mapping, write_json
from slivit.planned.networks import LEAST_EPOCHS, Candidate

CLOCK = "clock.json"
FOR_BASELINES = 0.3
"""Of the time of a run, after which no further baseline is begun."""
FOR_TRAINING = 0.95
"""Of the time of a run; the rest is for the ensemble, the test rows and the report."""


def key_of(candidate: Candidate, fold: int) -> str:
    """A network on a fold, as the clock writes it down."""
    return f"{candidate.name}, fold {fold}"


class Clock:
    """The time of a run, over all commands that went on with it.

    Args:
        folder: of the run.
        minutes: that it may take.
        workers: networks that are trained at a time.
        began: when this command began, as `monotonic` says it.
    """

    def __init__(self, folder: Path, minutes: float, workers: int, began: float) -> None:
        self.file, self.began, self.workers = folder / CLOCK, began, max(1, workers)
        kept = read_mapping(self.file)
        self.seconds, self.before = 60 * minutes, float(kept.get("spent", 0.0))
        self.took: dict[str, dict[str, float]] = kept.get("took", {})
        self.epochs: dict[str, int] = kept.get("epochs", {})
        self.left_out: dict[str, str] = kept.get("left_out", {})
        self.baselines: list[str] = kept.get("baselines", [])
        self.trained: int = kept.get("trained", 0)
        self.careful: list[str] = kept.get("careful", [])
        self.lock = threading.RLock()

    @property
    def spent(self) -> float:
        """Seconds of this command and those before it."""
        return self.before + monotonic() - self.began

    @property
    def left(self) -> float:
        """Seconds that networks may still take."""
        return FOR_TRAINING * self.seconds - self.spent

    def has_baseline(self, name: str) -> bool:
        """Whether there is time for another baseline, or as it was decided before."""
        with self.lock:
            if name not in self.baselines and name not in self.left_out:
                if self.spent <= FOR_BASELINES * self.seconds:
                    self.baselines.append(name)
                else:
                    self.left_out[name] = f"{self.spent / 60:.1f} of {self.seconds / 60:.3g} min were spent before it"
                self.keep()
            return name in self.baselines

    def keep(self) -> None:
        """Write down what was decided."""
        names = ("epochs", "left_out", "took", "trained", "baselines", "careful")
        write_json(self.file, {"spent": round(self.spent, 1), **{name: getattr(self, name) for name in names}})

    def ended(self, candidate: Candidate, fold: int, seconds: float) -> None:
        """Note how long a fold took."""
        with self.lock:
            self.took.setdefault(candidate.name, {})[str(fold)] = round(seconds, 1)
            self.keep()

    def tries_carefully(self, key: str) -> bool:
        """Whether a network that diverged on a fold is tried once more; not where it was already, or no time is left.

        Args:
            key: of the network and the fold.
        """
        with self.lock:
            if key in self.careful or self.left <= 0:
                return False
            self.careful.append(key)
            self.keep()
            return True

    def expected(self, candidate: Candidate, planned: Sequence[Candidate]) -> float:
        """Seconds that a fold of a network will take: as its others did, or as planned but as much slower as those."""
        if own := self.took.get(candidate.name):
            return sum(own.values()) / len(own)
        pairs = [(t, c.seconds) for c in planned for t in self.took.get(c.name, {}).values() if c.seconds]
        slower = sum(t for t, _ in pairs) / sum(s for _, s in pairs) if pairs else 1.0
        return candidate.seconds * slower

    def in_time(self, networks: Sequence[Candidate], folds: int) -> int:
        """The folds, of the first ones, for which all of these networks had time."""
        without = [f for f in range(folds) for c in networks if self.epochs.get(key_of(c, f)) == 0]
        return min(without, default=folds)

    def one_more_fold(self, trained: int, order: Sequence[Candidate]) -> bool:
        """Whether the networks are trained on another fold, as time is left for it.

        Args:
            trained: folds so far.
            order: the networks that would be.
        """
        needed = sum(self.expected(candidate, order) for candidate in order)
        if self.trained <= trained and 0 < needed <= self.left:
            self.trained = trained + 1
            self.epochs |= {key_of(c, trained): c.epochs for c in order}
            self.keep()
        return self.trained > trained

    def one_more_copy(self, copy: Candidate, of: Candidate, folds: range) -> bool:
        """Whether another copy of a network is trained on all of its folds, as time is left for it.

        Args:
            copy: the same network with another seed.
            of: the network, whose folds say how long one takes.
            folds: of the copy.
        """
        needed = len(folds) * self.expected(of, [of]) / min(self.workers, len(folds))
        if key_of(copy, 0) not in self.epochs and 0 < needed <= self.left:
            self.epochs |= {key_of(copy, fold): copy.epochs for fold in folds}
            self.keep()
        return key_of(copy, 0) in self.epochs

    def epochs_for(self, candidate: Candidate, fold: int, order: Sequence[Candidate], folds: int) -> int:
        """Epochs of a network on a fold that is about to begin; 0 where the time is too short.

        The first of the order is cut short rather than left out, but where not even half of the least epochs fit: then
        the folds that it has stand alone.

        Args:
            candidate: the network.
            fold: its number.
            order: networks that are still in the run, the one that matters most first.
            folds: of each.
        """
        name, key = candidate.name, key_of(candidate, fold)
        with self.lock:
            if name in self.left_out:
                return 0
            if key not in self.epochs:
                self._decide(candidate, key, order, folds)
            return self.epochs.get(key, 0)

    def _decide(self, candidate: Candidate, key: str, order: Sequence[Candidate], folds: int) -> None:
        before = order[: [c.name for c in order].index(candidate.name)]
        each = self.expected(candidate, order)
        to_do = [(c, folds - len(self.took.get(c.name, {}))) for c in before]
        own = max(each, each * (folds - len(self.took.get(candidate.name, {}))) / self.workers)
        needed = own + sum(n * self.expected(c, order) for c, n in to_do) / self.workers
        least = min(LEAST_EPOCHS, candidate.epochs)
        fitting = int(candidate.epochs * max(self.left, 0) / own) if own else candidate.epochs
        if needed <= 1.05 * self.left or not each:
            self.epochs[key] = candidate.epochs
        elif before or (fitting < least / 2 and not self.took.get(candidate.name)):
            reason = f"its folds would take {spoken_time(needed)}, with {spoken_time(max(self.left, 0))} left"
            self.left_out[candidate.name] = reason
        elif fitting < least / 2:
            self.epochs[key] = 0  # of a network that has folds already, which stand without this one
        else:
            self.epochs[key] = max(least, fitting)
        self.keep()
