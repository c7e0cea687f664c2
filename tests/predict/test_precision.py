"""Half precision says the same as float32: on a trained model to 0.01, and on every network that there is."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

import slivit
from slivit.checkpoint import Checkpoint, load_checkpoint
from slivit.data.preprocessing import Preprocessing
from slivit.models.registry import create_model, list_models, model_spec
from slivit.predict import command as predict
from slivit.predict.engine import Engine
from slivit.targets.task import Task


def test_a_trained_model_says_the_same(blob_run, blob_scans):
    loaded = load_checkpoint(blob_run)
    rows = slivit.read_manifest(blob_scans, loaded.task).rows()
    tables = {p: Engine(loaded, "cpu", precision=p).table(rows) for p in ("float32", "bfloat16")}
    full, half = (table["prob_bright"].to_numpy() for table in tables.values())
    assert np.abs(full - half).max() < 0.01
    assert (full != half).any()
    known = tables["float32"]["target_bright"]
    assert roc_auc_score(known, half) == pytest.approx(roc_auc_score(known, full), abs=0.005)


def test_auto_is_what_the_device_has(blob_run, blob_scans):
    scan = [str(blob_scans.parent / "scan3.nii")]
    native = Engine(load_checkpoint(blob_run), "cpu", precision="auto").precision
    tables = [predict.run(blob_run, scan, device="cpu", precision=p, progress=False) for p in ("auto", native)]
    assert tables[0].equals(tables[1])


@pytest.mark.parametrize("name", list_models())
def test_every_network_runs_in_bfloat16(name):
    torch.manual_seed(0)
    model = create_model(name, 1, **model_spec(name).small)
    held = Checkpoint(model, Task(kind="binary", targets=("bright",)), Preprocessing(size=model.spec.size))
    stacks = torch.randint(0, 256, (2, *model.spec.size), dtype=torch.uint8)
    full, half = (Engine(held, "cpu", precision=p).predict(stacks) for p in ("float32", "bfloat16"))
    assert full.dtype == half.dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=0, atol=0.02)
