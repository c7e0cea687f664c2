"""`slivit auto` from a table to a report, as a user runs it; killed and resumed; its result is a run like others."""

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

import slivit
from slivit.planned.plan import Plan
from slivit.recipe import check_recipe, read_values, resolved_toml

KINDS = ("linear", "forest")
SPLITS = {"train": slice(0, 32), "val": slice(32, 36), "test": slice(36, 48)}
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


@pytest.fixture(scope="module")
def plan(table, tmp_path_factory):
    """A plan of seconds: the one that follows from the table, with two small networks of few epochs."""
    small = {"slices": 4, "image_size": 32, "width": 4, "depths": [1, 1, 1, 1]}
    networks = [
        {"name": name, "model": "resnet3d_18", "args": small, "lr": lr, "epochs": 2, "batch_size": 8}
        for name, lr in (("quick", 1e-2), ("slow", 1e-5))
    ]
    values = {
        "out": "elsewhere",
        "source": str(table),
        "minutes": 1.0,
        "task": {"kind": "binary", "targets": ["bright"]},
        "folds": 2,
        "keep": 1,
        "workers": 1,
        "preprocessing": {"size": (4, 32, 32), "fit": "pad"},
        "augmentation": {"flip_horizontal": True},
        "baselines": [{"name": "histogram", "features": ["histogram"]}, {"name": "voxels_2", "features": ["voxels2"]}],
        "candidates": networks,
    }
    file = tmp_path_factory.mktemp("plan") / "small.toml"
    file.write_text(resolved_toml(check_recipe(Plan, values, "plan")))
    return file


@pytest.fixture(scope="module")
def run(table, plan, tmp_path_factory):
    """The folder of a run that nothing stopped."""
    out = tmp_path_factory.mktemp("auto_run") / "run"
    done = command("auto", table, "--plan", plan, "--out", out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
def test_a_table_becomes_a_tested_model(table, run, tmp_path):
    facts = json.loads((run / "auto.json").read_text())
    board = facts["leaderboard"]
    kept = json.loads((run / "halving.json").read_text())["kept"]
    assert len(kept) == 1
    tables = {f"{f}_{k}" for f in ("histogram", "voxels_2") for k in KINDS} | {"voxels_2_kernel"}
    assert set(board) == {"mean", "ensemble", *kept, *tables}
    members = {name: e["roc_auc"]["value"] for name, e in board.items() if name not in ("ensemble", "mean")}
    assert board["ensemble"]["roc_auc"]["value"] > max(members.values()) - 0.15  # 32 scans
    assert (run / "report" / "auto.html").is_file()
    result = slivit.Run(run)
    assert set(result.metrics["splits"]) == {"val", "test"}
    assert len(result.predictions) == 40
    members, weights = pd.read_csv(run / "members.csv"), json.loads((run / "auto.json").read_text())["weights"]
    assert dict(members["member"].value_counts()) == dict.fromkeys(weights, 32)
    assert members["prob_bright"].between(0, 1).all()
    again = command("predict", run, *pd.read_csv(table)["path"][-8:], "--out", tmp_path / "p.csv")
    assert again.returncode == 0, again.stderr
    first = result.predictions.set_index("path")["prob_bright"]
    new = pd.read_csv(tmp_path / "p.csv")
    for path, p in zip(new["path"], new["prob_bright"], strict=True):
        assert first[path] == pytest.approx(p, abs=0.01)  # batches of other sizes, perhaps in bfloat16
    exported = command("export", run, tmp_path / "shared")
    assert exported.returncode == 0, exported.stderr


@pytest.mark.slow
def test_a_run_that_was_killed_ends_like_one_that_was_not(table, plan, run, tmp_path):
    out = tmp_path / "run"
    process = subprocess.Popen(
        [SLIVIT, "auto", str(table), "--plan", str(plan), "--out", str(out)], start_new_session=True
    )
    deadline = time.monotonic() + 300
    while not list(out.glob("candidates/*/fold_0/history.csv")) and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "metrics.json").exists()
    done = command("auto", "--resume", "--out", out)
    assert done.returncode == 0, done.stderr
    for file in ("leaderboard.csv", "halving.json", "predictions.csv"):
        assert (out / file).read_text() == (run / file).read_text(), file


