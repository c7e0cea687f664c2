"""Runs followed in MLflow (a local database) and in Weights & Biases (offline)."""

import json
import logging
import shutil
import sys
import time

import pytest

from slivit.errors import RecipeError
from slivit.files import write_json, write_text
from slivit.recipe import finetune, load_recipe
from slivit.train import trackers, tracking
from slivit.train.recipe import Logging


@pytest.fixture(scope="module")
def followed(blob_scans, tmp_path_factory, tiny_recipe):
    """A run followed in a local MLflow database: its folder, and the MLflow run."""
    mlflow = pytest.importorskip("mlflow")
    folder = tmp_path_factory.mktemp("followed")
    store = f"sqlite:///{folder / 'mlflow.db'}"
    recipe = tiny_recipe(folder, blob_scans, **{"logging.tracker": "mlflow", "logging.store": store})
    finetune(load_recipe("finetune", recipe))
    record = json.loads((folder / "run" / "tracking.json").read_text())
    client = mlflow.MlflowClient(tracking_uri=store)
    return folder / "run", client, client.get_run(record["run"])


@pytest.mark.slow
def test_mlflow_gets_parameters_and_every_epoch(followed):
    folder, client, run = followed
    assert run.info.status == "FINISHED"
    assert run.data.params["fit.epochs"] == "2"
    assert run.data.params["model.backbone"] == "test_resnet"
    history = client.get_metric_history(run.info.run_id, "valid_loss")
    assert [m.step for m in history] == [1, 2]
    lines = (folder / "history.csv").read_text().splitlines()
    column = lines[0].split(",").index("valid_loss")
    assert [m.value for m in history] == pytest.approx([float(line.split(",")[column]) for line in lines[1:]])
    assert "lr" in run.data.metrics


@pytest.mark.slow
def test_mlflow_gets_results_figures_and_checkpoint(followed):
    folder, client, run = followed
    measured = json.loads((folder / "metrics.json").read_text())["splits"]["test"]["metrics"]["roc_auc"]
    assert run.data.metrics["test/roc_auc"] == pytest.approx(measured["value"])
    assert run.data.metrics["test/roc_auc_low"] == pytest.approx(measured["low"])
    names = {f.path for part in ("figures", "checkpoint") for f in client.list_artifacts(run.info.run_id, part)}
    assert names >= {"figures/history.png", "checkpoint/model.safetensors", "checkpoint/config.json"}
    assert len([n for n in names if n.startswith("figures/")]) >= 3
    config = json.loads((folder / "checkpoint" / "config.json").read_text())
    assert run.data.tags["slivit.sha256"] == config["sha256"]


@pytest.mark.slow
def test_lineage_names_the_run_that_weights_came_from(followed, tmp_path):
    folder, client, run = followed
    config = json.loads((folder / "checkpoint" / "config.json").read_text())
    start = {"folder": str(folder / "checkpoint"), "sha256": config["sha256"], "stage": "pretrain"}
    child = {**config, "sha256": "b" * 64, "training": {**config["training"], "started_from": start}}
    lineage = tracking.lineage_of(child)
    assert lineage["started_from"]["sha256"] == config["sha256"]
    assert lineage["tracked_start"]["run"] == run.info.run_id
    settings = Logging(tracker="mlflow", store=lineage["tracked_start"]["store"], project="other")
    tracker = trackers.MlflowTracker(settings, {}, tmp_path, {})
    tracker.checkpoint(folder / "checkpoint", lineage)
    tracker.end(failed=False)
    assert client.get_run(tracker.run_id).data.tags["slivit.started_from_run"] == run.info.run_id


@pytest.mark.slow
def test_a_resumed_run_is_the_same_run(followed, tmp_path):
    folder, client, run = followed
    again = tmp_path / "again"
    shutil.copytree(folder, again)
    settings = Logging(tracker="mlflow", store=json.loads((folder / "tracking.json").read_text())["store"])
    with pytest.raises(KeyboardInterrupt), tracking.tracked(settings, {}, again):
        raise KeyboardInterrupt
    assert client.get_run(run.info.run_id).info.status == "FAILED"
    with tracking.tracked(settings, {}, again):
        assert client.get_run(run.info.run_id).info.status == "RUNNING"
    assert client.get_run(run.info.run_id).info.status == "FINISHED"


def payload(file):
    """The records of a .wandb file, joined: it is a log of 32 kB blocks, and a record may run over their borders."""
    data, at, found = file.read_bytes(), 7, []
    while at + 7 <= len(data):
        room = 32768 - at % 32768
        size = int.from_bytes(data[at + 4 : at + 6], "little")
        if room >= 7:
            found.append(data[at + 7 : at + 7 + size])
        at += 7 + size if room >= 7 else room
    return b"".join(found)


