"""A finished run, to look at in Python: its metrics, predictions, history, recipe and model."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slivit.checkpoint import Checkpoint, load_checkpoint
from slivit.errors import SlivitError
from slivit.folder import read_metrics
from slivit.recipe import read_values

if TYPE_CHECKING:
    import pandas as pd

    from slivit.viewer.notebook import ViewedMasks, ViewedScan

RECIPES = ("recipe.toml", "plan.toml")


class Run:
    """A folder that `slivit auto`, `slivit finetune`, `slivit pretrain` or `slivit evaluate` left.

    Everything is read when it is first asked for. In Jupyter, a run shows its main figures.

    Args:
        folder: of the run.

    Raises:
        SlivitError: no run there.

    Example:
        >>> run = slivit.Run("runs/mine")  # doctest: +SKIP
        >>> run.metrics["splits"]["test"]["metrics"]["roc_auc"]["value"]  # doctest: +SKIP
        0.91
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not any((self.folder / name).is_file() for name in RECIPES):
            raise SlivitError(f"{folder}: no run there; a run's folder holds a {' or a '.join(RECIPES)}")

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """The resolved recipe, or the plan of `slivit auto`, as plain values."""
        name = next(name for name in RECIPES if (self.folder / name).is_file())
        return read_values(self.folder / name)

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """`metrics.json`; see the page on the files of numbers."""
        return read_metrics(self._file("metrics.json"))

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """`predictions.csv`: one row a scan of the validation and test rows."""
        from slivit.data.table import read_shown

        return read_shown(self._file("predictions.csv"))

    @cached_property
    def history(self) -> pd.DataFrame:
        """`history.csv`: the losses and metrics of every epoch."""
        import pandas as pd

        return pd.read_csv(self._file("history.csv"))

    def checkpoint(self, device: str = "cpu") -> Checkpoint:
        """The trained model with all that a prediction needs; see `load_checkpoint`."""
        return load_checkpoint(self.folder, device)

    def view(
        self, scan: str | Path | int, *, target: str | None = None, method: str = "gradcam", device: str = "cpu"
    ) -> ViewedScan | ViewedMasks:
        """Look at a scan and at what the model makes of it, in a notebook: three planes with an explanation over them.

        Of a run that segments: with the true and the predicted mask and their difference, and Dice by structure.

        Args:
            scan: the path of a scan, the name of its file, or its number in the run's `split.csv`.
            target: the output to explain; the likeliest where None.
            method: "gradcam", "occlusion" or "rollout".
            device: "auto", "cpu", "cuda", ...

        Returns:
            What a notebook shows: a widget where `ipyniivue` is installed (the extra `view`), still pictures elsewhere.

        Raises:
            SlivitError: no such scan, or one that cannot be read.
        """
        from slivit.viewer.notebook import view

        return view(self.folder, scan, target=target, method=method, device=device)

    @property
    def finished(self) -> bool:
        """Whether it came to its end."""
        return (self.folder / "metrics.json").is_file()

    def _file(self, name: str) -> Path:
        if not (self.folder / name).is_file():
            raise SlivitError(f"{self.folder}: has no {name}; it did not come so far, or is of a stage without one")
        return self.folder / name

    def __repr__(self) -> str:
        return f"Run({self.folder}{'' if self.finished else ', unfinished'})"

    def _repr_html_(self) -> str:
        from slivit.display import facts, grid
        from slivit.report.style import interval, metric_name, number
        from slivit.targets.task import Task

        title = facts(repr(self), {"task": ", ".join(self.recipe.get("task", {}).get("targets", ()))})
        if not self.finished:
            return title
        names = Task(**self.metrics["task"]).measures.headlines
        rows = []
        for split, part in self.metrics["splits"].items():
            estimates = [part["metrics"].get(name) for name in names]
            cells = [f"{number(f['value'])} ({interval(f['low'], f['high'])})" if f else "" for f in estimates]
            rows.append([split, part["scans"], *(c.replace(" ()", "") for c in cells)])
        return title + grid(["split", "scans", *map(metric_name, names)], rows)
