"""What 100,000 scans cost on 1, 4 and 64 GPUs: a sum of figures measured on a processor, and of assumptions about GPUs.

Run: python benchmarks/scale.py [--peak 312] [--share 0.4] [--scaling 0.9] [--cores 16] [--disk 1.0] [--gpus 1 4 64]

Prints the tables of docs/scale.md. Everything under MEASURED stands in benchmarks/RESULTS.md; everything that is an
option is an assumption, which your own `python benchmarks/gpu.py` can replace.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

SCANS = 100_000
MEASURED = {
    "read": 1.60,  # s of a core: one .nii.gz of 512 x 512 x 200, from 1.60 s for two of 100 slices ("The engine")
    "large": 4.6e-3,  # s of a core: one crop of 96 cubed, cut ("3DINO: changing the intensities of crops")
    "small": 0.7e-3,  # s of a core: one crop of 48 cubed, cut (the same table)
    "bytes": 1.16e-3,  # s of a core: 28 slices of 256 x 256 from the cache ("Reading and caching", OCT)
    "vit": 68.8e9,  # multiply-adds: ViT-Large, one crop of 96 cubed, 217 tokens ("Every model on AdrenalMNIST3D")
    "slivit": 163.5e9,  # multiply-adds: SLIViT-T, 28 slices of 256 x 256 (the same table)
    "cpu": 0.26 / 4 * 28,  # s of a core: SLIViT-T in bfloat16, from four slices ("The engine", inference)
}
FILE, VOLUME, SLICES = 50e6, 160**3, 28 * 256**2  # bytes: a gzipped CT (assumed), a cached volume, a cached scan
STEPS, BATCH, LARGE, SMALL = 112_500, 512, 2, 8  # 3DINO: Xu et al. 2025, Methods
TOKENS, HEADS = (217, 28), 23.6e6


def of_a_volume() -> dict[str, float]:
    """Multiply-adds of one volume in one step of pre-training."""
    student = LARGE * MEASURED["vit"] + SMALL * MEASURED["vit"] * TOKENS[1] / TOKENS[0]
    teacher = LARGE * MEASURED["vit"]
    heads = (3 * 140 + 130) * HEADS  # 10 class tokens and 130 masked patches, forward and backward; 130 of the teacher
    return {"student": student, "teacher": teacher, "heads": heads, "all": 3 * student + teacher + heads}


def as_time(seconds: float) -> str:
    """A time in words."""
    for limit, unit, name in ((90, 1, "s"), (5400, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.2g} {name}" if seconds / unit < 10 else f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86_400:.1f} days"


def rows(o: argparse.Namespace) -> Iterator[tuple[str, list[str]]]:
    """What is paid for, and what it takes on each number of GPUs."""
    fast = [o.peak * 1e12 * o.share * n * (o.scaling if n > 1 else 1.0) for n in o.gpus]
    cores = [o.cores * n for n in o.gpus]
    work = 2 * of_a_volume()["all"]
    yield "reading every scan once, by the cores", [as_time(SCANS * MEASURED["read"] / c) for c in cores]
    yield f"... by the storage, {o.disk:g} GB/s for all", [as_time(SCANS * FILE / (o.disk * 1e9)) for _ in o.gpus]
    yield "pre-training, 112,500 steps: the GPUs", [as_time(STEPS * BATCH * work / f) for f in fast]
    yield (
        "... with activations computed again",
        [as_time(STEPS * BATCH * (work + 2 * of_a_volume()["student"]) / f) for f in fast],
    )
    crops = LARGE * MEASURED["large"] + SMALL * MEASURED["small"]
    yield "... cutting its crops, by the cores", [as_time(STEPS * BATCH * crops / c) for c in cores]
    yield "... GB/s of cached volumes that it reads", [f"{VOLUME * f / work / 1e9:.2g}" for f in fast]
    yield "predicting once with SLIViT-T: the GPUs", [as_time(SCANS * 2 * MEASURED["slivit"] / f) for f in fast]
    yield "... from the cache, by the cores", [as_time(SCANS * MEASURED["bytes"] / c) for c in cores]
    yield "... on these cores alone, no GPU", [as_time(SCANS * MEASURED["cpu"] / c) for c in cores]


def table(o: argparse.Namespace) -> str:
    """The sum as Markdown."""
    lines = [
        "| | " + " | ".join(f"{n} GPU{'s' if n > 1 else ''}" for n in o.gpus) + " |",
        "| --- |" + " --- |" * len(o.gpus),
    ]
    return "\n".join(lines + [f"| {name} | " + " | ".join(values) + " |" for name, values in rows(o)])


def parser() -> argparse.ArgumentParser:
    """The assumptions."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--peak", type=float, default=312, help="of a GPU in bfloat16, TFLOP/s by its data sheet")
    options.add_argument("--share", type=float, default=0.4, help="of the peak that training and prediction reach")
    options.add_argument("--scaling", type=float, default=0.9, help="of several GPUs' sum that they reach together")
    options.add_argument("--cores", type=int, default=16, help="of a processor, beside each GPU")
    options.add_argument("--disk", type=float, default=1.0, help="GB/s that the storage gives all machines together")
    options.add_argument("--gpus", type=int, nargs="+", default=[1, 4, 64])
    return options


if __name__ == "__main__":
    print(table(parser().parse_args()))
