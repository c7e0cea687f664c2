"""Four ways to use a pre-trained backbone, at equal time: heads on frozen features, LoRA, full, and from scratch.

python benchmarks/starts.py --data DATA --backbone RUN --out FOLDER --seeds 0 1 2 --seconds 15
python benchmarks/starts.py --data DATA --backbone RUN --out FOLDER --cost          # embedding beside one forward pass
python benchmarks/starts.py --out FOLDER --table                                   # what there is, as Markdown

RUN is a backbone that was pre-trained here (`slivit pretrain mae_small ...`): it stands for a foundation model, and is
none. Every row has a process of its own, forked after the imports; its budget is seconds of processor time, those of
computing features included. The last weights are tested, nothing is chosen by the test rows, and the rates were not
tuned. A row that is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from auto import hippocampus
from models import within_budget

import slivit
from slivit.checkpoint import load_encoder
from slivit.data.sources import load_manifest
from slivit.models._lora import Lora, adapt_backbone
from slivit.models._weights import load_backbone
from slivit.predict.engine import Engine
from slivit.probing.embedding import Embedder, Embeddings
from slivit.probing.table import best_head
from slivit.recipe import load_recipe
from slivit.statistics.summary import point_metrics

BATCH, SLICES = 16, 9
ARMS = ("heads", "lora", "full", "scratch")
RATES = {"lora": 2e-3, "full": 5e-4, "scratch": 5e-4}
INTEGRATOR = {"integrator": "queries", "queries": 2, "vit_dim": 64, "vit_heads": 2, "dim_head": 32}
PLANES = ("axial", "coronal", "sagittal")


def manifest_of(name: str, data: Path, folder: Path) -> tuple[Any, Any]:
    """The labelled scans of a set, with its split, under the fitted task; and the augmentation of the recipe."""
    if name == "adrenal":
        source = data / "medmnist" / "adrenalmnist3d.npz"
        recipe = load_recipe("finetune", "adrenalmnist3d", [f"data.manifest={json.dumps(str(source))}"])
    else:
        csv = folder / "hippocampus.csv"
        table = hippocampus(data)[["path", "volume"]].assign(patient=lambda t: t["path"])
        table.to_csv(csv, index=False)
        changes = [f"data.manifest={json.dumps(str(csv))}", "task.kind=regression", 'task.targets=["volume"]']
        recipe = load_recipe("finetune", "adrenalmnist3d", changes)
    manifest = load_manifest(recipe.data, recipe.task)
    return manifest.with_task(recipe.task.fitted(manifest.rows("train"))), recipe.augmentation


def network(backbone: Path, arm: str, out_dim: int, seed: int) -> Any:
    """The model of an arm."""
    torch.manual_seed(seed)
    args = {k: v for k, v in load_encoder(backbone).model.spec.args.items() if k not in ("slices", "pretrained")}
    model = slivit.create_model("slice_vit", out_dim, **args | INTEGRATOR | {"slices": SLICES, "planes": 3})
    if arm != "scratch":
        load_backbone(model, backbone)
    if arm == "lora":
        adapt_backbone(model, Lora(rank=4, alpha=8), str(backbone))
    return model


def settings_of(name: str, model: Any) -> Any:
    """Three planes of three slices; hippocampi at 2 mm within each, so that their size is seen."""
    if name == "adrenal":
        return slivit.Preprocessing(size=model.spec.size, stretch=None, planes=PLANES)
    return slivit.Preprocessing(size=model.spec.size, planes=PLANES, spacing=(0, 2, 2))


def embedded(model: Any, manifest: Any, settings: Any) -> Embeddings:
    """The features of all rows, computed once and kept nowhere."""
    engine = Engine(slivit.Checkpoint(Embedder(model, planes=3), None, settings), "cpu", batch_size=BATCH)
    paths = [str(row["path"]) for row in manifest.rows()]
    features: dict[int, dict[str, torch.Tensor]] = {}

    def run(stacks: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        parts = engine.features(stacks)
        return [{name: part[i] for name, part in parts.items()} for i in range(len(stacks))]

    for number, _, vectors in engine.over(engine.read(paths), run):
        features[number] = vectors or {}
    parts = {name: torch.stack([features[i][name] for i in range(len(paths))]) for name in features[0]}
    frame = pd.DataFrame(manifest.rows()).reset_index(drop=True)
    return Embeddings(frame, parts, {})


def by_heads(manifest: Any, settings: Any, model: Any) -> dict[str, Any]:
    """Logistic or ridge regression, a forest and neighbours on frozen features."""
    features = embedded(model, manifest, settings)
    choice, chosen = best_head(features, manifest.task, features=["statistics", "raptor"], trees=100)
    y = torch.tensor([float(row[manifest.task.targets[0]]) for row in chosen.rows("test")]).reshape(-1, 1).numpy()
    size = 1 + sum(features.parts[n].shape[1] for n in {"statistics": ("mean", "max", "spread")}.get(
        str(choice.chosen["features"]), (str(choice.chosen["features"]),)))  # fmt: skip
    metrics = point_metrics(manifest.task.kind, y, choice.predictions["test"].numpy())
    return {"metrics": metrics, "trainable": size, "bytes": 4 * size, "chosen": dict(choice.chosen)}


def by_training(manifest: Any, settings: Any, model: Any, arm: str, seconds: float, augmentation: Any) -> Any:
    """Train for so many seconds, and test."""
    dls = slivit.volume_dataloaders(
        manifest, model.spec, settings, augmentation=augmentation.model_copy(update={"flip_slices": False}),
        batch_size=BATCH, device="cpu",
    )  # fmt: skip
    fit = slivit.Fit(adapt="lora" if arm == "lora" else "", precision="float32")
    learn = slivit.volume_learner(dls, model, manifest.task, fit)
    budget = within_budget(seconds, time.process_time, RATES[arm])
    with learn.no_bar(), learn.no_logging():
        learn.fit(1_000_000, RATES[arm], cbs=[budget])
    table = slivit.predict_table(model, manifest.rows("test"), manifest.task, settings, device="cpu", batch_size=BATCH)
    y, p = manifest.task.arrays(table)
    with tempfile.TemporaryDirectory() as folder:
        saved = slivit.save_checkpoint(Path(folder) / "c", model, manifest.task, settings)
        size = sum(f.stat().st_size for f in saved.glob("*.safetensors"))
    trainable = sum(q.numel() for q in model.parameters() if q.requires_grad)
    metrics = point_metrics(manifest.task.kind, y, p)
    return {"metrics": metrics, "trainable": trainable, "bytes": size, "volumes": budget.volumes}


def measured(name: str, arm: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One row, in this process."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        manifest, augmentation = manifest_of(name, options.data, Path(folder))
        model = network(options.backbone, arm, manifest.task.out_dim, seed)
        settings = settings_of(name, model)
        begun = time.process_time()
        if arm == "heads":
            row = by_heads(manifest, settings, model.eval())
        else:
            row = by_training(manifest, settings, model, arm, options.seconds, augmentation)
    row |= {"set": name, "arm": arm, "seed": seed, "seconds": time.process_time() - begun, "budget": options.seconds}
    return row | {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def in_a_child(work: Callable[[], dict[str, Any]], file: Path) -> None:
    """Write what work gives, computed in a forked process, whose peak memory is its own."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            file.write_text(json.dumps(work(), default=float), "utf-8")
            status = 0
        finally:
            os._exit(status)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise SystemExit(f"{file.stem} failed")


