"""Several sets side by side: each item's loss is its own set's, and only that set's outputs learn from it."""

import numpy as np
import pytest
import torch

from slivit.errors import ManifestError
from slivit.targets.loss import TaskLoss
from slivit.targets.task import Task
from slivit.train.mixture import Mixture, MixtureLoss, mixture_metrics

KERMANY = Task(kind="multiclass", targets=("label",), classes=("CNV", "DME", "DRUSEN", "NORMAL"))
CHEST = Task(kind="multilabel", targets=("mass", "effusion", "edema"))


@pytest.fixture
def mixture():
    return Mixture({"kermany": KERMANY, "chest": CHEST})


def rows(mixture):
    found = [
        {"set": "kermany", "label": "DME"},
        {"set": "chest", "mass": 1, "effusion": 0, "edema": None},
        {"set": "kermany", "label": "NORMAL"},
    ]
    return torch.from_numpy(np.stack([mixture.encode(row) for row in found]))


def test_outputs_lie_side_by_side(mixture):
    assert mixture.out_dim == 7
    assert mixture.spans == {"kermany": slice(0, 4), "chest": slice(4, 7)}
    own, targets = mixture.part("kermany", rows(mixture))
    assert own.tolist() == [True, False, True]
    assert targets.tolist() == [1, 3]


def test_the_loss_is_the_mean_of_each_items_own(mixture):
    logits, target = torch.randn(3, 7), rows(mixture)
    kermany = TaskLoss(KERMANY, reduction="none")(logits[[0, 2], :4], torch.tensor([1, 3]))
    chest = TaskLoss(CHEST, reduction="none")(logits[[1], 4:], torch.tensor([[1.0, 0.0, float("nan")]]))
    torch.testing.assert_close(MixtureLoss(mixture)(logits, target), (kermany.sum() + chest.sum()) / 3)


def test_only_the_own_sets_outputs_get_gradients(mixture):
    logits = torch.randn(3, 7, requires_grad=True)
    MixtureLoss(mixture)(logits, rows(mixture)).backward()
    used = logits.grad != 0
    assert used[[0, 2], :4].all()
    assert not used[[0, 2], 4:].any()
    assert used[1].tolist() == [False] * 4 + [True, True, False]


def test_probabilities_and_metrics_are_each_sets_own(mixture):
    probabilities = MixtureLoss(mixture).activation(torch.randn(5, 7))
    torch.testing.assert_close(probabilities[:, :4].sum(1), torch.ones(5))
    assert [m.name for m in mixture_metrics(mixture)] == ["roc_auc_kermany", "roc_auc_chest"]


def test_an_unknown_set_is_named(mixture):
    with pytest.raises(ManifestError, match='set is "organ"'):
        mixture.encode({"set": "organ"})


def test_targets_are_described_for_pictures(mixture):
    encoded = rows(mixture)
    assert mixture.describe(encoded[0]) == "kermany: DME"
    assert mixture.describe(encoded[1]).startswith("chest: mass 1, effusion 0")


def test_the_joint_loss_is_over_the_outputs_of_all_sets(mixture):
    logits = torch.randn(3, 7, requires_grad=True)
    labels = torch.tensor([[0, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0, 0], [0, 0, 0, 1, 0, 0, 0]]).float()
    known = torch.ones(3, 7)
    known[1, 6] = 0  # edema is not known of the second row
    loss = MixtureLoss(mixture, joint=True)(logits, rows(mixture))
    expected = (
        torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, known, reduction="sum") / known.sum()
    )
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert ((logits.grad != 0) == known.bool()).all()
