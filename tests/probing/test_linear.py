"""Linear probes: the batched grid takes the very steps of torch's SGD, head by head."""

import math

import pytest
import torch
from torch import nn

from slivit.errors import ModelError
from slivit.probing.linear import LEARNING_RATES, START, HeadGrid, Scaler, draw_batches, join, train_heads
from slivit.targets.loss import TaskLoss
from slivit.targets.task import Task

RATES = (1e-3, 0.05, 0.5)
TASKS = {
    "binary": Task(kind="binary", targets=("a",), class_weights=(3.0,)),
    "multiclass": Task(kind="multiclass", targets=("a",), classes=("x", "y", "z"), class_weights=(1.0, 2.0, 3.0)),
    "multilabel": Task(kind="multilabel", targets=("a", "b")),
    "regression": Task(kind="regression", targets=("a", "b"), center=(1.0, 2.0), spread=(3.0, 4.0)),
}


SETS = {"b": ("b",), "b+c": ("b", "c"), "a+b": ("a", "b"), "all": ("a", "b", "c")}


def made(kind, n=30):
    generator = torch.Generator().manual_seed(1)
    parts = {name: torch.randn(n, d, generator=generator) for name, d in (("a", 5), ("b", 4), ("c", 3))}
    if kind == "multiclass":
        return parts, torch.randint(0, 3, (n,), generator=generator)
    y = torch.randn(n, TASKS[kind].out_dim, generator=generator)
    y = y if kind == "regression" else (y > 0).float()
    if kind == "multilabel":
        y[::3, 0] = math.nan
    return parts, y


def one_by_one(parts, y, loss, outputs, iterations, batch_size, seed):
    """Every head by itself, with torch's optimiser and schedule; the draws in the order of the grid."""
    generator = torch.Generator().manual_seed(seed)
    starts = {
        name: torch.cat([START * torch.randn(outputs, parts[p].shape[1], generator=generator) for p in names], 1)
        for name, names in SETS.items()
    }
    source = draw_batches(len(y), batch_size, generator)
    batches = [next(source) for _ in range(iterations)]
    for name, names in SETS.items():
        x = join(parts, names)
        for rate in RATES:
            head = nn.Linear(x.shape[1], outputs)
            head.load_state_dict({"weight": starts[name], "bias": torch.zeros(outputs)})
            optimiser = torch.optim.SGD(head.parameters(), lr=rate, momentum=0.9)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, iterations)
            for rows in batches:
                optimiser.zero_grad()
                loss(head(x[rows]), y[rows]).backward()
                optimiser.step()
                schedule.step()
            yield name, rate, head, head(x).detach()


@pytest.mark.parametrize("kind", TASKS)
def test_the_grid_is_what_torch_trains_one_by_one(kind):
    parts, y = made(kind)
    loss, outputs = TaskLoss(TASKS[kind]), TASKS[kind].out_dim
    grid = train_heads(parts, y, loss, outputs, sets=SETS, rates=RATES, iterations=25, batch_size=8, seed=3)
    logits = grid.logits(parts)
    for name, rate, expected, said in one_by_one(parts, y, loss, outputs, 25, 8, 3):
        head = grid.head(name, rate)
        torch.testing.assert_close(head.weight, expected.weight, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(head.bias, expected.bias, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(logits[name][RATES.index(rate)], said, rtol=1e-3, atol=1e-3)


def test_a_head_that_diverges_takes_no_other_with_it():
    parts, y = made("regression")
    loss = TaskLoss(Task(kind="regression", targets=("a", "b"), loss="mse", center=(0.0, 0.0), spread=(1.0, 1.0)))
    parts = {name: 100 * x for name, x in parts.items()}
    both = train_heads(parts, y, loss, 2, rates=(1e-6, 0.5), iterations=60, batch_size=8)
    alone = train_heads(parts, y, loss, 2, rates=(1e-6,), iterations=60, batch_size=8)
    assert not both.weights["a"][1].isfinite().all()
    torch.testing.assert_close(both.weights["a"][0], alone.weights["a"][0])


def test_it_learns_what_can_be_learnt():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 5, generator=generator)
    y = (x[:, :1] - x[:, 1:2] > 0).float()
    grid = train_heads({"all": x}, y, TaskLoss(TASKS["binary"]), 1, iterations=200)
    right = ((grid.logits({"all": x})["all"] > 0).float() == y).float().mean((1, 2))
    assert len(right) == len(LEARNING_RATES) == 13
    assert right.max() > 0.95


def test_a_head_can_take_features_before_they_were_standardised():
    parts, y = made("binary")
    x = 3 + 5 * torch.cat([parts["a"], parts["b"][:, :2]], 1)
    x[:, 2] = 7.0
    scaler = Scaler.fitted(x)
    scaled = scaler(x)
    torch.testing.assert_close(scaled.mean(0), torch.zeros(7), atol=1e-5, rtol=0)
    assert scaled[:, 2].abs().max() == 0
    assert (scaled.std(0, correction=0) - torch.tensor([1.0, 1, 0, 1, 1, 1, 1])).abs().max() < 1e-5
    grid = train_heads({"x": scaled}, y, TaskLoss(TASKS["binary"]), 1, rates=RATES, iterations=20)
    folded = grid.head("x", 0.05, scaler)
    torch.testing.assert_close(folded(x), grid.head("x", 0.05)(scaled), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(Scaler.plain(x)(x), x)


def test_every_scan_comes_once_before_any_comes_again():
    batches = draw_batches(10, 4, torch.Generator().manual_seed(0))
    rows = torch.cat([next(batches) for _ in range(5)])
    assert sorted(rows[:10].tolist()) == sorted(rows[10:].tolist()) == list(range(10))


def test_a_seed_gives_the_same_heads():
    parts, y = made("binary")
    runs = [train_heads(parts, y, TaskLoss(TASKS["binary"]), 1, iterations=5, seed=s) for s in (0, 0, 1)]
    assert isinstance(runs[0], HeadGrid)
    assert torch.equal(runs[0].weights["a"], runs[1].weights["a"])
    assert not torch.equal(runs[0].weights["a"], runs[2].weights["a"])


def test_mistakes_are_told():
    parts, y = made("binary")
    loss = TaskLoss(TASKS["binary"])
    for wrong in ({}, {"a": parts["a"][1:]}, {"a": parts["a"][0]}):
        with pytest.raises(ModelError, match="features of each part"):
            train_heads(wrong, y, loss, 1)
    with pytest.raises(ModelError, match='no features "d"; there are "a"'):
        train_heads(parts, y, loss, 1, sets={"x": ("a", "d")})
    for options in ({"rates": ()}, {"rates": (0.0,)}, {"iterations": 0}, {"batch_size": 0}):
        with pytest.raises(ModelError, match="at least 1"):
            train_heads(parts, y, loss, 1, **options)
