"""The page in headless Chromium where answers come late: what is asked for belongs to the scan that is shown."""

import pytest

pytestmark = pytest.mark.slow

HOLD = """
    const [part] = arguments, own = window.fetch, held = [];
    window.asked = [];
    window.release = () => { window.fetch = own; for (const go of held) go(); };
    window.fetch = async (address, options) => {
      window.asked.push(String(address));
      if (String(address).includes(part)) await new Promise((go) => held.push(go));
      return own(address, options);
    };
"""
"""Keeps answers back whose address holds a text, until `release()`, and notes all that is asked for."""


def asked(visitor):
    return visitor.script("return window.asked")


@pytest.mark.parametrize("view", ["slices", "planes"])
def test_nothing_of_the_next_scan_is_asked_for_before_its_facts_are_there(visit, server, view):
    visitor = visit(f"{server.url}#scan=3&view={view}")
    visitor.see(".said", "Colours:")
    visitor.script(HOLD, "api/scan/5?")
    visitor.script("location.hash = location.hash.replace('scan=3', 'scan=5')")
    visitor.wait(lambda: any("api/scan/5?" in address for address in asked(visitor)))
    visitor.press("1")  # what is still shown is scan 3, and its occlusion is computed
    visitor.wait(lambda: any("api/scan/3/explain" in address for address in asked(visitor)))
    assert [address for address in asked(visitor) if "api/scan/5/" in address] == []
    visitor.script("window.release()")
    visitor.see(".scan-title", "scan5.nii")
    visitor.see(".said", "log-odds would fall")
    visitor.quiet()


def test_maps_are_asked_for_once_their_scores_are_there(visit, server):
    visitor = visit(f"{server.url}#scan=7&view=slices&method=none")
    visitor.wait(lambda: visitor.all(".flat .under[src]"))
    visitor.script(HOLD, "/explain?")
    visitor.press("3")
    visitor.wait(lambda: any("/explain?" in address for address in asked(visitor)))
    visitor.press("0", "3", "v", "v")
    assert [address for address in asked(visitor) if "/heat/" in address or "/map.nii" in address] == []
    visitor.script("window.release()")
    visitor.wait(lambda: visitor.all(".flat .over[src]"))
    visitor.quiet()
