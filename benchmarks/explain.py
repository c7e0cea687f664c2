"""Whether explanations point at the lesion: made-up OCT volumes in which the slices with drusen are known.

Run: python benchmarks/explain.py [--out FOLDER] [--run RUN] [--seed 0]

A model is trained by the shipped demo recipes (or taken from RUN, the folder of `slivit demo`). Three sets of volumes
that it has not seen, with drusen in all of them: the demo's own test volumes; new ones; and new ones with a single
druse, in which few slices are right. A method is right where the slice that it puts first is the lesion's: where the
drusen are at least half as high as the tallest one is. "By chance" is the mean share of such slices.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

import slivit
from slivit.explanation import FILLS, engine_of, explain_seen, see_scan
from slivit.phantoms import oct
from slivit.phantoms.cases import Case, plan_cases
from slivit.phantoms.retina import Findings, Grid, add_speckle, draw_surfaces, paint, screen
from slivit.phantoms.texture import to_bytes
from slivit.predict.engine import Engine
from slivit.volume import Volume

OPTIONS = oct.Options()
NEW_SEED, NEW = 1000, 320


def drawn(case: Case, single: bool) -> tuple[Volume, np.ndarray]:
    """A volume with drusen as `slivit phantoms oct` draws it, or with its first druse alone; the height by slice."""
    grid = Grid(OPTIONS.slices, OPTIONS.height, OPTIONS.width)
    rng = case.scan_rng()
    shape = draw_surfaces(case.patient_rng(), rng, grid, mirrored=case.visit == 1)
    drusen = list(oct.draw_drusen(rng, grid))
    shape.lift = np.max(drusen[:1] if single else drusen, axis=0)
    image = add_speckle(paint(shape, Findings(), rng, grid), rng, rng.uniform(0.08, 0.13))
    return Volume(to_bytes(screen(image, rng)), None, case.name), shape.lift.max(axis=1)


def demo_volumes(demo: Path, seed: int) -> Iterator[tuple[Volume, np.ndarray]]:
    """The demo's positive test volumes, drawn again from their seed."""
    table = pd.read_csv(demo / "finetuned" / "predictions.csv")
    positive = table[(table["split"] == "test") & (table["target_drusen"] == 1)]
    cases = {case.name: case for case in plan_cases("oct", 200, seed + 1)}
    for path in positive["path"]:
        yield drawn(cases[Path(path).name], single=False)


def new_volumes(seed: int, single: bool) -> Iterator[tuple[Volume, np.ndarray]]:
    """Positive volumes of another set."""
    for case in plan_cases("oct", NEW, NEW_SEED + seed):
        if case.level >= 0.5:
            yield drawn(case, single)


def hits(engine: Engine, volumes: Iterator[tuple[Volume, np.ndarray]]) -> pd.DataFrame:
    """One row a volume: whether each method puts a slice of the lesion first, and the share of such slices."""
    rows = []
    for volume, height in volumes:
        scan, right = see_scan(volume, engine.settings), height >= 0.5 * height.max()
        row = {"by chance": right.mean()}
        for fill in FILLS:
            explanation = explain_seen(engine, scan, target="drusen", methods=["occlusion"], fill=fill)
            row[f"occlusion, {fill}"] = right[explanation.ranking("occlusion")[0]]
        explanation = explain_seen(engine, scan, target="drusen", methods=["rollout", "gradcam"])
        row |= {method: right[explanation.ranking(method)[0]] for method in explanation.attributions}
        row["probability"] = explanation.prediction
        rows.append(row)
    return pd.DataFrame(rows)


def main() -> None:
    """Train where needed, measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/explain"))
    parser.add_argument("--run", type=Path, help="the folder of a `slivit demo` with the same seed")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    demo = options.run or options.out / "demo"
    if not (demo / "finetuned" / "predictions.csv").is_file():
        from slivit.experiments.demo import run

        run(demo, seed=options.seed, overwrite=True)
    uncalled = replace(slivit.load_checkpoint(demo / "finetuned"), operating_point=None)
    engine = engine_of(uncalled, batch_size=16)
    sets = {
        "test volumes of the demo": hits(engine, demo_volumes(demo, options.seed)),
        "new volumes": hits(engine, new_volumes(options.seed, single=False)),
        "new volumes, one druse": hits(engine, new_volumes(options.seed, single=True)),
    }
    columns = next(iter(sets.values())).columns.drop("probability")
    print("| volumes | n | found (p >= 0.5) | " + " | ".join(columns) + " |")
    print("| --- " * (len(columns) + 3) + "|")
    for name, table in sets.items():
        cells = [f"{table[column].astype(float).mean():.3f}" for column in columns]
        print(f"| {name} | {len(table)} | {(table['probability'] >= 0.5).mean():.3f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
