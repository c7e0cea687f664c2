"""Files of every kind that the package reads, damaged: each gives a result or a clear error, in time and memory."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import amount

from slivit.errors import SlivitError

SECONDS, MEMORY = 20, 3 << 30
"""What one file may take."""
PIECES = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"9" * 30, b"[" * 3000, b"{}", b'"',
          b"-1", b"1e999", b"nan", b"null", b"=1+1", b"\n", b",", b"\xc3\x28", b"../", b"<script>")  # fmt: skip


def mutant(content: bytes, rng: np.random.Generator) -> bytes:
    """A file that was cut, that lost or repeats a piece, or in which bytes are others; more often near its start."""
    damaged, size = bytearray(content), max(len(content), 1)
    at = int(rng.integers(min(size, 600))) if rng.random() < 0.6 else int(rng.integers(size))
    kind, length = int(rng.integers(7)), int(rng.integers(1, 60))
    if kind == 0:
        return bytes(damaged[:at])
    if kind == 1:
        del damaged[at : at + length]
    elif kind == 2:
        damaged[at:at] = damaged[at : at + length]
    elif kind == 3:
        damaged[at : at + length] = PIECES[int(rng.integers(len(PIECES)))]
    elif kind == 4:
        damaged[at:at] = PIECES[int(rng.integers(len(PIECES)))]
    else:
        for place in rng.integers(min(size, 600) if kind == 5 else size, size=int(rng.integers(1, 9))):
            damaged[min(int(place), len(damaged) - 1)] = int(rng.integers(256))
    return bytes(damaged)


def _read_scan(path: Path) -> object:
    from slivit.data.readers import read_volume

    return read_volume(str(path) + ("#train/0" if path.suffix == ".npz" else ""))


def _read_manifest(path: Path) -> object:
    from slivit.data.manifest import read_manifest
    from slivit.targets.task import Task

    return read_manifest(path, Task(kind="binary", targets=("bright",)), need_splits=())


def _read_predictions(path: Path) -> object:
    from slivit.evaluate.measure import measure
    from slivit.evaluate.recipe import Testing
    from slivit.evaluate.tables import read_predictions

    table, task = read_predictions(path)
    return json.dumps(measure(table, task, Testing(draws=2)), allow_nan=False)


def _read_recipe(path: Path) -> object:
    from slivit.recipe import load_recipe

    return load_recipe("finetune", str(path))


def _open_checkpoint(path: Path) -> object:
    from slivit.predict.opening import open_checkpoint

    return open_checkpoint(path.parent)


def _read_progress(path: Path) -> object:
    from slivit.train.callbacks import read_progress

    return read_progress(path)


def _read_weights(path: Path) -> object:
    from slivit.models._weights import read_weights

    return read_weights(path)


READERS: dict[str, Callable[[Path], object]] = {
    "scan": _read_scan,
    "manifest": _read_manifest,
    "predictions": _read_predictions,
    "recipe": _read_recipe,
    "config": _open_checkpoint,
    "safetensors": _open_checkpoint,
    "sums": _open_checkpoint,
    "progress": _read_progress,
    "weights": _read_weights,
}


def _scan_seeds(folder: Path) -> list[Path]:
    import importlib.util

    folder.mkdir()
    here = Path(__file__).parents[1] / "readers" / "test_fuzz.py"
    spec = importlib.util.spec_from_file_location("fuzz_seeds", here)
    seeds = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(seeds)
    rng = np.random.default_rng(3)
    for make in (seeds._image_seeds, seeds._video_seeds, seeds._volume_seeds):
        make(folder, rng)
    return sorted(folder.iterdir())


@pytest.fixture
def seeds(ground, tmp_path, request) -> Callable[[str], list[Path]]:
    """A function that gives the whole files of a kind."""

    def made(kind: str) -> list[Path]:
        folder = tmp_path / "seeds"
        if kind == "scan":
            return _scan_seeds(folder)
        if kind in ("progress", "weights"):
            folder.mkdir()
            values = {"epoch": 1, "model": {"a": torch.zeros(9)}, "values": [[0.5]], "lr_max": 1e-3}
            torch.save(values if kind == "progress" else {"state_dict": values["model"]}, folder / f"{kind}.pt")
            return [folder / f"{kind}.pt"]
        if kind in ("manifest", "recipe"):
            return [ground / name for name in (("scans/scans.csv", "pictures.csv"), ("fine.toml",))[kind == "recipe"]]
        server = request.getfixturevalue("server")
        if kind == "predictions":
            return [ground / "a.csv", server.model("trained") / "predictions.csv"]
        done = server(("export", f"{ground}/trained", str(folder)))
        assert done["status"] == 0, done["said"]
        return [folder / {"config": "config.json", "safetensors": "model.safetensors", "sums": "SHA256SUMS"}[kind]]

    return made


def _place(kind: str, seed: Path, folder: Path, content: bytes) -> Path:
    """Put a damaged file where its kind is read: alone, or in a whole checkpoint whose checksums fit it."""
    if kind in ("manifest", "recipe", "predictions"):
        path = seed.with_name(f"damaged_{os.getpid()}{seed.suffix}")  # paths in it are relative to it
    elif kind in ("config", "safetensors", "sums"):
        whole = shutil.copytree(seed.parent, folder / "checkpoint", dirs_exist_ok=True)
        path = whole / seed.name
    else:
        path = folder / seed.name
    path.write_bytes(content)
    if kind in ("config", "safetensors"):
        (path.parent / "SHA256SUMS").unlink(missing_ok=True)
    if kind == "safetensors":
        from slivit.checkpoint import file_checksum

        config = path.parent / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"sha256": file_checksum(path)}))
    return path


def _outcome(read: Callable[[Path], object], path: Path) -> str:
    def late(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(path)
    except SlivitError as error:
        return "refused" if len(str(error)) < 20_000 else "refused at length"
    except TimeoutError:
        return "over time"
    except BaseException as error:
        frame = error.__traceback__
        while frame.tb_next:
            frame = frame.tb_next
        at = f"{Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno}"
        return f"{type(error).__name__} at {at}: {str(error)[:120]}"
    finally:
        signal.alarm(0)
    return "read"


def _run(kind: str, seeds: list[Path], numbers: range, folder: Path, told: Path) -> None:
    """Read damaged files, one after the other, in a process of its own; never comes back."""
    used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY, -1))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    with told.open("a") as answers:
        for number in numbers:
            seed = seeds[number % len(seeds)]
            rng = np.random.default_rng([number, *kind.encode()])
            answers.write(f"{number} begun {seed.name}\n")
            answers.flush()
            path = _place(kind, seed, folder, mutant(seed.read_bytes(), rng))
            answers.write(f"{number} ended {_outcome(READERS[kind], path)}\n")
            answers.flush()
            path.unlink(missing_ok=True)
    os._exit(0)


def read_all(kind: str, seeds: list[Path], count: int, folder: Path) -> dict[int, str]:
    """How each of `count` damaged files went; a process that dies is begun again behind the file it died on."""
    outcomes: dict[int, str] = {}
    told, start = folder / "told.txt", 0
    while start < count:
        told.write_text("")
        pid = os.fork()
        if pid == 0:
            try:
                _run(kind, seeds, range(start, count), folder, told)
            finally:
                os._exit(1)
        begun = time.monotonic()
        size = -1
        while (done := os.waitpid(pid, os.WNOHANG)) == (0, 0):
            time.sleep(0.05)
            if (now := told.stat().st_size) != size:
                size, begun = now, time.monotonic()
            elif time.monotonic() - begun > 3 * SECONDS:
                os.kill(pid, signal.SIGKILL)
        for line in told.read_text().splitlines():
            number, state, *rest = line.split(" ", 2)
            outcomes[int(number)] = rest[0] if state == "ended" else "died"
            start = int(number) + 1
        if outcomes.get(start - 1) == "died":
            outcomes[start - 1] = f"the process died ({os.waitstatus_to_exitcode(done[1])})"
    return outcomes


@pytest.mark.parametrize("kind", [k if k in ("recipe", "manifest") else pytest.param(k, marks=pytest.mark.slow)
                                  for k in READERS])  # fmt: skip
def test_a_damaged_file_gives_a_result_or_a_clear_error(kind, seeds, tmp_path, capsys):
    sys.setrecursionlimit(1000)
    files = seeds(kind)
    whole = {p.name: _outcome(READERS[kind], _place(kind, p, tmp_path, p.read_bytes())) for p in files}
    assert set(whole.values()) == {"read"}, whole
    share = 5 if kind == "scan" else 1  # there are many formats of scans
    outcomes = read_all(kind, files, share * amount("MUTANTS", 10_000, 13 * 20) // 13, tmp_path)
    wrong = {n: o for n, o in outcomes.items() if o not in ("read", "refused")}
    with capsys.disabled():
        print(f"\n{kind}: {len(outcomes)} damaged files, {dict(Counter(outcomes.values()).most_common(8))}")
    assert wrong == {}
