"""A label-efficiency curve: the study of one recipe over nested shares of the labels and seeds."""

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from slivit.cli import app
from slivit.errors import RecipeError
from slivit.experiments import study
from slivit.experiments.curve import curve_study
from slivit.recipe import load_recipe

COMPARE = study.compare_runs


@pytest.fixture
def base(blob_scans, tmp_path, tiny_recipe):
    return tiny_recipe(tmp_path, blob_scans, **{"fit.epochs": 1})


@pytest.fixture
def recipe(base):
    return load_recipe("finetune", base)


def made(recipe, out, fractions, seeds, **options):
    return study.run(curve_study(recipe, out, fractions, seeds), processes=0, **options)


def test_every_fraction_and_seed_is_a_run_and_the_page_tells_of_the_labels(recipe, trained, tmp_path, monkeypatch):
    monkeypatch.setattr("slivit.experiments.study.compare_runs", COMPARE)
    found = made(recipe, tmp_path / "c", [1.0, 0.25], [0, 1])
    assert [name for name, _ in trained.made] == [
        f"slivit/as_given/fraction_{f}/seed_{s}" for s in (0, 1) for f in ("1", "0.25")
    ]
    told = json.loads((found.folder / "study.json").read_text())
    assert [(c["fraction"], c["train_scans"]) for c in told["cells"]] == [(1.0, 40), (0.25, 10)]
    few = told["cells"][1]
    single = [run["metrics"]["roc_auc"] for run in few["runs"]]
    assert few["metrics"]["roc_auc"]["value"] == pytest.approx(np.mean(single))
    assert few["spread"]["roc_auc"]["sd"] == pytest.approx(np.std(single, ddof=1))
    html = found.page.read_text()
    for text in ("<h1>Label efficiency: ",
                 "with 10 training scans, and", "The last step, from 10 to 40 scans", "10 scans (25%)", "seed 1",
                 "single runs", "labels-roc-auc.svg", "labels-average-precision.svg"):  # fmt: skip
        assert text in html
    assert "the best roc" not in html.lower()


def test_runs_of_another_recipe_are_not_taken_for_this_one(recipe, trained, tmp_path):
    made(recipe, tmp_path / "c", [1.0], [0])
    other = recipe.model_copy(update={"fit": recipe.fit.model_copy(update={"epochs": 7})})
    with pytest.raises(RecipeError, match="holds a run of another recipe"):
        made(other, tmp_path / "c", [1.0], [0])
    made(other, tmp_path / "c", [1.0], [0], overwrite=True)
    assert len(trained.made) == 2


@pytest.mark.parametrize(
    ("fractions", "seeds", "message"),
    [
        ([], [0], "fractions"),
        ([0.5, 0.5], [0], "repeated"),
        ([0.0], [0], "above 0"),
        ([1], [], "seeds"),
    ],
)
def test_fractions_and_seeds_that_cannot_be(recipe, tmp_path, fractions, seeds, message):
    with pytest.raises(RecipeError, match=message):
        curve_study(recipe, tmp_path / "c", fractions, seeds)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("left", ["curve.json", "runs/fraction_0.5_seed_0/recipe.toml"])
def test_a_curve_of_an_earlier_version_is_refused_and_left(recipe, tmp_path, left):
    (tmp_path / left).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / left).write_text("{}")
    with pytest.raises(RecipeError, match=r"earlier version.*give another folder"):
        curve_study(recipe, tmp_path)
    assert (tmp_path / left).read_text() == "{}"


def test_a_curve_of_real_runs_by_the_command(base, tmp_path):
    out = tmp_path / "c"
    answer = CliRunner().invoke(app, ["curve", str(base), str(out), "--fractions", "0.5,1", "--seeds", "0"])
    assert answer.exit_code == 0, answer.output
    cells = json.loads((out / "study.json").read_text())["cells"]
    assert [c["train_scans"] for c in cells] == [24, 12]
    runs = out / "runs" / "slivit" / "as_given"
    few, all_of_them = (pd.read_csv(runs / f"fraction_{f}" / "seed_0" / "split.csv") for f in ("0.5", "1"))
    train = [set(t.loc[t["split"] == "train", "patient"]) for t in (few, all_of_them)]
    assert train[0] < train[1], "subsets are nested"
    assert set(few.loc[few["split"] == "test", "path"]) == set(all_of_them.loc[all_of_them["split"] == "test", "path"])
    assert [c["metrics"]["roc_auc"]["n"] for c in cells] == [8, 8]
