"""How fast scans are read and tiled: plain loaders, MONAI's PersistentDataset, and slivit with and without its cache.

    python benchmarks/data.py            # 64 OCT volumes, 32 MRI series, 64 videos; about a quarter of an hour
    python benchmarks/data.py --quick    # a few of each

Everything runs in one process on one thread. The methods take turns on the same scans, so that what else the machine
does falls on all of them, and ratios are taken turn by turn. The files are in the memory of the operating system: what
is measured is reading and decoding, not the disk. "Cold" means that nothing preprocessed is kept from before.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from monai_datasets import persistent
from plain_loaders import LOADERS, MEAN, STD, every
from scans import KINDS, Kind

SLICES = 28
PLAIN, SAME = "plain loader, every slice", f"plain loader, the same {SLICES} slices"
COLD, BUILD = "slivit, cold", "slivit, cold, and kept in the cache"
KEPT, INPUT, FOLDED = "slivit cache: grey bytes", "slivit cache: model's input", "slivit cache: model's input, folded"
MONAI_COLD, MONAI_KEPT, MONAI = "MONAI, cold, and kept", "MONAI cache: grey float32", "MONAI cache: model's input"
MONAI_BYTES, MONAI_BYTES_INPUT = "MONAI cache of bytes: grey bytes", "MONAI cache of bytes: model's input"
WRITING = (BUILD, MONAI_COLD)
MEASURED_FOR_MEMORY = (PLAIN, COLD, INPUT, MONAI)

Method = Callable[[int], Any]


@dataclass(frozen=True)
class Setting:
    """Where the scans of one kind lie, and the settings that all methods share."""

    kind: str
    paths: tuple[Path, ...]
    work: Path

    @property
    def preprocessing(self) -> Any:
        from slivit.data.preprocessing import Preprocessing

        return Preprocessing(size=(SLICES, 256, 256))


def methods(setting: Setting, fresh: Path, names: Sequence[str] | None = None) -> dict[str, Method]:
    """What is measured, by name: each takes the number of a scan. `fresh` is an empty folder."""
    makers: dict[str, Callable[[], Method]] = {
        PLAIN: lambda: _plain(setting, every),
        SAME: lambda: _plain(setting, setting.preprocessing.select),
        COLD: lambda: _cold(setting),
        BUILD: lambda: _cached(setting, fresh / "slivit", _grey),
        MONAI_COLD: lambda: _monai(setting, fresh / "monai", as_bytes=False, finish=_grey),
        KEPT: lambda: _cached(setting, setting.work / "slivit", _grey),
        INPUT: lambda: _cached(setting, setting.work / "slivit", _model_input),
        FOLDED: lambda: _cached(setting, setting.work / "slivit", _folded_input),
        MONAI_KEPT: lambda: _monai(setting, setting.work / "monai", as_bytes=False, finish=_grey),
        MONAI: lambda: _monai(setting, setting.work / "monai", as_bytes=False, finish=_model_input),
        MONAI_BYTES: lambda: _monai(setting, setting.work / "monai8", as_bytes=True, finish=_grey),
        MONAI_BYTES_INPUT: lambda: _monai(setting, setting.work / "monai8", as_bytes=True, finish=_model_input),
    }
    return {name: make() for name, make in makers.items() if names is None or name in names}


def _plain(setting: Setting, choose: Any) -> Method:
    load = LOADERS[setting.kind]
    return lambda i: load(setting.paths[i], choose)


def _cold(setting: Setting) -> Method:
    from slivit.data.preprocessing import load_slices

    settings = setting.preprocessing
    return lambda i: _grey(load_slices(str(setting.paths[i]), settings))


def _cached(setting: Setting, folder: Path, finish: Callable[[Any], Any]) -> Method:
    from slivit.data.cache import SliceCache

    cache, settings = SliceCache(folder), setting.preprocessing
    return lambda i: finish(cache.load(str(setting.paths[i]), settings))


def _monai(setting: Setting, folder: Path, *, as_bytes: bool, finish: Callable[[Any], Any]) -> Method:
    dataset = persistent(setting.kind, setting.paths, folder, setting.preprocessing.select, as_bytes=as_bytes)
    return lambda i: finish(dataset[i])


def _tensor(stack: Any) -> Any:
    import torch

    return torch.from_numpy(stack) if isinstance(stack, np.ndarray) else stack


def _grey(stack: Any) -> Any:
    """Tiled, (1, S*H, W), in the type in which it was kept, and read from end to end as a copy to a device would."""
    from slivit.data.tiling import tile_slices

    return tile_slices(_tensor(stack)).clone()[None]


def _model_input(stack: Any) -> Any:
    """(1, 3, S*H, W) float32, normalised: what SLIViT's backbone takes."""
    from slivit.data.blocks import to_input

    return to_input(_tensor(stack)[None], "tiled", MEAN, STD)


