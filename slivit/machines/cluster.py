"""The machines of a Ray cluster: it finds a free one for each call, and another where one is lost.

Ray (https://docs.ray.io, Apache-2.0) is the extra cluster.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from slivit.errors import SlivitError, install_command
from slivit.machines import READING_TRIES, TRIES, Lost, Machines

Item = TypeVar("Item")
Result = TypeVar("Result")


class Cluster(Machines):
    """A Ray cluster that runs already; each call has a GPU where the cluster has any, else a core.

    As many calls are made at a time as it has room for when it is joined.

    Args:
        address: "auto" for the one that this machine belongs to, "HOST:PORT", or "ray://HOST:PORT" from elsewhere.
        reading: the calls take a core each, and no GPU.

    Raises:
        SlivitError: Ray is not installed, or there is no such cluster.
    """

    def __init__(self, address: str, *, reading: bool = False) -> None:
        self.ray = _ray()
        try:
            self.ray.init(address=address, log_to_driver=False, logging_level="warning", ignore_reinit_error=True)
        except (ConnectionError, ValueError, RuntimeError, TimeoutError, self.ray.exceptions.RayError) as error:
            raise SlivitError(_unreachable(address, error)) from error
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        gpus = [] if reading else [node for node in nodes if node.get("GPU", 0) >= 1]
        if gpus:
            cores = max(1, min(int(node.get("CPU", 1) // node["GPU"]) for node in gpus))
            super().__init__(sum(int(node["GPU"]) for node in gpus))
        else:
            cores = 1
            tries = READING_TRIES if reading else TRIES
            super().__init__(max(1, sum(int(node.get("CPU", 0)) for node in nodes)), tries)
        self.closed, self.waiting = False, set[Any]()
        self.remote = self.ray.remote(num_cpus=cores, num_gpus=int(bool(gpus)), max_retries=0)(_there)

    def once(self, function: Callable[[Item], Result], item: Item) -> Result:
        """Make a call on a machine that is free."""
        if self.closed:
            raise SystemExit
        errors = self.ray.exceptions
        call = self.remote.remote(str(Path.cwd()), function, item)
        self.waiting.add(call)
        try:
            return self.ray.get(call)
        except errors.RayTaskError as error:
            raise error.cause from error
        except errors.RayError as error:
            if self.closed:
                raise SystemExit from None
            raise Lost(f"its process or machine was lost ({str(error).strip().splitlines()[0]})") from error
        finally:
            self.waiting.discard(call)

    def close(self) -> None:
        """Leave the cluster; calls that are being made are given up."""
        self.closed = True
        for call in list(self.waiting):
            self.ray.cancel(call, force=True)
        self.ray.shutdown()


def _there(folder: str, function: Callable[[Any], Any], item: Any) -> Any:
    """Make a call on another machine, in the folder where the command was given, by which relative paths are meant."""
    try:
        os.chdir(folder)
    except OSError as error:
        raise SlivitError(
            f"{os.uname().nodename}: does not see the folder {folder} ({error.strerror}), in which the command was "
            "given; all machines of a cluster must see it and the folders of scans and runs, under the same paths"
        ) from error
    return function(item)


def _ray() -> Any:
    # Ray sends statistics of its use to its makers; that is for the user to allow.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        return import_module("ray")
    except ImportError as error:
        raise SlivitError(f"--cluster needs the package ray: {install_command('cluster')}") from error


def _unreachable(address: str, error: Exception) -> str:
    way = "start one with: ray start --head; join it from the other machines with: ray start --address=HOST:6379"
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f'--cluster "{address}": there is no such Ray cluster ({first}); {way}'
