"""Evaluation of a trained checkpoint: operating points that stay, pictures, sites, and the command line."""

import hashlib
import json
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from slivit.checkpoint import load_checkpoint, store_operating_point
from slivit.cli import app
from slivit.evaluate import command as evaluate
from slivit.evaluate.recipe import EvaluateRecipe
from slivit.predict import command as predict
from slivit.recipe import check_recipe, finetune, load_recipe


def command(*args, expect=0):
    done = CliRunner().invoke(app, [str(a) for a in args])
    assert done.exit_code == expect, (done.output, done.exception)
    return done.output


@pytest.fixture(scope="module")
def scans(blob_scans, tmp_path_factory):
    """The blobs with a column of sites."""
    table = pd.read_csv(blob_scans)
    table["path"] = [str(blob_scans.parent / p) for p in table["path"]]
    table["site"] = ["A" if i % 3 else "B" for i in range(len(table))]
    file = tmp_path_factory.mktemp("sites") / "scans.csv"
    table.to_csv(file, index=False)
    return file


@pytest.fixture(scope="module")
def trained(scans, tmp_path_factory, tiny_recipe):
    folder = tmp_path_factory.mktemp("trained")
    return finetune(load_recipe("finetune", tiny_recipe(folder, scans, **{"fit.epochs": 1})))


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the run, whose checkpoint a test may change."""
    import shutil

    return shutil.copytree(trained, tmp_path / "run")


def weights_hash(run):
    return hashlib.sha256((run / "checkpoint" / "model.safetensors").read_bytes()).hexdigest()


def test_an_operating_point_is_fixed_on_validation_rows_and_stays(run, scans):
    before = weights_hash(run)
    command("evaluate", run, "--operating-point", "sensitivity=0.9", "--site", "site", "testing.draws=20")
    stored = load_checkpoint(run).operating_point
    assert weights_hash(run) == before
    val = pd.read_csv(run / "predictions.csv").query("split == 'val'")
    assert stored.thresholds["bright"].n == len(val)
    called = stored.apply(val, load_checkpoint(run).task)["call_bright"]
    assert called[val["target_bright"] == 1].mean() >= 0.9
    table = predict.run(run, [pd.read_csv(scans)["path"][0]])
    columns = list(table.columns)
    assert columns.index("call_bright") < columns.index("notes")
    assert table["call_bright"][0] == int(table["prob_bright"][0] >= stored.threshold("bright"))
    metrics = json.loads((run / "evaluation" / "metrics.json").read_text())
    assert metrics["operating_point"]["thresholds"]["bright"]["value"] == stored.threshold("bright")
    assert metrics["data"]["trained_on"] == {"site": ["A", "B"]}
    assert metrics["data"]["external"] is False
    assert [e["scans"] for e in metrics["data"]["excluded"]] == [24, 8]


def test_without_options_the_stored_operating_point_counts(run):
    checkpoint = load_checkpoint(run)
    assert checkpoint.operating_point is None
    decision = evaluate.decide(None, checkpoint.task, evaluate.Testing(operating_point="0.123"))
    store_operating_point(run, decision)
    found = evaluate.decision_for(evaluate.Testing(), load_checkpoint(run))
    assert found.threshold("bright") == 0.123
    again = evaluate.decision_for(evaluate.Testing(operating_point="0.4"), load_checkpoint(run))
    assert again.threshold("bright") == 0.4


def test_without_an_operating_point_there_is_no_call(run, scans):
    assert "call_bright" not in predict.run(run, [pd.read_csv(scans)["path"][0]])


def test_the_page_shows_the_errors_and_the_model(run):
    folder = evaluate.run(evaluate.recipe_for(str(run), ["testing.draws=10", "testing.pictures=3"], None, None))
    table = pd.read_csv(folder / "predictions.csv")
    wrong = int((table["call_bright"] != table["target_bright"]).sum())
    html = (folder / "report" / "index.html").read_text()
    assert html.count('<img src="data:image/png;base64,') == min(wrong, 3)
    config = json.loads((run / "checkpoint" / "config.json").read_text())
    assert config["sha256"] in html
    assert "test_resnet" in html
    assert "figure-history" in html
    assert "24 rows are left out because they are in the split" in html


def test_a_run_is_measured_again_as_it_was(run):
    metrics = json.loads((run / "metrics.json").read_text())
    own = evaluate.recipe_for(str(run), ["testing.level=0.8"], None, None).testing
    assert own.draws == evaluate.Testing().draws > metrics["settings"]["draws"]
    assert own.level == 0.8
    changed = metrics | {"settings": metrics["settings"] | {"by_patient": True, "subgroups": ["age"], "draws": 5000}}
    copy = run.parent / "measured_otherwise"
    copy.mkdir()
    (copy / "split.csv").write_bytes((run / "split.csv").read_bytes())
    (copy / "metrics.json").write_text(json.dumps(changed))
    kept = evaluate.recipe_for(str(copy), [], None, None).testing
    assert (kept.by_patient, kept.subgroups, kept.draws) == (True, ("age",), 5000)
    others = evaluate.recipe_for(str(copy), [], "other.csv", None).testing
    assert (others.by_patient, others.subgroups) == (True, ())


def test_an_external_table_is_told_from_the_run_s_own(run, scans, tmp_path):
    table = pd.read_csv(scans).drop(columns="split").head(10)
    table.loc[5:, "path"] = [str(scans.parent / f"copy{i}.nii") for i in range(5)]
    for copy, source in zip(table["path"][5:], pd.read_csv(scans)["path"], strict=False):
        (scans.parent / copy).write_bytes(Path(source).read_bytes())
    table.to_csv(tmp_path / "external.csv", index=False)
    recipe = evaluate.recipe_for(str(run), ["testing.draws=5"], str(tmp_path / "external.csv"), tmp_path / "out")
    data = json.loads((evaluate.run(recipe) / "metrics.json").read_text())["data"]
    assert data["external"] is True
    assert data["shared_patients"] == 10
    assert "10 patients of these scans were in training" in (tmp_path / "out" / "report" / "index.html").read_text()


def test_a_table_of_predictions_is_enough(run, tmp_path):
    alone = tmp_path / "alone.csv"
    pd.read_csv(run / "predictions.csv").to_csv(alone, index=False)
    command(
        "evaluate", alone, "--out", tmp_path / "out", "--operating-point", "youden", "--by-patient", "testing.draws=10"
    )
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["operating_point"]["rule"] == "youden"
    assert metrics["task"]["targets"] == ["bright"]
    assert (tmp_path / "out" / "report" / "index.html").is_file()
    assert "testing.* options alone" in command("evaluate", alone, "data.workers=3", expect=2)


def test_a_recipe_of_training_can_fix_the_operating_point(trained, tmp_path):
    recipe = load_recipe(
        "finetune", trained / "recipe.toml", [f"out={tmp_path / 'run'}", "testing.operating_point=youden"]
    )
    folder = finetune(recipe)
    stored = load_checkpoint(folder).operating_point
    metrics = json.loads((folder / "metrics.json").read_text())
    assert stored.rule == "youden"
    assert metrics["operating_point"]["thresholds"]["bright"]["value"] == stored.threshold("bright")


def test_mistakes_are_told_before_anything_is_predicted(run, monkeypatch):
    monkeypatch.setattr("slivit.predict.engine.predict_table", lambda *a, **k: pytest.fail("predicted"))
    assert 'no column "sit". Did you mean "site"' in command("evaluate", run, "--site", "sit", expect=2)
    assert "An operating point is" in command("evaluate", run, "--operating-point", "high", expect=2).replace(
        "an oper", "An oper"
    )
    (run / "predictions.csv").unlink()
    assert "needs validation rows" in command("evaluate", run, "--operating-point", "youden", expect=2)


def test_curve_and_compare_commands_tell_mistakes(tmp_path):
    assert "two runs at least" in command("compare", tmp_path, expect=2)
    assert '"x" is not a number' in command("curve", "demo", tmp_path / "c", "--fractions", "0.5,x", expect=2)


def test_other_testing_measures_again_and_predicts_nothing(run, scans, tmp_path, monkeypatch):
    values = {"checkpoint": str(run), "out": str(tmp_path / "out"), "data": {"manifest": str(scans)}, "page": False}
    options = {"draws": 10, "level": 0.9, "baselines": False}

    def evaluated(**changes):
        recipe = check_recipe(EvaluateRecipe, values | {"testing": options | changes}, "the tests")
        evaluate.run(recipe, resume=True)
        return json.loads((tmp_path / "out" / "metrics.json").read_text())

    first = evaluated()
    monkeypatch.setattr("slivit.evaluate.command._predicted", lambda *_: pytest.fail("it predicts again"))
    again = evaluated(level=0.5, subgroups=["site"])
    told = [found["splits"]["test"]["metrics"]["roc_auc"] for found in (first, again)]
    assert told[0]["value"] == told[1]["value"]
    assert told[0]["high"] - told[0]["low"] > told[1]["high"] - told[1]["low"]
    assert again["data"]["predicted"] == first["data"]["predicted"]
    with pytest.raises(pytest.fail.Exception, match="predicts again"):
        evaluated(precision="float16")
