"""The page of one run, in headless Chromium."""

import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from slivit.cli import app
from slivit.viewer.server import bind

nibabel = pytest.importorskip("nibabel")


def test_the_worklist_opens_with_the_first_scan_and_is_worked_by_keys(visitor, visit, run):
    from selenium.webdriver.common.keys import Keys

    predictions = json.loads((run / "metrics.json").read_text())
    assert predictions["splits"]
    visitor.wait(lambda: len(visitor.all("#list tbody tr")) > 10)
    first, second = visitor.names()[:2]
    visitor.see(".scan-title", f"{first}.nii")
    visitor.wait(lambda: len(visitor.all("#list .frame img")) == len(visitor.all("#list .frame")))
    visitor.press(Keys.ARROW_DOWN)
    visitor.see(".scan-title", f"{second}.nii")
    assert re.search(r"#scan=\d+", visitor.browser.current_url)
    visitor.press("/", "scan3")
    visitor.wait(lambda: all("scan3" in name for name in visitor.names()))
    visitor.press(Keys.ESCAPE, "w")
    visitor.wait(lambda: "observed" in visitor.text("#list th"))
    visitor.click("probability", "#list th button")
    shown = [float(t.split()[0]) for t in visitor.texts("#list tbody td:nth-child(3)") if t[:1].isdigit()]
    assert shown == sorted(shown, reverse=True)
    link = visitor.browser.current_url
    again = visit(link)
    again.wait(lambda: all("scan3" in name for name in again.names()))
    assert "wide=1" in link
    again.wait(lambda: [e for e in again.all("#list td.more") if e.is_displayed()])


def test_scroll_through_a_scan_and_see_why(visitor, scans):
    from selenium.webdriver.common.keys import Keys

    visitor.find("scan3")
    visitor.see(".prediction", f"Known: bright {scans['bright'][3]}")
    assert "the threshold is 0.400" in visitor.text(".prediction")
    assert " with a probability from " in visitor.text(".calibration")
    visitor.press(Keys.ESCAPE)
    visitor.wait(lambda: visitor.source(".over").startswith("blob:"))  # Grad-CAM's colours
    visitor.all(".slice-slider")[0].send_keys(Keys.HOME)
    visitor.see(".slice-label", "slice 0 of 0 to 5")
    picture = visitor.settled(".under")
    visitor.press(Keys.ESCAPE, Keys.ARROW_RIGHT)
    visitor.see(".slice-label", "slice 1 ")
    visitor.wait(lambda: visitor.source(".under") != picture)
    wheel = "arguments[0].dispatchEvent(new WheelEvent('wheel', {deltaY: -100, bubbles: true, cancelable: true}))"
    visitor.script(wheel, visitor.all(".stage")[0])
    visitor.see(".slice-label", "slice 0 ")
    visitor.wait(lambda: visitor.source(".under") == picture)
    visitor.press("1")
    visitor.see(".said", "log-odds would fall")
    visitor.wait(lambda: len(visitor.all(".bars.scored .bar")) == 6)
    visitor.press("0")
    visitor.wait(lambda: not visitor.all(".bars.scored"))


@pytest.mark.slow
def test_three_planes_with_a_window_and_an_overlay(browser, visit, server):
    from selenium.webdriver.common.keys import Keys

    visitor = visit(f"{server.url}#scan=3&view=planes&method=gradcam", "wide")
    visitor.see(".said", "Colours:")
    canvas = visitor.wait(lambda: visitor.all(".planes canvas"))[0]
    visitor.wait(lambda: "cross=" in browser.current_url)
    assert visitor.text(".numbers").startswith("W ")
    before = canvas.screenshot_as_png
    assert len(before) > 3000  # not one colour alone
    visitor.press(Keys.HOME)
    visitor.see(".slice-label", "slice 0 of 0 to 5, seen by the model")
    visitor.press(Keys.ARROW_RIGHT)
    visitor.see(".slice-label", "slice 1 ")
    assert canvas.screenshot_as_png != before
    drag = """const [canvas, dx] = arguments, at = canvas.getBoundingClientRect();
        const x = at.left + 50, y = at.top + 50, given = {bubbles: true, cancelable: true, button: 2, buttons: 2};
        canvas.dispatchEvent(new MouseEvent('mousedown', {...given, clientX: x, clientY: y}));
        window.dispatchEvent(new MouseEvent('mousemove', {...given, clientX: x + dx, clientY: y}));
        window.dispatchEvent(new MouseEvent('mouseup', {...given, clientX: x + dx, clientY: y}));"""
    window = visitor.text(".numbers")
    visitor.script(drag, canvas, 100)
    visitor.wait(lambda: visitor.text(".numbers") != window)
    visitor.press("0", "+")
    visitor.wait(lambda: all(f"{part}=" in browser.current_url for part in ("window", "zoom", "slice")))
    link = browser.current_url
    again = visit(link, "wide")
    again.see(".slice-label", "slice 1 ")
    again.wait(lambda: again.text(".numbers") == visitor.text(".numbers") != window)
    visitor.press("v")
    visitor.wait(lambda: visitor.all(".flat .under")[0].is_displayed())
    again.quiet()


