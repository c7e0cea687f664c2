"""The engine: training steps and predictions against the released code's shape, and what takes the time.

Run: python benchmarks/engine.py [share reading depthwise step inference start growth processes] [--slices 16]

Everything is processor time of one thread in one run, so that a busy machine changes little; what counts are ratios.
"Released shape" is SLIViT by its description, from the libraries that its code uses: Hugging Face's ConvNeXt-Tiny over
the slices stacked into one image, one token a slice, and a transformer of five layers; float32.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STAGES = ((96, 64), (192, 32), (384, 16), (768, 8))
"""Channels and width of the four stages of a ConvNeXt-Tiny on slices of 256 x 256."""
GROWN = (7, 14, 28, 56)
"""Slices of the steps of `growth`."""


def seconds(function: Callable[[], Any], repeats: int) -> float:
    """Processor time of one call: the least of some, after one that warms up."""
    function()
    spent = []
    for _ in range(repeats):
        begun = time.process_time()
        function()
        spent.append(time.process_time() - begun)
    return min(spent)


class Released(nn.Module):
    """SLIViT in the shape of the released code, at random."""

    def __init__(self, slices: int) -> None:
        super().__init__()
        from transformers import ConvNextConfig, ConvNextModel

        self.slices = slices
        self.backbone = ConvNextModel(ConvNextConfig(depths=[3, 3, 9, 3], hidden_sizes=[96, 192, 384, 768]))
        self.embed = nn.Sequential(nn.LayerNorm(768 * 64), nn.Linear(768 * 64, 256), nn.LayerNorm(256))
        layer = nn.TransformerEncoderLayer(256, 16, 512, batch_first=True, norm_first=True, activation="gelu")
        self.layers = nn.TransformerEncoder(layer, 5, enable_nested_tensor=False)
        self.head = nn.Linear(256, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S * 256, 256) -> (B, 1)."""
        features = self.backbone(x).last_hidden_state
        tokens = features.permute(0, 2, 3, 1).reshape(len(x), self.slices, -1)
        return self.head(self.layers(self.embed(tokens))[:, 0])


def ours(slices: int) -> nn.Module:
    """SLIViT as `slivit finetune` builds it, at random."""
    from slivit.models.registry import create_model

    return create_model("slivit", 1, slices=slices, pretrained=False)


def depthwise(options: argparse.Namespace) -> None:
    """Weight gradients of the depth-wise convolutions, by stage."""
    from slivit.models._depthwise import weight_gradient

    print("| channels | type | forward | gradient of the weights, torch | here |\n| --- | --- | --- | --- | --- |")
    for channels, width in STAGES:
        for dtype in (torch.float32, torch.bfloat16):
            shape = (1, channels, options.slices * width, width)
            x = torch.randn(shape, dtype=dtype).contiguous(memory_format=torch.channels_last)
            weight = torch.randn(channels, 1, 7, 7, dtype=dtype)
            times = [
                seconds(lambda x=x, w=weight, n=channels: F.conv2d(x, w, padding=3, groups=n), options.repeats),
                seconds(lambda x=x, w=weight: _torch_gradient(x, w), 1),
                seconds(lambda x=x: weight_gradient(x, x, 7), options.repeats),
            ]
            print(f"| {channels} | {str(dtype)[6:]} | " + " | ".join(f"{1000 * t:.1f} ms" for t in times) + " |")


def _torch_gradient(x: Tensor, weight: Tensor) -> Any:
    only_weight = [False, True, False]
    around = ([1, 1], [3, 3], [1, 1], False, [0, 0], len(weight))
    return torch.ops.aten.convolution_backward(x, x, weight, None, *around, only_weight)


