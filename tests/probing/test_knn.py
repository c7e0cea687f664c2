"""Nearest neighbours: what a loop over the scans gives, classes, quantities, missing labels, and mistakes."""

import math

import pytest
import torch

from slivit.errors import ModelError
from slivit.probing import knn as knn_module
from slivit.probing.knn import knn_grid, knn_scores


@pytest.fixture
def scans():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 6, generator=generator)
    return x, torch.randint(0, 3, (40,), generator=generator), torch.randn(7, 6, generator=generator)


def by_hand(train_x, answers, test_x, k, temperature):
    rows = []
    for scan in test_x:
        similar = torch.stack([torch.cosine_similarity(scan, other, dim=0) for other in train_x])
        order = similar.argsort(descending=True)[:k]
        weights = [math.exp(float(similar[i]) / temperature) for i in order]
        rows.append(sum(w * answers[i] for w, i in zip(weights, order, strict=True)) / sum(weights))
    return torch.stack(rows)


@pytest.mark.parametrize("k", [1, 5, 40])
def test_votes_are_those_of_a_loop(scans, k):
    x, y, test = scans
    scores = knn_scores(x, y, test, k, temperature=0.2)
    torch.testing.assert_close(scores, by_hand(x, torch.nn.functional.one_hot(y), test, k, 0.2))
    torch.testing.assert_close(scores.sum(1), torch.ones(7))


def test_quantities_are_averaged(scans):
    x, y, test = scans
    values = torch.stack([y.float(), 10.0 * y], 1)
    torch.testing.assert_close(knn_scores(x, values, test, 5, 0.2), by_hand(x, values, test, 5, 0.2))


def test_one_search_serves_all_k_and_chunks_change_nothing(scans, monkeypatch):
    x, y, test = scans
    whole = knn_grid(x, y, test, [3, 9])
    monkeypatch.setattr(knn_module, "CHUNK", 2)
    for k, scores in knn_grid(x, y, test, [3, 9]).items():
        torch.testing.assert_close(scores, whole[k])
        torch.testing.assert_close(scores, knn_scores(x, y, test, k))


def test_a_missing_label_does_not_vote(scans):
    x, y, test = scans
    labels = torch.stack([(y == 0).float(), torch.full((40,), math.nan)], 1)
    labels[::2, 0] = math.nan
    scores = knn_scores(x, labels, test, 40)
    torch.testing.assert_close(scores[:, 0], knn_scores(x[1::2], labels[1::2, :1], test, 20)[:, 0])
    assert scores[:, 1].isnan().all()


def test_length_and_a_small_temperature_do_not_matter(scans):
    x, y, test = scans
    torch.testing.assert_close(knn_scores(5 * x, y, 0.1 * test, 9), knn_scores(x, y, test, 9))
    nearest = knn_scores(x, y, test, 1)
    torch.testing.assert_close(knn_scores(x, y, test, 9, temperature=1e-6), nearest)


def test_more_neighbours_than_scans_takes_all(scans):
    x, y, test = scans
    torch.testing.assert_close(knn_scores(x, y, test, 1000), knn_scores(x, y, test, 40))
    assert knn_scores(x, y, test[:0], 5).shape == (0, 3)


def test_mistakes_are_told(scans):
    x, y, test = scans
    for args in ((x[:, 1:], y, test), (x, y[1:], test), (x[:0], y[:0], test), (x, y.float(), test), (x[0], y, test)):
        with pytest.raises(ModelError, match="k-NN"):
            knn_scores(*args)
    for options in ({"k": 0}, {"temperature": 0.0}):
        with pytest.raises(ModelError, match="at least 1"):
            knn_scores(x, y, test, **options)
