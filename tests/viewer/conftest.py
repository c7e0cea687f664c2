"""Runs that were never trained, with all files that a run leaves; headless Chromium, cut off from other addresses."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from slivit.checkpoint import load_checkpoint, save_checkpoint, store_operating_point
from slivit.data.manifest import read_manifest
from slivit.data.preprocessing import Preprocessing
from slivit.evaluate.deciding import decide
from slivit.evaluate.masks import measure_masks, scored_cases, write_cases
from slivit.evaluate.measure import measure, write_results
from slivit.evaluate.recipe import Testing as Options
from slivit.models.registry import create_model, model_spec
from slivit.predict.engine import Engine, predict_table
from slivit.targets.task import Task

TASKS = {
    "binary": Task(kind="binary", targets=("bright",)),
    "multiclass": Task(kind="multiclass", targets=("grade",), classes=("high", "low")),
    "regression": Task(kind="regression", targets=("size",), unit="mm", center=(4.0,), spread=(1.5,)),
}


def make_run(folder, csv, kind, name="slivit"):
    task, settings = TASKS[kind], Preprocessing(size=(6, 32, 32))
    manifest = read_manifest(csv, task)
    torch.manual_seed(0)
    small = dict(model_spec(name).small)
    if "members" in small:  # their networks see as many slices
        small["members"] = [m | ({"args": {**m["args"], "slices": 6}} if "args" in m else {}) for m in small["members"]]
    model = create_model(name, task.out_dim, **{**small, "slices": 6})
    save_checkpoint(folder / "checkpoint", model, task, settings)
    rows = [row for split in ("val", "test") for row in manifest.rows(split)]
    table = predict_table(model, rows, task, settings)
    testing = Options(draws=10, operating_point="" if kind == "regression" else "0.4")
    decision = None if kind == "regression" else decide(table[table["split"] == "val"], task, testing)
    if decision:
        store_operating_point(folder, decision)
        table = decision.apply(table, task)
    write_results(folder, table, task, measure(table, task, testing, decision=decision, data={"source": str(csv)}))
    manifest.to_csv(folder / "split.csv")
    return folder


@pytest.fixture(scope="session")
def runs(blob_scans, tmp_path_factory):
    """A function: the run of a kind of task, made once."""
    made = {}

    def run(kind):
        if kind not in made:
            made[kind] = make_run(tmp_path_factory.mktemp("runs") / f"my_{kind}", blob_scans, kind)
        return made[kind]

    return run


@pytest.fixture(scope="session")
def ensemble_run(blob_scans, tmp_path_factory):
    """A run of an ensemble: a linear model, a forest and a network, never fitted."""
    return make_run(tmp_path_factory.mktemp("ensembles") / "my_ensemble", blob_scans, "binary", "ensemble")


@pytest.fixture(scope="session")
def mask_run(blob_scans, tmp_path_factory):
    """A run that segments, never trained: a checkpoint, a split, cases and masks of the test scans."""
    pytest.importorskip("monai")
    folder = tmp_path_factory.mktemp("masks") / "my_masks"
    task = Task(kind="segmentation", labels={"blob": 1})
    manifest = read_manifest(blob_scans.with_name("masks.csv"), task)
    torch.manual_seed(0)
    network = {"slices": 4, "image_size": 16, "filters": (4, 8, 8), "strides": (1, (1, 2, 2), (1, 2, 2))}
    model = create_model("dynunet", task.out_dim, **network)
    settings = Preprocessing(size=model.spec.size, stretch=(0.5, 99.5))
    save_checkpoint(folder / "checkpoint", model, task, settings)
    engine = Engine(load_checkpoint(folder), "cpu")
    cases = scored_cases(engine, manifest.rows("test"), Options(draws=10), folder)
    write_cases(folder, cases, task, measure_masks(cases, task, Options(draws=10)))
    manifest.to_csv(folder / "split.csv")
    return folder


@pytest.fixture(scope="session")
def scans(blob_scans):
    """The table of the scans, with whole paths."""
    table = pd.read_csv(blob_scans)
    return table.assign(path=[str(blob_scans.parent / p) for p in table["path"]])


@pytest.fixture(scope="module")
def run(runs, tmp_path_factory):
    return shutil.copytree(runs("binary"), tmp_path_factory.mktemp("own") / "run")


SIZES = {"small": (1280, 800), "wide": (1800, 1000), "phone": (400, 900)}
FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--no-first-run", "--enable-unsafe-swiftshader",
         "--use-gl=angle", "--use-angle=swiftshader",
         "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")  # fmt: skip


@pytest.fixture(scope="session")
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
def server(run, browser, tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("elsewhere"), run)
    yield server
    server.stop()


@pytest.fixture
def serve(browser, tmp_path):
    """A function: start `slivit view` with what is given; it is stopped at the test's end."""
    started = []

    def serve(*given):
        started.append(Server(tmp_path, *given))
        return started[-1]

    yield serve
    for server in started:
        server.stop()


@pytest.fixture
def visit(browser):
    """A function: open an address at a size ("small", "wide" or "phone")."""
    return lambda url, size="small": Visitor(browser, url, size)


class Visitor:
    """What a visitor does and sees."""

    def __init__(self, browser, url, size="small"):
        self.browser, self.url = browser, url
        width, height = SIZES[size]
        given = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
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
        found = self.all(css)
        return (found[0].get_attribute("src") or "") if found else ""

    def settled(self, css):
        """The address of a picture, once it has stayed for half a second."""

        def kept():
            before = self.source(css)
            time.sleep(0.5)
            return before if before == self.source(css) else ""

        return self.wait(kept)

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
