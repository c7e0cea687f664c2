"""The probe during pre-training: its scores, that it changes nothing, and a run that is resumed."""

import pytest
import torch

from slivit.recipe import load_recipe
from slivit.recipe import pretrain as run
from slivit.ssl import run as selfsupervised
from slivit.ssl.probe import probe_score
from slivit.targets.task import Task

RECIPE = """
method = "simclr"
out = "{out}"
[data]
manifest = "{csv}"
workers = 0
[images]
slices = 1
[model]
name = "image_classifier"
backbone = "convnext_atto"
image_size = 32
[pretext]
hidden = 16
projection = 8
[fit]
epochs = 3
lr = 1e-3
batch_size = 6
warmup = 1
"""
PROBE = """
[probe]
every = 2
kind = "{kind}"
neighbours = 3
[probe.data]
manifest = "{csv}"
workers = 0
[probe.task]
kind = "binary"
targets = ["label"]
"""


@pytest.fixture(scope="module")
def csv_file(tmp_path_factory):
    import cv2
    import numpy as np

    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    lines = ["path,patient,split,label"]
    for i in range(24):
        cv2.imwrite(str(folder / f"{i}.png"), rng.integers(0, 120 + 120 * (i % 2), (32, 32), dtype=np.uint8))
        lines.append(f"{i}.png,{i},{('train', 'val', 'test')[i // 2 % 3]},{i % 2}")
    (folder / "scans.csv").write_text("\n".join(lines))
    return folder / "scans.csv"


def recipe(csv_file, out, kind=None):
    path = out.with_suffix(".toml")
    text = RECIPE.format(out=out, csv=csv_file) + (PROBE.format(kind=kind, csv=csv_file) if kind else "")
    path.write_text(text)
    return load_recipe("pretrain", path)


@pytest.mark.parametrize("kind", ["knn", "linear"])
@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_features_that_hold_the_answer_score_one(kind, task):
    x = torch.eye(2).repeat(20, 1) + 0.01 * torch.randn(40, 2)
    y = torch.tensor([0, 1]).repeat(20)
    y = y if task == "multiclass" else y[:, None].float()
    assert probe_score(kind, Task(kind=task, targets=("label",)), (x, y), (x, y), 5) == pytest.approx(1, abs=0.05)


def test_features_that_know_nothing_score_half():
    x, y = torch.randn(400, 4), torch.randint(0, 2, (400, 1)).float()
    task = Task(kind="binary", targets=("label",))
    assert probe_score("linear", task, (x[:200], y[:200]), (x[200:], y[200:])) == pytest.approx(0.5, abs=0.15)


def test_a_probe_changes_no_loss_and_is_written(csv_file, tmp_path):
    plain = run(recipe(csv_file, tmp_path / "plain"))
    probed = run(recipe(csv_file, tmp_path / "probed", "knn"))
    assert (plain / "history.csv").read_text() == (probed / "history.csv").read_text()
    lines = (probed / "probe.csv").read_text().split()
    assert [line.split(",")[0] for line in lines] == ["epoch", "1", "2"]
    assert 0 <= float(lines[1].split(",")[1]) <= 1


def test_test_rows_train_nothing(csv_file, tmp_path):
    folder = run(recipe(csv_file, tmp_path / "run"))
    assert "test" not in (folder / "split.csv").read_text().replace("pytest", "")


def test_a_run_that_died_goes_on_to_the_same_losses(csv_file, tmp_path, monkeypatch):
    whole = run(recipe(csv_file, tmp_path / "whole", "linear"))
    settings = recipe(csv_file, tmp_path / "killed", "linear")
    make = selfsupervised.make_learner

    def dying(*args):
        learn = make(*args)
        loss = learn.loss_func

        def once(outputs, targets):
            if learn.epoch == 2:
                raise KeyboardInterrupt
            return loss(outputs, targets)

        learn.loss_func = once
        return learn

    monkeypatch.setattr(selfsupervised, "make_learner", dying)
    with pytest.raises(KeyboardInterrupt):
        run(settings)
    monkeypatch.setattr(selfsupervised, "make_learner", make)
    killed = run(settings, resume=True)
    for name in ("history.csv", "probe.csv"):
        assert (killed / name).read_text() == (whole / name).read_text()
    weights = [(f / "checkpoint" / "model.safetensors").read_bytes() for f in (whole, killed)]
    assert weights[0] == weights[1]
