"""Sweeps: validation rows alone, pruned, failed and killed trials, processes side by side, the best recipe."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from slivit.errors import RecipeError, SlivitError
from slivit.files import write_text
from slivit.recipe import load_recipe
from slivit.report.sweep_page import sentences

pytest.importorskip("optuna")

from slivit.experiments import searching, sweep

ROOT = Path(__file__).resolve().parents[2]
SPACE = {"fit.lr": {"type": "log", "low": 1e-5, "high": 1e-1}, "model.vit_depth": {"type": "int", "low": 1, "high": 3},
         "augmentation.crop": {"type": "categorical", "choices": [[0.5, 1.0], [0.8, 1.0]]},
         "model.dropout": {"type": "float", "low": 0.0, "high": 0.5}}  # fmt: skip


def write_toml(file, values):
    import tomli_w

    write_text(file, tomli_w.dumps(values))
    return file


@pytest.fixture
def base(tiny_recipe, blob_scans, tmp_path):
    return tiny_recipe(tmp_path, blob_scans)


@pytest.fixture
def recipe(base, tmp_path):
    def make(**changes):
        values = {"out": str(tmp_path / "sweep"), "recipe": str(base), "space": SPACE, "trials": 6, "startup": 3}
        return load_recipe("sweep", write_toml(tmp_path / "sweep.toml", values | changes))

    return make


def valley(trial, recipe, manifest):
    """A made-up training whose score is best at a rate of 1e-3; half of the trials report a course."""
    from math import log10

    import optuna

    score = (log10(recipe.fit.lr) + 3) ** 2 + 0.1 * recipe.model.args.get("vit_depth", 1)
    for epoch in (1, 2, 3):
        trial.report(score + 1 / epoch, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned
    write_text(Path(recipe.out) / "progress.pt", "")
    return score


@pytest.fixture
def no_page(monkeypatch):
    """Drawing takes seconds, and one test looks at the page."""
    monkeypatch.setattr("slivit.report.sweep_page.write_sweep", lambda *_: None)


@pytest.fixture
def made_up(monkeypatch, no_page):
    monkeypatch.setattr(sweep, "train_trial", valley)


def found_in(folder):
    return json.loads((folder / "sweep.json").read_text())


def test_a_sweep_trains_scores_and_writes_the_best_recipe(recipe, blob_scans, monkeypatch):
    """Real trainings; the test scans are taken away, so that reading one would be an error."""
    seen = []
    real = sweep.train_trial

    def watched(trial, recipe, manifest):
        seen.append(set(manifest.splits))
        return real(trial, recipe, manifest)

    monkeypatch.setattr(sweep, "train_trial", watched)
    folder = sweep.run(recipe(trials=2, space={k: SPACE[k] for k in ("fit.lr", "augmentation.crop")}))
    assert seen == [{"train", "val"}] * 2
    found = found_in(folder)
    best = next(t for t in found["trials"] if t["number"] == found["best"])
    history = pd.read_csv(folder / "trials" / best["folder"] / "history.csv")
    assert best["value"] == pytest.approx(history["valid_loss"].min())
    assert not list(folder.rglob("predictions.csv"))
    assert not list(folder.rglob("progress.pt"))
    chosen = load_recipe("finetune", folder / "best.toml")
    assert chosen.fit.lr == pytest.approx(best["values"]["fit.lr"])
    assert list(chosen.augmentation.crop) == best["values"]["augmentation.crop"]
    assert chosen.out == str(folder / "best")
    assert "test rows were not read" in (folder / "sweep.html").read_text()
    assert (folder / "settings.pdf").is_file()


@pytest.mark.slow
def test_scores_do_not_change_with_the_test_scans(recipe, base, blob_scans, tmp_path, no_page):
    """The same sweep on a table whose test scans are other files with other answers."""
    table = pd.read_csv(blob_scans)
    table["path"] = [str(blob_scans.parent / p) for p in table["path"]]
    test = table["split"] == "test"
    table.loc[test, "path"] = [str(blob_scans.parent / "scans.csv")] * test.sum()  # no scan at all: cannot be read
    table.loc[test, "path"] += [f"#{i}" for i in range(test.sum())]
    options = {"trials": 1, "space": {"fit.lr": SPACE["fit.lr"]}, "set": {"fit": {"epochs": 1}}}
    first = found_in(sweep.run(recipe(**options)))["trials"][0]["value"]
    table.loc[test, "path"] = [str(tmp_path / f"unreadable{i}.nii") for i in range(test.sum())]
    for path in table.loc[test, "path"]:
        Path(path).write_bytes(b"not a scan")
    table.loc[test, "bright"] = 1 - table.loc[test, "bright"]
    table.to_csv(tmp_path / "other.csv", index=False)
    options["set"]["data"] = {"manifest": str(tmp_path / "other.csv")}
    again = found_in(sweep.run(recipe(**options, out=str(tmp_path / "again"))))["trials"][0]["value"]
    assert again == pytest.approx(first, abs=1e-6)


@pytest.mark.parametrize("storage", ["journal", pytest.param("sqlite", marks=pytest.mark.slow)])
def test_a_sweep_goes_on_as_if_it_had_never_stopped(recipe, made_up, tmp_path, storage):
    whole = found_in(sweep.run(recipe(trials=12, out=str(tmp_path / "whole"), storage=storage)))
    sweep.run(recipe(trials=5, storage=storage))
    parts = found_in(sweep.run(recipe(trials=12, storage=storage)))
    assert [t["values"] for t in parts["trials"]] == [t["values"] for t in whole["trials"]]
    assert parts["best"] == whole["best"]
    assert {t["state"] for t in whole["trials"]} == {"finished", "pruned"}
    assert sum(whole["importances"].values()) == pytest.approx(1)


def test_a_killed_trial_changes_no_trial_after_it(recipe, monkeypatch, no_page, tmp_path):
    kills = []

    def train(trial, recipe, manifest):
        if trial.number in kills:
            kills.remove(trial.number)
            trial.report(9.0, 1)
            raise KeyboardInterrupt
        return valley(trial, recipe, manifest)

    monkeypatch.setattr(sweep, "train_trial", train)
    whole = found_in(sweep.run(recipe(trials=12, out=str(tmp_path / "whole"))))
    kills += [4, 5, 9]  # the second is the first, gone on with and killed again
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            sweep.run(recipe(trials=12))
    parts = found_in(sweep.run(recipe(trials=12)))
    assert kills == []
    for found in (whole, parts):
        for trial in found["trials"]:
            del trial["seconds"]
    assert parts == whole


def test_the_first_trial_is_the_recipe_itself_where_it_lies_in_the_space(recipe, base, made_up):
    base.write_text(base.read_text() + "\naugmentation.crop = [0.8, 1.0]\nmodel.dropout = 0.1\n")
    first = found_in(sweep.run(recipe(trials=1)))["trials"][0]
    assert first["values"] == {
        "fit.lr": 1e-3, "model.vit_depth": 1, "augmentation.crop": [0.8, 1.0], "model.dropout": 0.1
    }  # fmt: skip


def test_failed_trials_are_told_and_left_and_ties_go_to_the_earliest(recipe, monkeypatch, no_page):
    def train(trial, recipe, manifest):
        write_text(Path(recipe.out) / "progress.pt", "")
        if trial.number in (1, 4):
            raise SlivitError("too large")
        return 0.5

    monkeypatch.setattr(sweep, "train_trial", train)
    folder = sweep.run(recipe())
    found = found_in(folder)
    assert found["best"] == 0
    assert [t["state"] for t in found["trials"]].count("failed") == 2
    assert found["trials"][1]["why"] == "SlivitError: too large"
    assert "did equally well" in found["importances_why"]
    assert "Failed (1, 4): SlivitError: too large" in list(sentences(found))


def test_a_sweep_whose_first_trials_all_fail_stops(recipe, monkeypatch):
    def train(trial, recipe, manifest):
        raise SlivitError("no such weights")

    monkeypatch.setattr(sweep, "train_trial", train)
    with pytest.raises(SlivitError, match="all 3 trials failed\n  - SlivitError: no such weights"):
        sweep.run(recipe(trials=20))


def test_a_bug_ends_the_sweep(recipe, monkeypatch):
    monkeypatch.setattr(sweep, "train_trial", lambda *_: {}["a bug"])
    with pytest.raises(KeyError):
        sweep.run(recipe())


def test_a_stopped_trial_goes_on_in_its_own_folder(recipe, monkeypatch, no_page):
    calls = []

    def train(trial, recipe, manifest):
        calls.append((trial.number, recipe.out, recipe.fit.lr))
        write_text(Path(recipe.out) / "progress.pt", "")
        if len(calls) == 2:
            raise KeyboardInterrupt
        return recipe.fit.lr

    monkeypatch.setattr(sweep, "train_trial", train)
    with pytest.raises(KeyboardInterrupt):
        sweep.run(recipe(trials=3))
    folder = sweep.run(recipe(trials=3))
    assert calls[2][1:] == calls[1][1:]
    assert [t["state"] for t in found_in(folder)["trials"]] == ["finished"] * 3


SCRIPT = """
import sys, time
from slivit.recipe import load_recipe
from slivit.experiments import sweep
def train(trial, recipe, manifest):
    import pathlib
    folder = pathlib.Path(recipe.out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "progress.pt").touch()
    (folder / "begun").touch()
    time.sleep(float(sys.argv[2]))
    return recipe.fit.lr
