"""How long the page takes; prints the figures of benchmarks/RESULTS.md."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from slivit.data.table import read_shown

nibabel = pytest.importorskip("nibabel")


@pytest.mark.slow
def test_two_thousand_scans_and_the_time_they_take(browser, serve, visit, run, scans, tmp_path, capsys):
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
    server = serve(many)
    figures = [first_paint(visit, server.url) for _ in range(3)]
    visitor = visit(f"{server.url}#method=none")
    visitor.see(".pager", "2,000")
    visitor.all("#files")[0].send_keys(str(deep))
    visitor.see(".scan-title", "deep.nii")
    browser.set_script_timeout(120)
    visitor.wait(lambda: "cross=" in browser.current_url)
    changes = {"planes, 160 x 512 x 512": visitor.script(CHANGES)}
    visitor.wait(lambda: visitor.script(ALL_POINTS))
    visitor.press("v")
    visitor.wait(lambda: visitor.all(".flat .under")[0].is_displayed())
    visitor.wait(lambda: visitor.script(FETCHED, "/slice/") >= 6)  # the slices beside it are there, too
    changes["slices"] = visitor.script(CHANGES)
    assert all(painted > 0 and listed > 0 for painted, listed in figures)
    assert [len(found) for found in changes.values()] == [20, 20]
    with capsys.disabled():
        print("\nfirst paint, list (ms):", *(f"{a:.0f}, {b:.0f};" for a, b in figures))
        for view, found in changes.items():
            print(f"change of slice, {view}: median {np.median(found):.1f} ms, 95% {np.percentile(found, 95):.1f} ms")


def first_paint(visit, url):
    """When the page was first painted, and when its list was there, in ms from the start of the navigation."""
    visitor = visit(f"{url}#method=none")
    visitor.wait(lambda: len(visitor.all("#list tbody tr")) == 50)
    paint = "return performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
    mark = "return performance.getEntriesByName('worklist')[0].startTime"
    return visitor.wait(lambda: visitor.script(paint)), visitor.script(mark)


ALL_POINTS = "return !document.querySelector('.planes.coarse')"
FETCHED = "return performance.getEntriesByType('resource').filter((e) => e.name.includes(arguments[0])).length"
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
