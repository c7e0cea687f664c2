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


@pytest.fixture()
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
