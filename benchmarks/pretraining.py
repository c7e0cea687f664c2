"""What pre-training is worth on two cores: a linear probe on PneumoniaMNIST, then fine-tuning on AdrenalMNIST3D.

Run: python benchmarks/pretraining.py --data DATA [--methods simclr_small ...] [--epochs 8] [--seeds 0 1] [--out FOLDER]
     python benchmarks/pretraining.py --data DATA --finetune simclr_small [--fractions 0.1 1] [--seeds 0 1 2]

Every method is pre-trained by its shipped small recipe on the training images of PneumoniaMNIST, without their labels
(`pneumoniamnist`: with them), once a seed. Then a logistic regression on the standardised features learns from the same
images' labels, and is measured on the validation and on the test images; so is the start of each run, the very network
from which it trained. A gain is trained minus its own start, by seed. The second form fine-tunes a volume model from
the backbone of each seed and from random weights, with a part of the training labels and with all. DATA holds
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
SPLITS = ("val", "test")
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


def measured(data: Path, out: Path, name: str, seed: int, epochs: int) -> dict[str, Any]:
    """Pre-train by a shipped recipe; its epochs, minutes of processor time, and AUCs of its start and of its end."""
    own = [f"fit.epochs={epochs}"] * (epochs > 0) + ["fit.patience=0"] * (name == "pneumoniamnist")
    where = [f"data.manifest={pneumonia(data)}", "data.workers=0", f"out={out / f'{name}-{seed}'}", f"seed={seed}"]
    recipe = load_recipe("pretrain", name, [*where, *own])
    begun = time.process_time()
    folder = slivit.pretrain(recipe, overwrite=True)
    spent = time.process_time() - begun
    ends = {"start": start_of(recipe), "trained": load_encoder(folder).model}
    return {"epochs": recipe.fit.epochs, "minutes": spent / 60} | {
        stage: probe(data, model, folder) for stage, model in ends.items()
    }


def start_of(recipe: Any) -> Any:
    """The network from which a run trains, as the run itself makes it."""
    from slivit.ssl.run import build_encoder
    from slivit.train.callbacks import seed_everything
    from slivit.train.run import build_model

    if not isinstance(recipe, SelfSupervisedRecipe):
        return build_model(recipe, 1)
    seed_everything(recipe.seed)
    return build_encoder(recipe)


def probe(data: Path, model: Any, folder: Path) -> dict[str, float]:
    """AUC by split of a logistic regression on the frozen features of the training images."""
    from slivit.data.blocks import to_input

    manifest = load_manifest(data_section(data), Task(kind="binary", targets=("label",)))
    settings = load_encoder(folder).preprocessing
    parts = {}
    for split in ("train", *SPLITS):
        features, targets = [], []
        for stacks, wanted in labelled_batches(manifest, split, settings, 256, 0)():
            x = to_input(stacks, model.spec.input, model.spec.mean, model.spec.std)
            with torch.no_grad():
                features.append(model.eval().forward_features(x))
            targets.append(wanted)
        parts[split] = torch.cat(features), torch.cat(targets)
    return {split: probe_score("linear", manifest.task, parts["train"], parts[split]) for split in SPLITS}


def data_section(data: Path) -> Any:
    """The labelled images."""
    from slivit.data.recipe import Data

    return Data(manifest=pneumonia(data), workers=0)


def finetuned(data: Path, out: Path, name: str, start: str, fraction: float, seed: int, epochs: int) -> float:
    """Test AUC on AdrenalMNIST3D of a volume model with the backbone of a method, from that start."""
    recipe = load_recipe("pretrain", name)
    folder = out / f"adrenal-{name}-{start}-{fraction:g}-{seed}"
    weights = str(out / f"{name}-{seed}") if start == "pre-trained" else ""
    network = {**recipe.model.args, "name": recipe.model.name, "slices": SLICES, "weights": weights}
    own = [f'model.weights="{weights}"'] if recipe.model.name == "image_classifier" else [f"model={toml(network)}"]
    overrides = [
        f"out={folder}",
        f"data.manifest={data / 'medmnist' / 'adrenalmnist3d.npz'}",
        f"data.train_fraction={fraction}",
        *[f"fit.epochs={epochs}"] * (epochs > 0),
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
    print("| recipe | backbone | epochs | minutes | images | start | trained | gain by seed | mean (SD) |", flush=True)
    print("| --- " * 9 + "|", flush=True)
    for name in options.methods:
        runs = [
            kept(
                options.out / f"{name}-{seed}.json",
                lambda n=name, s=seed: measured(options.data, options.out, n, s, options.epochs),
            )
            for seed in options.seeds
        ]
        recipe = load_recipe("pretrain", name)
        kind = recipe.method if isinstance(recipe, SelfSupervisedRecipe) else "supervised"
        backbone = recipe.model.args.get("backbone", recipe.model.name)
        cells = f"{name} ({kind}) | {backbone} | {runs[0]['epochs']} | {np.mean([run['minutes'] for run in runs]):.1f}"
        for split in SPLITS:
            print(f"| {cells} | {split} | {gains(runs, split)} |", flush=True)


def gains(runs: list[dict[str, Any]], split: str) -> str:
    """Cells of a row: the AUC of each start and of each end, and the difference by seed with its mean."""
    start, trained = (np.asarray([run[stage][split] for run in runs]) for stage in ("start", "trained"))
    gain = trained - start
    by_seed = (
        ", ".join(f"{value:{form}}" for value in some)
        for some, form in ((start, ".3f"), (trained, ".3f"), (gain, "+.3f"))
    )
    return " | ".join([*by_seed, f"**{gain.mean():+.3f}** ({spread(gain):.3f})"])


def spread(values: Any) -> float:
    """The standard deviation over seeds."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


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
            cells = " | ".join(f"{score:.3f}" for score in scores)
            print(f"| {fraction:.0%} | {start} | {cells} | {np.mean(scores):.3f} ({spread(scores):.3f}) |", flush=True)


def main() -> None:
    """Run and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--finetune", default="", help="a method: fine-tune from its backbone instead")
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.1, 1.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=0, help="of each training; 0: as the recipe says")
    parser.add_argument("--out", type=Path, default=Path("runs/pretraining"))
    options = parser.parse_args()
    (print_finetuning if options.finetune else print_probes)(options)


if __name__ == "__main__":
    main()
