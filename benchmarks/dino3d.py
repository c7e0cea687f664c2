"""3DINO on AdrenalMNIST3D (64 cubed, official split): what pre-training without labels is worth to a small network.

Run: python benchmarks/dino3d.py --data DATA [--seeds 0 1 2] [--out FOLDER] [--epochs N]
     python benchmarks/dino3d.py --intensities

DATA holds `medmnist/adrenalmnist3d_64.npz`. For each seed: pre-training on the training scans without their labels, by
the shipped recipe; then linear heads on the frozen network, and fine-tuning end to end, each from the pre-trained
network and from the same one at random. The probe's grid of heads, and the rate and the epoch of fine-tuning, are
chosen on the 98 validation scans; logistic regression chooses its penalty by cross-validation on the 1188 training
scans. The test scans are read once. Runs in FOLDER that are done are not repeated, and one that died goes on.

`--intensities` measures instead what it costs to change a crop's contrast, noise, histogram and so on: many at a time,
or one by one through MONAI.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import slivit
from slivit.probing import command as probe
from slivit.probing.networks import load_network
from slivit.probing.recipe import ProbeRecipe
from slivit.recipe import check_recipe, load_recipe
from slivit.ssl import run as selfsupervised
from slivit.train.recipe import FinetuneRecipe

STARTS = ("random", "3DINO")
RATES = (5e-4, 2e-3)
PREPROCESSING = {"sampling": "resample", "stretch": [0.05, 99.95]}


def pretrained(manifest: Path, out: Path, seed: int, overrides: list[str]) -> None:
    """The run of one seed, by the shipped recipe; its minutes of processor time are kept beside it."""
    folder = out / f"pretrain-{seed}"
    if not (folder / "checkpoint").is_dir():
        options = [f"out={folder}", f"data.manifest={manifest}", f"seed={seed}", *overrides]
        resume = (folder / "progress.pt").is_file()
        begun = time.process_time()
        selfsupervised.run(load_recipe("pretrain", "dino3d_small", options), resume=resume, overwrite=not resume)
        minutes = (time.process_time() - begun) / 60
        (folder / "minutes.json").write_text(json.dumps(None if resume else minutes))


def probe_recipe(manifest: Path, out: Path, start: str, seed: int) -> ProbeRecipe:
    """The probe of a start: by the network's name at random, or by its run."""
    model = load_recipe("pretrain", "dino3d_small").model
    at_random = {"model": {"name": model.name, **model.args}, "random_init": True, "preprocessing": PREPROCESSING}
    values = {
        "out": str(out / f"probe-{start}-{seed}"),
        "seed": seed,
        "data": {"manifest": str(manifest), "workers": 0},
        **(at_random if start == "random" else {"checkpoint": str(out / f"pretrain-{seed}")}),
    }
    return check_recipe(ProbeRecipe, values, "the benchmark")


def probed(manifest: Path, out: Path, start: str, seed: int) -> float:
    """Test AUC of the best head of the probe's grid."""
    recipe = probe_recipe(manifest, out, start, seed)
    if not (Path(recipe.out) / "probe.json").is_file():
        probe.run(recipe, overwrite=True)
    return aucs(Path(recipe.out))["test"]


def regressed(manifest: Path, out: Path, start: str, seed: int) -> float:
    """Test AUC of logistic regression on the probe's features: the last class token beside the mean of the patches."""
    recipe = probe_recipe(manifest, out, start, seed)
    network = load_network(recipe)
    table = probe.fitted_manifest(recipe, network)
    parts = probe.extracted_features(recipe, network, table).parts
    x = np.concatenate([parts[name].numpy() for name in ("class_1", "patches")], 1)
    y, splits = table.frame["label"].to_numpy(), table.frame["split"].to_numpy()
    penalties = LogisticRegressionCV(Cs=np.logspace(-4, 1, 11), cv=5, scoring="roc_auc", max_iter=3000)
    head = make_pipeline(StandardScaler(), penalties).fit(x[splits == "train"], y[splits == "train"])
    return float(roc_auc_score(y[splits == "test"], head.decision_function(x[splits == "test"])))


def tuned(manifest: Path, out: Path, start: str, seed: int, epochs: int) -> float:
    """Test AUC of fine-tuning end to end, at the rate that is best on the validation scans."""
    scores = [tune(manifest, out, start, seed, epochs, rate) for rate in RATES]
    return max(scores, key=lambda auc: auc["val"])["test"]


