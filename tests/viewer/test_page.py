"""The page in headless Chromium, cut off from every other address."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from slivit.cli import app
from slivit.viewer.server import bind

PHONE, DESK = (400, 900), (1280, 950)
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--no-first-run",
         "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver")
    pytest.importorskip("nicegui")
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("there is no chromium with chromedriver; Debian's packages are chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.chrome.service.Service(driver))
    chrome.set_window_size(*DESK)
    yield chrome
    chrome.quit()


class Server:
    """`slivit view` as a user starts it, in a folder of its own."""

    def __init__(self, run, folder):
        command = [sys.executable, "-m", "slivit", "view", str(run), "--no-browser", "--port", "0"]
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
def server(runs, browser, tmp_path_factory):
    run = shutil.copytree(runs("binary"), tmp_path_factory.mktemp("own") / "run")
    server = Server(run, tmp_path_factory.mktemp("elsewhere"))
    yield server
    server.stop()


class Visitor:
    """What a visitor does and sees."""

    def __init__(self, browser, url):
        self.browser = browser
        browser.get(url)

    def all(self, css):
        from selenium.webdriver.common.by import By

        return self.browser.find_elements(By.CSS_SELECTOR, css)

    def wait(self, what, seconds=150):
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
        raise AssertionError(f"nothing came; the page says: {self.text('body')}")

    def text(self, css):
        return " ".join(e.text for e in self.all(css))

    def see(self, css, part):
        return self.wait(lambda: part in (said := self.text(css)) and said)

    def choose(self, name):
        from selenium.webdriver.common.keys import Keys

        box = self.wait(lambda: self.all(".scan-choice input"))[0]
        box.click()
        box.send_keys(name)
        self.wait(lambda: any(name in e.text for e in self.all(".q-menu .q-item")))
        box.send_keys(Keys.ARROW_DOWN, Keys.ENTER)
        self.see(".prediction", name)

    def drop(self, *files):
        self.wait(lambda: self.all(".q-uploader input[type=file]"))[0].send_keys("\n".join(map(str, files)))

    def press(self, words, css="button"):
        self.wait(lambda: [e for e in self.all(css) if words in e.text])[0].click()

    def source(self, css):
        return self.all(css)[0].get_attribute("src")

    def opacity(self):
        return float(self.script("return getComputedStyle(arguments[0]).opacity", self.all(".over")[0]))

    def script(self, code, *args):
        return self.browser.execute_script(code, *args)


@pytest.fixture
def visitor(browser, server):
    browser.set_window_size(*DESK)
    visitor = Visitor(browser, server.url)
    yield visitor
    assert [entry["message"] for entry in browser.get_log("browser")] == []
    fetched = visitor.script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert fetched
    assert [name for name in fetched if not name.startswith((server.url, "data:"))] == []


def test_scroll_through_a_scan_and_see_why(visitor, scans):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    visitor.choose("scan3.nii")
    assert f"Known: bright {scans['bright'][3]}" in visitor.text(".prediction")
    assert "the threshold is 0.400" in visitor.text(".prediction")
    assert " with a probability from " in visitor.text(".calibration")
    visitor.wait(lambda: len(visitor.all(".bar")) == 6)
    visitor.wait(lambda: visitor.source(".over").startswith("data:image/png"))
    visitor.all(".bar")[2].click()
    visitor.see(".slice-label", "slice 2 of 0 to 5")
    picture, colours = visitor.source(".under"), visitor.source(".over")
    ActionChains(visitor.browser).send_keys(Keys.ARROW_RIGHT).perform()
    visitor.see(".slice-label", "slice 3 ")
    assert visitor.source(".under") != picture
    assert visitor.source(".over") != colours
    wheel = "arguments[0].dispatchEvent(new WheelEvent('wheel', {deltaY: -100, bubbles: true, cancelable: true}))"
    visitor.script(wheel, visitor.all(".stage")[0])
    visitor.see(".slice-label", "slice 2 ")
    assert visitor.source(".under") == picture
    visitor.all(".slice-slider")[0].send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    visitor.see(".slice-label", "slice 4 ")
    assert visitor.opacity() == 0.6
    visitor.all(".opacity-slider")[0].send_keys(Keys.HOME)
    visitor.wait(lambda: visitor.opacity() == 0)
    visitor.press("Occlusion")
    visitor.see(".said", "log-odds would fall")
    assert "slice 4 " in visitor.text(".slice-label")
    visitor.press("Next")
    visitor.see(".prediction", "scan4.nii")


def test_a_dropped_scan_is_shown_and_a_bad_one_told(visitor, scans, tmp_path):
    bad = tmp_path / "holiday.nii"
    bad.write_bytes(Path(scans["path"][0]).read_bytes()[:500])
    visitor.drop(bad)
    assert visitor.see(".care", "holiday.nii").startswith("holiday.nii: ")
    assert not visitor.all(".viewer")[0].is_displayed()
    good = shutil.copy(scans["path"][30], tmp_path / "mine.nii")
    visitor.drop(good)
    visitor.see(".prediction", "mine.nii")
    assert "Known" not in visitor.text(".prediction")
    visitor.wait(lambda: not visitor.all(".care")[0].is_displayed())
    visitor.wait(lambda: len(visitor.all(".bar")) == 6)


def test_the_nearest_training_scans_on_a_phone(visitor, scans):
    visitor.browser.set_window_size(*PHONE)
    visitor.choose("scan30.nii")
    visitor.press("Compare")
    visitor.wait(lambda: len(visitor.all(".near figure")) == 6)
    names = re.findall(r"scan\d+\.nii", visitor.text(".near"))
    training = {Path(p).name for p in scans.loc[scans["split"] == "train", "path"]}
    assert set(names) <= training
    assert len(set(names)) == 6
    needed, there = visitor.script("const e = document.documentElement; return [e.scrollWidth, e.clientWidth]")
    assert needed <= there <= PHONE[0] + 120  # headless Chromium has a least width


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
    server = Server(runs(kind), tmp_path)
    try:
        visitor = Visitor(browser, server.url)
        visitor.choose("scan35.nii")
        visitor.wait(lambda: len(visitor.all(".bar")) == 6)
        table = json.loads((runs(kind) / "metrics.json").read_text())["splits"]["test"]
        assert table["scans"] == 8
        if kind == "regression":
            assert " mm" in visitor.text(".prediction .big")
            assert "off by" in visitor.text(".calibration")
        else:
            assert "Called" in visitor.text(".prediction")
            assert len(visitor.all(".outputs tr")) == 2
        assert visitor.all(".calibration img")[0].is_displayed()
    finally:
        server.stop()
