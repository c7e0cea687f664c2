"""A folder of runs: what its page lists, and how it opens one or several of them."""

import json
import shutil

import pytest

pytest.importorskip("starlette")

from slivit.report.style import number
from slivit.viewer.server import ViewError
from slivit.viewer.shelf import Shelf


@pytest.fixture(scope="module")
def study(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    for name, kind in (("a/seed0", "binary"), ("b", "binary"), ("c", "regression")):
        shutil.copytree(runs(kind), folder / "runs" / name)
    return folder


def test_the_page_lists_the_runs_with_what_they_measured(study, tmp_path):
    found = Shelf(study).about()
    assert {row["name"]: row["task"] for row in found["runs"]} == {
        "runs/a/seed0": "binary of bright", "runs/b": "binary of bright", "runs/c": "regression of size"
    }  # fmt: skip
    for row in found["runs"]:
        metrics = json.loads((study / row["name"] / "metrics.json").read_text())["splits"]["test"]["metrics"]
        values = [metric["value"] for metric in row["metrics"]]
        assert len(values) == 2
        assert set(values) <= {number(m["value"]) for m in metrics.values()}
    broken = shutil.copytree(study / "runs" / "b", tmp_path / "broken")
    (broken / "checkpoint" / "config.json").write_text("{")
    assert "config.json" in Shelf(tmp_path).about()["runs"][0]["error"]


def test_runs_of_one_task_are_opened_together(study):
    shelf = Shelf(study)
    assert shelf.opened("0,1") is shelf.opened("0,1")
    for wrong in ("3", "", "x", "0,9"):
        with pytest.raises(ViewError, match="no runs"):
            shelf.opened(wrong)
    with pytest.raises(ViewError, match="one task"):
        shelf.opened("0,2")


@pytest.mark.slow
def test_a_run_is_opened_from_the_list_and_two_are_compared(serve, visit, study):
    visitor = visit(serve(study).url)
    visitor.see("#shelf", "runs/a/seed0")
    boxes = visitor.all("#shelf input")
    boxes[0].click()
    assert [box.is_enabled() for box in boxes] == [True, True, False]
    visitor.click("runs/c", "#shelf a")
    visitor.see(".scan-title", ".nii")
    visitor.see(".said", "Colours:")
    visitor.click("All runs", "a")
    visitor.wait(lambda: len(visitor.all("#shelf input")) == 3)
    for box in visitor.all("#shelf input")[:2]:
        box.click()
    visitor.click("Compare 2 runs")
    visitor.see(".compare", "seed0")
    visitor.wait(lambda: len([e for e in visitor.all(".flat .under") if e.get_attribute("src")]) == 2)
    visitor.quiet()