def step(options: argparse.Namespace) -> None:
    """One training step of one scan."""
    from slivit.device import autocast
    from slivit.models._depthwise import quicken

    x = torch.randn(1, 3, options.slices * 256, 256)
    cpu = torch.device("cpu")

    def trained(model: nn.Module, precision: Any) -> Callable[[], None]:
        optimiser = torch.optim.AdamW(model.parameters(), 1e-4)

        def run() -> None:
            with autocast(precision, cpu):
                loss = model(x).float().square().mean()
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()

        return run

    def fast(model: nn.Module) -> nn.Module:
        quicken(model)
        return model.to(memory_format=torch.channels_last)

    cases = {
        "released shape, float32": trained(Released(options.slices).train(), "float32"),
        "plain torch with timm, bfloat16": trained(ours(options.slices).train(), "bfloat16"),
        "here, float32": trained(fast(ours(options.slices)).train(), "float32"),
        "here, bfloat16": trained(fast(ours(options.slices)).train(), "bfloat16"),
    }
    _table("training step", {name: seconds(run, options.repeats) for name, run in cases.items()})


def inference(options: argparse.Namespace) -> None:
    """One scan of bytes to its prediction."""
    from slivit.checkpoint import Checkpoint
    from slivit.data.preprocessing import Preprocessing
    from slivit.predict.engine import Engine
    from slivit.targets.task import Task

    stack = torch.randint(0, 256, (1, options.slices, 256, 256), dtype=torch.uint8)
    released = Released(options.slices).eval()
    x = torch.randn(1, 3, options.slices * 256, 256)

    def plain() -> None:
        with torch.inference_mode():
            released(x)

    model = ours(options.slices)
    settings = Preprocessing(size=(options.slices, 256, 256))
    held = Checkpoint(model, Task(kind="binary", targets=("drusen",)), settings)
    measured = {"released shape, float32": seconds(plain, options.repeats)}
    for precision in ("float32", "bfloat16"):
        engine = Engine(held, "cpu", precision=precision)
        measured[f"here, {precision}"] = seconds(lambda e=engine: e.predict(stack), options.repeats)
    _table("inference", measured)


def _table(what: str, measured: dict[str, float]) -> None:
    first = next(iter(measured.values()))
    print(f"| {what} | seconds | against released |\n| --- | --- | --- |")
    for name, spent in measured.items():
        print(f"| {name} | {spent:.2f} | {spent / first:.2f} |", flush=True)


