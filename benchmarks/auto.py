"""`slivit auto` on real and made-up sets: what the ensemble, the best baseline and the best network are worth.

python benchmarks/auto.py --data DATA --sets hippocampus anterior adrenal pneumonia --time 45m --seeds 0 1 2
python benchmarks/auto.py --sets oct liver echo ct --time 5m
python benchmarks/auto.py --read RUN ...     # the rows of runs that `slivit auto` made before

Processor seconds and the largest memory of one process are those of the run and the processes that it started.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd

import slivit

FILES = {"adrenal": "medmnist/adrenalmnist3d.npz", "pneumonia": "pneumoniamnist/pneumoniamnist_rebuilt.npz"}
HIPPOCAMPUS = {"hippocampus": "volume", "anterior": "anterior"}
MADE_UP = {"oct": "drusen", "liver": "pdff", "echo": "ef", "ct": "nodule"}
HEADS = ("set", "seed", "best baseline", "best network", "ensemble, out of fold", "ensemble, test")


def hippocampus(data: Path) -> pd.DataFrame:
    """130 MR: the volume of the hippocampus in mm3, and the share of its anterior part, both from the label maps."""
    rows = []
    for image in sorted((data / "hippocampus" / "images").glob("*.nii*")):
        mask = np.asarray(nibabel.load(data / "hippocampus" / "labels" / image.name).dataobj)
        rows.append(
            {"path": str(image), "volume": int((mask > 0).sum()), "anterior": (mask == 1).sum() / (mask > 0).sum()}
        )
    return pd.DataFrame(rows)


def source(name: str, data: Path | None, folder: Path) -> tuple[str, dict]:
    """What `slivit auto` is given for a set, and its options."""
    if name in MADE_UP:
        scans = folder / f"{name}_scans"
        if not scans.is_dir():
            slivit.make_phantoms(name, scans, n=160, seed=3)
        return str(scans / "manifest.csv"), {"target": MADE_UP[name]}
    if data is None:
        raise SystemExit(f"{name}: --data is the folder of real scans")
    if name in FILES:
        return str(data / FILES[name]), {}
    csv, target = folder / f"{name}.csv", HIPPOCAMPUS[name]
    hippocampus(data)[["path", target]].to_csv(csv, index=False)
    return str(csv), {"target": target}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [*HIPPOCAMPUS, *FILES, *MADE_UP]
    parser.add_argument("--data", type=Path)
    parser.add_argument("--sets", nargs="+", choices=known, default=known)
    parser.add_argument("--time", default="45m")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--read", nargs="+", type=Path, default=[])
    args = parser.parse_args()
    heads = HEADS if args.read else (*HEADS, "minutes", "processor seconds", "memory (GB)")
    print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    for out in args.read:
        print(f"| {' | '.join(row(out.name, out))} |", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        for name in () if args.read else args.sets:
            for seed in args.seeds:
                cells = measured(name, seed, args, Path(temporary))
                print(f"| {' | '.join(cells)} |", flush=True)


def measured(name: str, seed: int, args: argparse.Namespace, folder: Path) -> list[str]:
    """One run as a row of the table, with what it took."""
    scans, options = source(name, args.data, folder)
    out, start, spent = folder / f"{name}_{seed}", time.monotonic(), sum(os.times()[:4])
    slivit.auto(scans, out=out, time=args.time, seed=seed, **options)
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    took = [f"{(time.monotonic() - start) / 60:.0f}", f"{sum(os.times()[:4]) - spent:.0f}", f"{peak / 2**20:.1f}"]
    return [*row(name, out), *took]


def row(name: str, out: Path) -> list[str]:
    """The cells of a planned run: its set, its seed, and what came of it."""
    facts = json.loads((out / "auto.json").read_text("utf-8"))
    metric, board = facts["metrics"][0], facts["leaderboard"]
    networks = [c["name"] for c in facts["plan"]["candidates"] if c["name"] in board]
    baselines = [n for n in board if n not in ("mean", "ensemble", *networks)]
    best = [max(names, key=lambda n: board[n][metric]["value"], default="") for names in (baselines, networks)]
    cells = [f"{board[n][metric]['value']:.3f} ({n})" if n else "–" for n in best]
    ensemble = board["ensemble"][metric]
    cells.append(f"{ensemble['value']:.3f} ({ensemble['low']:.3f} to {ensemble['high']:.3f})")
    test = facts["test"].get(metric)
    cells.append(f"{test['value']:.3f} ({test['low']:.3f} to {test['high']:.3f})" if test else "–")
    return [name, str(facts["plan"]["seed"]), *cells]


if __name__ == "__main__":
    main()
