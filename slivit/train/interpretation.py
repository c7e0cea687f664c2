"""Which scans a trained Learner is most wrong about: fastai's interpretation, for volumes and every kind of task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastai.interpret import ClassificationInterpretation, plot_top_losses
from fastai.vision.data import get_grid
from plum import dispatch
from torch import Tensor

from slivit.data.blocks import TensorSlices
from slivit.data.covariate_blocks import pictured
from slivit.errors import SlivitError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd
    from fastai.data.core import TfmdDL
    from fastai.learner import Learner

    from slivit.targets.task import Task

__all__ = ["VolumeInterpretation", "plot_top_losses"]


class VolumeInterpretation(ClassificationInterpretation):
    """fastai's interpretation of a Learner made by `slivit.volume_learner`.

    `VolumeInterpretation.from_learner(learn)` predicts the validation scans once. `top_losses(k)`,
    `plot_top_losses(k)`, `confusion_matrix()`, `plot_confusion_matrix()` and `most_confused()` are then as in fastai;
    `table(k)` names the scans.

    Args:
        learn: the Learner.
        dl: the DataLoader that was predicted.
        losses: (n,) one a scan.
        act: replaces the activation of the task's loss.

    Example:
        >>> interpretation = slivit.VolumeInterpretation.from_learner(learn)  # doctest: +SKIP
        >>> interpretation.plot_top_losses(6)  # doctest: +SKIP
        >>> interpretation.table(6)  # doctest: +SKIP
    """

    def __init__(self, learn: Learner, dl: TfmdDL, losses: Tensor, act: Any = None) -> None:
        # fastai's own asks the DataLoader for a vocabulary, which the task knows.
        self.learn, self.dl, self.losses, self.act = learn, dl, losses.as_subclass(Tensor), act
        self.vocab = list(self.task.classes) or ["0", "1"]

    @property
    def task(self) -> Task:
        """What the Learner predicts."""
        return self.learn.loss_func.task

    def top_losses(
        self, k: int | None = None, largest: bool = True, items: bool = False
    ) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, list[Any]]:
        """The k largest or smallest losses and their places, and the rows where asked for; fewer where there are fewer.

        Args:
            k: how many; all if None.
            largest: False for the smallest.
            items: whether the rows are returned too.
        """
        top: Any = super().top_losses(None if k is None else min(k, len(self.losses)), largest, items)
        return tuple(top)

    def confusion_matrix(self) -> npt.NDArray[np.int64]:
        """(classes, classes): a row a true class, a column a called class; calls at 0.5, or of the likeliest class.

        Raises:
            SlivitError: a task with several labels or with quantities, which has no such matrix.
        """
        if not self.task.one_class:
            raise SlivitError(f"a {self.task.kind} task has no confusion matrix; see table() and plot_top_losses()")
        return super().confusion_matrix()

    def table(self, k: int | None = None, *, largest: bool = True) -> pd.DataFrame:
        """The scans with the largest losses, with path, patient, what is known and what is predicted.

        Args:
            k: how many; all if None.
            largest: False for the smallest losses.
        """
        import pandas as pd

        losses, order, *_ = self.top_losses(k, largest)
        predictions, _ = self.learn.get_preds(dl=self.dl, act=self.act)
        rows = [dict(self.dl.items[i]) for i in order.tolist()]
        columns = list(self.task.prediction_columns)
        predicted = predictions[order].reshape(len(rows), -1).tolist()
        records = [
            {"path": row["path"], "patient": row["patient"], **{t: row[t] for t in self.task.targets}, "loss": loss}
            | dict(zip(columns, values, strict=True))
            for row, values, loss in zip(rows, predicted, losses.tolist(), strict=True)
        ]
        return pd.DataFrame(records, index=order.tolist())


@dispatch  # type: ignore[no-redef]
def plot_top_losses(  # noqa: F811 (one more case of fastai's function)
    x: TensorSlices,
    y: Any,
    samples: Any,
    outs: Any,
    raws: Any,
    losses: Any,
    nrows: int | None = None,
    ncols: int | None = None,
    figsize: Any = None,
    **kwargs: Any,
) -> None:
    """Draw a contact sheet of each volume, titled by what is predicted, what is known, and the loss."""
    axes = get_grid(len(samples), nrows=nrows, ncols=ncols or min(len(samples), 3), figsize=figsize)
    for ax, (stack, known), (predicted, *_), loss in zip(axes, samples, outs, losses, strict=False):
        stack.show(ctx=ax, **kwargs)
        ax.set_title(f"known: {known}\npredicted: {predicted}\nloss {float(loss):.3f}", fontsize=9)


@dispatch  # type: ignore[no-redef]
def plot_top_losses(x: tuple, y: Any, samples: Any, *rest: Any, **kwargs: Any) -> None:  # noqa: F811 (as above)
    """The same of models that read covariates, which have no picture."""
    plot_top_losses(x[0], y, pictured(samples), *rest, **kwargs)
