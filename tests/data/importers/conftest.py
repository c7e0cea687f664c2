"""Small trees laid out as the public data sets are; the scans in them are empty files, which importers never open."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def tree(tmp_path) -> Callable[..., Path]:
    """Make files below a folder (named paths are empty; keyword text is written), and give the folder."""

    def make(*empty: str, **_: str) -> Path:
        root = tmp_path / "set"
        root.mkdir(exist_ok=True)
        for name in empty:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return root

    return make
