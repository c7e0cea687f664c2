"""Studies: their scans, runs and comparison as a whole, and the command."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from slivit.errors import SlivitError
from slivit.experiments import study
from slivit.experiments.study_grid import Grid
from slivit.experiments.study_table import measure_study
from slivit.files import write_text
from slivit.recipe import resolved_toml

COMPARE = study.compare_runs


@pytest.fixture
def compared(trained, monkeypatch):
    """As `trained`, and the runs are compared too, which takes longer."""
    monkeypatch.setattr("slivit.experiments.study.compare_runs", COMPARE)
    return trained


def run(recipe, **options):
    return study.run(recipe, processes=0, **options)


def measured(recipe):
    """What is told of a study, without its page."""
    return measure_study(Grid(recipe), run(recipe).states)


def test_runs_are_made_and_compared(make_study, compared, tmp_path):
    compared.fails["resnet3d_18/random/fraction_1/seed_1"] = SlivitError("the network is too large")
    found = run(make_study())
    assert len(compared.made) == 12
    assert len(found.failed) == 1
    assert found.page == tmp_path / "study" / "study.html"
    told = json.loads((found.folder / "study.json").read_text())
    cells = {(c["model"], c["start"], c["fraction"]): c for c in told["cells"]}
    cell = cells["slivit", "random", 0.25]
    single = [r["metrics"]["roc_auc"] for r in cell["runs"]]
    assert cell["metrics"]["roc_auc"]["value"] == pytest.approx(np.mean(single))
    assert cell["spread"]["roc_auc"]["sd"] == pytest.approx(np.std(single, ddof=1))
    assert cell["train_scans"] == 10
    table = pd.read_csv(found.folder / "study.csv").set_index(["model", "start", "fraction"])
    assert len(table) == 6
    assert table.loc[("slivit", "random", 0.25), "roc_auc"] == pytest.approx(np.mean(single))
    assert len(pd.read_csv(found.folder / "runs.csv").query("state == 'done'")) == 11
    page = found.page.read_text()
    for text in ("3D ResNet", "no such weights", "labels-roc-auc.svg", "25% of the labels",
                 "1 run failed", "the network is too large"):  # fmt: skip
        assert text in page


def test_everything_is_tested_against_the_reference_alone(make_study, trained):
    told = measured(make_study())
    tests = [t for t in told["tests"] if (t["method"], t["metric"]) == ("paired bootstrap", "roc_auc")]
    assert {(t["model"], t["start"], t["fraction"]) for t in tests} == {
        (m, s, f) for m, s in (("slivit", "video"), ("resnet3d_18", "random")) for f in (1.0, 0.25)
    }
    assert all(t["reference"] == {"model": "slivit", "start": "random"} for t in tests)
    cells = {(c["model"], c["start"], c["fraction"]): c["metrics"]["roc_auc"]["value"] for c in told["cells"]}
    for t in tests:
        assert t["difference"] == pytest.approx(
            cells[t["model"], t["start"], t["fraction"]] - cells["slivit", "random", t["fraction"]]
        )
    every = [t for t in told["tests"] if t["method"] == "paired bootstrap"]
    assert all(t["bonferroni"] == pytest.approx(min(1, t["p_value"] * len(every))) for t in every)


def test_a_reference_of_the_start_alone_is_the_same_model(make_study, trained):
    told = measured(make_study(reference={"start": "random"}, seeds=[0], fractions=[1.0]))
    assert {(t["model"], t["start"], t["reference"]["model"]) for t in told["tests"]} == {("slivit", "video", "slivit")}


def test_phantoms_are_made_once(make_study, trained, tmp_path):
    recipe = make_study(seeds=[0], phantoms=[{"kind": "oct", "out": str(tmp_path / "oct"), "n": 1}])
    run(recipe)
    before = sorted((tmp_path / "oct").rglob("*"))
    assert (tmp_path / "oct" / "manifest.csv").is_file()
    run(recipe)
    assert sorted((tmp_path / "oct").rglob("*")) == before


def test_the_command_lists_runs_and_its_status_tells_of_failures(make_study, trained):
    from slivit.cli import app

    recipe = make_study(seeds=[0], fractions=[1.0])
    file = Path(recipe.out).parent / "study.toml"
    write_text(file, resolved_toml(recipe))
    listed = CliRunner().invoke(app, ["study", str(file), "--list"])
    assert listed.exit_code == 0
    assert "3 runs: 3 to do" in listed.output
    assert "left out  resnet3d_18, start video: no such weights" in listed.output
    trained.fails["video"] = SlivitError("gone")
    assert CliRunner().invoke(app, ["study", str(file), "--processes", "0"]).exit_code == 1
    assert "2 done, 1 failed" in CliRunner().invoke(app, ["study", str(file), "--list"]).output
    trained.fails.clear()
    assert CliRunner().invoke(app, ["study", str(file), "--processes", "0"]).exit_code == 0
    assert CliRunner().invoke(app, ["study", str(file), "seeds=[0,0]"]).exit_code == 2


@pytest.mark.slow
def test_a_study_of_real_runs_in_processes_of_its_own(make_study, tmp_path):
    recipe = make_study(fractions=[1.0], seeds=[0], starts={"random": {}}, exclude=[])
    found = study.run(recipe, processes=1)
    assert not found.failed
    told = json.loads((found.folder / "study.json").read_text())
    assert [c["metrics"]["roc_auc"]["n"] for c in told["cells"]] == [8, 8]
    assert all(r["seconds"] > 0 for r in told["runs"])
