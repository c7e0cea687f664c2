"""SLIViT on AdrenalMNIST3D (28 cubed, official split): test ROC AUC over seeds, from scratch and pre-trained.

Run: python benchmarks/adrenal.py --data DATA [--seeds 0 1 2] [--starts scratch pneumonia] [--out FOLDER]

DATA holds `medmnist/adrenalmnist3d.npz` and, for the start "pneumonia", `pneumoniamnist/pneumoniamnist_rebuilt.npz`.
Everything that is chosen (the epoch, by early stopping) is chosen on the validation rows; the test rows are read once,
after training. Runs that are already in FOLDER are not repeated.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

import slivit
from slivit.recipe import load_recipe


def backbone(data: Path, out: Path, seed: int) -> Path:
    """A backbone pre-trained on PneumoniaMNIST, by the shipped recipe."""
    folder = out / f"backbone-{seed}"
    if not (folder / "metrics.json").is_file():
        manifest = data / "pneumoniamnist" / "pneumoniamnist_rebuilt.npz"
        overrides = [f"out={folder}", f"data.manifest={manifest}", f"seed={seed}"]
        slivit.pretrain(load_recipe("pretrain", "pneumoniamnist", overrides), overwrite=True)
    return folder


def train(data: Path, out: Path, start: str, seed: int) -> dict[str, float]:
    """One run by the shipped recipe; its validation and test AUC and its minutes."""
    folder = out / f"{start}-{seed}"
    timing = folder / "minutes.json"
    if not (folder / "metrics.json").is_file():
        begun = time.perf_counter()
        weights = backbone(data, out, seed) if start == "pneumonia" else ""
        manifest = data / "medmnist" / "adrenalmnist3d.npz"
        overrides = [f"out={folder}", f"data.manifest={manifest}", f"seed={seed}", f'model.weights="{weights}"']
        slivit.finetune(load_recipe("finetune", "adrenalmnist3d", overrides), overwrite=True)
        timing.write_text(json.dumps((time.perf_counter() - begun) / 60))
    splits = json.loads((folder / "metrics.json").read_text())["splits"]
    scores = {split: splits[split]["metrics"]["roc_auc"]["value"] for split in ("val", "test")}
    return {**scores, "minutes": json.loads(timing.read_text())}


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--starts", nargs="+", default=["scratch"], choices=["scratch", "pneumonia"])
    parser.add_argument("--out", type=Path, default=Path("runs/adrenal"))
    options = parser.parse_args()
    print("| start | seed | val AUC | test AUC | minutes |\n| --- | --- | --- | --- | --- |", flush=True)
    for start in options.starts:
        rows = []
        for seed in options.seeds:
            rows.append(train(options.data, options.out, start, seed))
            row = rows[-1]
            print(f"| {start} | {seed} | {row['val']:.3f} | {row['test']:.3f} | {row['minutes']:.1f} |", flush=True)
        mean = {key: np.mean([row[key] for row in rows]) for key in rows[0]}
        spread = np.std([row["test"] for row in rows], ddof=1) if len(rows) > 1 else 0.0
        print(
            f"| {start} | mean of {len(rows)} | {mean['val']:.3f} | **{mean['test']:.3f}** (SD {spread:.3f}) "
            f"| {mean['minutes']:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
