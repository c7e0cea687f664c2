"""What pre-training is worth on two cores: a linear probe on PneumoniaMNIST, then fine-tuning on AdrenalMNIST3D.

Run: python benchmarks/pretraining.py --data DATA [--methods simclr_small ...] [--minutes 10] [--out FOLDER]
     python benchmarks/pretraining.py --data DATA --finetune simclr_small [--fractions 0.1 1] [--seeds 0 1 2]

Every method is pre-trained by its shipped small recipe on the training images of PneumoniaMNIST, without their labels
(`pneumoniamnist`: with them), for as many epochs as fit into the budget of processor time. Then a logistic regression
on the standardised features learns from the same images' labels, and is measured on the test images; "random" is the
same network before pre-training, on average over ten seeds. The second form fine-tunes a volume model from the
backbone and from random weights, with a part of the training labels and with all. DATA holds
`pneumoniamnist/pneumoniamnist_rebuilt.npz` and `medmnist/adrenalmnist3d.npz`. Results that are already in FOLDER are
not computed again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import slivit
from slivit.checkpoint import load_encoder
from slivit.data.sources import load_manifest
from slivit.recipe import load_recipe
from slivit.ssl.probe import probe_score
from slivit.ssl.probed import labelled_batches
from slivit.ssl.recipe import SelfSupervisedRecipe
from slivit.targets.task import Task

METHODS = (
    "pneumoniamnist", "simclr_small", "dino_small", "mae_small", "simmim_small", "gmml_small", "sit_small",
    "vis_mae_small",
)  # fmt: skip
RANDOM_SEEDS = tuple(range(10))
SLICES = 12  # of a volume, as in the recipe adrenalmnist3d


def kept(path: Path, compute: Callable[[], Any]) -> Any:
    """What `compute` gives, kept as JSON."""
    if not path.is_file():
        value = compute()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
    return json.loads(path.read_text())


def pneumonia(data: Path) -> str:
    """The images."""
    return str(data / "pneumoniamnist" / "pneumoniamnist_rebuilt.npz")


def pretrained(data: Path, out: Path, name: str, minutes: float) -> dict[str, Any]:
    """Pre-train by a shipped recipe for the budget; the epochs, the minutes of processor time, the probe's AUC."""
    base = [f"data.manifest={pneumonia(data)}", "data.workers=0"]
    epoch = kept(out / f"{name}-epoch.json", lambda: epoch_time([*base, f"out={out / f'{name}-clock'}"], name))
    epochs = max(1, round(60 * minutes / epoch))
    folder = out / name
    patience = ["fit.patience=0"] if name == "pneumoniamnist" else []
    spent = processor_time([*base, f"out={folder}", f"fit.epochs={epochs}", *patience], name)
    return {"epochs": epochs, "minutes": spent / 60, "auc": probe(data, load_encoder(folder).model, folder)}


def epoch_time(overrides: list[str], name: str) -> float:
    """Seconds of processor time of an epoch, without what a run needs before and after."""
    _warm_up, one, six = (processor_time([*overrides, f"fit.epochs={epochs}"], name) for epochs in (1, 1, 6))
    return (six - one) / 5


def processor_time(overrides: list[str], name: str) -> float:
    """Seconds of processor time of a pre-training run."""
    recipe = load_recipe("pretrain", name, overrides)
    begun = time.process_time()
    slivit.pretrain(recipe, overwrite=True)
    return time.process_time() - begun


def probe(data: Path, model: Any, folder: Path) -> float:
    """Test AUC of a logistic regression on the frozen features of the training images."""
    from slivit.data.blocks import to_input

    manifest = load_manifest(data_section(data), Task(kind="binary", targets=("label",)))
    settings = load_encoder(folder).preprocessing
    parts = []
    for split in ("train", "test"):
        features, targets = [], []
        for stacks, wanted in labelled_batches(manifest, split, settings, 256, 0)():
            x = to_input(stacks, model.spec.input, model.spec.mean, model.spec.std)
            with torch.no_grad():
                features.append(model.eval().forward_features(x))
            targets.append(wanted)
        parts.append((torch.cat(features), torch.cat(targets)))
    return probe_score("linear", manifest.task, parts[0], parts[1])


def data_section(data: Path) -> Any:
    """The labelled images."""
    from slivit.data.recipe import Data

    return Data(manifest=pneumonia(data), workers=0)


