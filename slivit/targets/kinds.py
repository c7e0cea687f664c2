"""The kinds of task: what is their own of encoding, loss, calls, measurement and words. Free of torch at import."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from slivit.errors import ManifestError, one_of
from slivit.targets.task import Array, Estimators, Task, class_name, is_missing
from slivit.targets.words import Measures

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from slivit.targets.cases import Cases, Column
    from slivit.targets.decision import Decision
    from slivit.targets.loss import TaskLoss

AGAINST_REST = ("roc_auc", "average_precision", "sensitivity", "specificity", "ppv", "npv", "f1")
MAIN = ("roc_auc", "average_precision")


class Classification(Task):
    """What all classifications have in common: probabilities that become calls."""

    makes_calls: ClassVar[bool] = True
    panels: ClassVar[tuple[str, ...]] = ("ranking", "calibration")

    def tags(self, frame: pd.DataFrame) -> pd.DataFrame:
        names = ["" if is_missing(v) else str(v) for v in frame[self.targets[0]].tolist()]
        return frame[["patient"]].assign(tag=names)

    def counts(self, known: pd.Series) -> dict[str, Any]:
        return {"classes": {name: int((self._named(known) == name).sum()) for name in self._class_names}}

    @property
    def _class_names(self) -> tuple[str, ...]:
        return ("1", "0")

    def _named(self, known: pd.Series) -> pd.Series:
        return known.astype(float).map(class_name)

    @property
    def promise(self) -> str:
        return f"the probability of {self.named_targets}"


class Labels(Classification):
    """Targets that are 0 or 1, each with a probability and a threshold of its own."""

    allowed: ClassVar[tuple[float, ...]] = (0.0, 1.0)

    def balanced_weights(self, rows: Sequence[Mapping[str, Any]]) -> tuple[float, ...]:
        encoded = np.stack([np.asarray(self.encode(r)) for r in rows])
        positives, negatives = (encoded == 1).sum(axis=0), (encoded == 0).sum(axis=0)
        return tuple((negatives / np.maximum(positives, 1)).tolist())

    def criterion(self, logits: Tensor, target: Tensor, given: TaskLoss) -> Tensor:
        from torch.nn.functional import binary_cross_entropy_with_logits

        known = ~target.isnan()
        soft = target.nan_to_num(0.0) * (1 - given.label_smoothing) + given.label_smoothing / 2
        losses = binary_cross_entropy_with_logits(logits, soft, pos_weight=given.weights, reduction="none")
        return given.mean_of(losses, known)

    def activation(self, logits: Tensor, center: Tensor, spread: Tensor) -> Tensor:
        return logits.sigmoid()

    def decodes(self, predictions: Tensor) -> Tensor:
        return (predictions >= 0.5).float()

    def readout(self, x: Array, y: npt.NDArray[Any], other: Array, model: Estimators | None = None) -> Array:
        known = [~np.isnan(labels) for labels in y.T]
        return np.stack([_classified(x[k], y[k, i], other, model)[:, 1] for i, k in enumerate(known)], 1)

    def calls(self, p: pd.DataFrame, decision: Decision) -> dict[str, Any]:
        above = {t: p[f"prob_{t}"] >= decision.threshold(t) for t in self.targets}
        return {t: above[t].astype("Int64").where(p[f"prob_{t}"].notna()) for t in self.targets}

    def class_words(self, target: str) -> dict[str, str]:
        return {"1": f"with {target}", "0": f"without {target}"}

    def class_adjective(self, name: str) -> str:
        return {"1": "positive", "0": "negative"}[name]

    def tallies(self, counts: Mapping[str, Any]) -> dict[str, str]:
        return {f"with {t}": str(counts[t]["classes"].get("1", 0)) for t in self.targets}

    def said_calls(self, decision: Decision) -> str:
        limits = ", ".join(f"{decision.threshold(t):.4g} ({t})" for t in self.targets)
        return f"positive from a probability of {limits}, by the rule {decision.rule}"

    def said_answer(self, row: pd.Series, target: str) -> tuple[str, str]:
        names = {0: f"without {target}", 1: f"with {target}"}
        call = f"{names[int(row[f'call_{target}'])]}, probability {row[f'prob_{target}']:.3f}"
        return names[int(row[f"target_{target}"])], call


class Binary(Labels):
    """One target, 0 or 1."""

    kind: Literal["binary"]
    two_classes: ClassVar[bool] = True
    findings: ClassVar[tuple[str, ...]] = ("ranking", "calls", "calibration", "referral")
    measures: ClassVar[Measures] = Measures(
        main=MAIN,
        headlines=(*MAIN, "sensitivity", "specificity"),
        logged=MAIN,
        by_group=("roc_auc", "false_negative_rate"),
        by_output=(),
        gap="roc_auc",
    )

    def arrays(self, table: pd.DataFrame) -> tuple[Array, Array]:
        y, p = super().arrays(table)
        return y[:, 0], p[:, 0]

    def views(self, cases: Cases) -> Iterator[Column]:
        from slivit.targets.cases import Column

        yield Column(self.targets[0], cases.y, cases.p, cases.thresholds[0])

    @property
    def ranked(self) -> str:
        return f"a scan with {self.targets[0]} above one without"

    def composition(self, counts: Mapping[str, Any]) -> str:
        classes = counts[self.targets[0]]["classes"]
        return f": {classes['1']:,} with {self.targets[0]}, {classes['0']:,} without"


class Multilabel(Labels):
    """Several targets, each 0 or 1, or unknown."""

    kind: Literal["multilabel"]
    blanks: ClassVar[bool] = True
    part: ClassVar[str] = "label"
    findings: ClassVar[tuple[str, ...]] = ("ranking", "outputs by ROC AUC", "subset accuracy")
    measures: ClassVar[Measures] = Measures(
        main=MAIN,
        headlines=(*MAIN, "sensitivity", "specificity"),
        logged=MAIN,
        by_group=("roc_auc", "false_negative_rate"),
        by_output=(*AGAINST_REST, "brier", "calibration_slope"),
        gap="roc_auc",
    )

    def tags(self, frame: pd.DataFrame) -> pd.DataFrame:
        import pandas as pd

        positive = [frame.loc[frame[t] == 1, "patient"].to_frame().assign(tag=t) for t in self.targets if t in frame]
        return pd.concat([*positive, frame[["patient"]].assign(tag="")])

    def views(self, cases: Cases) -> Iterator[Column]:
        from slivit.targets.cases import Column

        for i, name in enumerate(self.targets):
            yield Column(name, cases.y[:, i], cases.p[:, i], cases.thresholds[i])

    @property
    def ranked(self) -> str:
        return "a positive scan above a negative one, on average over the labels,"

    @property
    def promise(self) -> str:
        return f"the probability of each of {self.named_targets}"

    def averaging(self, metric: str) -> str:
        return "" if metric == "subset_accuracy" else "Mean over labels. "

    def composition(self, counts: Mapping[str, Any]) -> str:
        return f", on {len(self.targets)} labels: {', '.join(self.targets)}"


class Multiclass(Classification):
    """One target, the name of one of several classes."""

    kind: Literal["multiclass"]
    exclusive: ClassVar[bool] = True
    part: ClassVar[str] = "class"
    findings: ClassVar[tuple[str, ...]] = ("accuracy", "ranking", "outputs by sensitivity")
    measures: ClassVar[Measures] = Measures(
        main=MAIN,
        headlines=(*MAIN, "accuracy", "balanced_accuracy"),
        logged=MAIN,
        by_group=("roc_auc", "accuracy"),
        by_output=AGAINST_REST,
        gap="roc_auc",
    )

    @property
    def outputs(self) -> tuple[str, ...]:
        return self.classes

    def encode(self, row: Mapping[str, Any]) -> np.int64:
        name = class_name(row[self.targets[0]])
        if name not in self.classes:
            raise ManifestError(f"{self.targets[0]} is {name!r}; allowed are {one_of(self.classes)}")
        return np.int64(self.classes.index(name))

    def describe(self, encoded: Tensor) -> str:
        return self.classes[int(encoded)]

    def completed(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        if self.classes:
            return {}
        names = {class_name(r[self.targets[0]]) for r in rows}
        return {"classes": tuple(sorted(names, key=_numbers_first))}

    def balanced_weights(self, rows: Sequence[Mapping[str, Any]]) -> tuple[float, ...]:
        counts = np.bincount([int(self.encode(r)) for r in rows], minlength=self.out_dim)
        return tuple((len(rows) / (self.out_dim * np.maximum(counts, 1))).tolist())

    def criterion(self, logits: Tensor, target: Tensor, given: TaskLoss) -> Tensor:
        from torch.nn.functional import cross_entropy

        smoothing, reduction = given.label_smoothing, given.reduction
        return cross_entropy(logits, target, given.weights, label_smoothing=smoothing, reduction=reduction)

    def counted(self, target: Tensor, weights: Tensor | None) -> float:
        return float(len(target) if weights is None else weights.to(target.device)[target].sum())

    def activation(self, logits: Tensor, center: Tensor, spread: Tensor) -> Tensor:
        return logits.softmax(-1)

    def decodes(self, predictions: Tensor) -> Tensor:
        return predictions.argmax(-1)

    def evidence(self, logits: Tensor) -> Tensor:
        import torch

        z = logits.double()
        own = torch.eye(z.shape[-1], dtype=torch.bool, device=z.device)
        others = z.unsqueeze(-2).expand(*z.shape, z.shape[-1]).masked_fill(own, -torch.inf)
        return z - others.logsumexp(-1)

    def readout(self, x: Array, y: npt.NDArray[Any], other: Array, model: Estimators | None = None) -> Array:
        given = _classified(x, y, other, model)
        out = np.zeros((len(other), self.out_dim or int(np.max(y)) + 1))  # a task that is not fitted counts no classes
        out[:, np.unique(y)] = given  # a class without a training scan has no probability
        return out

    def arrays(self, table: pd.DataFrame) -> tuple[Array, Array]:
        names = [{self.targets[0]: name} for name in table[self.target_columns[0]]]
        y = [math.nan if is_missing(n[self.targets[0]]) else float(self.encode(n)) for n in names]
        return np.array(y, dtype=float), table[list(self.prediction_columns)].to_numpy(float)

    @property
    def _class_names(self) -> tuple[str, ...]:
        return self.classes

    def _named(self, known: pd.Series) -> pd.Series:
        return known.astype(str)

    def views(self, cases: Cases) -> Iterator[Column]:
        from slivit.targets.cases import Column

        for c, name in enumerate(self.classes):
            yield Column(name, (cases.y == c).astype(float), cases.p[:, c], None, -cases.p.max(axis=1))

    def calls(self, p: pd.DataFrame, decision: Decision) -> dict[str, Any]:
        import pandas as pd

        names = np.array(self.classes, dtype=object)[p.fillna(0).to_numpy().argmax(axis=1)]
        known = p.notna().all(axis=1)
        return {self.targets[0]: pd.Series(names, index=p.index, dtype=object).where(known, "")}

    @property
    def ranked(self) -> str:
        return "a scan of a class above one of another, on average over the classes,"

    @property
    def promise(self) -> str:
        return f"{self.named_targets}: the probability of each of {', '.join(self.classes)}"

    def averaging(self, metric: str) -> str:
        against_rest = metric in (*AGAINST_REST, "false_negative_rate")
        return "Each class against the rest; mean over classes. " if against_rest else ""

    def composition(self, counts: Mapping[str, Any]) -> str:
        return ": " + ", ".join(f"{n:,} {c}" for c, n in counts[self.targets[0]]["classes"].items())

    def class_words(self, target: str) -> dict[str, str]:
        return {c: f"{target}: {c}" for c in self.classes}

    def tallies(self, counts: Mapping[str, Any]) -> dict[str, str]:
        return {c: str(counts[self.targets[0]]["classes"].get(c, 0)) for c in self.classes}

    def said_calls(self, decision: Decision) -> str:
        return "the most probable class"

    def said_answer(self, row: pd.Series, target: str) -> tuple[str, str]:
        call = row[f"call_{target}"]
        return str(row[f"target_{target}"]), f"{call}, probability {row['prob_' + call]:.3f}"


class Regression(Task):
    """One or several numbers."""

    kind: Literal["regression"]
    prefix: ClassVar[str] = "pred_"
    panels: ClassVar[tuple[str, ...]] = ("agreement",)
    findings: ClassVar[tuple[str, ...]] = ("errors",)
    measures: ClassVar[Measures] = Measures(
        main=("r2", "mae"),
        headlines=("r2", "mae", "pearson", "concordance"),
        logged=("r2", "mae", "pearson"),
        by_group=("mae", "r2"),
        by_output=("r2", "mae", "rmse", "pearson", "concordance", "bias"),
        gap="mae",
    )

    def _check_scale(self) -> None:
        """One number would be broadcast over several targets in silence, and a spread of 0 is divided by."""
        if not self.center and not self.spread:
            return
        if not len(self.center) == len(self.spread) == len(self.targets):
            super()._check_scale()
        if not all(map(math.isfinite, self.center)) or not all(math.isfinite(s) and s > 0 for s in self.spread):
            raise ValueError(f"center must be finite and spread above 0, got {self.center} and {self.spread}")

    def completed(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        if self.center:
            return {}
        values = np.stack([np.asarray(self.encode(r)) for r in rows]).astype(np.float64)
        spread = values.std(axis=0)
        return {"center": values.mean(axis=0).tolist(), "spread": np.where(spread > 0, spread, 1.0).tolist()}

    def tags(self, frame: pd.DataFrame) -> pd.DataFrame:
        """One bin a patient by its mean target (of several: the mean of their ranks), with equally many patients."""
        import pandas as pd

        means = frame.groupby("patient")[[t for t in self.targets if t in frame]].mean()
        value = means.rank().mean(axis=1)
        bins = int(np.clip(len(value) // 10, 1, 10))
        tags = pd.qcut(value.fillna(value.median()), bins, labels=False, duplicates="drop").astype(str)
        return tags.rename("tag").reset_index()

    def criterion(self, logits: Tensor, target: Tensor, given: TaskLoss) -> Tensor:
        from torch.nn.functional import l1_loss, mse_loss, smooth_l1_loss

        known = ~target.isnan()
        wanted = ((target - given.center) / given.spread).nan_to_num(0.0)
        loss = {"l1": l1_loss, "mse": mse_loss, "huber": smooth_l1_loss}[self.loss]
        return given.mean_of(loss(logits, wanted, reduction="none"), known)

    def activation(self, logits: Tensor, center: Tensor, spread: Tensor) -> Tensor:
        return logits * spread + center

    def evidence(self, logits: Tensor) -> Tensor:
        from slivit.targets.loss import TaskLoss

        return TaskLoss(self).activation(logits).double()

    def readout(self, x: Array, y: npt.NDArray[Any], other: Array, model: Estimators | None = None) -> Array:
        from sklearn.linear_model import Ridge
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        columns = []
        for labels in y.reshape(len(y), -1).T:
            known = ~np.isnan(labels)
            fitted = model.regressor() if model else make_pipeline(StandardScaler(), Ridge())
            columns.append(np.asarray(fitted.fit(x[known], labels[known]).predict(other)))
        return np.stack(columns, 1)

    def counts(self, known: pd.Series) -> dict[str, Any]:
        values = known.astype(float).sort_values()  # of which sums are the same in whatever order they came
        statistics = {name: float(getattr(values, name)()) for name in ("mean", "std", "min", "median", "max")}
        return {name: value for name, value in statistics.items() if np.isfinite(value)}

    @property
    def promise(self) -> str:
        return f"{self.named_targets} in numbers"

    def tallies(self, counts: Mapping[str, Any]) -> dict[str, str]:
        texts = {t: f"{counts[t].get('mean', 0):.4g} ({counts[t].get('std') or 0:.3g})" for t in self.targets}
        return {f"{target}, mean (SD)": text for target, text in texts.items()}


def _classified(x: Array, y: npt.NDArray[Any], other: Array, model: Estimators | None) -> Array:
    """The probabilities of a classifier, (m, classes); a logistic regression on standardised features where None."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    plain = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, C=0.1))
    return np.asarray((model.classifier() if model else plain).fit(x, y).predict_proba(other))


def _numbers_first(name: str) -> tuple[int, float, str]:
    try:
        return 0, float(name), name
    except ValueError:
        return 1, 0.0, name
