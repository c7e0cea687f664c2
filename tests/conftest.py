"""Shared fixtures: where the real scans and the golden numbers lie, and a seed for every test."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


def _folder(variable: str, fallback: Path) -> Path | None:
    folder = Path(os.environ.get(variable, fallback))
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real scans, or a skip with the reason."""
    folder = _folder("SLIVIT_REAL_DATA", ROOT.parent / "shared" / "data")
    if folder is None:
        pytest.skip("real scans are absent: set SLIVIT_REAL_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of golden numbers, or a skip with the reason."""
    folder = _folder("SLIVIT_REFERENCE", ROOT.parent / "shared" / "reference")
    if folder is None:
        pytest.skip("golden numbers are absent: set SLIVIT_REFERENCE to their folder")
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def blob_scans(tmp_path_factory) -> Path:
    """A manifest of 40 small NIfTI volumes; `bright` = 1 has a bright blob in one slice, `size` is its radius."""
    import nibabel
    import pandas as pd

    folder = tmp_path_factory.mktemp("blobs")
    generator = np.random.default_rng(7)
    rows, columns = np.mgrid[:24, :24]
    table = []
    for i in range(40):
        bright, size = i % 2, 2 + (i * 7 % 5)
        array = generator.normal(100, 20, (24, 24, 6))
        centre = generator.integers(8, 16, 2)
        if bright:
            array[(rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= size**2, 1 + i % 4] += 150
        nibabel.save(nibabel.Nifti1Image(array.astype(np.int16), np.diag([1, 1, 3, 1.0])), folder / f"scan{i}.nii")
        split = "train" if i < 24 else "val" if i < 32 else "test"
        table.append({"path": f"scan{i}.nii", "patient": f"P{i}", "split": split, "bright": bright, "size": size})
    frame = pd.DataFrame(table)
    frame["grade"] = frame["size"].map(lambda s: "low" if s < 4 else "high")
    frame["both"] = (frame["size"] > 3).astype(int)
    frame.to_csv(folder / "scans.csv", index=False)
    return folder / "scans.csv"
