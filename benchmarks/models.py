"""Every registered model on AdrenalMNIST3D (official split): size, work, speed, memory, and test ROC AUC.

Run: python benchmarks/models.py --data adrenalmnist3d.npz [--minutes 20] [--models NAME ...] [--out FOLDER]
     [--write benchmarks/RESULTS.md]

Every model has a process of its own, so that its peak memory is its own; its row is kept as FOLDER/NAME.json, and a row
that is there, made with the same settings, is not made again. All models start at random and train alike: Adam, one
cycle over the budget, the augmentation of the recipe `adrenalmnist3d`, the last weights. Nothing is chosen by
validation; the test items are looked at once, at the end.

The budget is processor time (seconds of one core; wall-clock time on a GPU), so that a busy machine makes no model
worse. The architectures are whole, but their input is small: at most 16 middle slices of 32 x 32 pixels, or the least
that a network takes. A multiply-add counts as one operation, as in the papers of these networks.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slivit.files import write_json, write_text

MOST_SLICES, PIXELS, BATCH, RATE, SEED = 16, 32, 8, 3e-4, 0
LEAST_VOLUMES = 64
"""A model that sees fewer in its budget is listed with its seconds a volume instead of an AUC."""

FAILED = "failed"
"""How the reason of a row begins that is tried again."""

OWN_INPUT: Mapping[str, Mapping[str, int]] = {
    "echonet": {"slices": 8, "image_size": 75},
    "unimiss_small": {"slices": 16, "image_size": 64},
    "unimiss_tiny": {"slices": 16, "image_size": 64},
    "swin_random": {"slices": 32, "image_size": 32},
    "swin_transfer": {"slices": 32, "image_size": 32},
    "dino3d_vit_small": {"slices": 16, "image_size": 64},
    "dino3d_vit_base": {"slices": 16, "image_size": 64},
    "dino3d_vit_large": {"slices": 16, "image_size": 64},
}
"""Networks that take no 16 x 32 x 32, or whose patches would leave four tokens of it."""

BEGIN, END = "<!-- table of all models: begin -->", "<!-- table of all models: end -->"


@dataclass(frozen=True)
class Settings:
    """What a row was made with; a row made otherwise is made again."""

    data: str
    minutes: float
    threads: int
    device: str

    def of(self, name: str) -> dict[str, Any]:
        """The settings of one model, as they stand in its row."""
        known = {"minutes": self.minutes, "threads": self.threads, "device": self.device}
        return {**known, "arguments": small_input(name), "batch": BATCH, "rate": RATE, "seed": SEED}


def small_input(name: str) -> dict[str, int]:
    """The arguments that give a model its input: the default's slices, at most 16, of 32 x 32 pixels."""
    from slivit.models.registry import model_spec

    spec = model_spec(name)
    wanted = OWN_INPUT.get(name, {"slices": min(spec.size[0], MOST_SLICES), "image_size": PIXELS})
    return {key: value for key, value in wanted.items() if key in spec.small}


def multiply_adds(name: str, arguments: Mapping[str, int]) -> float:
    """Billions of multiply-adds of one volume through a model; nothing is computed, only shapes."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    import slivit

    with torch.device("meta"):
        model = slivit.create_model(name, 1, **arguments).eval()
        x = torch.empty(model.spec.batch_shape(1))
    # Plain attention, because the counter does not know every fused one.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(x)
    return counter.get_total_flops() / 2e9


def clock(device: str) -> Callable[[], float]:
    """Seconds: of processor time a thread on a CPU, of the wall on a GPU."""
    import torch

    if device == "cpu":
        return lambda: time.process_time() / torch.get_num_threads()

    def seconds() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return seconds


def one_cycle(done: float, peak: float = RATE, warmup: float = 0.25) -> float:
    """The rate after a fraction `done` of the budget: fastai's one cycle of cosines."""
    if done < warmup:
        return peak * (1 / 25 + (1 - 1 / 25) * (1 - math.cos(math.pi * done / warmup)) / 2)
    return peak * (1 + math.cos(math.pi * min(1.0, (done - warmup) / (1 - warmup)))) / 2


