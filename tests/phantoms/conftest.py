"""Small made-up scans for all tests of this folder."""

from __future__ import annotations

from typing import Any

import pytest

from slivit.phantoms import kind_module
from slivit.phantoms.cases import plan_cases

SMALL: dict[str, dict[str, Any]] = {
    "oct": {"slices": 6, "height": 64, "width": 64},
    "oct2d": {"height": 64, "width": 80},
    "echo": {"size": 64, "frames": 28, "extra_frames": 4},
    "liver": {"slices": 6, "size": 64},
    "ct": {"slices": 12, "size": 64},
    "brain": {"slices": 12, "size": 32},
}


@pytest.fixture(params=SMALL)
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="session")
def small():
    """The options that make a kind's scans small."""
    return SMALL


@pytest.fixture(scope="session")
def drawn():
    """Draw scans of a kind in memory, once for all tests: a list of (case, array, answers)."""
    kept: dict[tuple[str, int], list] = {}

    def draw(kind: str, n: int) -> list:
        module = kind_module(kind)
        options = module.Options(**SMALL[kind])
        if (kind, n) not in kept:
            kept[kind, n] = [(case, *module.draw(case, options)) for case in plan_cases(kind, n, seed=0)]
        return kept[kind, n]

    return draw
