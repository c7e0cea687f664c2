"""What a checkpoint's record says of the machine it was made on, taken out before others see it."""

from __future__ import annotations

import re
from pathlib import PurePath, PureWindowsPath
from typing import Any

PATHS = frozenset(
    (
        "out",
        "manifest",
        "test_manifest",
        "root",
        "cache",
        "weights",
        "folder",
        "file",
        "source",
        "readers",
        "pretrained",
        "start",
    )
)
"""The keys that name files and folders."""

_ABSOLUTE = re.compile(r"(?<![:/\\\w.])(?:[A-Za-z]:)?(?:[\\/][^\s\\/:,;\"']+)+[\\/]")


def without_paths(value: Any, key: str = "") -> Any:
    """Plain values with the last part of each path alone: folders tell of people, projects and machines.

    Args:
        value: as in `config.json`.
        key: under which it stands.
    """
    if isinstance(value, dict):
        return {k: without_paths(v, k) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(v, key) for v in value]
    if not isinstance(value, str):
        return value
    if key in PATHS and "://" not in value and not re.search(r"\s", value):
        return PureWindowsPath(PurePath(value).name).name
    return _ABSOLUTE.sub("", value)