def test_networks_that_add_nothing_cost_no_scans(plan, tmp_path, rng):
    rows = ["path,patient,bright"]
    for i in range(32):
        volume = rng.integers(0, 120, (4, 32, 32))
        volume[:, :, : 12 * (i % 2)] = 250
        tifffile.imwrite(tmp_path / f"{i}.tif", volume.astype(np.uint8), photometric="minisblack")
        rows.append(f"{i}.tif,P{i},{i % 2}")
    (tmp_path / "scans.csv").write_text("\n".join(rows))
    values = tomllib.loads(plan.read_text()) | {"trained": 1, "minutes": 0.1}  # no time is left for the other fold
    values["candidates"] = [{**values["candidates"][0], "lr": 1e-9}]
    (tmp_path / "plan.toml").write_text(resolved_toml(check_recipe(Plan, values, "plan")))
    slivit.auto(str(tmp_path / "scans.csv"), plan=tmp_path / "plan.toml", out=tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "auto.json").read_text())
    assert facts["scans"] == 32
    assert facts["scans_that_train_alone"] == 0
    assert facts["partly"] == {"quick": 16}
    assert "quick" in facts["leaderboard"]
    assert "quick" not in facts["weights"]
    assert any("to which they add little or nothing" in text for text in facts["sentences"])
    assert "(16 scans)" in (tmp_path / "run" / "report" / "auto.html").read_text()


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


