"""`slivit auto` on real sets: the ensemble out of fold and on test rows, beside the best baseline and the best network.

python benchmarks/auto.py --data DATA --sets hippocampus anterior adrenal pneumonia --time 45m
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd

import slivit

METRICS = {"hippocampus": "r2", "anterior": "r2", "adrenal": "roc_auc", "pneumonia": "roc_auc"}


def hippocampus(data: Path) -> pd.DataFrame:
    """130 MR: the volume of the hippocampus in mm3, and the share of its anterior part, both from the label maps."""
    rows = []
    for image in sorted((data / "hippocampus" / "images").glob("*.nii*")):
        mask = np.asarray(nibabel.load(data / "hippocampus" / "labels" / image.name).dataobj)
        rows.append(
            {"path": str(image), "volume": int((mask > 0).sum()), "anterior": (mask == 1).sum() / (mask > 0).sum()}
        )
    return pd.DataFrame(rows)


def source(name: str, data: Path, folder: Path) -> tuple[str, dict]:
    """What `slivit auto` is given for a set, and its options."""
    if name in ("hippocampus", "anterior"):
        target = "volume" if name == "hippocampus" else "anterior"
        csv = folder / f"{name}.csv"
        hippocampus(data)[["path", target]].to_csv(csv, index=False)
        return str(csv), {"target": target}
    files = {"adrenal": "medmnist/adrenalmnist3d.npz", "pneumonia": "pneumoniamnist/pneumoniamnist_rebuilt.npz"}
    return str(data / files[name]), {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=list(METRICS), default=list(METRICS))
    parser.add_argument("--time", default="45m")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    args = parser.parse_args()
    print("| set | seed | best baseline | best network | ensemble, out of fold | ensemble, test | minutes |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as temporary:
        for name in args.sets:
            for seed in args.seeds:
                print(row(name, seed, args, Path(temporary)), flush=True)


def row(name: str, seed: int, args: argparse.Namespace, folder: Path) -> str:
    """One run as a row of the table."""
    scans, options = source(name, args.data, folder)
    out, start = folder / f"{name}_{seed}", time.monotonic()
    slivit.auto(scans, out=out, time=args.time, seed=seed, **options)
    minutes = (time.monotonic() - start) / 60
    facts = json.loads((out / "auto.json").read_text("utf-8"))
    metric, board = METRICS[name], facts["leaderboard"]
    networks = [c["name"] for c in facts["plan"]["candidates"] if c["name"] in board]
    baselines = [n for n in board if n not in ("mean", "ensemble", *networks)]
    best = {kind: max(names, key=lambda n: board[n][metric]["value"], default="") for kind, names in
            {"baseline": baselines, "network": networks}.items()}  # fmt: skip
    cells = [f"{board[n][metric]['value']:.3f} ({n})" if n else "–" for n in best.values()]
    ensemble = board["ensemble"][metric]
    cells.append(f"{ensemble['value']:.3f} ({ensemble['low']:.3f} to {ensemble['high']:.3f})")
    cells.append(f"{facts['test'][metric]['value']:.3f}" if facts["test"] else "–")
    return f"| {name} | {seed} | {' | '.join(cells)} | {minutes:.0f} |"


if __name__ == "__main__":
    main()
