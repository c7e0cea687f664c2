"""Cells of a table: whether they say something, and as what text."""

from __future__ import annotations

import math
from typing import Any


def is_missing(value: Any) -> bool:
    """Whether a manifest cell is empty."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def class_name(value: Any) -> str:
    """The name of a class as text, so that 3, 3.0 and "3" are one class."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()
