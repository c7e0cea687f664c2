"""Calls in this process and in processes of this machine: results, errors, deaths, devices, and order."""

import importlib.util
import operator
import os
import sys
import threading
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from slivit.data.workers import in_processes
from slivit.errors import SlivitError
from slivit.experiments.run_state import answer, going_on, made_by, request
from slivit.machines import Died, Lost, Machines, devices, machines_at, readers_at
from slivit.machines.cluster import Cluster, _there
from slivit.machines.local import Local, Worker
from slivit.recipe import resolved_toml


@pytest.fixture
def local(tmp_path):
    with Local(2, tmp_path / "logs") as machines:
        yield machines


def test_a_process_answers_dies_and_is_started_again(tmp_path):
    worker = Worker(tmp_path / "0.txt")
    assert worker(operator.neg, 3) == -3
    with pytest.raises(TypeError, match="bad operand"):
        worker(operator.neg, "3")
    with pytest.raises(Died, match=r"status 3; .*0\.txt may say why"):
        worker(os._exit, 3)
    assert worker(operator.neg, 4) == -4
    worker.process.kill()
    worker.process.wait()
    assert worker(operator.neg, 5) == -5, "one that died between calls is started again"
    worker.stop()
    with pytest.raises(SystemExit):
        worker(operator.neg, 6)


def test_a_killed_process_is_told_as_lack_of_memory(tmp_path):
    worker = Worker(tmp_path / "0.txt")
    worker.command = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    with pytest.raises(Died, match="memory"):
        worker(operator.neg, 1)


def test_a_process_sees_its_device_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 5")
    assert devices() == ["2", "5"]
    machines = Local(3, tmp_path, devices())
    assert [w.environment["CUDA_VISIBLE_DEVICES"] for w in machines.workers] == ["2", "5", "2"]
    assert machines_at("", None, tmp_path).slots == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices() == []
    assert machines_at("", 0, tmp_path).slots == 0


def test_what_is_mapped_comes_with_its_number_and_deaths_are_told(local):
    found = dict(local.map(operator.neg, [1, 2, 3, 4, 5], lambda item, how: how))
    assert found == {0: -1, 1: -2, 2: -3, 3: -4, 4: -5}
    assert dict(Machines().map(operator.neg, [7], lambda item, how: how)) == {0: -7}
    (_, told), = local.map(os._exit, [4], lambda item, how: how)  # fmt: skip
    assert "status 4" in told


@pytest.fixture
def fragile(tmp_path, monkeypatch):
    """A function of a module that other processes find: a number, or the end of its process."""
    (tmp_path / "fragile.py").write_text("import os\ndef read(t):\n    return int(t) if t != 'exit' else os._exit(1)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    yield import_module("fragile").read
    del sys.modules["fragile"]


def test_scans_read_on_machines_are_read_alone_after_a_death(fragile, tmp_path):
    items = ["1", "2", "exit", "4", "5"]
    with Local(2, tmp_path / "logs") as machines:
        found = dict(in_processes(fragile, items, machines, died=lambda item: f"{item} died", chunk=2))
    assert found == {0: 1, 1: 2, 2: "exit died", 3: 4, 4: 5}


class Shaky(Machines):
    """Machines of which some are lost."""

    def __init__(self, losses):
        super().__init__()
        self.losses, self.seen = losses, []

    def once(self, function, item):
        self.seen.append(item)
        if len(self.seen) <= self.losses:
            raise Lost("unplugged")
        return function(item)


def test_a_call_whose_machine_is_lost_is_made_again_elsewhere():
    machines = Shaky(2)
    assert machines.call(operator.neg, 3, again=lambda item: item + 10) == -23
    assert machines.seen == [3, 13, 23]
    with pytest.raises(Lost, match="unplugged"):
        Shaky(9).call(operator.neg, 3)


def test_work_ends_with_the_last_job_and_a_bug_is_raised(local):
    jobs, made, lock = list(range(20)), [], threading.Lock()

    def take():
        with lock:
            return jobs.pop() if jobs else None

    local.work(take, made.append)
    assert sorted(made) == list(range(20))
    with pytest.raises(ZeroDivisionError):
        local.work(iter([1, None, None]).__next__, lambda job: job / 0)


def test_a_run_whose_machine_is_lost_goes_on_with_what_it_left(tiny_recipe, blob_scans, tmp_path, monkeypatch):
    from slivit.recipe import load_recipe

    recipe = load_recipe("finetune", str(tiny_recipe(tmp_path, blob_scans)))
    line = request("finetune", resolved_toml(recipe), "new")
    assert going_on(line)["state"] == "new"
    folder = tmp_path / recipe.out
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.toml").write_text(resolved_toml(recipe))
    (folder / "progress.pt").write_bytes(b"x")
    assert going_on(line)["state"] == "died"
    assert "unplugged" in made_by(Shaky(9), line)["error"]


def test_a_request_says_what_is_wrong_with_a_recipe():
    found = answer(request("finetune", 'out = "x"\nfit.epoch = 3', "new"))
    assert "epoch" in found["error"]


def test_a_command_without_a_cluster_reads_here(monkeypatch):
    with readers_at("", 3) as workers:
        assert workers == 3
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SlivitError, match=r"pip install .*\[cluster\]"), readers_at("auto", 3):
        pass


