"""What a graphics card makes of it: training, prediction and half precision, really run, in eight minutes.

Run: python benchmarks/gpu.py [--device cuda] [--out gpu.json] [--tiny]

Runs on whatever there is, and writes one JSON file; `--tiny` takes small sizes, to try the script on a processor. Each
part stands for itself: one that fails is written down with its reason, and the others go on.

- `training`: scans a second and peak memory of a training step of SLIViT over 28 slices of 256 x 256, in the released
  code's shape and here: float32, half precision, compiled; and the share of the card's bfloat16 peak where it is known.
- `prediction`: 205 OCT volumes of 49 slices, from bytes in memory to probabilities (the paper: under 12 s).
- `volumes`: a step of 3DINO's ViT-Large at 96 cubed.
- `agreement`: the largest difference of a probability in half precision.
- `scaling`: a step in float16 with scaled gradients.
- `process`: one step of one process under DistributedDataParallel.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from engine import Released, ours
from torch import nn

from slivit.device import Memory, autocast, choose_device, choose_precision

PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}
"""Dense bfloat16 operations a second, by the makers' data sheets."""


class Bench:
    """The sizes and the device of one run.

    Args:
        device: where it runs.
        tiny: small sizes.
    """

    def __init__(self, device: torch.device, tiny: bool) -> None:
        self.device, self.tiny = device, tiny
        self.memory = Memory(device)
        self.half = choose_precision("auto", device)
        self.slices, self.batch = (2, 1) if tiny else (28, 4)
        self.repeats = 1 if tiny else 10

    def timed(self, function: Callable[[], Any]) -> dict[str, float]:
        """Seconds of a call, after two that warm up, and the peak of memory in GB."""
        for _ in range(1 if self.tiny else 2):
            function()
        self.memory.wait()
        self.memory.restart()
        begun = time.perf_counter()
        for _ in range(self.repeats):
            function()
        self.memory.wait()
        return {"seconds": (time.perf_counter() - begun) / self.repeats, "peak_gb": self.memory.peak() / 1e9}

    def step(self, model: nn.Module, x: torch.Tensor, precision: Any) -> Callable[[], None]:
        """A training step of a model."""
        options = {"fused": True} if self.device.type == "cuda" else {}
        optimiser = torch.optim.AdamW(model.parameters(), 1e-4, **options)
        scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "float16")

        def run() -> None:
            with autocast(precision, self.device):
                loss = model(x).float().square().mean()
            scaler.scale(loss).backward()
            scaler.step(optimiser)
            scaler.update()
            optimiser.zero_grad(set_to_none=True)

        return run

    def training(self) -> dict[str, Any]:
        """SLIViT: the released shape, and here."""
        x = torch.randn(self.batch, 3, self.slices * 256, 256, device=self.device)
        last = x.contiguous(memory_format=torch.channels_last)
        cases: dict[str, Callable[[], tuple[nn.Module, torch.Tensor, Any]]] = {
            "released, float32": lambda: (Released(self.slices), x, "float32"),
            "here, float32": lambda: (self._ours(), last, "float32"),
            f"here, {self.half}": lambda: (self._ours(), last, self.half),
            f"here, {self.half}, compiled": lambda: (self._compiled(), last, self.half),
        }
        results = {}
        for name, make in cases.items():
            model, images, precision = make()
            times = self.timed(self.step(model.to(self.device).train(), images, precision))
            results[name] = times | {"scans_a_second": self.batch / times["seconds"]} | self._share(times["seconds"])
        return results

    def _ours(self) -> nn.Module:
        return ours(self.slices).to(memory_format=torch.channels_last)

    def _compiled(self) -> nn.Module:
        return torch.compile(self._ours(), backend="eager" if self.tiny else "inductor")  # type: ignore[return-value]

    def _share(self, seconds: float) -> dict[str, float]:
        """The share of the card's peak: a step is three forward passes of 4.5 G multiply-adds at 224 x 224 a slice."""
        if self.device.type != "cuda":
            return {}
        name = torch.cuda.get_device_name(self.device)
        peak = next((value for key, value in PEAKS.items() if key in name), 0.0)
        work = 3 * 2 * 4.46e9 * (256 / 224) ** 2 * self.slices * self.batch
        return {"share_of_peak": work / seconds / peak} if peak else {}

    def prediction(self) -> dict[str, Any]:
        """205 OCT volumes of 49 slices of bytes."""
        volumes, slices, at_once = (3, 2, 1) if self.tiny else (205, 49, 16)
        engine = self._engine(slices, self.half)
        stacks = torch.randint(0, 256, (at_once, slices, 256, 256), dtype=torch.uint8)
        engine.predict(stacks)
        begun = time.perf_counter()
        for first in range(0, volumes, at_once):
            engine.predict(stacks[: volumes - first])
        return {"volumes": volumes, "seconds": time.perf_counter() - begun}

    def _engine(self, slices: int, precision: Any) -> Any:
        from slivit.checkpoint import Checkpoint
        from slivit.data.preprocessing import Preprocessing
        from slivit.predict.engine import Engine
        from slivit.targets.task import Task

        torch.manual_seed(0)
        settings = Preprocessing(size=(slices, 256, 256))
        held = Checkpoint(ours(slices), Task(kind="binary", targets=("drusen",)), settings)
        return Engine(held, str(self.device), precision=precision)

    def agreement(self) -> dict[str, Any]:
        """Half precision against float32."""
        stacks = torch.randint(0, 256, (2, self.slices, 256, 256), dtype=torch.uint8)
        full, half = (self._engine(self.slices, p).predict(stacks) for p in ("float32", self.half))
        return {"precision": self.half, "largest_difference": float((full - half).abs().max())}

    def volumes(self) -> dict[str, Any]:
        """3DINO's ViT-Large."""
        from slivit.models.registry import create_model

        name, side = ("dino3d_vit_small", 32) if self.tiny else ("dino3d_vit_large", 96)
        model = create_model(name, 1, slices=side, image_size=side).to(self.device).train()
        x = torch.randn(1, 1, side, side, side, device=self.device)
        return self.timed(self.step(model, x, self.half))

    def scaling(self) -> dict[str, Any]:
        """Float16 with scaled gradients."""
        if self.device.type != "cuda":
            return {"skipped": "float16 needs a GPU"}
        x = torch.randn(1, 3, self.slices * 256, 256, device=self.device)
        return self.timed(self.step(self._ours().to(self.device).train(), x, "float16"))

    def process(self) -> dict[str, Any]:
        """One process under DistributedDataParallel."""
        from torch import distributed as dist
        from torch.nn.parallel import DistributedDataParallel

        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511", "RANK": "0", "WORLD_SIZE": "1"}
        os.environ.update(group)
        dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
        try:
            model = DistributedDataParallel(self._ours().to(self.device).train())
            x = torch.randn(1, 3, self.slices * 256, 256, device=self.device)
            return self.timed(self.step(model, x, self.half))
        finally:
            dist.destroy_process_group()


PARTS = ("training", "prediction", "volumes", "agreement", "scaling", "process")


def main() -> None:
    """Run every part, and write what came out after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=[])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    bench = Bench(choose_device(options.device), options.tiny)
    name = torch.cuda.get_device_name() if bench.device.type == "cuda" else "processor"
    results: dict[str, Any] = {"device": name, "torch": torch.__version__, "precision": bench.half}
    for part in options.parts or PARTS:
        try:
            results[part] = getattr(bench, part)()
        except Exception as error:  # the others go on
            results[part] = {"failed": f"{type(error).__name__}: {error}"}
        bench.memory.empty()
        options.out.write_text(json.dumps(results, indent=1), "utf-8")
        print(part, json.dumps(results[part]), flush=True)


if __name__ == "__main__":
    main()