def at_random(data: Path, out: Path, name: str) -> list[float]:
    """The probe's AUC of the same network with random weights, by seed."""
    from slivit.models.registry import create_model

    encoder = load_encoder(out / name)
    scores = []
    for seed in RANDOM_SEEDS:
        torch.manual_seed(seed)
        spec = encoder.model.spec  # type: ignore[attr-defined]
        scores.append(probe(data, create_model(spec.name, 1, **spec.args), out / name))
    return scores


def finetuned(data: Path, out: Path, name: str, start: str, fraction: float, seed: int, epochs: int) -> float:
    """Test AUC on AdrenalMNIST3D of a volume model with the backbone of a method, from that start."""
    recipe = load_recipe("pretrain", name)
    folder = out / f"adrenal-{name}-{start}-{fraction:g}-{seed}"
    weights = str(out / name) if start == "pre-trained" else ""
    network = {**recipe.model.args, "name": recipe.model.name, "slices": SLICES, "weights": weights}
    own = [f'model.weights="{weights}"'] if recipe.model.name == "image_classifier" else [f"model={toml(network)}"]
    overrides = [
        f"out={folder}",
        f"data.manifest={data / 'medmnist' / 'adrenalmnist3d.npz'}",
        f"data.train_fraction={fraction}",
        f"fit.epochs={epochs}",
        f"seed={seed}",
        f"data.split_seed={seed}",
        *own,
    ]
    slivit.finetune(load_recipe("finetune", "adrenalmnist3d", overrides), overwrite=True)
    return json.loads((folder / "metrics.json").read_text())["splits"]["test"]["metrics"]["roc_auc"]["value"]


def toml(value: Any) -> str:
    """A value in one line of TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(part)}" for key, part in value.items()) + "}"
    return json.dumps(value)


def print_probes(options: argparse.Namespace) -> None:
    """The table of methods."""
    print("| recipe | backbone | epochs | minutes | probe AUC | at random (SD, 10 seeds) | gain |", flush=True)
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for name in options.methods:
        row = kept(
            options.out / f"{name}.json", lambda n=name: pretrained(options.data, options.out, n, options.minutes)
        )
        chance = kept(options.out / f"{name}-random.json", lambda n=name: at_random(options.data, options.out, n))
        recipe = load_recipe("pretrain", name)
        kind = recipe.method if isinstance(recipe, SelfSupervisedRecipe) else "supervised"
        backbone = recipe.model.args.get("backbone", recipe.model.name)
        print(
            f"| {name} ({kind}) | {backbone} | {row['epochs']} | {row['minutes']:.1f} | **{row['auc']:.3f}** "
            f"| {np.mean(chance):.3f} ({np.std(chance, ddof=1):.3f}) | {row['auc'] - np.mean(chance):+.3f} |",
            flush=True,
        )


def print_finetuning(options: argparse.Namespace) -> None:
    """The table of what a backbone is worth downstream."""
    print("| labels | start | " + " | ".join(f"seed {s}" for s in options.seeds) + " | mean (SD) |", flush=True)
    print("| --- " * (len(options.seeds) + 3) + "|", flush=True)
    name = options.finetune
    for fraction in options.fractions:
        for start in ("random", "pre-trained"):
            scores = [
                kept(
                    options.out / f"adrenal-{name}-{start}-{fraction:g}-{seed}.json",
                    lambda s=start, f=fraction, d=seed: finetuned(
                        options.data, options.out, name, s, f, d, options.epochs
                    ),
                )
                for seed in options.seeds
            ]
            spread = np.std(scores, ddof=1) if len(scores) > 1 else 0.0
            cells = " | ".join(f"{score:.3f}" for score in scores)
            print(f"| {fraction:.0%} | {start} | {cells} | {np.mean(scores):.3f} ({spread:.3f}) |", flush=True)


def main() -> None:
    """Run and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--minutes", type=float, default=10.0, help="processor time of each pre-training")
    parser.add_argument("--finetune", default="", help="a method: fine-tune from its backbone instead")
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.1, 1.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=40, help="of fine-tuning")
    parser.add_argument("--out", type=Path, default=Path("runs/pretraining"))
    options = parser.parse_args()
    (print_finetuning if options.finetune else print_probes)(options)


if __name__ == "__main__":
    main()