@pytest.fixture
def fake_ray(monkeypatch):
    """What is used of Ray, without it: calls are made here."""
    ray = ModuleType("ray")
    ray.exceptions = ModuleType("ray.exceptions")
    ray.exceptions.RayError = type("RayError", (Exception,), {})
    ray.exceptions.RayTaskError = type("RayTaskError", (ray.exceptions.RayError,), {})
    ray.init = ray.shutdown = lambda **options: None
    ray.nodes = lambda: [{"Alive": True, "Resources": node} for node in ({"CPU": 8.0, "GPU": 2.0}, {"CPU": 4.0})]
    ray.asked = []

    def remote(**options):
        ray.asked.append(options)
        return lambda function: SimpleNamespace(remote=lambda *arguments: (function, arguments))

    ray.remote, ray.get = remote, lambda call: call[0](*call[1])
    monkeypatch.setitem(sys.modules, "ray", ray)
    return ray


def test_a_call_on_a_cluster_has_a_gpu_or_a_core_to_read(fake_ray):
    with machines_at("auto", None, None) as machines:
        assert (machines.slots, fake_ray.asked[-1]) == (2, {"num_cpus": 4, "num_gpus": 1, "max_retries": 0})
        assert machines.call(operator.neg, 3) == -3
    with readers_at("auto", 2) as readers:
        assert (readers.slots, fake_ray.asked[-1]) == (12, {"num_cpus": 1, "num_gpus": 0, "max_retries": 0})


def test_errors_on_a_cluster_are_those_of_the_call_or_of_the_machine(fake_ray, tmp_path):
    machines = Cluster("auto")

    def raising(error):
        def get(call):
            raise error

        fake_ray.get = get

    task = fake_ray.exceptions.RayTaskError()
    task.cause = SlivitError("no such scan")
    raising(task)
    with pytest.raises(SlivitError, match="no such scan"):
        machines.call(operator.neg, 3)
    raising(fake_ray.exceptions.RayError("node died\nmore"))
    with pytest.raises(Lost, match=r"was lost \(node died\)"):
        machines.call(operator.neg, 3)

    def refuse(**options):
        raise ConnectionError("nothing there")

    fake_ray.init = refuse
    with pytest.raises(
        SlivitError, match=r'"auto": there is no such Ray cluster \(nothing there\); .*ray start --head'
    ):
        Cluster("auto")
    with pytest.raises(SlivitError, match="does not see the folder /no/such/folder"):
        _there("/no/such/folder", abs, 1)


def test_the_page_of_costs_has_the_table_that_the_script_prints():
    root = Path(__file__).parents[2]
    spec = importlib.util.spec_from_file_location("scale", root / "benchmarks" / "scale.py")
    scale = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(scale)
    page = (root / "docs" / "scale.md").read_text("utf-8")
    assert scale.table(scale.parser().parse_args([])) in page
    assert f"{2 * scale.of_a_volume()['all'] / 1e12:.2f} TFLOP" in page
    assert scale.as_time(100_000 * 1.6) == "44 h"
