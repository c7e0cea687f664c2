"""The page of a check: complete, self-contained, safe, whole or not at all."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import tifffile

from slivit.report.check import run_check
from slivit.report.check_page import write_check_page
from slivit.targets.task import Task

VOID = {"meta", "img", "br", "rect"}


class Balance(HTMLParser):
    """Every element that opens also closes, in order."""

    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.sources += [v for k, v in attrs if k in ("src", "href", "srcset", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.fixture
def manifest(tmp_path, rng):
    table = pd.DataFrame(
        {
            "path": [f"<b>s{i}&.tif" for i in range(12)],
            "patient": [f"P{i}" for i in range(12)],
            "split": ["train"] * 6 + ["val"] * 2 + ["test"] * 4,
            "label": [0, 1] * 6,
            "ef": rng.normal(55, 10, 12),
        }
    )
    for i, name in enumerate(table["path"]):
        seed = 0 if i in (0, 9) else i
        array = np.random.default_rng(seed).integers(0, 255, (3, 16, 20), dtype=np.uint8)
        tifffile.imwrite(tmp_path / name, array, photometric="minisblack")
    (tmp_path / table["path"][3]).write_bytes(b"broken")
    table.to_csv(tmp_path / "oct.csv", index=False)
    return tmp_path / "oct.csv"


@pytest.mark.parametrize(
    "task",
    [
        Task(kind="binary", targets=("label",)),
        Task(kind="regression", targets=("ef",), unit="%"),
        Task(kind="regression", targets=("absent",)),
        None,
    ],
)
def test_page(manifest, tmp_path, task):
    result = run_check(manifest, tmp_path / "out", task, workers=0)
    page = (tmp_path / "out" / "check.html").read_text("utf-8")
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    assert all(source.startswith(("data:image/jpeg;base64,", "#")) for source in parser.sources)
    assert not re.search(r"https?://|url\(|@import", page)
    assert "<b>s" not in page
    assert page.count("data:image/jpeg") == 11 + 2
    assert "Training on this set would be wrong" in page
    assert page.index('<section id="important">') < page.index("Middle slices")
    assert all(finding.title in page[: page.index("<main>")] for finding in result.findings[:4])
    for text in result.summary:
        assert text.split(" ")[0] in page[page.index('id="important"') :]
    table = pd.read_csv(tmp_path / "out" / "scans.csv", keep_default_na=False)
    assert table["row"].tolist() == list(range(2, 14))
    assert table["same_as"].tolist()[9] == "2"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["check.html", "scans.csv"]


def test_few_pictures_show_the_odd_scans(manifest, tmp_path):
    result = run_check(manifest, tmp_path / "out", workers=0)
    write_check_page(result, tmp_path / "few.html", pictures=5)
    page = (tmp_path / "few.html").read_text("utf-8")
    gallery = page[page.index("Middle slices") :]
    assert "5 of 12 scans" in gallery
    assert gallery.count("<figure") == 5
    assert all(f"row {row}</b>" in gallery for row in (2, 5, 11))


def test_a_broken_page_leaves_the_old_one(manifest, tmp_path, monkeypatch):
    result = run_check(manifest, tmp_path / "out", workers=0)
    before = (tmp_path / "out" / "check.html").read_bytes()
    monkeypatch.setattr(type(result.pictures), "get", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_check_page(result, tmp_path / "out" / "check.html")
    assert (tmp_path / "out" / "check.html").read_bytes() == before
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["check.html", "scans.csv"]


def test_a_check_draws_masks_and_tells_what_is_wrong_with_them(blob_scans, tmp_path):
    table = blob_scans.with_name("masks.csv")
    task = Task(kind="segmentation", labels={"blob": 1})
    assert run_check(table, tmp_path / "check", task, workers=1, pictures=4).exit_status == 0
    assert (tmp_path / "check" / "masks.png").stat().st_size > 10_000
    other = run_check(table, tmp_path / "other", Task(kind="segmentation", labels={"blob": 2}), workers=1)
    assert other.exit_status == 1
    assert any("does not declare" in finding.text for finding in other.findings)
