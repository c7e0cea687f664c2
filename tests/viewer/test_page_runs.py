"""The page of other tasks, and of several runs at once, in headless Chromium."""

import json
import shutil

import pandas as pd
import pytest


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["regression", "multiclass"])
def test_other_tasks(serve, visit, runs, scans, kind):
    visitor = visit(serve(runs(kind)).url)
    visitor.find("scan35")
    visitor.wait(lambda: len(visitor.all(".bars.scored .bar")) == 6)
    table = json.loads((runs(kind) / "metrics.json").read_text())["splits"]["test"]
    assert table["scans"] == 8
    if kind == "regression":
        assert " mm" in visitor.text(".prediction .big")
        assert "off by" in visitor.text(".calibration")
    else:
        assert "Called" in visitor.text(".prediction")
        assert len(visitor.all(".prediction .outputs tr")) == 2
    visitor.wait(lambda: [e for e in visitor.all(".calibration img") if e.is_displayed()])
    visitor.quiet()


@pytest.mark.slow
def test_runs_beside_each_other(serve, visit, run, tmp_path):
    from selenium.webdriver.common.keys import Keys

    shutil.copytree(run, tmp_path / "second")
    table = pd.read_csv(tmp_path / "second" / "predictions.csv")
    table.assign(prob_bright=1 - table["prob_bright"], call_bright=1 - table["call_bright"]).to_csv(
        tmp_path / "second" / "predictions.csv", index=False
    )
    visitor = visit(serve(run, tmp_path / "second").url, "wide")
    visitor.wait(lambda: visitor.all("#list tbody tr"))
    spreads = [float(t.split()[0]) for t in visitor.texts("#list tbody td:nth-child(5)") if t[:1].isdigit()]
    assert spreads == sorted(spreads, reverse=True)
    assert "calls differ" in visitor.texts("#list tbody tr")[0]
    visitor.see(".compare", "calls differ")
    visitor.wait(lambda: len([e for e in visitor.all(".flat .under") if e.get_attribute("src")]) == 2)
    visitor.wait(lambda: [e for e in visitor.all(".rest .bars .bar") if e.is_displayed()])
    visitor.quiet()
    visitor.press("v")
    visitor.see(".plane-cell .whose", "second: ")
    visitor.wait(lambda: all(f"/map.nii?run={run}" in fetched(visitor) for run in (0, 1)))
    first, second = visitor.wait(lambda: len(found := visitor.all(".plane-cell canvas")) == 2 and found)
    visitor.press(Keys.HOME)
    visitor.see(".slice-label", "slice 0 ")
    before = [canvas.screenshot_as_png for canvas in (first, second)]
    visitor.press(Keys.END)
    visitor.see(".slice-label", "slice 5 ")
    visitor.wait(lambda: first.screenshot_as_png != before[0] and second.screenshot_as_png != before[1])
    visitor.click("Beside: 2 of 2", ".beside summary")
    visitor.click("second", ".beside label")
    visitor.wait(lambda: len(visitor.all(".plane-cell:not(.away) canvas")) == 1)
    visitor.quiet()


def fetched(visitor):
    return visitor.script("return performance.getEntriesByType('resource').map(e => e.name).join(' ')")


@pytest.mark.slow
def test_runs_that_segment(serve, visit, mask_run, tmp_path):
    second = shutil.copytree(mask_run, tmp_path / "second")
    shutil.rmtree(second / "masks")  # so that its masks are predicted on demand
    visitor = visit(serve(mask_run, second).url + "#view=planes&sort=value:up", "wide")
    visitor.wait(lambda: visitor.all("#list tbody tr"))
    known = [float(t) for t in visitor.texts("#list tbody td:nth-child(3)") if t[:1].isdigit()]
    assert known == sorted(known)
    visitor.see(".masks", "Volumes in mL")
    rows = ".masks tr:nth-child(2) td"
    visitor.wait(lambda: len(cells := visitor.texts(rows)) == 7 and all(cells))
    one, two = visitor.texts(".masks table:first-of-type tr:nth-child(2) td")[1:]
    assert one == two == f"{known[0]:.3f}"
    visitor.wait(lambda: all(f"/layer/predicted.nii?run={run}" in fetched(visitor) for run in (0, 1)))
    canvas = visitor.all(".plane-cell canvas")[0]
    before = visitor.wait(lambda: canvas.screenshot_as_png)
    visitor.press("3")
    visitor.wait(lambda: "/layer/difference.nii?run=1" in fetched(visitor))
    visitor.wait(lambda: canvas.screenshot_as_png != before)
    visitor.wait(lambda: visitor.texts(".tools [aria-pressed=true]") == ["Planes", "Difference"])
    visitor.quiet()
    visitor.press("v")
    visitor.wait(lambda: len(visitor.all('.flat [data-layer="layer difference"][src]')) == 2)
    visitor.quiet()


@pytest.mark.slow
def test_members_of_an_ensemble_stand_beside_it(serve, visit, ensemble_run, tmp_path):
    visitor = visit(serve(shutil.copytree(ensemble_run, tmp_path / "run")).url, "wide")
    visitor.see(".compare", "forest of voxels2")
    visitor.wait(lambda: len(visitor.all(".rest .bars.scored")) == 3)  # by occlusion, which all members have
    visitor.wait(lambda: len([e for e in visitor.all(".flat .under[src]") if e.is_displayed()]) == 4)
    visitor.press("f")
    visitor.wait(lambda: not visitor.all("#list input")[0].is_displayed())
    visitor.click("Beside: 4 of 5", ".beside summary")
    visitor.click("linear of histogram", ".beside label")
    visitor.see(".beside summary", "Beside: 3 of 5")
    assert "beside=0%2C2%2C3" in visitor.browser.current_url
    visitor.press("v")
    visitor.wait(lambda: len(visitor.all(".plane-cell:not(.away) canvas")) == 3)
    visitor.see(".plane-cell .whose", "kernel of voxels2")
    visitor.press("f")  # what a run was measured to be stands beside the list, which was put away
    visitor.script("document.querySelector('.tools select[aria-label=Run]').value = '3'")
    visitor.script("document.querySelector('.tools select[aria-label=Run]').dispatchEvent(new Event('change'))")
    visitor.see(".calibration", "member of an ensemble")
    visitor.quiet()
