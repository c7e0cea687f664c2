"""The page in headless Chromium, cut off from every other address."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from slivit.cli import app
from slivit.data.table import read_shown
from slivit.viewer.server import bind

nibabel = pytest.importorskip("nibabel")
SMALL, WIDE, PHONE = (1280, 800), (1800, 1000), (400, 900)
FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--no-first-run", "--enable-unsafe-swiftshader",
         "--use-gl=angle", "--use-angle=swiftshader",
         "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver")
    pytest.importorskip("starlette")
    pytest.importorskip("ipyniivue")
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("there is no chromium with chromedriver; Debian's packages are chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.chrome.service.Service(driver))
    yield chrome
    chrome.quit()


class Server:
    """`slivit view` as a user starts it, in a folder of its own."""

    def __init__(self, folder, *given):
        command = [sys.executable, "-m", "slivit", "view", *map(str, given), "--no-browser", "--port", "0"]
        env = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin"}
        self.folder = folder
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder, env=env
        )
        said = self.process.stdout.readline()
        assert said.startswith("http://127.0.0.1:"), self.process.communicate()
        self.url = said.split()[0]

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        out, errors = self.process.communicate(timeout=90)
        return self.process.returncode, out + errors


@pytest.fixture(scope="module")
def run(runs, tmp_path_factory):
    return shutil.copytree(runs("binary"), tmp_path_factory.mktemp("own") / "run")


@pytest.fixture(scope="module")
def server(run, browser, tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("elsewhere"), run)
    yield server
    server.stop()


class Visitor:
    """What a visitor does and sees."""

    def __init__(self, browser, url, size=SMALL):
        self.browser, self.url = browser, url
        given = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", given)
        browser.get("about:blank")
        browser.get_log("browser")
        browser.get(url)

    def all(self, css):
        from selenium.webdriver.common.by import By

        return self.browser.find_elements(By.CSS_SELECTOR, css)

    def wait(self, what, seconds=100):
        """The first thing that is not empty, asked for again and again."""
        from selenium.common.exceptions import StaleElementReferenceException

        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if found := what():
                    return found
            except StaleElementReferenceException:
                pass
            time.sleep(0.05)
        raise AssertionError(f"nothing came; the page says: {self.text('body')}; {self.browser.get_log('browser')}")

    def texts(self, css):
        """What is to be read in elements, all at one moment."""
        return self.script("return [...document.querySelectorAll(arguments[0])].map(e => e.innerText)", css)

    def text(self, css):
        return " ".join(self.texts(css))

    def see(self, css, part):
        return self.wait(lambda: part in (said := self.text(css)) and said)

    def names(self):
        return self.texts("#list td.name b")

    def press(self, *keys):
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.browser).send_keys(*keys).perform()

    def click(self, words, css="button"):
        self.wait(lambda: next((e for e in self.all(css) if words in e.text and (e.click() or True)), None))

    def search(self, words):
        box = self.wait(lambda: self.all("#list input[type=search]"))[0]
        box.clear()
        box.send_keys(words)

    def find(self, name):
        """Search for a scan, and open it."""
        self.wait(lambda: self.all("#list tbody tr"))
        self.search(f"{name}.nii")
        self.wait(lambda: self.names() == [name])
        self.click(name, "#list tbody tr")
        self.see(".scan-title", name)

    def script(self, code, *args):
        return self.browser.execute_script(code, *args)

    def source(self, css):
        return self.all(css)[0].get_attribute("src") or ""

    def quiet(self):
        """No error in the console, and nothing fetched from elsewhere."""
        worse = [e["message"] for e in self.browser.get_log("browser") if e["level"] in ("SEVERE", "WARNING")]
        assert worse == []
        fetched = self.script("return performance.getEntriesByType('resource').map(e => e.name)")
        own = (self.url.split("#")[0], "data:", f"blob:{self.url.split('#')[0]}")
        assert fetched
        assert [name for name in fetched if not name.startswith(own)] == []


@pytest.fixture
def visitor(browser, server):
    visitor = Visitor(browser, server.url)
    yield visitor
    visitor.quiet()


def test_the_worklist_opens_with_the_first_scan_and_is_worked_by_keys(visitor, run):
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
    again = Visitor(visitor.browser, link)
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
    picture = visitor.wait(lambda: visitor.source(".under"))
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


def test_three_planes_with_a_window_and_an_overlay(browser, server, scans):
    from selenium.webdriver.common.keys import Keys

    visitor = Visitor(browser, f"{server.url}#scan=3&view=planes&method=gradcam", WIDE)
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
    again = Visitor(browser, link, WIDE)
    again.see(".slice-label", "slice 1 ")
    again.wait(lambda: again.text(".numbers") == visitor.text(".numbers") != window)
    visitor.press("v")
    visitor.wait(lambda: visitor.all(".flat .under")[0].is_displayed())
    again.quiet()


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


def test_the_nearest_training_scans_on_a_phone(browser, server, scans):
    visitor = Visitor(browser, f"{server.url}#scan=30", PHONE)
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


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["regression", "multiclass"])
def test_other_tasks(browser, runs, scans, kind, tmp_path):
    server = Server(tmp_path, runs(kind))
    try:
        visitor = Visitor(browser, server.url)
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
    finally:
        server.stop()


@pytest.mark.slow
def test_runs_beside_each_other(browser, runs, run, tmp_path):
    shutil.copytree(run, tmp_path / "second")
    table = pd.read_csv(tmp_path / "second" / "predictions.csv")
    table.assign(prob_bright=1 - table["prob_bright"], call_bright=1 - table["call_bright"]).to_csv(
        tmp_path / "second" / "predictions.csv", index=False
    )
    server = Server(tmp_path, run, tmp_path / "second")
    try:
        visitor = Visitor(browser, server.url, WIDE)
        visitor.wait(lambda: visitor.all("#list tbody tr"))
        spreads = [float(t.split()[0]) for t in visitor.texts("#list tbody td:nth-child(5)") if t[:1].isdigit()]
        assert spreads == sorted(spreads, reverse=True)
        assert "calls differ" in visitor.texts("#list tbody tr")[0]
        visitor.see(".compare", "calls differ")
        visitor.wait(lambda: len([e for e in visitor.all(".flat .under") if e.get_attribute("src")]) == 2)
        visitor.wait(lambda: [e for e in visitor.all(".rest .bars .bar") if e.is_displayed()])
        visitor.quiet()
    finally:
        server.stop()


@pytest.mark.slow
def test_two_thousand_scans_and_the_time_they_take(browser, run, scans, tmp_path, capsys):
    """Prints the figures of benchmarks/RESULTS.md; nothing is compared with a limit, as machines differ."""
    many = shutil.copytree(run, tmp_path / "many")
    table = read_shown(many / "predictions.csv")
    copies = pd.concat([table] * (2000 // len(table) + 1), ignore_index=True).head(2000)
    names = [f"{i:04d}.nii" for i in range(2000)]
    copies["path"] = [str(tmp_path / name) for name in names]
    copies["patient"] = names
    for path in copies["path"]:
        Path(path).symlink_to(scans["path"][0])
    copies.to_csv(many / "predictions.csv", index=False)
    known = copies.rename(columns={"target_bright": "bright"})
    known[["path", "patient", "split", "bright"]].to_csv(many / "split.csv", index=False)
    deep = tmp_path / "deep.nii.gz"
    noise = np.random.default_rng(0).normal(0, 200, (160, 512, 512)).astype(np.int16)
    nibabel.Nifti1Image(noise.transpose(2, 1, 0), np.diag([0.7, 0.7, 1.5, 1])).to_filename(deep)
    server = Server(tmp_path, many)
    try:
        figures = [first_paint(browser, server.url) for _ in range(3)]
        visitor = Visitor(browser, f"{server.url}#method=none")
        visitor.see(".pager", "2,000")
        visitor.all("#files")[0].send_keys(str(deep))
        visitor.see(".scan-title", "deep.nii")
        browser.set_script_timeout(120)
        visitor.wait(lambda: "cross=" in browser.current_url)
        changes = {"planes, 160 x 512 x 512": visitor.script(CHANGES)}
        visitor.press("v")
        visitor.wait(lambda: visitor.all(".flat .under")[0].is_displayed())
        time.sleep(2)
        changes["slices"] = visitor.script(CHANGES)
        with capsys.disabled():
            print("\nfirst paint, list (ms):", *(f"{a:.0f}, {b:.0f};" for a, b in figures))
            for view, found in changes.items():
                print(
                    f"change of slice, {view}: median {np.median(found):.1f} ms, 95% {np.percentile(found, 95):.1f} ms"
                )
    finally:
        server.stop()


def first_paint(browser, url):
    """When the page was first painted, and when its list was there, in ms from the start of the navigation."""
    visitor = Visitor(browser, f"{url}#method=none")
    visitor.wait(lambda: len(visitor.all("#list tbody tr")) == 50)
    paint = "return performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
    mark = "return performance.getEntriesByName('worklist')[0].startTime"
    return visitor.wait(lambda: visitor.script(paint)), visitor.script(mark)


CHANGES = """
    const found = [], gl = document.querySelector('.planes canvas')?.getContext('webgl2'), pixel = new Uint8Array(4);
    for (let i = 0; i < 20; i += 1) {
      const key = i < 10 ? 'ArrowLeft' : 'ArrowRight', begun = performance.now();
      document.body.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true, cancelable: true}));
      if (gl) gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, pixel);  // waits until it is drawn
      found.push(performance.now() - begun);
    }
    return found;
"""
