"""Each stage once as a subprocess, as a user runs it, and the mistakes that users make."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*args, cwd=ROOT, expect=0):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "PYTHONPATH": str(ROOT)}
    command = args if args[0] in ("pretrain", "finetune", "evaluate") else ("-m", "slivit", *args)
    done = subprocess.run([sys.executable, *map(str, command)], cwd=cwd, capture_output=True, text=True, env=env)
    assert done.returncode == expect, done.stdout + done.stderr
    if expect == 2:
        assert "Traceback" not in done.stderr
        assert done.stderr.strip()
    return done.stdout + done.stderr


def told(*args, expect=2):
    """What a command says in this process (a process of its own for each would be slow); by default of a mistake."""
    from typer.testing import CliRunner

    from slivit.cli import app

    done = CliRunner().invoke(app, [str(a) for a in args])
    assert done.exit_code == expect, (done.output, done.exception)
    return done.output


@pytest.fixture(scope="module")
def finetuned(blob_scans, tmp_path_factory, tiny_recipe):
    folder = tmp_path_factory.mktemp("finetuned")
    run("finetune", tiny_recipe(folder, blob_scans), "fit.lr=find")
    return folder / "run"


def test_finetune_leaves_a_whole_run(finetuned, blob_scans):
    names = {p.name for p in finetuned.iterdir()}
    assert names >= {"recipe.toml", "split.csv", "history.csv", "checkpoint", "predictions.csv", "metrics.json",
                     "versions.json", "log.txt"}  # fmt: skip
    assert "progress.pt" not in names
    table = pd.read_csv(finetuned / "predictions.csv")
    scans = pd.read_csv(blob_scans)
    assert len(table) == (scans["split"] != "train").sum()
    assert table["path"].is_unique
    assert table["prob_bright"].between(0, 1).all()
    metrics = json.loads((finetuned / "metrics.json").read_text())["splits"]["test"]["metrics"]
    assert 0 <= metrics["roc_auc"]["low"] <= metrics["roc_auc"]["value"] <= metrics["roc_auc"]["high"] <= 1
    assert metrics["roc_auc"]["draws"] == 20
    assert len(pd.read_csv(finetuned / "history.csv")) == 2
    assert "lr_find suggests" in (finetuned / "log.txt").read_text()


def test_evaluate_from_a_clone_gives_the_run_s_own_figures(finetuned, tmp_path):
    run("evaluate", finetuned, "--out", tmp_path / "evaluation", "testing.draws=50", "testing.precision=float32")
    own = pd.read_csv(finetuned / "predictions.csv").query("split == 'test'").set_index("path")
    again = pd.read_csv(tmp_path / "evaluation" / "predictions.csv").set_index("path")
    np.testing.assert_allclose(again["prob_bright"], own.loc[again.index, "prob_bright"], atol=1e-5)


@pytest.mark.slow
def test_evaluate_an_external_manifest_without_splits(finetuned, blob_scans, tmp_path):
    scans = pd.read_csv(blob_scans).drop(columns="split").head(7)
    scans["path"] = [str(blob_scans.parent / p) for p in scans["path"]]
    scans.to_csv(tmp_path / "external.csv", index=False)
    told("evaluate", finetuned, "--manifest", tmp_path / "external.csv", "--out", tmp_path / "out", expect=0)
    assert len(pd.read_csv(tmp_path / "out" / "predictions.csv")) == 7


def test_predict_new_scans(finetuned, blob_scans, tmp_path):
    scans = [blob_scans.parent / f"scan{i}.nii" for i in (38, 39)]
    run("predict", finetuned, *scans, "--out", tmp_path / "p.csv", "--precision", "float32")
    table = pd.read_csv(tmp_path / "p.csv", keep_default_na=False).set_index("path")
    own = pd.read_csv(finetuned / "predictions.csv").set_index("path")
    for scan in scans:
        assert table.loc[str(scan), "prob_bright"] == pytest.approx(own.loc[str(scan), "prob_bright"], abs=1e-5)


def test_one_bad_scan_does_not_stop_the_others(finetuned, blob_scans, tmp_path):
    bad = tmp_path / "cut.nii"
    bad.write_bytes((blob_scans.parent / "scan0.nii").read_bytes()[:500])
    said = told("predict", finetuned, blob_scans.parent / "scan1.nii", bad, "--out", tmp_path / "p.csv", expect=1)
    assert "1 of 2 scans could not be predicted" in said
    table = pd.read_csv(tmp_path / "p.csv", keep_default_na=False)
    assert table["prob_bright"][0] != ""
    assert table["prob_bright"][1] == ""
    assert "cut.nii" in table["error"][1]


@pytest.mark.slow
def test_pretrain_then_finetune_then_lineage(blob_scans, tmp_path, tiny_recipe):
    """A 2D classifier's backbone goes into SLIViT, and the chain is written down."""
    import cv2

    generator = np.random.default_rng(0)
    for name, level in (("DARK", 60), ("LIGHT", 180)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(12):
            image = generator.normal(level, 20, (40, 40)).clip(0, 255).astype(np.uint8)
            cv2.imwrite(str(tmp_path / "images" / name / f"{name}{i}.png"), image)
    pre = tiny_recipe(tmp_path, tmp_path / "images", **{"out": str(tmp_path / "pre"), "task.kind": "multiclass",
                 "task.targets": ["label"], "data.fractions": [0.5, 0.25, 0.25]})  # fmt: skip
    lines = [ln for ln in pre.read_text().splitlines() if not ln.startswith("model.")]
    lines += ['model.name = "image_classifier"', 'model.backbone = "test_resnet"', "model.image_size = 32"]
    lines += ["model.stride = 16", "preprocessing.stretch = false"]
    pre.write_text("\n".join(lines))
    run("pretrain", pre)
    fine = tiny_recipe(
        tmp_path, blob_scans, **{"out": str(tmp_path / "fine"), "model.weights": str(tmp_path / "pre"), "fit.epochs": 1}
    )
    told("finetune", fine, expect=0)
    config = json.loads((tmp_path / "fine" / "checkpoint" / "config.json").read_text())
    assert config["training"]["started_from"]["stage"] == "pretrain"
    assert config["training"]["started_from"]["model"] == "image_classifier"


@pytest.mark.slow
def test_a_split_is_made_seeded_and_saved(blob_scans, tmp_path, tiny_recipe):
    scans = pd.read_csv(blob_scans).drop(columns="split")
    scans["path"] = [str(blob_scans.parent / p) for p in scans["path"]]
    scans["patient"] = [f"P{i // 2}" for i in range(len(scans))]
    scans.to_csv(tmp_path / "scans.csv", index=False)
    told("finetune", tiny_recipe(tmp_path, tmp_path / "scans.csv", **{"fit.epochs": 1}), expect=0)
    split = pd.read_csv(tmp_path / "run" / "split.csv")
    assert len(split) == len(scans)
    assert split.groupby("patient")["split"].nunique().max() == 1
    assert set(split["split"]) == {"train", "val", "test"}


@pytest.mark.slow
def test_a_killed_run_goes_on(blob_scans, tmp_path, tiny_recipe):
    """Stopped after its first epoch, as by a power cut, and resumed from its folder alone."""
    whole = tiny_recipe(tmp_path, blob_scans, **{"out": str(tmp_path / "whole"), "fit.epochs": 3})
    told("finetune", whole, expect=0)
    path = tiny_recipe(tmp_path, blob_scans, **{"fit.epochs": 3})
    kill = (
        "import sys; from slivit.train import callbacks; from slivit.cli import launch\n"
        "save = callbacks.SaveProgress.after_epoch\n"
        "def cut(self):\n    save(self)\n    import os; os._exit(9)\n"
        "callbacks.SaveProgress.after_epoch = cut\n"
        f"sys.argv = ['finetune', {str(path)!r}]; launch('finetune')"
    )
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", kill], env=env, capture_output=True).returncode == 9
    assert (tmp_path / "run" / "progress.pt").is_file()
    assert not (tmp_path / "run" / "metrics.json").exists()
    run("finetune", "--resume", tmp_path / "run")
    own, resumed = (pd.read_csv(tmp_path / n / "history.csv") for n in ("whole", "run"))
    np.testing.assert_allclose(resumed.to_numpy(), own.to_numpy(), rtol=1e-4)
    first, second = (pd.read_csv(tmp_path / n / "predictions.csv")["prob_bright"] for n in ("whole", "run"))
    np.testing.assert_allclose(first, second, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"data.manifest": "nowhere.csv"}, "nowhere.csv"),
        ({"task.targets": ["brigth"]}, 'Did you mean "bright"'),
        ({"task.targets": ["grade"]}, "grade"),
        ({"fit.epoch": 3}, 'Did you mean "epochs"'),
        ({"model.name": "slivitt"}, 'Did you mean "slivit"'),
        ({"model.slice": 3}, 'Did you mean "slices"'),
        ({"model.backbone": "resnet10"}, "resnet10"),
        ({"model.weights": "nowhere.pth"}, "nowhere.pth"),
        ({"fit.device": "cuda:7"}, "cuda:7"),
    ],
)
def test_mistakes_end_with_status_2_and_no_half_run(blob_scans, tmp_path, changes, part, tiny_recipe):
    assert part in told("finetune", tiny_recipe(tmp_path, blob_scans, **changes))
    assert not (tmp_path / "run" / "checkpoint").exists()
    assert not (tmp_path / "run" / "predictions.csv").exists()


