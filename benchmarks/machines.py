"""Two places for the runs of a study on one machine: processes of our own, and a local Ray cluster.

Run: python benchmarks/machines.py [--calls 400]

In turns in one run: seconds to the first answer, seconds for so many calls of no work on two processes, and the memory
that all processes beside this one hold while they wait. Needs the extra `cluster`.
"""

from __future__ import annotations

import argparse
import operator
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil

from slivit.machines import Machines
from slivit.machines.cluster import Cluster
from slivit.machines.local import Local


@contextmanager
def own(folder: Path) -> Any:
    """Two processes of our own."""
    with Local(2, folder) as machines:
        yield machines


@contextmanager
def ray(folder: Path) -> Any:
    """A Ray cluster of one node with two cores."""
    node = {"num_cpus": 2, "include_dashboard": False}
    cluster = import_module("ray.cluster_utils").Cluster(initialize_head=True, head_node_args=node)
    with Cluster(cluster.address) as machines:
        yield machines
    cluster.shutdown()


def measured(place: Callable[[Path], Any], calls: int) -> tuple[float, float, float]:
    """Seconds to the first answer, seconds for the calls, and MB beside this process."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        with place(Path(folder)) as machines:
            first = (machines.call(operator.neg, 1), time.perf_counter() - begun)[1]
            begun = time.perf_counter()
            assert len(dict(machines.map(operator.neg, list(range(calls)), lambda _, how: how))) == calls
            return first, time.perf_counter() - begun, held()


def held() -> float:
    """MB of memory of the processes that this one started, shared pages counted once each."""
    return sum(p.memory_full_info().pss for p in psutil.Process().children(recursive=True)) / 1e6


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=400)
    calls = parser.parse_args().calls
    assert Machines().call(operator.neg, 1) == -1
    print(f"| | s to the first answer | s for {calls} calls | MB |\n| --- | --- | --- | --- |")
    for name, place in {"own processes": own, "Ray": ray, "own processes again": own}.items():
        first, rest, memory = measured(place, calls)
        print(f"| {name} | {first:.1f} | {rest:.2f} | {memory:.0f} |", flush=True)


if __name__ == "__main__":
    main()
