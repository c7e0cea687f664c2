from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from slivit.targets.loss import TaskLoss
from slivit.targets.task import Task
from slivit.train.metrics import EpochMetric, WholeLoss, task_metrics

BINARY = Task(kind="binary", targets=("a",))
MULTILABEL = Task(kind="multilabel", targets=("a", "b"))
NAN = float("nan")


def test_binary_loss_is_cross_entropy_of_logits():
    logits, target = torch.randn(5, 1), torch.tensor([[0.0], [1], [1], [0], [1]])
    assert torch.allclose(TaskLoss(BINARY)(logits, target), F.binary_cross_entropy_with_logits(logits, target))
    assert torch.allclose(TaskLoss(BINARY).activation(logits), logits.sigmoid())


def test_missing_labels_count_nowhere():
    logits = torch.randn(3, 2, requires_grad=True)
    target = torch.tensor([[1.0, NAN], [0.0, 1.0], [NAN, NAN]])
    loss = TaskLoss(MULTILABEL)(logits, target)
    known = ~target.isnan()
    assert torch.allclose(loss, F.binary_cross_entropy_with_logits(logits[known], target[known]))
    loss.backward()
    assert (logits.grad[~known] == 0).all()
    assert (logits.grad[known] != 0).all()


def test_a_batch_without_labels_gives_zero_not_nan():
    logits = torch.randn(3, 2, requires_grad=True)
    loss = TaskLoss(MULTILABEL)(logits, torch.full((3, 2), NAN))
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


def test_multiclass_weights_and_smoothing_are_torchs():
    task = Task(kind="multiclass", targets=("c",), classes=("x", "y", "z"), class_weights=(1.0, 2.0, 3.0))
    logits, target = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    expected = F.cross_entropy(logits, target, weight=torch.tensor([1.0, 2.0, 3.0]), label_smoothing=0.1)
    assert torch.allclose(TaskLoss(task, label_smoothing=0.1)(logits, target), expected)
    assert torch.allclose(TaskLoss(task).activation(logits).sum(1), torch.ones(6))
    assert torch.equal(TaskLoss(task).decodes(logits.softmax(1)), logits.argmax(1))


@pytest.mark.parametrize(("loss", "function"), [("l1", F.l1_loss), ("mse", F.mse_loss), ("huber", F.smooth_l1_loss)])
def test_regression_is_standardised_inside_and_in_units_outside(loss, function):
    task = Task(kind="regression", targets=("ef",), loss=loss, center=(55.0,), spread=(12.0,))
    out, target = torch.randn(4, 1), torch.tensor([[50.0], [60], [70], [20]])
    assert torch.allclose(TaskLoss(task)(out, target), function(out, (target - 55) / 12))
    assert torch.allclose(TaskLoss(task).activation(out), out * 12 + 55)


def test_one_loss_a_scan():
    logits, target = torch.randn(4, 2), torch.tensor([[1.0, NAN], [0, 1], [1, 1], [0, 0]])
    each = TaskLoss(MULTILABEL, reduction="none")(logits, target)
    assert each.shape == (4,)
    assert torch.allclose(each[0], F.binary_cross_entropy_with_logits(logits[0, :1], target[0, :1]))


def test_metrics_take_probabilities_over_all_batches():
    class Learn:
        loss_func = TaskLoss(BINARY)

    metric = next(m for m in task_metrics(BINARY) if m.name == "roc_auc")
    metric.reset()
    for y, logit in [([0, 1], [-1.0, 2.0]), ([1, 0], [0.5, 1.0])]:
        Learn.y, Learn.pred = torch.tensor(y).float()[:, None], torch.tensor(logit)[:, None]
        metric.accumulate(Learn)
    assert metric.value == pytest.approx(0.75)
    metric.reset()
    assert np.isnan(metric.value)


def test_an_undefined_metric_is_not_a_number():
    metric = EpochMetric("m", lambda y, p: None)
    metric.targets, metric.predictions = [torch.zeros(2)], [torch.zeros(2)]
    assert np.isnan(metric.value)


@pytest.mark.parametrize("kind", ["multilabel", "multiclass", "regression"])
def test_the_validation_loss_is_that_of_all_items_however_they_are_batched(kind):
    generator = torch.Generator().manual_seed(0)
    if kind == "multiclass":
        task = Task(kind=kind, targets=("c",), classes=("x", "y", "z"), class_weights=(1.0, 5.0, 0.2))
        target = torch.randint(0, 3, (11,), generator=generator)
    else:
        task = Task(kind=kind, targets=("a", "b"))
        target = torch.randint(0, 2, (11, 2), generator=generator).float()
        target[:5, 1] = target[7, 0] = float("nan")
    loss, logits = TaskLoss(task, 0.0), torch.randn(11, task.out_dim, generator=generator)
    metric = WholeLoss()
    metric.reset()
    for part in torch.arange(11).split(4):
        x, y = logits[part], target[part]
        learn = SimpleNamespace(loss_func=loss, y=y, yb=(y,), loss=loss(x, y), to_detach=torch.Tensor.detach)
        metric.accumulate(learn)
    assert float(metric.value) == pytest.approx(float(loss(logits, target)), rel=1e-6)