@pytest.fixture
def tested_run(tmp_path, made_up_predictions):
    """The folder of a finished run, made without training."""
    from slivit.evaluate.measure import measure, write_results
    from slivit.evaluate.recipe import Testing

    table, task = made_up_predictions("binary")
    write_results(tmp_path / "run", table, task, measure(table, task, Testing(draws=5)))
    write_text(tmp_path / "run" / "history.csv", "epoch,train_loss,valid_loss\n0,0.7,0.6\n1,0.5,0.4\n")
    checkpoint = tmp_path / "run" / "checkpoint"
    config = {
        "format": 1,
        "model": {"name": "slivit", "out_dim": task.out_dim},
        "task": task.model_dump(mode="json"),
        "preprocessing": {"size": [4, 32, 32]},
        "training": {"stage": "finetune"},
    }
    write_json(checkpoint / "config.json", {**config, "sha256": "a" * 64})
    (checkpoint / "model.safetensors").write_bytes(b"weights")
    return tmp_path / "run"


def test_wandb_offline(tested_run, monkeypatch, caplog):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with tracking.tracked(Logging(tracker="wandb"), {"fit": {"epochs": 2}}, tested_run) as callbacks:
        callbacks[0].send({"valid_loss": 0.5, "lr": 1e-3}, 1)
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING and r.name.startswith("slivit")]
    record = json.loads((tested_run / "tracking.json").read_text())
    file = next((tested_run / "wandb").glob(f"offline-run-*{record['run']}/*.wandb"))
    parts = (b"test/roc_auc_low", b"figures/history", b"run-checkpoint", b"model.safetensors", b"valid_loss")
    end = time.monotonic() + 60  # a process of its own writes the file, and may be behind on a busy machine
    while (missing := [p for p in parts if p not in payload(file)]) and time.monotonic() < end:
        time.sleep(0.2)
    assert not missing


class Broken:
    record = {"tracker": "mlflow", "run": "1"}  # noqa: RUF012

    def __init__(self, *_):
        self.calls = []

    def __getattr__(self, name):
        def fail(*_, **__):
            self.calls.append(name)
            raise OSError("the server is gone")

        return fail


def test_a_tracker_that_fails_is_left_with_one_warning(tmp_path, monkeypatch, caplog):
    broken = Broken()
    monkeypatch.setitem(tracking.TRACKERS, "mlflow", lambda *_: broken)
    with caplog.at_level(logging.WARNING), tracking.tracked(Logging(tracker="mlflow"), {}, tmp_path) as callbacks:
        callbacks[0].send({"valid_loss": 0.5}, 1)
        callbacks[0].send({"valid_loss": 0.4}, 2)
    assert broken.calls == ["epoch", "end"]
    assert "the server is gone" in caplog.records[0].message


def test_an_error_in_the_run_is_not_hidden_by_its_tracker(tmp_path, monkeypatch):
    monkeypatch.setitem(tracking.TRACKERS, "mlflow", lambda *_: Broken())
    with pytest.raises(ValueError, match="of the run"), tracking.tracked(Logging(tracker="mlflow"), {}, tmp_path):
        raise ValueError("of the run")


@pytest.mark.slow
@pytest.mark.parametrize("store", ["nonsense://here", "http://127.0.0.1:9"])
def test_a_store_that_cannot_be_used_is_told_at_the_start(store, tmp_path):
    pytest.importorskip("mlflow")
    with (
        pytest.raises(RecipeError, match="cannot use"),
        tracking.tracked(Logging(tracker="mlflow", store=store), {}, tmp_path),
    ):
        pytest.fail("nothing may run")


def test_wandb_without_a_login_is_told_at_the_start(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    wandb.teardown()  # or it would go on with the settings that it read before
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with (
        pytest.raises(RecipeError, match=r"logging\.offline"),
        tracking.tracked(Logging(tracker="wandb"), {}, tmp_path),
    ):
        pytest.fail("nothing may run")


def test_a_package_that_is_missing_is_told_before_anything_is_written(blob_scans, tmp_path, monkeypatch, tiny_recipe):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    recipe = tiny_recipe(tmp_path, blob_scans, **{"logging.tracker": "mlflow"})
    with pytest.raises(RecipeError, match=r"\[mlflow\]"):
        finetune(load_recipe("finetune", recipe))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"tracker": "mlflow", "offline": True}, "offline is for wandb"),
        ({"tracker": "wandb", "store": "sqlite:///x"}, "store is for tracker"),
        ({"wandb": "offline"}, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_do_not_fit_are_errors(wrong, told):
    with pytest.raises(ValueError, match=told):
        Logging(**wrong)


def test_what_is_sent_of_a_run_without_a_test(tmp_path):
    write_text(tmp_path / "history.csv", "epoch,train_loss,valid_loss\n0,0.7,0.6\n1,0.5,0.4\n")
    config = {"training": {"recipe": {"a": 1}, "best_epoch": 2, "scans": {"train": 5}}}
    assert tracking.results_of(tmp_path, config) == {"training.best_epoch": 2, "training.scans.train": 5}
    assert [f.name for f in tracking.draw_figures(tmp_path, tmp_path, config)] == ["history.png"]
    write_json(
        tmp_path / "metrics.json", {"splits": {"val": {"metrics": {"r2": {"value": None, "low": 0.5, "high": 1}}}}}
    )
    assert tracking.results_of(tmp_path, None) == {"val/r2_low": 0.5, "val/r2_high": 1}