def start(options: argparse.Namespace) -> None:
    """Processor time of `slivit predict` for one small scan, from the start of the process to its end."""
    import nibabel
    import numpy as np

    from slivit.checkpoint import save_checkpoint
    from slivit.data.preprocessing import Preprocessing
    from slivit.models.registry import create_model, model_spec
    from slivit.targets.task import Task

    with tempfile.TemporaryDirectory() as folder:
        model = create_model("slivit", 1, **model_spec("slivit").small)
        task = Task(kind="binary", targets=("drusen",))
        save_checkpoint(Path(folder, "run"), model, task, Preprocessing(size=model.spec.size))
        scan = np.random.default_rng(0).integers(0, 256, (64, 64, 12)).astype(np.uint8)
        nibabel.save(nibabel.Nifti1Image(scan, np.eye(4)), Path(folder, "scan.nii.gz"))
        command = [sys.executable, "-m", "slivit", "predict", f"{folder}/run", f"{folder}/scan.nii.gz"]
        spent = []
        for _ in range(options.repeats):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(command, check=True, capture_output=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    print(f"slivit predict of one small scan: {min(spent):.1f} processor seconds")


def growth(options: argparse.Namespace) -> None:
    """Time and memory of a training step by the number of slices, each in a process of its own."""
    import json

    import numpy as np

    rows = []
    for slices in GROWN:
        code = f"import engine; engine.grown({slices})"
        done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(f"{slices} slices: {rows[-1]}", flush=True)
    print("| slices | seconds a step | a slice | GB | against the line |\n| --- | --- | --- | --- | --- |")
    memory = np.array([row["gb"] for row in rows])
    line = np.polyval(np.polyfit(GROWN, memory, 1), GROWN)
    for slices, row, on_line in zip(GROWN, rows, line, strict=True):
        cells = f"{row['seconds']:.2f} | {row['seconds'] / slices:.3f} | {row['gb']:.2f} | {row['gb'] / on_line:.2f}"
        print(f"| {slices} | {cells} |")


def grown(slices: int) -> None:
    """Print the processor time and the peak of memory of a step, above what the process held before it."""
    import json

    from slivit.device import Memory, autocast
    from slivit.models._depthwise import quicken

    torch.set_num_threads(1)
    model = ours(slices).train().to(memory_format=torch.channels_last)
    quicken(model)
    x = torch.randn(1, 3, slices * 256, 256)
    memory = Memory(torch.device("cpu"))
    before = memory.restart()

    def run() -> None:
        with autocast("bfloat16", torch.device("cpu")):
            loss = model(x).float().square().mean()
        loss.backward()

    spent = seconds(run, 1)
    print(json.dumps({"seconds": spent, "gb": (memory.peak() - before) / 1e9}))


def processes(options: argparse.Namespace) -> None:
    """Scans a second of two processes of one thread that train together, against one, in turn."""
    import json

    alone, together = [], []
    for _ in range(options.repeats):
        for size, runs in ((1, alone), (2, together)):
            port = str(29500 + len(alone) + len(together))
            code = f"import engine; engine.trained_together({options.slices})"
            started = []
            for rank in range(size):
                group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "localhost"}
                where = os.environ | {key: str(value) for key, value in group.items()} | {"MASTER_PORT": port}
                command = [sys.executable, "-c", code]
                started.append(
                    subprocess.Popen(command, cwd=Path(__file__).parent, env=where, stdout=subprocess.PIPE, text=True)
                )
            said = [json.loads(process.communicate()[0].splitlines()[-1]) for process in started]
            runs.append([sum(one["spent"] for one in said) / size, max(one["wall"] for one in said)])
    (spent, wall), (spent_two, wall_two) = (map(min, zip(*runs, strict=True)) for runs in (alone, together))
    print("| processes | processor seconds a scan | scans a second | against one |\n| --- | --- | --- | --- |")
    print(f"| 1 | {spent:.2f} | {1 / wall:.2f} | 1.00 |")
    print(f"| 2 | {spent_two:.2f} | {2 / wall_two:.2f} | {2 * wall / wall_two:.2f} |")
    print(f"by processor time, as on two cores that nothing else uses: {2 * spent / spent_two:.2f}")


def trained_together(slices: int, steps: int = 3) -> None:
    """Print the processor time and the time of a step of one scan, in one of the processes that train one model."""
    import json

    from slivit.device import autocast
    from slivit.models._depthwise import quicken
    from slivit.parallel import process_group, wait_for_all
    from slivit.train.replicas import replicated

    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    with process_group(cpu):
        network = ours(slices).train().to(memory_format=torch.channels_last)
        quicken(network)
        model, x = replicated(network, cpu), torch.randn(1, 3, slices * 256, 256)
        optimiser = torch.optim.AdamW(model.parameters(), 1e-4)
        for step in range(1 + steps):
            if step == 1:
                wait_for_all()
                begun, spent = time.perf_counter(), time.process_time()
            with autocast("bfloat16", cpu):
                loss = model(x).float().square().mean()
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
        wall, spent = time.perf_counter() - begun, time.process_time() - spent
    print(json.dumps({"wall": wall / steps, "spent": spent / steps}))


