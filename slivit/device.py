"""The device that a network runs on: which one, the precision that it computes fast in, and its memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, get_args

from slivit.errors import SlivitError, one_of
from slivit.settings import Precision

if TYPE_CHECKING:
    import torch

P = ParamSpec("P")
R = TypeVar("R")
_CGROUPS = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))


def choose_device(device: str = "auto") -> torch.device:
    """The device by name; "auto" takes a GPU where there is one.

    Raises:
        SlivitError: an unknown device, or one that this machine lacks.
    """
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise SlivitError(f'device "{device}" cannot be used: {error}') from error
    return chosen


def choose_precision(precision: Precision, device: torch.device) -> Precision:
    """The precision by name; "auto" takes the fastest that the device has.

    That is bfloat16 on a GPU that has it and on processors with AMX or AMD's AVX512-BF16, float16 on older GPUs, and
    float32 elsewhere: Intel's AVX512-BF16 without AMX takes twice as long for a product as its float32.

    Raises:
        SlivitError: float16 on a processor, or no precision at all.
    """
    if precision not in get_args(Precision):
        raise SlivitError(f'precision "{precision}" is not known; allowed are {one_of(get_args(Precision))}')
    if precision == "float16" and device.type == "cpu":
        raise SlivitError("precision float16 needs a GPU; use bfloat16 or float32 on a CPU")
    if precision != "auto":
        return precision
    import torch

    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return "bfloat16" if device.type == "cpu" and _bfloat16_in_hardware() else "float32"


def _bfloat16_in_hardware() -> bool:
    """Whether this processor multiplies faster in bfloat16 than in float32."""
    import torch

    has = {name: getattr(torch.cpu, f"_is_{name}_supported", bool)() for name in ("amx_tile", "avx512_bf16")}
    return has["amx_tile"] or (has["avx512_bf16"] and "intel" not in _processor("vendor_id").casefold())


def computed_on(device: str, precision: Precision) -> dict[str, Any]:
    """What weights depend on beside a recipe and the versions of packages, for the record of a run.

    Args:
        device: as in a recipe.
        precision: as in a recipe; what "auto" stands for on that device is what is recorded.
    """
    import platform

    import torch

    where = choose_device(device)
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else _processor() or platform.machine()
    return {"device": where.type, "processor": name, "threads": torch.get_num_threads(),
            "precision": choose_precision(precision, where)}  # fmt: skip


def _processor(named: str = "model name") -> str:
    """The name of the processor, or another of its facts, where the system tells it."""
    import platform

    file = Path("/proc/cpuinfo")
    lines = file.read_text("utf-8", "replace").splitlines() if file.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(named)]
    return names[0] if names else platform.processor()


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """A context in which networks compute in a precision; weights stay as they are."""
    import torch

    low = precision != "float32"
    return torch.autocast(device.type, getattr(torch, precision) if low else None, enabled=low)


def in_float32(function: Callable[P, R]) -> Callable[P, R]:
    """Have a function compute in float32 where the network around it computes in less."""

    @wraps(function)
    def inner(*args: P.args, **options: P.kwargs) -> R:
        import torch

        kinds = [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
        if not kinds:  # an exported graph knows of no precision
            return function(*args, **options)
        with ExitStack() as stack:
            for kind in kinds:
                stack.enter_context(torch.autocast(kind, enabled=False))
            return function(*args, **options)

    return inner


@dataclass
class Memory:
    """The memory of a device.

    Args:
        device: of torch.
    """

    device: torch.device

    def free(self) -> int:
        """Bytes that could still be taken."""
        if self.device.type == "cuda":
            import torch

            unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
            return torch.cuda.mem_get_info(self.device)[0] + unused
        import psutil

        return min([psutil.virtual_memory().available, *_cgroup_room()])

    def peak(self) -> int:
        """The most bytes that were in use at once: since `restart` on a GPU, of the process elsewhere."""
        if self.device.type == "cuda":
            import torch

            return torch.cuda.max_memory_allocated(self.device)
        return _process_peak()

    def restart(self) -> int:
        """Begin to measure; returns the bytes in use before."""
        if self.device.type == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats(self.device)
            return torch.cuda.memory_allocated(self.device)
        return self.peak()

    def wait(self) -> None:
        """Wait for the device, so that a clock tells the truth."""
        if self.device.type == "cuda":
            import torch

            torch.cuda.synchronize(self.device)

    def empty(self) -> None:
        """Give back what the last attempt left."""
        if self.device.type == "cuda":
            import torch

            torch.cuda.empty_cache()


def _process_peak() -> int:
    import psutil

    info = psutil.Process().memory_info()
    if hasattr(info, "peak_wset"):  # Windows
        return int(info.peak_wset)
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _cgroup_room() -> list[int]:
    """What a container leaves; nothing outside of one."""
    for limit, used in _CGROUPS:
        try:
            texts = [Path("/sys/fs/cgroup", name).read_text("utf-8").strip() for name in (limit, used)]
        except OSError:
            continue
        return [int(texts[0]) - int(texts[1])] if texts[0].isdecimal() else []
    return []


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was not enough memory, on a GPU or for torch on a CPU."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).casefold()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def cores() -> int:
    """Cores that this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
