"""Label-efficiency curves: nested runs, made once, resumed where they died, and drawn."""

import json

import numpy as np
import pandas as pd
import pytest

from slivit.errors import RecipeError
from slivit.experiments import curve
from slivit.files import write_text
from slivit.recipe import load_recipe, resolved_toml


@pytest.fixture
def recipe(blob_scans, tmp_path, tiny_recipe):
    return load_recipe("finetune", tiny_recipe(tmp_path, blob_scans, **{"fit.epochs": 1}))


@pytest.fixture
def trained(monkeypatch, made_up_predictions):
    """Runs are written without training; (folder, resume, overwrite) of each is kept."""
    made = []

    def train(recipe, *, resume=False, overwrite=False):
        from pathlib import Path

        folder = Path(recipe.out)
        made.append((folder.name, resume, overwrite))
        write_text(folder / "recipe.toml", resolved_toml(recipe))
        table, _ = made_up_predictions("binary", n=90)
        noise = np.random.default_rng(recipe.seed).normal(size=90) * 0.4 * (1 - recipe.data.train_fraction)
        table.assign(prob_drusen=np.clip(table["prob_drusen"] + noise, 0, 1)).to_csv(
            folder / "predictions.csv", index=False
        )
        train = round(40 * recipe.data.train_fraction)
        rows = [{"patient": f"T{i}", "split": "train"} for i in range(train)] + [{"patient": "V", "split": "val"}]
        pd.DataFrame(rows).to_csv(folder / "split.csv", index=False)
        write_text(folder / "metrics.json", "{}")
        (folder / "progress.pt").unlink(missing_ok=True)

    monkeypatch.setattr("slivit.train.run.run", train)
    return made


def test_every_fraction_and_seed_is_a_run(recipe, trained, tmp_path):
    out = curve.run(recipe, tmp_path / "c", [1.0, 0.25], [0, 1])
    assert [name for name, *_ in trained] == [f"fraction_{f}_seed_{s}" for f in ("0.25", "1") for s in (0, 1)]
    found = json.loads((out / "curve.json").read_text())
    assert (found["schema"], found["version"]) == ("slivit.curve", 1)
    assert [(p["fraction"], p["train_scans"]) for p in found["points"]] == [(0.25, 10), (1.0, 40)]
    single = [run["metrics"]["roc_auc"] for run in found["points"][0]["runs"]]
    assert found["points"][0]["metrics"]["roc_auc"]["value"] == pytest.approx(np.mean(single))
    assert found["points"][0]["spread"]["roc_auc"]["sd"] == pytest.approx(np.std(single, ddof=1))
    table = pd.read_csv(out / "curve.csv").query("metric == 'roc_auc' and fraction == 0.25")
    np.testing.assert_allclose(table.sort_values("seed")["value"], single)
    html = (out / "curve.html").read_text()
    assert "with 10 training scans" in html
    assert "curve.pdf" in html
    for name in ("curve.svg", "curve-average-precision.svg"):
        assert name in html
        assert (out / name).stat().st_size > 1000


def test_finished_runs_stay_and_dead_ones_go_on(recipe, trained, tmp_path):
    out = curve.run(recipe, tmp_path / "c", [0.5, 1.0], [0])
    dead, unborn = (out / "runs" / f"fraction_{f}_seed_0" for f in ("0.5", "1"))
    (dead / "metrics.json").unlink()
    (dead / "progress.pt").write_bytes(b"x")
    (unborn / "metrics.json").unlink()
    trained.clear()
    curve.run(recipe, out, [0.5, 1.0], [0, 1])
    assert trained == [
        ("fraction_0.5_seed_0", True, False),
        ("fraction_0.5_seed_1", False, True),
        ("fraction_1_seed_0", False, True),
        ("fraction_1_seed_1", False, True),
    ]
    trained.clear()
    curve.run(recipe, out, [0.5, 1.0], [0, 1])
    assert trained == []


def test_runs_of_another_recipe_are_not_taken_for_this_one(recipe, trained, tmp_path):
    out = curve.run(recipe, tmp_path / "c", [1.0], [0])
    other = recipe.model_copy(update={"fit": recipe.fit.model_copy(update={"epochs": 7})})
    with pytest.raises(RecipeError, match="holds a run of another recipe"):
        curve.run(other, out, [1.0], [0])
    curve.run(other, out, [1.0], [0], overwrite=True)
    assert len(trained) == 2


@pytest.mark.parametrize(
    ("fractions", "seeds", "message"),
    [
        ([], [0], "fractions must be"),
        ([0.5, 0.5], [0], "different numbers"),
        ([0.0], [0], "above 0"),
        ([1], [], "seeds"),
    ],
)
def test_fractions_and_seeds_that_cannot_be(recipe, tmp_path, fractions, seeds, message):
    with pytest.raises(RecipeError, match=message):
        curve.run(recipe, tmp_path / "c", fractions, seeds)


def test_a_curve_of_real_runs(recipe, tmp_path):
    out = curve.run(recipe, tmp_path / "c", [0.5, 1.0], [0])
    points = json.loads((out / "curve.json").read_text())["points"]
    assert [p["train_scans"] for p in points] == [12, 24]
    few, all_of_them = (pd.read_csv(out / "runs" / f"fraction_{f}_seed_0" / "split.csv") for f in ("0.5", "1"))
    train = [set(t.loc[t["split"] == "train", "patient"]) for t in (few, all_of_them)]
    assert train[0] < train[1], "subsets are nested"
    assert set(few.loc[few["split"] == "test", "path"]) == set(all_of_them.loc[all_of_them["split"] == "test", "path"])
    assert [p["metrics"]["roc_auc"]["n"] for p in points] == [8, 8]
