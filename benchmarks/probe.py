"""What a probe costs: the whole grid of linear heads beside one pass of features, 3DINO's small network at 64 cubed.

Run: python benchmarks/probe.py --data DATA [--repeats 3] [--threads 2]

DATA holds `medmnist/adrenalmnist3d_64.npz` (1,584 scans). Both sides are measured in one run, alternately, with the
same number of threads: a pass computes the features of all scans, which lie in memory already preprocessed; the grid
trains 52 heads (13 learning rates, four sets of features) for 12,500 iterations. The last line is what one head by
itself takes with `torch.optim.SGD`, extrapolated to the 52 of the grid from 500 iterations.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from slivit.data.blocks import to_input
from slivit.data.preprocessing import Preprocessing, load_slices
from slivit.data.recipe import Data
from slivit.data.sources import imported_frame
from slivit.models.registry import create_model
from slivit.predict.features import feature_sets, features
from slivit.probing.knn import NEIGHBOURS, knn_grid
from slivit.probing.linear import ITERATIONS, LEARNING_RATES, Scaler, join, train_heads
from slivit.targets.loss import TaskLoss
from slivit.targets.task import Task

TASK = Task(kind="binary", targets=("label",))
SHORT = 500


def preprocessed(npz: Path) -> tuple[Tensor, Tensor, Any]:
    """All scans as slices (n, 64, 64, 64), their labels (n, 1), and which of them are for training."""
    frame = imported_frame("medmnist", npz, Data(manifest=str(npz)))
    settings = Preprocessing(size=(64, 64, 64), stretch=False)
    stacks = np.stack([load_slices(path, settings) for path in frame["path"]])
    labels = torch.tensor(frame["label"].to_numpy(np.float32))[:, None]
    return torch.from_numpy(stacks), labels, torch.tensor((frame["split"] == "train").to_numpy())


def one_pass(model: Any, stacks: Tensor, batch_size: int) -> dict[str, Tensor]:
    """The features of all scans."""
    spec, batches = model.spec, []
    with torch.inference_mode():
        for batch in stacks.split(batch_size):
            batches.append(features(model, to_input(batch, spec.input, spec.mean, spec.std)))
    return {name: torch.cat([parts[name] for parts in batches]) for name in batches[0]}


def alone(x: Tensor, y: Tensor, iterations: int) -> None:
    """One head, by torch's own optimiser."""
    head, loss = nn.Linear(x.shape[1], 1), TaskLoss(TASK)
    optimiser = torch.optim.SGD(head.parameters(), lr=1e-3, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, iterations)
    for _ in range(iterations):
        rows = torch.randint(len(y), (128,))
        optimiser.zero_grad()
        loss(head(x[rows]), y[rows]).backward()
        optimiser.step()
        schedule.step()


def timed(function: Any, *args: Any, **options: Any) -> tuple[float, float, Any]:
    """Seconds of the clock and of the processor, and what a function returns."""
    begun, used = time.perf_counter(), time.process_time()
    result = function(*args, **options)
    return time.perf_counter() - begun, time.process_time() - used, result


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    stacks, y, train = preprocessed(options.data / "medmnist" / "adrenalmnist3d_64.npz")
    torch.manual_seed(0)
    model = create_model("dino3d_vit_small", 1, slices=64, image_size=64).eval()
    one_pass(model, stacks[:16], options.batch_size)
    rows = [measured(model, stacks, y, train, options.batch_size) for _ in range(options.repeats)]
    print(
        f"{len(stacks)} scans, {int(train.sum())} for training, {options.threads} threads, {options.repeats} repeats\n"
    )
    print("| | seconds, each run | s of processor, median | beside one pass (processor) |\n| --- | --- | --- | --- |")
    middle = {name: float(np.median([row[name][1] for row in rows])) for name in rows[0]}
    for name, used in middle.items():
        seconds = ", ".join(f"{row[name][0]:.1f}" for row in rows)
        print(f"| {name} | {seconds} | {used:.1f} | {used / middle['one pass of features']:.2f} |")


def measured(model: Any, stacks: Tensor, y: Tensor, train: Tensor, batch_size: int) -> dict[str, tuple[float, float]]:
    """Seconds of the clock and of the processor of each side, once."""
    pass_wall, pass_used, parts = timed(one_pass, model, stacks, batch_size)
    sets = feature_sets(model, parts)
    known = {name: Scaler.fitted(part[train])(part[train]) for name, part in parts.items()}
    grid_wall, grid_used, _ = timed(train_heads, known, y[train], TaskLoss(TASK), 1, sets=sets)
    x = join(known, sets["last4+patches"])
    knn_wall, knn_used, _ = timed(knn_grid, x, y[train], join(parts, sets["last4+patches"]), NEIGHBOURS)
    lone = [timed(alone, join(known, names), y[train], SHORT)[:2] for names in sets.values()]
    scale = len(LEARNING_RATES) * ITERATIONS / SHORT
    return {
        "one pass of features": (pass_wall, pass_used),
        "the grid of 52 heads": (grid_wall, grid_used),
        "nearest neighbours, four k": (knn_wall, knn_used),
        "52 heads one by one (extrapolated)": (scale * sum(w for w, _ in lone), scale * sum(u for _, u in lone)),
    }


if __name__ == "__main__":
    main()
