"""3DINO on AdrenalMNIST3D (64 cubed, official split): what pre-training without labels is worth to a small network.

Run: python benchmarks/dino3d.py --data DATA [--seeds 0 1 2] [--out FOLDER] [--epochs N]
     python benchmarks/dino3d.py --intensities

DATA holds `medmnist/adrenalmnist3d_64.npz`. For each seed: pre-training on the training scans without their labels, by
the shipped recipe; then the probe's grid of linear heads on the frozen network, and fine-tuning end to end, each from
the pre-trained network and from the same one at random. What is chosen (head, epoch) is chosen on the validation scans;
the test scans are read once. Runs in FOLDER that are done are not repeated, and one that died goes on.

`--intensities` measures instead what it costs to change a crop's contrast, noise, histogram and so on: many at a time,
or one by one through MONAI.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from slivit.recipe import FinetuneRecipe, check_recipe, load_recipe
from slivit.recipe_probe import ProbeRecipe
from slivit.stages import finetune, probe, selfsupervised

STARTS = ("random", "3DINO")
NOT_FOR_TUNING = ("mask_token",)


def pretrained(manifest: Path, out: Path, seed: int, overrides: list[str]) -> Path:
    """The run of one seed, by the shipped recipe; its minutes of processor time are kept beside it."""
    folder = out / f"pretrain-{seed}"
    if not (folder / "checkpoint").is_dir():
        options = [f"out={folder}", f"data.manifest={manifest}", f"seed={seed}", *overrides]
        resume = (folder / "progress.pt").is_file()
        begun = time.process_time()
        selfsupervised.run(load_recipe("pretrain", "dino3d_small", options), resume=resume, overwrite=not resume)
        minutes = (time.process_time() - begun) / 60
        (folder / "minutes.json").write_text(json.dumps(None if resume else minutes))
    return folder


def probed(manifest: Path, out: Path, start: str, seed: int, run: Path) -> dict[str, Any]:
    """The best of the probe's heads; its test AUC."""
    folder = out / f"probe-{start}-{seed}"
    if not (folder / "probe.json").is_file():
        model = load_recipe("pretrain", "dino3d_small").model
        network = (
            {"model": {"name": model.name, **model.args}, "random_init": True,
             "preprocessing": {"sampling": "resample", "stretch": [0.05, 99.95]}}
            if start == "random" else {"checkpoint": str(run)}
        )  # fmt: skip
        values = {"out": str(folder), "data": {"manifest": str(manifest), "workers": 0}, "seed": seed, **network}
        probe.run(check_recipe(ProbeRecipe, values, "the benchmark"), overwrite=True)
    return metrics(folder)


def tuned(manifest: Path, out: Path, start: str, seed: int, run: Path, epochs: int) -> dict[str, Any]:
    """Fine-tuning end to end; its test AUC."""
    folder = out / f"tune-{start}-{seed}"
    if not (folder / "metrics.json").is_file():
        model = load_recipe("pretrain", "dino3d_small").model
        args = {k: v for k, v in model.args.items() if k not in NOT_FOR_TUNING}
        values = {
            "out": str(folder),
            "seed": seed,
            "data": {"manifest": str(manifest), "workers": 0},
            "task": {"kind": "binary", "targets": ["label"]},
            "model": {"name": model.name, "average_patches": True, "weights": str(run) if start != "random" else "",
                      **args},
            "preprocessing": {"sampling": "resample", "stretch": [0.05, 99.95]},
            "augmentation": {"flip_horizontal": True, "flip_vertical": True, "flip_slices": True},
            "fit": {"epochs": epochs, "lr": 5e-4, "batch_size": 16, "patience": 0, "weight_decay": 0.05,
                    "monitor": "roc_auc"},
        }  # fmt: skip
        finetune.run(check_recipe(FinetuneRecipe, values, "the benchmark"), overwrite=True)
    return metrics(folder)


def metrics(folder: Path) -> dict[str, Any]:
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
        told = " | ".join(f"{ms:.1f} ms" for ms in spent)
        print(f"| {side} cubed | {told} | {spent[2] / spent[1]:.1f} |", flush=True)


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--intensities", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/dino3d_benchmark"))
    parser.add_argument("--epochs", type=int, default=15, help="of fine-tuning")
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
        run = pretrained(manifest, options.out, seed, options.pretrain)
        for start in STARTS:
            found = {
                "linear probe": probed(manifest, options.out, start, seed, run),
                "fine-tuning": tuned(manifest, options.out, start, seed, run, options.epochs),
            }
            for what, values in found.items():
                rows.setdefault((what, start), []).append(values["test"])
                print(f"seed {seed}, {what} from {start}: test AUC {values['test']:.3f}", flush=True)
    print(f"\n| | start | {' | '.join(f'seed {s}' for s in options.seeds)} | mean (SD) |")
    print("| --- |" + " --- |" * (len(options.seeds) + 2))
    for (what, start), values in sorted(rows.items()):
        spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
        told = " | ".join(f"{v:.3f}" for v in values)
        print(f"| {what} | {start} | {told} | **{np.mean(values):.3f}** ({spread:.3f}) |")


if __name__ == "__main__":
    main()