def within_budget(seconds: float, now: Callable[[], float], peak: float = RATE) -> Any:
    """A fastai callback that trains for a budget of seconds, with the rate of the part that is over."""
    from fastai.callback.core import Callback, CancelFitException, CancelValidException

    class Budget(Callback):
        begun, spent, volumes, losses = 0.0, 0.0, 0, ()

        def before_fit(self) -> None:
            self.begun, self.losses = now(), []

        def before_batch(self) -> None:
            self.opt.set_hyper("lr", one_cycle(self.spent / seconds, peak))

        def after_batch(self) -> None:
            self.volumes += len(self.xb[0])
            self.losses.append(float(self.loss.detach()))
            if not math.isfinite(self.losses[-1]):
                raise ValueError(f"the loss became {self.losses[-1]} after {self.volumes} volumes")
            self.spent = now() - self.begun
            if self.spent >= seconds:
                raise CancelFitException

        def before_validate(self) -> None:
            raise CancelValidException

    return Budget()


def measure(name: str, settings: Settings) -> dict[str, Any]:
    """One row: build, count, train within the budget, test. Runs in a process of its own."""
    import torch

    import slivit
    from slivit.data.sources import load_manifest
    from slivit.models.registry import model_spec

    torch.set_num_threads(settings.threads)
    row = settings.of(name)
    recipe = slivit.load_recipe("finetune", "adrenalmnist3d", [f"data.manifest={json.dumps(settings.data)}"])
    manifest = load_manifest(recipe.data, recipe.task)
    manifest = manifest.with_task(recipe.task.fitted(manifest.rows("train")))
    torch.manual_seed(SEED)
    model = slivit.create_model(name, 1, **row["arguments"])
    row |= {"size": list(model.spec.size), "published_size": list(model_spec(name).size)}
    row["parameters"] = sum(p.numel() for p in model.parameters())
    row["gflops"] = multiply_adds(name, row["arguments"])
    row["published_gflops"] = multiply_adds(name, {})
    preprocessing = slivit.Preprocessing(size=model.spec.size, sampling="middle", stretch=None)
    row |= trained(model, manifest, preprocessing, recipe.augmentation, settings)
    enough = row["volumes"] >= LEAST_VOLUMES
    return row | (tested(model, manifest, preprocessing, settings) if enough else {"why": too_slow(row)})


def trained(model: Any, manifest: Any, preprocessing: Any, augmentation: Any, settings: Settings) -> dict[str, Any]:
    """Train within the budget; the speed, the peak of memory and how many volumes were seen."""
    import torch

    import slivit

    options = {"augmentation": augmentation, "batch_size": BATCH, "device": settings.device}
    dls = slivit.volume_dataloaders(manifest, model.spec, preprocessing, **options)
    learn = slivit.volume_learner(dls, model, manifest.task, seed=SEED)
    budget = within_budget(60 * settings.minutes, clock(settings.device))
    with learn.no_bar(), learn.no_logging():
        learn.fit(1_000_000, RATE, cbs=[budget])
    on_gpu = settings.device != "cpu"
    peak = torch.cuda.max_memory_allocated() if on_gpu else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "volumes": budget.volumes,
        "passes": budget.volumes / len(manifest.rows("train")),
        "volumes_a_second": budget.volumes / budget.spent,
        "train_loss": sum(budget.losses[-20:]) / len(budget.losses[-20:]),
        "peak_bytes": peak,
    }


def tested(model: Any, manifest: Any, preprocessing: Any, settings: Settings) -> dict[str, Any]:
    """The ROC AUC of the test items, with its 95% interval (bootstrap, 2,000 draws)."""
    import slivit
    from slivit.statistics import summarise

    options = {"device": settings.device, "batch_size": BATCH}
    table = slivit.predict_table(model, manifest.rows("test"), manifest.task, preprocessing, **options)
    y, p = table["target_label"].to_numpy(float), table["prob_label"].to_numpy(float)
    estimate = summarise("binary", y, p, level=0.95, draws=2000, metrics=["roc_auc"])["roc_auc"]
    return {"auc": estimate.value, "low": estimate.low, "high": estimate.high, "test_items": len(table)}


