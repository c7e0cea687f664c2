"""The processes of a study: what they see, and what is told of one that dies."""

import sys

import pytest

from slivit.experiments.study_pool import Worker, devices
from slivit.experiments.study_worker import answer, request


def test_a_worker_that_dies_is_told_and_started_again(tmp_path):
    worker = Worker(0, tmp_path)
    worker.command = [sys.executable, "-c", "import os, sys; sys.stdin.readline(); os.kill(os.getpid(), 9)"]
    assert "memory" in worker({})["error"]
    worker.command = [sys.executable, "-c", "import sys; sys.stdin.readline(); sys.exit(3)"]
    assert "status 3" in worker({})["error"]
    worker.command = [sys.executable, "-c", 'import sys; sys.stdin.readline(); print(\'{"error": ""}\', flush=True)']
    assert worker({}) == {"error": ""}
    worker.stop()
    with pytest.raises(SystemExit):
        worker({})


def test_a_worker_sees_its_device_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 5")
    assert devices() == ["2", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices() == []
    assert Worker(0, tmp_path, "5").environment["CUDA_VISIBLE_DEVICES"] == "5"


def test_a_worker_says_what_is_wrong_with_a_recipe():
    found = answer(request("finetune", 'out = "x"\nfit.epoch = 3', "new"))
    assert "epoch" in found["error"]
