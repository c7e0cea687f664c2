"""Settings: a value of another type or out of its range is told before anything is made of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest

from slivit.errors import ModelError
from slivit.settings import Count, Percents, Share, Shares, call_checked, settings_of


def network(
    name: str,
    out_dim: int,
    *,
    depths: Sequence[Count] = (1,),
    dropout: Share = 0.0,
    part: Shares = (0.2, 1.0),
    stretch: Percents = (1.0, 99.0),
    pool: Literal["mean", "max"] = "mean",
    pretrained: bool | str | Path | Mapping[str, Any] = False,
    free=None,
):
    return name, out_dim, depths, dropout, pool, pretrained, free


def call(**settings):
    return call_checked("net", partial(network, "net", depths=(2, 2)), 3, **settings)


def test_what_fits_goes_through_as_it_was_given():
    assert call() == ("net", 3, (2, 2), 0.0, "mean", False, None)
    assert call(depths=[1, 2], dropout=1, pool="max", free=object)[2:] == ([1, 2], 1.0, "max", False, object)
    assert call(part=[0.5, 1])[:2] == ("net", 3)
    assert call(pretrained=Path("weights.pth"))[-2] == Path("weights.pth")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"dropout": 1.5}, "net: dropout: should be at most 1, got 1.5"),
        ({"dropout": "0.5"}, "net: dropout: should be a valid number, got '0.5'"),
        ({"depths": [1, 0]}, "net: depths.1: should be at least 1, got 0"),
        ({"depths": [True]}, "net: depths.0: should be a valid integer, got True"),
        ({"pool": "median"}, "net: pool: should be 'mean' or 'max', got 'median'"),
        ({"pretrained": 3}, r"net: pretrained: should be a valid boolean or .* string or .* Path or .*, got 3"),
        (
            {"part": (0.9, 0.1)},
            r"net: part: should be the smallest and the largest value, .*, got \(0.9, 0.1\)",
        ),
        ({"part": (0.0, 3.0)}, "net: part.1: should be at most 1, got 3.0"),
        ({"stretch": (5, 5)}, r"net: stretch: should be a low and a high value, the low one first, got \(5, 5\)"),
        ({"dropout": -1, "depths": 3}, r"net: depths: .*; dropout: "),
    ],
)
def test_what_does_not_fit_is_told(wrong, told):
    with pytest.raises(ModelError, match=f"^{told}"):
        call(**wrong)


def test_annotations_that_only_a_type_checker_can_read_check_nothing():
    def own(out_dim: int, width: Count = 8, kind: "Unknown" = None) -> "Unknown":  # type: ignore[name-defined]  # noqa: F821
        return out_dim, width, kind

    assert call_checked("own", own, 2, width=4, kind="any") == (2, 4, "any")
    with pytest.raises(ModelError, match=r"^own: width: should be at least 1, got 0"):
        call_checked("own", own, 2, width=0)


@dataclass(frozen=True, kw_only=True)
class Sides:
    slices: Count = 4
    part: Shares = (0.2, 1.0)


@dataclass(frozen=True, kw_only=True)
class ManySides(Sides):
    slices: Count = 8
    depth: Count = 2


def grouped(out_dim: int, *, sides: ManySides, width: Count = 3):
    return sides, width


def test_a_group_of_settings_is_set_by_its_fields():
    settings = {name: parameter.default for name, parameter in settings_of(grouped).items() if name != "out_dim"}
    assert settings == {"slices": 8, "part": (0.2, 1.0), "depth": 2, "width": 3}
    assert call_checked("net", grouped, 1, part=[0.5, 1], width=4) == (ManySides(part=(0.5, 1.0)), 4)
    assert call_checked("net", grouped, 1) == (ManySides(), 3)
    with pytest.raises(ModelError, match=r"^net: slices: should be at least 1, got 0; width: .* integer, got 'wide'$"):
        call_checked("net", grouped, 1, slices=0, width="wide")
