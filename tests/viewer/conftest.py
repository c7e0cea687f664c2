"""Runs that were never trained, with all files that a run leaves: a checkpoint, a split, predictions and metrics."""

import pandas as pd
import pytest
import torch

from slivit.checkpoint import save_checkpoint, store_operating_point
from slivit.data.manifest import read_manifest
from slivit.data.preprocessing import Preprocessing
from slivit.evaluate.deciding import decide
from slivit.evaluate.measure import measure, write_results
from slivit.evaluate.recipe import Testing as Options
from slivit.models.registry import create_model, model_spec
from slivit.predict.engine import predict_table
from slivit.targets.task import Task

TASKS = {
    "binary": Task(kind="binary", targets=("bright",)),
    "multiclass": Task(kind="multiclass", targets=("grade",), classes=("high", "low")),
    "regression": Task(kind="regression", targets=("size",), unit="mm", center=(4.0,), spread=(1.5,)),
}


def make_run(folder, csv, kind):
    task, settings = TASKS[kind], Preprocessing(size=(6, 32, 32))
    manifest = read_manifest(csv, task)
    torch.manual_seed(0)
    model = create_model("slivit", task.out_dim, **{**model_spec("slivit").small, "slices": 6})
    save_checkpoint(folder / "checkpoint", model, task, settings)
    rows = [row for split in ("val", "test") for row in manifest.rows(split)]
    table = predict_table(model, rows, task, settings)
    testing = Options(draws=10, operating_point="" if kind == "regression" else "0.4")
    decision = None if kind == "regression" else decide(table[table["split"] == "val"], task, testing)
    if decision:
        store_operating_point(folder, decision)
        table = decision.apply(table, task)
    write_results(folder, table, task, measure(table, task, testing, decision=decision, data={"source": str(csv)}))
    manifest.to_csv(folder / "split.csv")
    return folder


@pytest.fixture(scope="session")
def runs(blob_scans, tmp_path_factory):
    """A function: the run of a kind of task, made once."""
    made = {}

    def run(kind):
        if kind not in made:
            made[kind] = make_run(tmp_path_factory.mktemp("runs") / f"my_{kind}", blob_scans, kind)
        return made[kind]

    return run


@pytest.fixture(scope="session")
def scans(blob_scans):
    """The table of the scans, with whole paths."""
    table = pd.read_csv(blob_scans)
    return table.assign(path=[str(blob_scans.parent / p) for p in table["path"]])