def _folded_input(stack: Any) -> Any:
    """(1, 1, S*H, W) float32 grey: what the backbone takes with grey and normalisation folded into its stem."""
    from slivit.data.tiling import tile_slices

    return tile_slices(_tensor(stack))[None, None].float()


def check_alike(setting: Setting) -> None:
    """Make sure that the cache returns what is read cold, and that the plain loader sees the same scan."""
    import torch

    loaders = methods(setting, setting.work / "check")
    cold, kept = loaders[COLD](0), loaders[KEPT](0)
    if not torch.equal(cold, kept):
        raise RuntimeError(f"{setting.kind}: the cache does not return what is read cold")
    plain = loaders[SAME](0)[0].flatten().double()
    for name, other in (("slivit", loaders[INPUT](0)), ("MONAI", loaders[MONAI](0))):
        likeness = np.corrcoef(plain, other[0, 0].flatten().double())[0, 1]
        if not likeness > (0.7 if name == "MONAI" else 0.9):
            raise RuntimeError(f"{setting.kind}: {name} and the plain loader see different pictures ({likeness:.2f})")


def measure(setting: Setting, rounds: int) -> dict[str, tuple[list[float], list[float]]]:
    """Wall and processor seconds a volume of each method, one entry a round; the methods take turns."""
    times: dict[str, tuple[list[float], list[float]]] = {}
    for number in range(rounds):
        with tempfile.TemporaryDirectory(dir=setting.work) as fresh:
            loaders = methods(setting, Path(fresh))
            reading = [name for name in loaders if name not in WRITING]
            for name in [*(reading if number % 2 == 0 else reversed(reading)), *WRITING]:
                wall, processor = _pass(loaders[name], len(setting.paths))
                kept = times.setdefault(name, ([], []))
                kept[0].append(wall)
                kept[1].append(processor)
            os.sync()  # so that nothing is written to disk while the next round is measured
    return {name: times[name] for name in loaders}


def _pass(method: Method, count: int) -> tuple[float, float]:
    """Median wall and processor seconds a volume of one pass over all volumes."""
    wall, processor = [], []
    for index in range(count):
        start = time.perf_counter(), time.process_time()
        method(index)
        wall.append(time.perf_counter() - start[0])
        processor.append(time.process_time() - start[1])
    return float(np.median(wall)), float(np.median(processor))