def cost(options: argparse.Namespace) -> dict[str, Any]:
    """Embedding beside one forward pass of the slices through the backbone, over the same scans, in turns."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        manifest, _ = manifest_of("adrenal", options.data, Path(folder))
    model = network(options.backbone, "heads", 1, 0).eval()
    settings = settings_of("adrenal", model)
    paths = [str(row["path"]) for row in manifest.rows("test")][:128]
    engines = {
        "forward": Engine(slivit.Checkpoint(model, None, settings), "cpu", batch_size=BATCH),
        "embed": Engine(slivit.Checkpoint(Embedder(model, planes=3), None, settings), "cpu", batch_size=BATCH),
    }
    does: Mapping[str, Callable[[torch.Tensor], Any]] = {
        "forward": lambda stacks: list(engines["forward"].call(model.forward_slices, stacks)),
        "embed": lambda stacks: list(engines["embed"].features(stacks)["raptor"]),
    }
    spent: dict[str, list[float]] = {name: [] for name in does}
    for _ in range(6):
        for name, function in does.items():
            begun = time.process_time()
            for _done in engines[name].over(engines[name].read(paths), function):
                pass
            spent[name].append(time.process_time() - begun)
    ratios = [e / f for e, f in zip(spent["embed"][1:], spent["forward"][1:], strict=True)]
    return {"ratio": statistics.median(ratios), "all": ratios, "scans": len(paths)}


def table(out: Path) -> str:
    """The rows that there are, a line an arm and set."""
    rows = pd.DataFrame([json.loads(f.read_text("utf-8")) for f in sorted(out.glob("*_*_*.json"))])
    lines = ["| set | start | test metric (mean of seeds; each) | trainable | s | peak MB | file |", "|" + " --- |" * 7]
    for (name, arm), part in rows.groupby(["set", "arm"], sort=False):
        metric = "roc_auc" if name == "adrenal" else "r2"
        values = [m[metric] for m in part["metrics"]]
        each = ", ".join(f"{v:.3f}" for v in values)
        lines.append(
            f"| {name} | {arm} | {metric} {statistics.mean(values):.3f} ({each}) | {int(part['trainable'].max()):,} | "
            f"{part['seconds'].mean():.0f} | {part['peak_mb'].mean():.0f} | {part['bytes'].max() / 1024:.0f} KiB |"
        )
    return "\n".join(lines)


def main() -> None:
    """Make the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--backbone", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="*", default=["hippocampus", "adrenal"])
    parser.add_argument("--arms", nargs="*", default=ARMS)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.table:
        print(table(options.out))
        return
    if options.cost:
        print(json.dumps(cost(options)))
        return
    for seed in options.seeds:
        for name in options.sets:
            for arm in options.arms:
                file = options.out / f"{name}_{arm}_{seed}.json"
                if not file.is_file():
                    in_a_child(lambda n=name, a=arm, s=seed: measured(n, a, s, options), file)  # type: ignore[misc]
                print(file.read_text("utf-8"), flush=True)


if __name__ == "__main__":
    main()
