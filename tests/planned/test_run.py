"""`slivit auto` from a table to a report, as a user runs it; killed and resumed; its result is a run like others."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

import slivit

SLIVIT = str(Path(sys.executable).with_name("slivit"))


def command(*args, **options):
    return subprocess.run([SLIVIT, *map(str, args)], capture_output=True, text=True, **options)


@pytest.fixture(scope="module")
def table(blob_scans, tmp_path_factory):
    """The scans without their answers of other tasks; test rows stay apart."""
    frame = pd.read_csv(blob_scans)[["path", "patient", "split", "bright"]]
    frame["path"] = [str(blob_scans.parent / p) for p in frame["path"]]
    csv = tmp_path_factory.mktemp("auto") / "scans.csv"
    frame.to_csv(csv, index=False)
    return csv


@pytest.mark.slow
def test_a_table_becomes_a_tested_model(table, tmp_path):
    out = tmp_path / "run"
    done = command("auto", table, "--time", "1m", "--out", out)
    assert done.returncode == 0, done.stderr
    facts = json.loads((out / "auto.json").read_text())
    board = facts["leaderboard"]
    assert {"mean", "ensemble"} <= set(board)
    kept = json.loads((out / "halving.json").read_text())["kept"]  # as many as this machine has the time for
    assert set(kept) <= set(board) | set(facts["failed"])
    best_baseline = max(
        e["roc_auc"]["value"] for n, e in board.items() if n not in ("ensemble", "resnet3d", "slivit_small")
    )
    assert board["ensemble"]["roc_auc"]["value"] > best_baseline - 0.15  # 32 scans
    assert (out / "report" / "auto.html").is_file()
    run = slivit.Run(out)
    assert set(run.metrics["splits"]) == {"val", "test"}
    assert len(run.predictions) == 40
    again = command("predict", out, *pd.read_csv(table)["path"][-8:], "--out", tmp_path / "p.csv")
    assert again.returncode == 0, again.stderr
    first = run.predictions.set_index("path")["prob_bright"]
    new = pd.read_csv(tmp_path / "p.csv")
    for path, p in zip(new["path"], new["prob_bright"], strict=True):
        assert first[path] == pytest.approx(p, abs=1e-5)
    exported = command("export", out, tmp_path / "shared")
    assert exported.returncode == 0, exported.stderr


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on(table, tmp_path):
    out = tmp_path / "run"
    process = subprocess.Popen([SLIVIT, "auto", str(table), "--time", "1m", "--out", str(out)], start_new_session=True)
    deadline = time.monotonic() + 300
    while not list(out.glob("folds/*.csv")) and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    plan = (out / "plan.toml").read_text()
    assert not (out / "metrics.json").exists()
    done = command("auto", "--resume", "--out", out)
    assert done.returncode == 0, done.stderr
    assert (out / "plan.toml").read_text() == plan
    assert (out / "leaderboard.csv").is_file()


def test_nothing_given_is_told():
    done = command("auto")
    assert done.returncode == 2
    assert "give a table or folder of scans" in done.stderr


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "letters.txt").write_text("mine")
    done = command("auto", "scans.csv", "--out", tmp_path, "--overwrite")
    assert done.returncode == 2
    assert "holds something else" in done.stderr
    assert (tmp_path / "letters.txt").read_text() == "mine"
