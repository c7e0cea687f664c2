"""Reading scans in this checkout and in another: the ratio of processor time, taken in turns within one run.

python benchmarks/reading.py OTHER_CHECKOUT --rounds 9
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from scans import KINDS, speckled

HERE = Path(__file__).resolve().parents[1]
SIZE = (28, 96, 96)


def made(folder: Path) -> dict[str, list[str]]:
    """Write a few scans of every kind."""
    kinds = {kind.what: [str(p) for p in kind.make(folder / kind.name, 4)] for kind in KINDS}
    kinds |= {what: [str(make(folder, i)) for i in range(3)] for what, make in MORE.items()}
    return kinds


def _nifti(suffix: str) -> Callable[[Path, int], Path]:
    def make(folder: Path, number: int) -> Path:
        import nibabel

        array = speckled(60, 192, 192, seed=number).astype(np.int16).transpose(2, 1, 0)
        path = folder / f"{number}{suffix}"
        nibabel.save(nibabel.Nifti1Image(array, np.diag([1, 1, 2, 1])), path)
        return path

    return make


def _pages(folder: Path, number: int) -> Path:
    import tifffile

    path = folder / f"{number}.tif"
    tifffile.imwrite(path, speckled(60, 256, 256, seed=number), compression="zlib", photometric="minisblack")
    return path


def _frames(folder: Path, number: int) -> Path:
    from PIL import Image

    path = folder / f"png{number}"
    path.mkdir()
    for index, image in enumerate(speckled(40, 256, 256, seed=number)):
        Image.fromarray(image).save(path / f"{index}.png")
    return path


def _enhanced(folder: Path, number: int) -> Path:
    import SimpleITK

    path = folder / f"{number}.mha"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(speckled(60, 192, 192, seed=number)), str(path))
    return path


MORE: dict[str, Callable[[Path, int], Path]] = {
    "NIfTI, 60 x 192 x 192": _nifti(".nii"),
    "NIfTI, gzipped": _nifti(".nii.gz"),
    "TIFF of 60 deflated pages, 256 x 256": _pages,
    "40 PNG frames, 256 x 256": _frames,
    "MetaImage, 60 x 192 x 192": _enhanced,
}


def serve() -> None:
    """Read what is asked for, and answer with the seconds of processor time; a line is "slices" or "whole", paths."""
    from slivit import Preprocessing, load_slices, read_volume

    settings = Preprocessing(size=SIZE)
    for line in sys.stdin:
        how, *paths = line.rstrip("\n").split("\t")
        start = time.process_time()
        for path in paths:
            load_slices(path, settings) if how == "slices" else read_volume(path)
        print(time.process_time() - start, flush=True)


def started(checkout: Path) -> subprocess.Popen[str]:
    """A process that reads with the code of a checkout."""
    env = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, __file__, "--serve"]
    return subprocess.Popen(command, env=env, cwd=checkout, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def asked(process: subprocess.Popen[str], how: str, paths: list[str]) -> float:
    """Seconds that one reading took."""
    assert process.stdin
    assert process.stdout
    process.stdin.write("\t".join([how, *paths]) + "\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def main() -> None:
    """Print a table: milliseconds a scan in the other checkout and here, and their ratio, median of all rounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path, nargs="?", help="the folder of the other checkout")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        return serve()
    both = [started(given.other.resolve()), started(HERE)]
    print("| scans | read | there, ms | here, ms | here / there |\n| --- | --- | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        for what, paths in made(Path(folder)).items():
            for how in ("slices", "whole"):
                times = [[asked(p, how, paths) for p in both] for _ in range(given.rounds + 1)][1:]
                ratio = median(here / there for there, here in times)
                there, here = (1000 * median(column) / len(paths) for column in zip(*times, strict=True))
                print(f"| {what} | {how} | {there:.1f} | {here:.1f} | {ratio:.2f} |", flush=True)
    return None


if __name__ == "__main__":
    main()