def test_what_a_run_starts_from_and_a_run_that_works_are_not_replaced(tmp_path):
    from slivit.errors import RecipeError
    from slivit.folder.lock import locked
    from slivit.planned.run import auto

    (tmp_path / "scans.csv").write_text("path,bright\n")
    with pytest.raises(RecipeError, match=r"scans\.csv lies in it, and would be replaced"):
        auto(tmp_path / "scans.csv", out=tmp_path, overwrite=True)
    (tmp_path / "other.csv").write_text("path,bright\n")
    with locked(tmp_path), pytest.raises(RecipeError, match="works in this folder"):
        auto("elsewhere.csv", out=tmp_path, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other.csv", "scans.csv"]


@pytest.mark.slow
def test_channels_covariates_and_the_tables_own_folds_go_all_the_way(plan, tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for i in range(32):
        row = {"patient": f"P{i}", "label": i % 2, "age": 50 + 10 * (i % 2) + i % 5, "sex": "FM"[i % 3 > 0]}
        row |= {"fold": i // 2 % 3, "split": "test" if i >= 26 else "train"}
        for channel in ("t1", "t2"):
            row[channel] = str(tmp_path / f"{channel}_{i}.npy")
            np.save(row[channel], rng.integers(0, 100 + 60 * (i % 2) * (channel == "t2"), (4, 32, 32)).astype(np.uint8))
        rows.append(row)
    frame = pd.DataFrame(rows)
    frame.loc[3, "age"] = np.nan
    frame.to_csv(tmp_path / "scans.csv", index=False)
    values = read_values(plan)
    values["task"] = {"kind": "binary", "targets": ["label"], "covariates": ["age", "sex"]}
    values["preprocessing"] |= {"channels": ["t1", "t2"]}
    values["candidates"] = [c | {"args": c["args"] | {"in_chans": 2}} for c in values["candidates"][:1]]
    values |= {"folds": 3, "folds_from": "the table", "keep": 1}
    values["baselines"] = [{"name": "covariates", "features": ["covariates"]},
                           {"name": "histogram", "features": ["histogram", "covariates"]}]  # fmt: skip
    (tmp_path / "plan.toml").write_text(resolved_toml(check_recipe(Plan, values, "plan")))
    out, channels = tmp_path / "run", ("--channel", "t1", "--channel", "t2")
    done = command("auto", tmp_path / "scans.csv", *channels, "--plan", tmp_path / "plan.toml", "--out", out)
    assert done.returncode == 0, done.stderr
    board = json.loads((out / "auto.json").read_text())["leaderboard"]
    assert {"covariates_linear", "histogram_forest", "quick"} <= set(board)
    folds = pd.read_csv(out / "folds" / "fold_1.csv").set_index("patient")
    assert (folds.loc[folds["split"] == "test", "fold"] == 1).all()
    config = json.loads((out / "checkpoint" / "config.json").read_text())
    assert (config["model"]["args"]["in_chans"], config["model"]["args"]["covariates"]) == (2, 4)
    own = [json.loads((p / "checkpoint" / "config.json").read_text()) for p in (out / "candidates/quick").iterdir()]
    assert len({config["task"]["inputs"][0]["mean"] for config in own}) == 3  # each by its own training rows
    frame[26:].drop(columns=["label", "split", "fold"]).to_csv(tmp_path / "new.csv", index=False)
    again = command("predict", out, tmp_path / "new.csv", "--out", tmp_path / "p.csv")
    assert again.returncode == 0, again.stderr
    first = pd.read_csv(out / "predictions.csv").query("split == 'test'")["prob_label"]
    assert pd.read_csv(tmp_path / "p.csv")["prob_label"].tolist() == pytest.approx(first.tolist(), abs=1e-2)
    for kind in ("safetensors", "onnx"):
        exported = command("export", out, tmp_path / kind, "--format", kind)
        assert exported.returncode == 0, exported.stderr
    resumed = command("auto", "--resume", "--out", out)
    assert resumed.returncode == 0, resumed.stderr


@pytest.mark.slow
def test_colour_alone_tells_the_answer(tmp_path, rng):
    pictures = rng.integers(90, 130, (48, 24, 24, 3))
    answers = np.arange(48) % 2
    for picture, answer in zip(pictures, answers, strict=True):
        picture[4:16, 6:18] = [60, 106, 100] if answer else [150, 60, 100]  # of one luminance
    images = pictures.clip(0, 255).astype(np.uint8)
    parts = {f"{name}_images": images[rows] for name, rows in SPLITS.items()}
    labels = {f"{name}_labels": answers[rows, None] for name, rows in SPLITS.items()}
    np.savez(tmp_path / "cells.npz", **parts, **labels)
    run = slivit.auto(tmp_path / "cells.npz", time="0.5m", out=tmp_path / "run")
    assert run.metrics["splits"]["test"]["metrics"]["roc_auc"]["value"] == 1
    Image.fromarray(images[0]).save(tmp_path / "a.png")
    Image.fromarray(images[1]).save(tmp_path / "b.png")
    done = command("predict", tmp_path / "run", tmp_path / "a.png", tmp_path / "b.png", "--out", tmp_path / "p.csv")
    assert done.returncode == 0, done.stderr
    first, second = pd.read_csv(tmp_path / "p.csv")["prob_label"]
    assert first < 0.5 < second


@pytest.mark.slow
def test_one_grey_scan_among_those_that_test_makes_all_grey_and_is_told(tmp_path, rng, caplog):
    rows = []
    for number in range(24):
        path, test = tmp_path / f"{number}.png", number % 6 == 0
        picture = Image.fromarray(rng.integers(0, 256, (20, 20, 3)).astype(np.uint8))
        (picture.convert("L") if number == 6 else picture).save(path)
        rows.append({"path": str(path), "label": number % 2 if not test else number // 6 % 2, "split": "test" * test})
    table = pd.DataFrame(rows)
    run = slivit.auto(table.assign(split=table["split"].replace("", "train")), time="0.2m", out=tmp_path / "run")
    assert "1 of 24 scans are grey and the others in colour" in caplog.text
    assert run.metrics["splits"]["test"]["scans"] == 4
