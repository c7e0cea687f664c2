"""A format of this plugin, a data set in it, and made-up scans of it.

A `.cube` file is the text "CUBE", the side of the cube as one byte, and side x side x side grey values of one byte.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

import slivit
from slivit.data.importers import importer
from slivit.data.importers.common import Source, finished
from slivit.data.readers import Scan, ScanInfo
from slivit.data.readers.base import decoding
from slivit.data.readers.sniff import Found
from slivit.phantoms.cases import Case

_SOURCE = Source("Cubes", "", "one folder bright and one folder dark with .cube files, PATIENT_SCAN.cube")
DEFAULT_N = 24


@slivit.register_reader("cube", "raw cube of bytes", (".cube",))
def open_cube(contents: Found) -> Scan:
    """Open a cube: `contents.path` is the file, `contents.source` its name for messages."""
    with decoding(contents.source, "cube"):
        stored = np.fromfile(contents.path, np.uint8)
        side = int(stored[4])
        voxels = stored[5:].reshape(side, side, side)
    info = ScanInfo("cube", voxels.shape, "uint8", (1.0, 1.0, 1.0), contents.source)
    return Scan(info, lambda indices: voxels[list(indices)])


@importer("cubes", "cubes in a folder bright and a folder dark")
def cubes(root: Path) -> pd.DataFrame:
    """List the cubes of a folder; the target is `bright` (0 or 1)."""
    files = sorted(_SOURCE.folder(root).glob("*/*.cube"))
    rows = [{"path": str(f), "patient": f.stem.split("_")[0], "bright": int(f.parent.name == "bright")} for f in files]
    if not rows:
        raise _SOURCE.error(f"{root}: there is no cube in it")
    return finished(pd.DataFrame(rows), slivit.Task(kind="binary", targets=("bright",)), [], _SOURCE, root)


@dataclass(frozen=True)
class Options:
    """The side of a cube, in voxels."""

    side: int = 16


def scan_path(case: Case) -> str:
    """Where a scan lies in the folder."""
    return f"{'bright' if case.level > 0.5 else 'dark'}/{case.patient_name}_{case.visit}.cube"


def draw(case: Case, options: Options) -> tuple[np.ndarray, dict[str, int]]:
    """Draw a cube of noise; the answer is `bright`."""
    bright = int(case.level > 0.5)
    shape = (options.side,) * 3
    return case.scan_rng().integers(0, 120 + 80 * bright, shape).astype(np.uint8), {"bright": bright}


def save(cube: np.ndarray, path: Path, case: Case, options: Options) -> None:
    """Write a cube."""
    path.write_bytes(b"CUBE" + bytes([options.side]) + cube.tobytes())


slivit.register_phantoms("cubes", "raw cubes of noise; target bright (0 or 1)", sys.modules[__name__])
