"""Training on labels in several processes: the losses, the weights and the predictions of one."""

import os
import socket
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from slivit.checkpoint import load_checkpoint
from slivit.errors import RecipeError, SlivitError
from slivit.models.registry import model_spec
from slivit.parallel import own_part
from slivit.recipe import check_recipe
from slivit.train.processes import check_processes
from slivit.train.recipe import FinetuneRecipe

FIT = {"epochs": 2, "lr": 1e-3, "batch_size": 4, "precision": "float32", "device": "cpu", "patience": 0}


def recipe(folder, csv, **fit):
    values = {
        "out": str(folder),
        "data": {"manifest": str(csv), "workers": 0},
        "task": {"kind": "binary", "targets": ["bright"]},
        "model": {"name": "slivit", **model_spec("slivit").small, "dropout": 0.0},
        "fit": FIT | fit,
        "testing": {"draws": 20, "baselines": False},
    }
    return check_recipe(FinetuneRecipe, values, "the tests")


def command(made, folder):
    """The recipe's own command, so that each process is what a launcher starts."""
    from slivit.recipe import resolved_toml

    file = folder / "recipe_of_two.toml"
    file.write_text(resolved_toml(made))
    return [sys.executable, "-m", "slivit", "finetune", str(file)]


def in_two(line):
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    each = [os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    running = [subprocess.Popen(line, env=env, stderr=subprocess.PIPE, text=True) for env in each]
    told = [process.communicate(timeout=600)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], told


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, {"oversample": True, "average_weights": 0.9, "freeze_backbone": True}], ids=str
)
def test_two_processes_train_and_predict_as_one_with_the_same_batch(blob_scans, tmp_path, options):
    from slivit.train.run import run

    csv = blob_scans.parent / f"gaps_{len(options)}.csv"  # 31 rows are validated and tested: shares of unlike size
    rows = pd.read_csv(blob_scans)
    rows[rows["path"] != "scan39.nii"].to_csv(csv, index=False)
    run(recipe(tmp_path / "one", csv, **options | {"batch_size": 8}))
    in_two(command(recipe(tmp_path / "two", csv, **options), tmp_path))
    one, two = (pd.read_csv(tmp_path / name / "history.csv") for name in ("one", "two"))
    np.testing.assert_allclose(two.to_numpy(), one.to_numpy(), rtol=1e-3, atol=1e-4)
    weights = [load_checkpoint(tmp_path / name).model.state_dict() for name in ("one", "two")]
    for key, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][key], tensor, rtol=2e-3, atol=2e-4)
    one, two = (pd.read_csv(tmp_path / name / "predictions.csv") for name in ("one", "two"))
    assert two["path"].tolist() == one["path"].tolist()
    np.testing.assert_allclose(two["prob_bright"], one["prob_bright"], atol=1e-3)


@pytest.mark.parametrize(
    ("fit", "told"), [({"lr": "find"}, "one number"), ({"lr": [1e-3, 1e-4]}, "one number"), ({"seeds": 2}, "seeds")]
)
def test_what_one_process_alone_can_do_is_refused(monkeypatch, blob_scans, tmp_path, fit, told):
    made = recipe(tmp_path / "run", blob_scans, **fit)
    check_processes(made)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(RecipeError, match=rf"{told}.* 4 processes were launched"):
        check_processes(made)


def test_every_scan_is_looked_at_by_one_process(monkeypatch):
    seen = []
    for rank in range(3):
        monkeypatch.setattr("slivit.parallel.rank_and_size", lambda rank=rank: (rank, 3))
        seen += own_part(range(7))
    assert sorted(seen) == list(range(7))
    with pytest.raises(SlivitError, match="2 validation scans cannot be shared out among 3 processes"):
        own_part(range(2))