def tune(manifest: Path, out: Path, start: str, seed: int, epochs: int, rate: float) -> dict[str, float]:
    """One fine-tuning."""
    folder = out / f"tune-{start}-{seed}-{rate:g}"
    if not (folder / "metrics.json").is_file():
        model = load_recipe("pretrain", "dino3d_small").model
        args = {key: value for key, value in model.args.items() if key != "mask_token"}
        weights = str(out / f"pretrain-{seed}") if start != "random" else ""
        values = {
            "out": str(folder),
            "seed": seed,
            "data": {"manifest": str(manifest), "workers": 0},
            "task": {"kind": "binary", "targets": ["label"]},
            "model": {"name": model.name, "average_patches": True, "weights": weights, **args},
            "preprocessing": PREPROCESSING,
            "augmentation": {"flip_horizontal": True, "flip_vertical": True, "flip_slices": True},
            "fit": {"epochs": epochs, "lr": rate, "batch_size": 16, "patience": 0, "weight_decay": 0.05,
                    "monitor": "roc_auc"},
        }  # fmt: skip
        slivit.finetune(check_recipe(FinetuneRecipe, values, "the benchmark"), overwrite=True)
    return aucs(folder)


def aucs(folder: Path) -> dict[str, float]:
    """Validation and test AUC of a run."""
    splits = json.loads((folder / "metrics.json").read_text())["splits"]
    return {split: splits[split]["metrics"]["roc_auc"]["value"] for split in ("val", "test") if split in splits}


def intensities() -> None:
    """Milliseconds of processor time a crop: cutting it, changing it in a batch, changing it through MONAI."""
    import torch

    from slivit.ssl._crops3d import Crops, resized_crop
    from slivit.ssl._intensity3d import Intensities, MonaiChanges, change_batch

    settings, rounds = Intensities(), 8
    one_by_one = MonaiChanges(settings)
    print("| crop | cut | batch | MONAI | MONAI / batch |\n| --- | --- | --- | --- | --- |")
    for side, count in ((32, 16), (48, 16), (64, 8), (96, 4)):
        crops = torch.rand(count, 1, side, side, side) * 2 - 1
        scan = np.random.default_rng(0).random((round(1.2 * side),) * 3, np.float32)
        cuts = Crops(size=side, count=1, in_plane=(0.48, 1.0), through=(0.5, 1.0))
        tasks = (
            lambda n=count, c=cuts, s=scan: [resized_crop(s, c, (0.0, 1.0)) for _ in range(n)],
            lambda x=crops: change_batch(x, settings),
            lambda x=crops: [one_by_one(crop) for crop in x],
        )
        spent = [0.0] * len(tasks)
        for _ in range(rounds):  # interleaved, so that a busy machine slows all alike
            for i, task in enumerate(tasks):
                begun = time.process_time()
                task()
                spent[i] += (time.process_time() - begun) * 1e3 / rounds / count
        cells = " | ".join(f"{ms:.1f} ms" for ms in spent)
        print(f"| {side} cubed | {cells} | {spent[2] / spent[1]:.1f} |", flush=True)


def keep(rows: dict[tuple[str, str], list[float]], what: str, start: str, seed: int, auc: float) -> None:
    """Take a result into the table, and print it."""
    rows.setdefault((what, start), []).append(auc)
    print(f"seed {seed}, {what} from {start}: test AUC {auc:.3f}", flush=True)


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--intensities", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/dino3d_benchmark"))
    parser.add_argument("--epochs", type=int, default=20, help="of fine-tuning")
    parser.add_argument("--pretrain", nargs="*", default=[], metavar="KEY=VALUE", help="changes to the recipe")
    options = parser.parse_args()
    if options.intensities:
        intensities()
        return
    if options.data is None:
        parser.error("--data is needed")
    manifest = options.data / "medmnist" / "adrenalmnist3d_64.npz"
    rows: dict[tuple[str, str], list[float]] = {}
    for seed in options.seeds:
        pretrained(manifest, options.out, seed, options.pretrain)
        for start in STARTS:
            job = (manifest, options.out, start, seed)
            for what, measure in {"probe's grid": probed, "logistic regression": regressed}.items():
                keep(rows, what, start, seed, measure(*job))
            keep(rows, "fine-tuning", start, seed, tuned(*job, options.epochs))
    print(f"\n| | start | {' | '.join(f'seed {s}' for s in options.seeds)} | mean (SD) |")
    print("| --- |" + " --- |" * (len(options.seeds) + 2))
    for (what, start), values in sorted(rows.items()):
        spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
        cells = " | ".join(f"{v:.3f}" for v in values)
        print(f"| {what} | {start} | {cells} | **{np.mean(values):.3f}** ({spread:.3f}) |")


if __name__ == "__main__":
    main()
