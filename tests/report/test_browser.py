"""Pages in a real browser: no console message, no scrolling to the side on a phone, and whole on paper."""

import json
import re
import shutil
import subprocess

import pytest

pytestmark = pytest.mark.slow
PHONE, DESK = 390, 1200
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run", "--allow-file-access-from-files", "--enable-logging=stderr",
         "--virtual-time-budget=8000")  # fmt: skip

FRAMES = """<!DOCTYPE html><title>waiting</title><body>{frames}<script>
addEventListener("load", () => {{
  const found = {{}};
  for (const frame of document.querySelectorAll("iframe")) {{
    const page = frame.contentDocument.documentElement;
    found[frame.name] = [page.scrollWidth, page.clientWidth, page.querySelectorAll("svg text").length];
  }}
  document.title = JSON.stringify(found);
}});
</script>"""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """Run headless Chromium: (its standard output, its console messages)."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no Chromium; Debian's package is called chromium")

    def run(*args):
        profile = tmp_path_factory.mktemp("profile")
        command = [program, *FLAGS, f"--user-data-dir={profile}", *map(str, args)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout, re.findall(r"CONSOLE[:(].*", done.stderr)

    return run


def framed(chromium, folder, pages):
    """The widths of pages in frames as wide as a phone and a desk, and what they said on the console."""
    sizes = {f"{name} {width}": (page, width) for name, page in pages.items() for width in (PHONE, DESK)}
    frames = [
        f'<iframe name="{k}" src="{p.as_uri()}" width="{w}" height="800"></iframe>' for k, (p, w) in sizes.items()
    ]
    (folder / "frames.html").write_text(FRAMES.format(frames="".join(frames)))
    dom, console = chromium("--dump-dom", (folder / "frames.html").as_uri())
    return json.loads(re.search(r"<title>(.*?)</title>", dom)[1].replace("&quot;", '"')), console


@pytest.fixture(scope="module")
def comparison(made_up_predictions, tmp_path_factory):
    """The page of a comparison of methods with long names."""
    from slivit.evaluate import compare

    folder = tmp_path_factory.mktemp("comparison")
    table, _ = made_up_predictions("binary", n=60)
    names = [f"a_network_with_a_name_that_no_phone_can_show_in_one_line_{i}" for i in range(3)]
    for i, name in enumerate(names):
        table.assign(prob_drusen=table["prob_drusen"] ** (i + 1) / (i + 1)).to_csv(folder / f"{name}.csv", index=False)
    out = compare.run([str(folder / f"{name}.csv") for name in names], folder / "out", draws=10, t_test=True)
    return out / "index.html"


def test_pages_fit_a_phone_and_say_nothing_on_the_console(chromium, pages, comparison, tmp_path):
    found, console = framed(chromium, tmp_path, {**pages, "comparison": comparison})
    assert console == []
    assert len(found) == 10
    for name, (needed, there, texts) in found.items():
        assert needed <= there, f"{name} scrolls to the side: {needed} > {there}"
        assert texts > 50, name


def test_a_broken_page_would_be_found(chromium, tmp_path):
    wide = tmp_path / "wide.html"
    wide.write_text('<!DOCTYPE html><div style="width:2000px">wide</div><script>missing()</script>')
    found, console = framed(chromium, tmp_path, {"wide": wide})
    assert found[f"wide {PHONE}"][0] > PHONE
    assert "missing is not defined" in console[0]


@pytest.mark.parametrize("kind", ["binary", "regression"])
def test_pages_print(chromium, pages, tmp_path, kind):
    chromium(f"--print-to-pdf={tmp_path / 'page.pdf'}", pages[kind].as_uri())
    data = (tmp_path / "page.pdf").read_bytes()
    assert data.startswith(b"%PDF")
    sheets = len(re.findall(rb"/Type\s*/Page\b", data))
    assert 3 <= sheets <= 30