def peak_memory(setting: Setting, name: str, count: int) -> float:
    """Peak memory in MB of a process that loads `count` volumes by one method."""
    command = [sys.executable, __file__, "--memory", name, "--kind", setting.kind, "--count", str(count)]
    done = subprocess.run([*command, "--folder", str(setting.work.parent)], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def memory_of(setting: Setting, name: str, count: int) -> float:
    """Load volumes by one method, and return this process's peak memory in MB."""
    method = methods(setting, setting.work / "check", [name])[name]
    for index in range(count):
        method(index)
    # Not `resource.getrusage`: its peak is handed down from the process that started this one.
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def prepare_scans(kind: Kind, folder: Path, count: int) -> Setting:
    """Make the scans of one kind, and fill the caches that are measured."""
    place = folder / kind.name
    paths = sorted((place / "scans").iterdir()) if place.exists() else kind.make(place / "scans", count)
    setting = Setting(kind.name, tuple(paths), place)
    for name in (KEPT, MONAI, MONAI_BYTES):
        method = methods(setting, place / "check", [name])[name]
        for index in range(len(paths)):
            method(index)
    return setting


def table(kind: Kind, setting: Setting, rounds: int, with_memory: bool) -> list[str]:
    """Measure one kind of scans, and write the rows of a Markdown table."""
    check_alike(setting)
    times = measure(setting, rounds)
    count = len(setting.paths)
    lines = [
        f"### {kind.name}: {count} scans ({kind.what})",
        "",
        "| | volumes/s | ms of processor | x plain, every slice | x plain, same slices | peak MB, a quarter / all |",
        "|---|---|---|---|---|---|",
    ]
    for name, (wall, processor) in times.items():
        ratios = [f"{_ratio(times[base][1], processor):.1f}" for base in (PLAIN, SAME)]
        memory = ""
        if with_memory and name in MEASURED_FOR_MEMORY:
            memory = " / ".join(f"{peak_memory(setting, name, n):.0f}" for n in (max(1, count // 4), count))
        cells = [name, f"{1 / np.median(wall):.1f}", f"{1000 * np.median(processor):.2f}", *ratios, memory]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _ratio(base: Sequence[float], other: Sequence[float]) -> float:
    """How many times faster, in processor time: the median of the ratios of the rounds."""
    return float(np.median(np.array(base) / np.array(other)))


def fold_lines(rounds: int) -> list[str]:
    """What folding grey into the stem of ConvNeXt saves, from bytes to the stem's output and to the whole backbone."""
    import timm
    import torch
    from fold import fold_grey

    from slivit.data.blocks import to_input

    network = timm.create_model("convnext_tiny", num_classes=0).eval()
    plain, folded = network.stem[0], fold_grey(network.stem[0], MEAN, STD)
    stack = torch.randint(0, 256, (1, SLICES, 256, 256), dtype=torch.uint8)
    whole = {
        "as colour": lambda: plain(to_input(stack, "tiled", MEAN, STD).contiguous(memory_format=torch.channels_last)),
        "folded": lambda: folded(stack.view(1, 1, -1, 256)),
    }
    times: dict[str, list[float]] = {name: [] for name in whole}
    with torch.inference_mode():
        worst = float((whole["as colour"]() - whole["folded"]()).abs().max())
        for _ in range(4 * rounds):
            for name, run in whole.items():
                times[name].append(_pass(lambda _, run=run: run(), 1)[1])
        network_time = _pass(lambda _: network.forward_features(to_input(stack, "tiled", MEAN, STD)), 1)[1]
    spent = ", ".join(f"{name} {1000 * np.median(t):.1f} ms" for name, t in times.items())
    return [
        f"Grey folded into the stem of `convnext_tiny`, from bytes ({SLICES} x 256 x 256) to the stem's output: "
        f"{spent} of processor time; the outputs differ by at most {worst:.1e}. The whole backbone takes "
        f"{1000 * network_time:.0f} ms.",
        "",
    ]


def main() -> None:
    """Make the scans, measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few scans of each kind, no memory")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the scans are made, or lie from an earlier run")
    parser.add_argument("--kind", choices=[k.name for k in KINDS], help="only this kind")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    one_thread()
    kinds = [k for k in KINDS if options.kind in (None, k.name)]
    if options.memory:
        place = options.folder / options.kind
        setting = Setting(options.kind, tuple(sorted((place / "scans").iterdir())), place)
        print(memory_of(setting, options.memory, options.count))
        return
    with tempfile.TemporaryDirectory() as made:
        for kind in kinds:
            count = min(4, kind.scans) if options.quick else kind.scans
            setting = prepare_scans(kind, options.folder or Path(made), count)
            print("\n".join(table(kind, setting, options.rounds, not options.quick)), flush=True)
        print("\n".join(fold_lines(options.rounds)))


def one_thread() -> None:
    """Keep OpenCV and torch to one thread."""
    import cv2
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)


if __name__ == "__main__":
    main()