def reading(options: argparse.Namespace) -> None:
    """An epoch of all slices of CT volumes in .nii.gz, against reading each volume once."""
    import nibabel
    import numpy as np

    from slivit.data.cache import SliceCache
    from slivit.data.images import SliceReader, seeded, slice_items
    from slivit.data.preprocessing import Preprocessing
    from slivit.data.readers import read_volume

    rng, depth = np.random.default_rng(0), 100
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder, f"{i}.nii.gz")) for i in range(2)]
        for path in paths:
            ct = rng.normal(0, 60, (512, 512, depth)).astype(np.int16)
            nibabel.save(nibabel.Nifti1Image(ct, np.eye(4)), path)
        rows = [{"path": path, "split": "train"} for path in paths]
        items = slice_items(rows, "all", dict.fromkeys(paths, depth))
        order = rng.permutation(len(items))
        reader = SliceReader(Preprocessing(size=(1, 224, 224)), SliceCache(Path(folder, "cache")))

        def epoch() -> float:
            begun = time.process_time()
            for number in order:
                with seeded(f"0/{number}"):
                    reader.load(items[number])
            return time.process_time() - begun

        begun = time.process_time()
        for path in paths:
            read_volume(path)
        once = time.process_time() - begun
        first, second = epoch(), epoch()
    print("| 2 volumes of 512 x 512 x 100 | seconds | against reading once |\n| --- | --- | --- |")
    for name, spent in (("each read once", once), ("first epoch of slices", first), ("every other epoch", second)):
        print(f"| {name} | {spent:.2f} | {spent / once:.2f} |")


def share(options: argparse.Namespace) -> None:
    """Reading as a share of a step, in the small recipes, on made-up images of 28 x 28 in an archive."""
    import numpy as np

    from slivit.recipe import load_recipe
    from slivit.ssl import run as pretraining
    from slivit.ssl.registry import create_pretext

    print("| recipe | reading, ms a step | step, ms | share |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        images = {
            f"{s}_images": rng.integers(0, 256, (n, 28, 28), np.uint8)
            for s, n in (("train", 768), ("val", 32), ("test", 1))
        }
        labels = {f"{s}_labels": np.zeros((n, 1), np.uint8) for s, n in (("train", 768), ("val", 32), ("test", 1))}
        np.savez(f"{folder}/made_up.npz", **images, **labels)
        for name in ("simclr_small", "dino_small", "mae_small", "simmim_small"):
            given = {"data.manifest": f"{folder}/made_up.npz", "out": f"{folder}/run", "fit.device": "cpu"}
            recipe = load_recipe("pretrain", name, [f"{key}={value}" for key, value in given.items()])
            frame = pretraining.usable_scans(recipe)
            model = pretraining.build_encoder(recipe)
            settings = recipe.preprocessing.model_copy(update={"size": model.spec.size})
            pretext = create_pretext(recipe.method, model, **recipe.pretext.args)
            slices = pretraining.slice_cache(recipe, frame, pretext, settings, Path(folder, "slices"))
            learn = pretraining.make_learner(recipe, frame, pretext, settings, Path(folder), slices)
            batches = len(learn.dls.train)
            read = seconds(lambda d=learn.dls.train: list(d), options.repeats) / batches
            clock = _clock()
            with learn.no_bar(), learn.no_logging():
                learn.fit(3, 1e-4, cbs=[clock])
            step = min(clock.spent[1:]) / batches
            print(f"| {name} | {1000 * read:.1f} | {1000 * step:.1f} | {read / step:.0%} |", flush=True)


def _clock() -> Any:
    """A callback that measures the training part of each epoch."""
    from fastai.callback.core import Callback

    class Clock(Callback):
        def before_fit(self) -> None:
            self.spent: list[float] = []

        def before_train(self) -> None:
            self.begun = time.process_time()

        def after_train(self) -> None:
            self.spent.append(time.process_time() - self.begun)

    return Clock()


PARTS = {
    "share": share,
    "reading": reading,
    "depthwise": depthwise,
    "step": step,
    "inference": inference,
    "start": start,
    "growth": growth,
    "processes": processes,
}


def main() -> None:
    """Run the parts that are asked for; all of them by default."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    parser.add_argument("--slices", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.parts or PARTS:
        PARTS[name](options)


if __name__ == "__main__":
    main()
