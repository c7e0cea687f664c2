"""A Ray cluster of two nodes on this machine: jobs, a node that is killed, prediction and features."""

import json
import os
import sys
import threading
from importlib import import_module

import pandas as pd
import pytest

from slivit.errors import SlivitError
from slivit.machines.cluster import Cluster

pytest.importorskip("ray", reason="needs the extra cluster: pip install 'slivit[cluster]'")
pytestmark = pytest.mark.slow

JOBS = '''
"""Jobs that take three epochs, keep each, and fail as told: a process that dies once, or an error for good."""
import json, os, time
from pathlib import Path
from slivit.errors import SlivitError

EPOCHS = 3

def run(job):
    folder, number = Path(job["folder"]), job["number"]
    folder.mkdir(parents=True, exist_ok=True)
    if number % 97 == 13:
        raise SlivitError(f"job {number} cannot be done")
    kept = folder / "progress.json"
    state = json.loads(kept.read_text()) if kept.is_file() else {"epoch": 0, "value": number}
    for epoch in range(state["epoch"], EPOCHS):
        with (folder / "begun.txt").open("a") as begun:
            begun.write(f"{epoch}\\n")
        if job["dies"] and number % 113 == 7 and epoch == 1 and not (folder / "died").exists():
            (folder / "died").touch()
            os._exit(1)
        time.sleep(job["seconds"])
        state = {"epoch": epoch + 1, "value": (state["value"] * 31 + epoch) % 1009}
        part = folder / f"progress.{os.getpid()}"
        part.write_text(json.dumps(state))
        part.replace(kept)
    return state["value"]
'''


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """A module of made-up jobs that every process finds."""
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "made_up_jobs.py").write_text(JOBS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
        yield import_module("made_up_jobs").run
        del sys.modules["made_up_jobs"]


@pytest.fixture(scope="module")
def cluster(jobs):
    """Two nodes: the head, and one that may be killed."""
    cluster_utils = import_module("ray.cluster_utils")
    made = cluster_utils.Cluster()
    try:
        # A busy machine answers late, and Ray would take its nodes for dead; its calls are as good as other tests.
        patient = {"health_check_timeout_ms": 120_000, "worker_niceness": 0}
        made.add_node(num_cpus=1, include_dashboard=False, _system_config=patient)
        made.second = made.add_node(num_cpus=1)
    except Exception as error:
        made.shutdown()
        if "timed out during startup" not in str(error):
            raise
        pytest.skip("this machine is too busy: Ray's nodes did not start within the 30 seconds that Ray allows")
    yield made
    made.shutdown()


def test_a_folder_is_predicted_and_embedded_on_the_cluster_as_here(cluster, blob_scans, tiny_recipe, tmp_path):
    pytest.importorskip("pyarrow")
    import slivit
    from slivit.predict.command import run as predict
    from slivit.probing.embedding import EmbedRecipe, embed, read_embeddings
    from slivit.recipe import check_recipe, load_recipe

    run = slivit.finetune(load_recipe("finetune", str(tiny_recipe(tmp_path, blob_scans, **{"fit.epochs": 1}))))
    folder = getattr(run, "folder", run)
    (tmp_path / "broken.nii").write_bytes(b"no scan")
    scans = [str(blob_scans), str(tmp_path / "broken.nii")]
    options = {"precision": "float32", "device": "cpu", "batch_size": 2, "progress": False}
    here = predict(folder, scans, tmp_path / "here.csv", **options)
    there = predict(folder, scans, tmp_path / "there.csv", cluster=cluster.address, **options)
    pd.testing.assert_frame_equal(here, there, rtol=1e-5)
    assert (there["error"] != "").sum() == 1
    tables = []
    for name, more in (("one", {}), ("two", {"cluster": cluster.address})):
        values = {"out": str(tmp_path / name / "e.parquet"), "checkpoint": str(folder), "precision": "float32"}
        values["data"] = {"manifest": str(blob_scans), "workers": 0}
        tables.append(read_embeddings(embed(check_recipe(EmbedRecipe, values, "test"), progress=False, **more)))
    for name, part in tables[0].parts.items():
        import torch

        torch.testing.assert_close(part, tables[1].parts[name], rtol=1e-5, atol=1e-6)


def test_a_manifest_is_checked_on_the_cluster_as_here(cluster, blob_scans, tmp_path):
    from slivit.data.checking.check import check_manifest
    from slivit.machines import readers_at

    here = check_manifest(blob_scans, workers=0)
    with readers_at(cluster.address, 0) as readers:
        there = check_manifest(blob_scans, workers=readers)
    pd.testing.assert_frame_equal(here.table, there.table)


def table_of(jobs, machines, folder, *, dies, kill=None):
    """What came of 1,000 jobs: their values, or why they failed."""
    waiting = [{"number": i, "folder": f"{folder}/{i}", "dies": dies, "seconds": 0.002 * dies} for i in range(1000)]
    found, lock = {}, threading.Lock()

    def take():
        with lock:
            return waiting.pop(0) if waiting else None

    def make(job):
        try:
            found[job["number"]] = machines.call(jobs, job)
        except SlivitError as error:
            found[job["number"]] = str(error)
        if kill and len(found) == 300:
            kill()

    machines.work(take, make)
    return pd.Series(found).sort_index()


def test_a_thousand_jobs_end_with_the_same_table_though_processes_die_and_a_node_is_killed(cluster, jobs, tmp_path):
    from slivit.machines import Machines

    expected = table_of(jobs, Machines(), tmp_path / "here", dies=False)
    with Cluster(cluster.address) as machines:
        assert machines.slots == 2
        kill = lambda: cluster.remove_node(cluster.second, allow_graceful=False)  # noqa: E731
        found = table_of(jobs, machines, tmp_path / "there", dies=True, kill=kill)
    assert len(cluster.list_all_nodes()) == 1
    assert len(expected) == 1000
    pd.testing.assert_series_equal(found, expected)
    begun = {f.parent.name: f.read_text().split() for f in (tmp_path / "there").glob("*/begun.txt")}
    twice = {name: epochs for name, epochs in begun.items() if len(epochs) > 3}
    assert len(twice) >= 9, "those whose process died, and perhaps those of the node"
    assert all(len(epochs) == 4 for epochs in twice.values()), "what was lost is one unfinished epoch"
    for name in begun:
        assert json.loads((tmp_path / "there" / name / "progress.json").read_text())["epoch"] == 3