sweep.train_trial = train
sweep.run(load_recipe("sweep", sys.argv[1]))
"""


def worker(file, seconds):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(file), str(seconds)], env=env, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_two_processes_share_a_sweep_and_a_killed_one_is_made_good(recipe, tmp_path):
    recipe(trials=8)
    file, folder = tmp_path / "sweep.toml", tmp_path / "sweep"
    first = worker(file, 600)
    while not list(folder.glob("trials/*/begun")):
        assert first.poll() is None, first.stderr.read().decode()
        time.sleep(0.2)
    first.send_signal(signal.SIGKILL)
    first.wait()
    both = [worker(file, 0.3), worker(file, 0.3)]
    for process in both:
        assert process.wait(timeout=120) == 0, process.stderr.read().decode()
    found = found_in(folder)
    assert [t["state"] for t in found["trials"]].count("finished") in (8, 9)  # both may begin a last one at once
    points = [json.dumps(t["values"]) for t in found["trials"]]
    assert len(set(points)) == len(points)
    assert any(t["folder"] == "0000" for t in found["trials"])


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"space": {"fit.lrr": SPACE["fit.lr"]}}, 'Did you mean "lr"'),
        ({"space": {"data.manifest": {"type": "categorical", "choices": ["a", "b"]}}}, "cannot be searched"),
        ({"space": {"fit.lr": {"type": "log", "low": 1, "high": 0.1}}}, "low must be below high"),
        ({"space": {"fit.lr": {"type": "lg", "low": 1, "high": 2}}}, "log"),
        ({"space": {"fit.epochs": {"type": "int", "low": 0, "high": 3}}}, "fit.epochs = 0"),
        ({"space": {"fit.label_smoothing": {"type": "float", "low": 0, "high": 0.2}}}, "cannot be compared"),
        ({"space": {"fit.lr": {"type": "categorical", "choices": [1, 1]}}}, "repeated"),
        ({"recipe": "nothing"}, "nothing"),
        ({"storage": "nonsense://x"}, "storage"),
        ({"set": {"logging": {"tracker": "none"}}}, "tracker"),
    ],
)
def test_a_wrong_sweep_is_told_before_any_trial(recipe, changes, part):
    with pytest.raises(RecipeError, match=part):
        sweep.run(recipe(**changes))


def test_a_folder_with_another_sweep_is_kept(recipe, made_up, tmp_path):
    sweep.run(recipe(trials=1))
    with pytest.raises(RecipeError, match="another sweep"):
        sweep.run(recipe(trials=1, seed=1))
    trained = tmp_path / "sweep" / "best" / "metrics.json"
    write_text(trained, "{}")
    assert len(found_in(sweep.run(recipe(trials=1, seed=1), overwrite=True))["trials"]) == 1
    assert trained.is_file(), "a model that was trained by the best recipe stays"


def test_nothing_but_a_sweep_is_overwritten(recipe, made_up, tmp_path):
    scan = tmp_path / "scans" / "scan.nii"
    write_text(scan, "irreplaceable")
    with pytest.raises(RecipeError, match="holds no sweep"):
        sweep.run(recipe(out=str(scan.parent)), overwrite=True)
    with pytest.raises(RecipeError, match="lies in a file"):
        sweep.run(recipe(out=str(scan)), overwrite=True)
    assert scan.read_text() == "irreplaceable"


def test_a_sweep_that_was_stopped_as_it_began_can_begin(recipe, made_up):
    asked = recipe(trials=1)
    base = sweep.base_recipe(asked)
    folder = sweep.open_sweep(asked, base)
    (folder / sweep.BASE).unlink()
    assert sweep.open_sweep(asked, base) == folder
    (folder / sweep.BASE).unlink()
    with pytest.raises(RecipeError, match="holds no sweep"):
        sweep.open_sweep(recipe(trials=1, seed=1), base)


def test_space_may_be_dotted_or_nested(recipe):
    nested = {"fit": {"lr": SPACE["fit.lr"]}, "model": {"vit_depth": SPACE["model.vit_depth"]}}
    assert set(recipe(space=nested).space) == {"fit.lr", "model.vit_depth"}


def test_shipped_sweeps_fit_their_base_recipes():
    for name in ("slivit_oct", "demo"):
        assert sweep.base_recipe(load_recipe("sweep", name)).model.name == "slivit"


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(RecipeError, match=r"\[sweep\]"):
        searching.need_optuna()
