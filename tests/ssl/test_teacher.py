"""Teachers, temperatures and frozen layers: the formulas, and where each schedule stands at a given step."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from slivit.ssl.collapse import SPREAD, WatchCollapse, feature_spread, prototype_entropy, target_entropy
from slivit.ssl.teacher import Distillation, FollowStudent, FreezeLast, Targets, WarmTemperature, half_cosine


def at(callback, pct, epochs=10, **more):
    """A callback that stands at a part of the training."""
    callback.learn = SimpleNamespace(pct_train=pct, n_epoch=epochs, epoch=int(pct * epochs), training=False, **more)
    return callback


def network():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))


@pytest.mark.parametrize(("done", "momentum"), [(0.0, 0.992), (0.5, 0.996), (1.0, 1.0)])
def test_the_teacher_follows_by_its_momentum(done, momentum):
    pair = Distillation(network())
    nn.init.normal_(pair.student[0].weight)
    old, new = pair.teacher[0].weight.clone(), pair.student[0].weight.detach()
    at(FollowStudent(pair, 0.992, 1.0), done).after_step()
    torch.testing.assert_close(pair.teacher[0].weight, momentum * old + (1 - momentum) * new)
    assert math.isclose(half_cosine(0.992, 1, done), momentum)


def test_the_teacher_stays_in_evaluation_but_for_its_batch_norms_and_has_no_gradients():
    pair = Distillation(network())
    for mode in (True, False):
        pair.train(mode)
        assert pair.student.training is mode
        assert not pair.teacher[2].training
        assert pair.teacher[1].training is mode
    assert not any(p.requires_grad for p in pair.teacher.parameters())
    assert all(p.requires_grad for p in pair.student.parameters())


@pytest.mark.parametrize(("pct", "temperature"), [(0, 0.04), (0.15, 0.055), (0.3, 0.07), (0.9, 0.07)])
def test_the_temperature_rises_in_a_line_and_stays(pct, temperature):
    targets = Targets(8, "sinkhorn")
    at(WarmTemperature([targets], 0.04, 0.07, 3), pct).before_batch()
    assert math.isclose(targets.temperature, temperature)
    at(WarmTemperature([targets], 0.04, 0.07, 0), 0.0).before_batch()
    assert targets.temperature == 0.07


def test_the_last_layer_waits():
    layer = nn.Linear(2, 2)
    for pct, waits in ((0.0, True), (0.09, True), (0.1, False)):
        layer(torch.ones(1, 2)).sum().backward()
        at(FreezeLast([layer], 1), pct).before_step()
        assert (layer.weight.grad is None) is waits


def test_centres_move_in_training_alone_and_are_part_of_the_state():
    targets = Targets(4, "softmax")
    logits = torch.tensor([[4.0, 0, 0, 0], [2.0, 0, 0, 0]])
    targets.eval()(logits)
    assert targets.centre.center.abs().sum() == 0
    targets.train()(logits)
    torch.testing.assert_close(targets.state_dict()["centre.center"], torch.tensor([[0.3, 0, 0, 0]]))


def test_spread_and_entropy_tell_collapse_from_health():
    generator = torch.Generator().manual_seed(0)
    healthy = torch.randn(500, 32, generator=generator)
    assert 0.9 < feature_spread(healthy) < 1.1
    assert feature_spread(healthy[:1].expand(8, -1)) < 1e-3
    assert prototype_entropy(20 * torch.eye(8), 0.1) > 0.999
    same = torch.zeros(8, 8)
    same[:, 2] = 20
    assert prototype_entropy(same, 0.1) < 1e-3
    assert target_entropy(torch.full((3, 8), 1 / 8)) > 0.9999
    assert target_entropy(torch.eye(8)) < 1e-3


def test_a_collapse_is_told_once_and_not_at_the_start(caplog):
    parts = {SPREAD: float("nan")}
    watch = WatchCollapse(lambda pred: {SPREAD: feature_spread(pred)}, parts)
    for pct, told in ((0.1, 0), (0.5, 1), (0.9, 1)):
        at(watch, pct, pred=torch.ones(4, 3), loss=torch.tensor(0.0))
        watch.before_validate()
        watch.after_loss()
        watch.after_validate()
        assert len(caplog.records) == told
    assert parts[SPREAD] < 1e-3
