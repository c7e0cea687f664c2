"""Models of tables say in the ensemble what scikit-learn says; the ensemble is the weighted mean of its members."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d
from sklearn.ensemble import RandomForestRegressor
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import RidgeCV

from slivit.models._table_features import BINS, SCALES, blurring, pooling, table_features
from slivit.models.registry import create_model
from slivit.targets.task import Task
from slivit.train.table_models import TREES, fit_table, outputs_of

TASKS = {
    "binary": Task(kind="binary", targets=("a",)),
    "multiclass": Task(kind="multiclass", targets=("a",), classes=("x", "y", "z")),
    "multilabel": Task(kind="multilabel", targets=("a", "b")),
    "regression": Task(kind="regression", targets=("a",), center=(0.0,), spread=(1.0,)),
}


def answers(task, x, rng):
    score = x[:, :2] + 0.3 * rng.normal(size=(len(x), 2))
    if task.exclusive:
        return np.digitize(score[:, 0], (-0.5, 0.5))
    if not task.makes_calls:
        return score[:, :1]
    y = (score[:, : task.out_dim] > 0).astype(float)
    if task.blanks:
        y[::7, 1] = np.nan
    return y


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("model", ["linear", "kernel", "forest"])
def test_tables_learn_every_kind(kind, model, rng):
    task, x = TASKS[kind], rng.normal(size=(360, 6)).astype(np.float32)
    y = answers(task, x, rng)
    fitted = fit_table(model, {"histogram": 6}, x[:300], y[:300], task, 0)
    p = outputs_of(fitted, x[300:], task)
    if task.exclusive:
        np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)
        assert (p.argmax(1) == y[300:]).mean() > 0.5
    elif task.makes_calls:
        known = ~np.isnan(y[300:])
        assert ((p > 0.5) == y[300:])[known].mean() > 0.75
    else:
        assert np.corrcoef(p[:, 0], y[300:, 0])[0, 1] > 0.75


def test_a_forest_is_scikit_learns(rng):
    x, y = rng.normal(size=(90, 5)).astype(np.float32), rng.normal(size=(90, 1))
    task = TASKS["regression"]
    fitted = fit_table("forest", {"histogram": 5}, x, y, task, 3)
    theirs = RandomForestRegressor(TREES, min_samples_leaf=2, random_state=3, max_features=1 / 3).fit(x, y[:, 0])
    other = np.concatenate([rng.normal(size=(50, 5)).astype(np.float32), x])
    np.testing.assert_allclose(outputs_of(fitted, other, task)[:, 0], theirs.predict(other), atol=1e-5)


def test_a_ridge_is_scikit_learns(rng):
    x, y = rng.normal(3, 2, size=(60, 5)).astype(np.float32), rng.normal(size=(60, 1))
    fitted = fit_table("linear", {"histogram": 5}, x, y, TASKS["regression"], 0)
    z = (x - x.mean(0)) / x.std(0)
    expected = RidgeCV(np.logspace(-4, 4, 17)).fit(z / np.sqrt(5), y[:, 0]).predict(z / np.sqrt(5))
    np.testing.assert_allclose(outputs_of(fitted, x, TASKS["regression"])[:, 0], expected, atol=1e-4)


def test_a_scan_like_none_before_has_no_wild_value(rng):
    x, y = rng.normal(3, 2, size=(60, 5)).astype(np.float32), rng.normal(size=(60, 1))
    y += x[:, :1]
    fitted, odd = fit_table("linear", {"histogram": 5}, x, y, TASKS["regression"], 0), x[:1].copy()
    odd[0, 0] = 1e4
    edge = odd.copy()
    edge[0, 0] = x[:, 0].max() + 0.25 * np.ptp(x[:, 0])
    wild, bounded = (outputs_of(fitted, rows, TASKS["regression"])[0, 0] for rows in (odd, edge))
    assert wild == pytest.approx(bounded, abs=1e-5)
    assert abs(wild) < 12
    old = create_model("ensemble", 1, slices=4, image_size=8, members=[{"kind": "linear", "width": 5, "features": []}])
    assert {name.rpartition(".")[2] for name in old.state_dict()} & {"low", "high"} == set()


def test_a_kernel_is_scikit_learns_and_sees_what_a_plane_does_not(rng):
    x = rng.normal(size=(150, 3)).astype(np.float32)
    y = np.square(x).sum(1, keepdims=True)
    fitted = fit_table("kernel", {"histogram": 3}, x[:100], y[:100], TASKS["regression"], 0)
    z = (x - x[:100].mean(0)) / x[:100].std(0) / np.sqrt(3)
    near = Nystroem(gamma=1.0, n_components=100, random_state=0).fit(z[:100])
    ridge = RidgeCV(np.logspace(-4, 4, 17)).fit(near.transform(z[:100]), y[:100, 0])
    p = outputs_of(fitted, x[100:], TASKS["regression"])[:, 0]
    np.testing.assert_allclose(p, ridge.predict(near.transform(z[100:])), atol=0.1)
    linear = outputs_of(fit_table("linear", {"histogram": 3}, x[:100], y[:100], TASKS["regression"], 0), x[100:],
                        TASKS["regression"])[:, 0]  # fmt: skip
    assert np.square(p - y[100:, 0]).mean() < 0.1 * np.square(linear - y[100:, 0]).mean()


def test_features_of_a_kind_weigh_as_much_as_those_of_another(rng):
    telling, noise = rng.normal(size=(120, 1)), rng.normal(size=(120, 400))
    x, y = np.concatenate([telling, noise], 1).astype(np.float32), telling + 0.1 * rng.normal(size=(120, 1))
    errors = []
    for widths in ({"extent": 1, "voxels": 400}, {"all": 401}):
        fitted = fit_table("linear", widths, x[:80], y[:80], TASKS["regression"], 0)
        errors.append(np.mean((outputs_of(fitted, x[80:], TASKS["regression"]) - y[80:]) ** 2))
    assert errors[0] < 0.25 * errors[1]


@pytest.mark.parametrize(("count", "cells"), [(28, 12), (5, 6), (64, 8), (7, 3)])
def test_pooling_is_torchs(count, cells):
    x = torch.randn(2, 1, count)
    expected = torch.nn.functional.adaptive_avg_pool1d(x, min(cells, count))
    torch.testing.assert_close(x @ pooling(count, cells).T, expected)


def test_features_of_a_scan():
    x = torch.zeros(1, 1, 4, 8, 8)
    x[0, 0, 1:3, 2:4, :] = 1.0
    features = table_features(x, ["extent", "histogram", "voxels2"])
    torch.testing.assert_close(features["extent"], torch.tensor([[0.5, 0.25, 1.0, 0.125]]))
    assert features["histogram"][0, -1] == pytest.approx(0.125)
    assert features["histogram"].shape == (1, BINS)
    assert features["voxels2"].sum() == pytest.approx(1.0)


@pytest.mark.parametrize(("count", "sigma"), [(40, 1.0), (17, 2.0), (3, 4.0), (1, 2.0)])
def test_blurring_is_scipys(count, sigma, rng):
    x = rng.normal(size=(2, count)).astype(np.float32)
    expected = gaussian_filter1d(x, sigma, mode="nearest", truncate=3)
    np.testing.assert_allclose(torch.from_numpy(x) @ blurring(count, sigma).T, expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 24, 24), (12, 24, 24)])
def test_texture_sees_a_spot_where_it_lies_and_how_wide_it_is(shape):
    def answers(place, width):
        lines = [torch.arange(n) - (p if n > 1 else 0) for n, p in zip(shape, place, strict=True)]
        squares = torch.meshgrid(*[line.square() for line in lines], indexing="ij")
        x = (-0.5 * sum(squares) / width**2).exp()
        return table_features(x[None, None], ["texture"])["texture"][0].view(len(SCALES), -1)

    narrow, elsewhere, wide = answers((6, 9, 9), 1.0), answers((6, 14, 15), 1.0), answers((6, 9, 9), 2.5)
    torch.testing.assert_close(narrow, elsewhere, atol=1e-3, rtol=0)
    assert narrow[0].abs().max() > wide[0].abs().max()
    assert narrow[:, 12].argmax() < wide[:, 12].argmax()
    blank = table_features(torch.full((1, 1, *shape), 0.5), ["texture"])["texture"]
    torch.testing.assert_close(blank, torch.zeros_like(blank), atol=1e-6, rtol=0)


def test_the_ensemble_is_the_weighted_mean(rng):
    members = [{"kind": "linear", "features": ["voxels2"], "width": 8}] * 2
    model = create_model("ensemble", 1, slices=4, image_size=16, members=members)
    with torch.no_grad():
        model.backbone[0].bias.fill_(2.0)
        model.head.weights.copy_(torch.tensor([0.75, 0.25]))
        p = model(torch.rand(3, 1, 4, 16, 16)).sigmoid()
    expected = 0.75 * torch.tensor(2.0).sigmoid() + 0.25 * 0.5
    torch.testing.assert_close(p, expected.expand(3, 1))


@pytest.mark.parametrize("kind", ["linear", "kernel", "forest"])
def test_models_of_tables_compute_in_float32_beside_networks_that_do_not(kind, rng):
    x = torch.as_tensor(rng.uniform(0, 1, (40, 1, 4, 32, 32)), dtype=torch.float32)
    table = table_features(x, ["voxels2", "histogram", "texture"])
    features = np.concatenate([part.numpy() for part in table.values()], 1)
    y = 1000 * features[:, :1]
    model = fit_table(kind, {name: part.shape[1] for name, part in table.items()}, features, y, TASKS["regression"], 0)
    module, exact = model.module(1), torch.as_tensor(features)
    expected = module(exact)
    with torch.autocast("cpu", torch.bfloat16):
        again = table_features(x, ["voxels2", "histogram", "texture"])
        torch.testing.assert_close(torch.cat(list(again.values()), 1), exact)
        torch.testing.assert_close(module(exact), expected)


def test_a_member_of_several_channels_says_alone_what_it_says_among_others(rng):
    members = [
        {"kind": "linear", "features": [name], "width": width} for name, width in (("histogram", 64), ("voxels6", 432))
    ]
    model = create_model(
        "ensemble", 1, slices=6, image_size=8, in_chans=2, members=members, activation="identity"
    ).eval()
    for table in model.backbone:
        table.weight, table.scale = torch.randn_like(table.weight), torch.ones_like(table.scale)
    x = torch.from_numpy(rng.random((3, 2, 6, 8, 8), dtype=np.float32))
    together = model.forward_members(x)
    for place in range(2):
        torch.testing.assert_close(model.member(place)(x), together[place])