@pytest.mark.slow
def test_a_dropped_scan_is_shown_and_a_bad_one_told(visitor, scans, tmp_path):
    bad = tmp_path / "holiday.nii"
    bad.write_bytes(Path(scans["path"][0]).read_bytes()[:500])
    visitor.wait(lambda: visitor.all("#files"))[0].send_keys(str(bad))
    assert visitor.see("#trouble", "holiday.nii").startswith("holiday.nii: ")
    good = shutil.copy(scans["path"][30], tmp_path / "mine.nii")
    visitor.all("#files")[0].send_keys(str(good))
    visitor.see(".scan-title", "mine.nii")
    visitor.wait(lambda: not visitor.text("#trouble"))
    assert "Known" not in visitor.text(".prediction")
    visitor.wait(lambda: len(visitor.all(".bars.scored .bar")) == 6)
    assert [e["level"] for e in visitor.browser.get_log("browser") if "422" in e["message"]] == ["SEVERE"]


@pytest.mark.slow
def test_the_nearest_training_scans_on_a_phone(visit, server, scans):
    visitor = visit(f"{server.url}#scan=30", "phone")
    visitor.wait(lambda: visitor.all(".compare-near"))
    visitor.script("document.querySelector('.compare-near').click()")
    visitor.wait(lambda: len(visitor.all(".near figure")) == 6)
    names = re.findall(r"scan\d+\.nii", visitor.text(".near"))
    training = {Path(p).name for p in scans.loc[scans["split"] == "train", "path"]}
    assert set(names) <= training
    assert len(set(names)) == 6
    needed, there = visitor.script("const e = document.documentElement; return [e.scrollWidth, e.clientWidth]")
    assert needed <= there
    visitor.quiet()


@pytest.mark.slow
def test_notes_are_kept_as_whole_lines(visitor, run):
    from selenium.webdriver.common.keys import Keys

    visitor.find("scan5")
    visitor.press(Keys.ESCAPE, "x")
    visitor.see("#trouble", "your name")
    visitor.all(".reviewer")[0].send_keys("Dr. A")
    visitor.all(".comment")[0].send_keys("no lesion here")
    visitor.click("Wrong label", ".review button")
    visitor.see(".said-by", "Dr. A: wrong label, \u201cno lesion here\u201d")
    assert "1 label is doubted" in visitor.text(".summary")
    lines = (run / "reviews.csv").read_text().splitlines()
    assert len(lines) == 2
    assert "scan5.nii" in lines[1]
    visitor.press(Keys.ESCAPE, "a")
    visitor.see(".said-by", "Dr. A: accept")
    visitor.wait(lambda: "doubted" not in visitor.text("#side"))


def test_stops_cleanly_and_leaves_nothing(server, browser):
    browser.get("about:blank")
    status, said = server.stop()
    assert status == 0, said
    assert "Traceback" not in said
    assert list(server.folder.iterdir()) == []
    port = int(re.search(r":(\d+)/", server.url)[1])
    bind("127.0.0.1", port).close()


def test_a_port_in_use_ends_with_status_2(runs):
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        done = CliRunner().invoke(app, ["view", str(runs("binary")), "--no-browser", "--port", str(port)])
    assert done.exit_code == 2
    assert f"port {port}" in done.output
    assert "--port" in done.output