def too_slow(row: Mapping[str, Any]) -> str:
    """Why a model has no AUC."""
    return (
        f"too large: {1 / row['volumes_a_second']:.1f} s a volume, so only {row['volumes']} volumes in the budget "
        f"({LEAST_VOLUMES} are the least that are tested)"
    )


def row_of(name: str, settings: Settings, out: Path) -> dict[str, Any]:
    """The row of a model: kept, or made in a fresh process; where that dies, its reason."""
    file = out / f"{name}.json"
    kept = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    wanted = settings.of(name)
    if {key: kept.get(key) for key in wanted} == wanted and not kept.get("why", "").startswith(FAILED):
        return kept
    command = [sys.executable, __file__, "--one", name, "--data", settings.data, "--minutes", str(settings.minutes)]
    command += ["--threads", str(settings.threads), "--device", settings.device]
    done = subprocess.run(command, capture_output=True, text=True)
    row = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {**wanted, "why": reason(done)}
    write_json(file, row)
    return row


def reason(done: subprocess.CompletedProcess[str]) -> str:
    """Why a process gave no row."""
    if done.returncode == -9:
        return "ended by the system, which lacked memory"
    return f"{FAILED}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"


HEADS = (
    "model", "parameters", "input", "GFLOPs", "GFLOPs at the published input", "volumes/s", "peak memory",
    "volumes seen (passes)", "test AUC (95% interval)",
)  # fmt: skip


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [HEADS, ["---"] * len(HEADS), *(cells(name, row) for name, row in rows.items())]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cells(name: str, row: Mapping[str, Any]) -> Sequence[str]:
    """One line of the table."""
    if "volumes" not in row:
        return [f"`{name}`", *[""] * (len(HEADS) - 2), row["why"]]
    auc = row["why"] if "auc" not in row else f"{row['auc']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
    return [
        f"`{name}`",
        f"{row['parameters'] / 1e6:.1f} M",
        by(row["size"]),
        f"{row['gflops']:.2f}",
        f"{row['published_gflops']:.1f} ({by(row['published_size'])})",
        f"{row['volumes_a_second']:.1f}",
        f"{row['peak_bytes'] / 2**30:.1f} GB",
        f"{row['volumes']:,} ({row['passes']:.1f})",
        auc,
    ]


def by(size: Sequence[int]) -> str:
    """A size in words."""
    return " x ".join(str(n) for n in size)


def write(file: Path, text: str) -> None:
    """Put the table between its marks in a file."""
    whole = file.read_text("utf-8")
    if BEGIN not in whole or END not in whole:
        raise SystemExit(f"{file}: has no lines {BEGIN} and {END} to put the table between")
    head, rest = whole.split(BEGIN)
    write_text(file, f"{head}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}")


def main() -> None:
    """Measure and print the table."""
    import slivit

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="adrenalmnist3d.npz")
    parser.add_argument("--minutes", type=float, default=20, help="of training a model")
    parser.add_argument("--models", nargs="+", default=None, help="all by default")
    parser.add_argument("--out", type=Path, default=Path("runs/models"))
    parser.add_argument("--write", type=Path, help="a file with the marks of the table")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    settings = Settings(options.data, options.minutes, options.threads, options.device)
    if options.one:
        print(json.dumps(measure(options.one, settings)))
        return
    rows = {}
    for name in options.models or slivit.list_models(output="vector"):
        rows[name] = row_of(name, settings, options.out)
        print(" | ".join(cells(name, rows[name])), file=sys.stderr, flush=True)
    print(table(rows))
    if options.write:
        write(options.write, table(rows))


if __name__ == "__main__":
    main()
