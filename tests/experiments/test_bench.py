"""Fixed protocols: a finished run becomes a row, and one of other scans does not."""

from __future__ import annotations

import json
import shutil

import pandas as pd
import pytest
from typer.testing import CliRunner

from slivit.cli import app
from slivit.data.importers import list_importers
from slivit.errors import SlivitError
from slivit.experiments.bench import Protocol, find_protocol, leaderboard, protocols, published, row_of


@pytest.fixture
def run(tmp_path):
    """A finished run on AdrenalMNIST3D, as far as a row looks at it."""

    def make(seed=0, auc=0.85, scans=298, kind="binary"):
        folder = tmp_path / f"run{seed}"
        folder.mkdir()
        (folder / "recipe.toml").write_text(f"seed = {seed}\n")
        pd.DataFrame({"path": [f"a.npz#test/{i}" for i in range(scans)], "split": "test", "prob_label": 0.5}).to_csv(
            folder / "predictions.csv", index=False
        )
        metrics = {"roc_auc": {"value": auc, "low": auc - 0.05, "high": auc + 0.05}}
        (folder / "metrics.json").write_text(
            json.dumps({"task": {"kind": kind}, "splits": {"test": {"scans": scans, "metrics": metrics}}})
        )
        return folder

    return make


def test_runs_of_three_seeds_make_a_row_with_its_spread(run, tmp_path):
    runs = [run(seed, auc) for seed, auc in enumerate((0.84, 0.86, 0.88))]
    row = row_of(find_protocol("adrenalmnist3d"), "SLIViT", runs)
    assert row["value"] == pytest.approx(0.86)
    assert row["spread"] == pytest.approx(0.02)
    page = tmp_path / "LEADERBOARD.md"
    runner = CliRunner()
    for name in ("SLIViT", "SLIViT", "another"):
        done = runner.invoke(app, ["bench", "adrenalmnist3d", *map(str, runs), "--name", name, "--page", str(page)])
        assert done.exit_code == 0, done.output
    text = page.read_text()
    assert text.count("| SLIViT | **0.860** (SD 0.020)") == 1
    assert text.index("| another |") < text.index("| ResNet-50+3D | 0.828")
    assert "0.840 (0.790 to 0.890)" in text
    assert "| 3 |" in text


def test_a_planned_run_makes_a_row_too(run):
    folder = run(7)
    (folder / "recipe.toml").rename(folder / "plan.toml")
    assert row_of(find_protocol("adrenalmnist3d"), "auto", [folder])["runs"][0]["seed"] == 7


def test_a_run_of_other_scans_another_kind_or_the_same_seed_is_refused(run):
    adrenal = find_protocol("adrenalmnist3d")
    with pytest.raises(SlivitError, match="has 297 test scans, and adrenalmnist3d has 298"):
        row_of(adrenal, "x", [run(0, scans=297)])
    with pytest.raises(SlivitError, match="is a binary task"):
        row_of(adrenal, "x", [run(1, kind="multiclass")])
    good = run(2)
    with pytest.raises(SlivitError, match="a seed is given twice"):
        row_of(adrenal, "x", [good, good])
    table = pd.read_csv(good / "predictions.csv")
    table.assign(path=table["path"].str.replace("test/", "val/")).to_csv(good / "predictions.csv", index=False)
    with pytest.raises(SlivitError, match="not those of the official split"):
        row_of(adrenal, "x", [good])
    shutil.rmtree(good)
    with pytest.raises(SlivitError, match="no run there"):
        row_of(adrenal, "x", [good])


def test_every_protocol_has_a_source_and_every_published_number_one_of_its_own():
    names = {spec.name for spec in list_importers()}
    for protocol in protocols().values():
        assert isinstance(protocol, Protocol)
        assert protocol.source
        assert not protocol.importer or protocol.importer in names
    assert {row["protocol"] for name in protocols() for row in published(name)} <= set(protocols())
    assert len([name for name in protocols() if "3d" in name]) == 12
    text = leaderboard([])
    assert all(row["source"] in text for name in protocols() for row in published(name))


def test_the_command_lists_and_shows_how():
    runner = CliRunner()
    assert "echonet-dynamic" in runner.invoke(app, ["bench"]).output
    shown = runner.invoke(app, ["bench", "echonet-dynamic"]).output
    assert "slivit finetune" in shown
    assert "CoReEcho 0.824" in shown
    assert runner.invoke(app, ["bench", "echonet"]).exit_code == 2