def test_a_run_is_not_overwritten_by_accident(finetuned, blob_scans, tmp_path, tiny_recipe):
    before = (finetuned / "metrics.json").read_text()
    said = told("finetune", tiny_recipe(tmp_path, blob_scans, out=str(finetuned)))
    assert "is not empty" in said
    assert "--overwrite" in said
    assert (finetuned / "metrics.json").read_text() == before


def test_a_run_does_not_replace_what_it_starts_from(finetuned, blob_scans, tmp_path, tiny_recipe):
    path = tiny_recipe(tmp_path, blob_scans, **{"out": str(finetuned), "model.weights": str(finetuned)})
    assert "model.weights lies in it" in told("finetune", path, "--overwrite")
    assert (finetuned / "checkpoint" / "model.safetensors").is_file()


def test_a_changed_or_foreign_checkpoint_is_refused(finetuned, blob_scans, tmp_path):
    import shutil

    scan = blob_scans.parent / "scan0.nii"
    assert "no checkpoint" in run("predict", tmp_path, scan, expect=2)
    for name in ("weights", "format", "model"):
        shutil.copytree(finetuned / "checkpoint", tmp_path / name)
    weights = tmp_path / "weights" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert "checksum" in told("predict", tmp_path / "weights", scan)
    for name, change in (("format", {"format": 99}), ("model", {"model": {"name": "other", "out_dim": 1, "args": {}}})):
        config = tmp_path / name / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | change))
        assert str(tmp_path / name) in told("predict", tmp_path / name, scan)


def test_lists_and_help():
    from typer.testing import CliRunner

    from slivit.cli import app

    for what, part in [("models", "slivit"), ("recipes", "slivit_oct"), ("formats", "dicom"), ("phantoms", "oct2d"),
                       ("importers", "echonet")]:  # fmt: skip
        assert part in CliRunner().invoke(app, ["list", what]).output
    assert 'Did you mean "models"' in told("list", "model")
    assert "finetune" in told("--help", expect=0)
    assert told("--version", expect=0).strip()
