"""Scans cut into windows: from a recipe to predictions and evaluation, with labels of slices and a search of rates."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from slivit.errors import ManifestError, RecipeError
from slivit.evaluate import command as evaluate
from slivit.folder import RunFolder
from slivit.phantoms import make_phantoms
from slivit.predict import command as predict
from slivit.recipe import check_recipe, finetune
from slivit.train import rates, scans
from slivit.train.callbacks import Diverged
from slivit.train.recipe import FinetuneRecipe

MODEL = {"name": "r3d_18", "slices": 8, "image_size": 16, "depths": [1, 1, 0, 0]}


@pytest.fixture(scope="module")
def chests(tmp_path_factory):
    """CT phantoms with and without a nodule, in a manifest that names the slices that show it."""
    folder = tmp_path_factory.mktemp("chests")
    make_phantoms("ct", folder, n=12, seed=3, slices=20, size=64)
    table = pd.read_csv(folder / "manifest.csv")
    table = table.sort_values(["nodule", "patient"], ignore_index=True)
    patients = table["patient"].drop_duplicates().tolist()
    splits = {p: ("train", "val", "test")[i % 3] for i, p in enumerate(patients)}
    table["split"] = table["patient"].map(splits)
    table.to_csv(folder / "manifest.csv", index=False)
    return folder / "manifest.csv"


FULL = "testing.precision=float32"


def recipe(csv, out, **changes):
    values = {
        "out": str(out),
        "data": {"manifest": str(csv), "workers": 0,
                 "slice_labels": {"column": "nodule_slices", "min_positive_slices": 1}},
        "task": {"kind": "binary", "targets": ["nodule"]},
        "model": MODEL,
        "preprocessing": {"window": {"level": -600, "width": 1500}, "stretch": False, "resize": [18, 18],
                          "windows": {"stride": 4}},
        "augmentation": {"rotate": 20, "policy": "imagenet"},
        "fit": {"epochs": 2, "lr": [1e-2, 1e-3], "schedule": "constant", "batch_size": 4, "oversample": True,
                "monitor": "roc_auc", "precision": "float32", "device": "cpu"},
        "testing": {"draws": 20, "level": 0.95, "precision": "float32", "baselines": False},
    }  # fmt: skip
    for key, value in changes.items():
        section, _, name = key.partition("__")
        values[section] = values[section] | {name: value}
    return check_recipe(FinetuneRecipe, values, "a test")


@pytest.fixture(scope="module")
def run(chests, tmp_path_factory):
    return finetune(recipe(chests, tmp_path_factory.mktemp("chest") / "run"))


def test_the_run_tells_of_its_windows(run, chests):
    table = pd.read_csv(run / "windows.csv")
    assert (table["slices"] == 20).all()
    assert (table["windows"] == 4).all()
    known = pd.read_csv(chests).set_index("path")["nodule"]
    for row in table.itertuples():
        assert bool(row.positive) == bool(known["scans/" + row.path.rpartition("/")[2]])


def test_every_rate_is_recorded_and_the_best_is_kept(run):
    told = json.loads((run / "rates.json").read_text())
    assert [s["lr"] for s in told["rates"]] == [1e-2, 1e-3]
    best = max(told["rates"], key=lambda s: s["roc_auc"])
    assert told["best"] == best["lr"]
    training = json.loads((run / "checkpoint" / "config.json").read_text())["training"]
    assert (training["lr"], training["roc_auc"]) == (best["lr"], best["roc_auc"])
    assert (run / "history.csv").read_text() == (run / "rates" / f"{best['lr']:g}" / "history.csv").read_text()


def test_what_is_monitored_is_the_auc_of_scans(run):
    """The best epoch's AUC is that of the validation scans' predictions, each the maximum over its windows."""
    from sklearn.metrics import roc_auc_score

    training = json.loads((run / "checkpoint" / "config.json").read_text())["training"]
    val = pd.read_csv(run / "predictions.csv").query("split == 'val'")
    assert roc_auc_score(val["target_nodule"], val["prob_nodule"]) == pytest.approx(training["roc_auc"])


def test_evaluation_and_prediction_cut_scans_as_training_did(run, chests, tmp_path):
    own = pd.read_csv(run / "predictions.csv").query("split == 'test'").set_index("path")
    evaluated = evaluate.run(evaluate.recipe_for(str(run), ["testing.draws=20", FULL], None, tmp_path / "evaluation"))
    again = pd.read_csv(evaluated / "predictions.csv").set_index("path")
    np.testing.assert_allclose(again["prob_nodule"], own.loc[again.index, "prob_nodule"], atol=1e-5)
    scans = list(own.index[:2])
    table = predict.run(run, scans, device="cpu", precision="float32").set_index("path")
    np.testing.assert_allclose(table.loc[scans, "prob_nodule"].astype(float), own.loc[scans, "prob_nodule"], atol=1e-5)


class Fake:
    """Trainings whose outcome is known."""

    def __init__(self, outcomes):
        import torch

        self.outcomes, self.network = dict(outcomes), torch.nn.Linear(1, 1, bias=False)
        self.called = []

    def model(self, recipe_):
        return self.network

    def __call__(self, recipe_, folder, *, resume=False, earlier=0):
        import torch

        self.called.append((recipe_.fit.lr, resume))
        value = self.outcomes[recipe_.fit.lr]
        if value is KeyboardInterrupt:
            raise value
        (folder / "history.csv").write_text("epoch\n")
        if value is None:
            raise Diverged("the training loss became nan in epoch 0")
        self.network.weight.data = torch.tensor([[recipe_.fit.lr]])
        return self.network, {"lr": recipe_.fit.lr, "best_epoch": 1, recipe_.fit.monitor: value}


def run_folder(chosen, resume=False):
    return RunFolder(Path(chosen.out), chosen, resume=resume)


@pytest.mark.parametrize(
    ("monitor", "values", "best"),
    [("roc_auc", [None, 0.7, 0.9, 0.9], 0.01), ("valid_loss", [0.3, 0.2, float("nan"), 0.4], 0.1)],
)
def test_the_best_rate_is_chosen_by_the_monitor(chests, tmp_path, monitor, values, best):
    tried = (1.0, 0.1, 0.01, 0.001)
    chosen = recipe(chests, tmp_path / "run", fit__lr=list(tried), fit__monitor=monitor)
    fake = Fake(zip(tried, values, strict=True))
    model, score = rates.best_trial(fake, chosen, run_folder(chosen))
    assert score["lr"] == best
    assert model.weight.item() == pytest.approx(best)
    told = json.loads((tmp_path / "run" / "rates.json").read_text())["rates"]
    assert ["error" in s for s in told] == [v is None or v != v for v in values]
    kept = [p.parent.name for p in (tmp_path / "run").rglob("best.safetensors")]
    assert kept == [f"{best:g}"]


def test_a_search_that_died_goes_on_with_the_rate_at_which_it_died(chests, tmp_path):
    chosen = recipe(chests, tmp_path / "run", fit__lr=[1.0, 0.1, 0.01])
    dying, whole = Fake({1.0: 0.9, 0.1: KeyboardInterrupt}), Fake({0.1: 0.5, 0.01: 0.6})
    with pytest.raises(KeyboardInterrupt):
        rates.best_trial(dying, chosen, run_folder(chosen))
    (tmp_path / "run" / "rates" / "0.1" / "progress.pt").touch()
    assert rates.best_trial(whole, chosen, run_folder(chosen, resume=True))[1]["lr"] == 1.0
    assert whole.called == [(0.1, True), (0.01, False)]
    assert whole.network.weight.item() == 1.0


def test_no_rate_that_leads_anywhere_is_told(chests, tmp_path):
    fake = Fake({1e-2: None, 1e-3: None})
    with pytest.raises(RecipeError, match=r"no rate of fit.lr led anywhere: 0.01 failed"):
        rates.best_trial(fake, chosen := recipe(chests, tmp_path / "run"), run_folder(chosen))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"preprocessing__windows": False}, "data.slice_labels label the windows of a scan"),
        ({"task__kind": "regression"}, "slice_labels belong to a binary task"),
        ({"task__kind": "multiclass", "data__slice_labels": None}, 'set it to "mean"'),
        ({"task__kind": "regression", "data__slice_labels": None}, "fit.oversample is for classification"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_told_before_a_run_begins(chests, tmp_path, changes, told):
    with pytest.raises(RecipeError, match=told):
        finetune(recipe(chests, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("lr", [[], [1e-3, 1e-3], [1e-3, -1.0], 0.0])
def test_rates_that_cannot_be_are_told(chests, tmp_path, lr):
    with pytest.raises(RecipeError, match="lr"):
        recipe(chests, tmp_path / "run", fit__lr=lr)


def test_windows_without_labels_have_the_target_of_their_scan(chests, tmp_path):
    out = tmp_path / "run"
    chosen = recipe(chests, out, data__slice_labels=None)
    found = scans.labelled_scans(chosen)
    plan = found.windows(chosen.preprocessing.model_copy(update={"size": (8, 16, 16)}))
    scans.write_windows(plan, found.task, run_folder(chosen))
    assert all(window["nodule"] == scan.row["nodule"] for scan in plan for window in scan.windows)
    table = pd.read_csv(out / "windows.csv")
    assert table["positive"].isin((0, 4)).all()


def test_labels_after_which_no_window_is_positive_are_told(chests, tmp_path):
    labels = {"column": "nodule_slices", "min_positive_slices": 5}
    with pytest.raises(
        ManifestError, match=r"windows of the training scans are negative; .* from 5 positive slices on"
    ):
        finetune(recipe(chests, tmp_path / "run", data__slice_labels=labels))
