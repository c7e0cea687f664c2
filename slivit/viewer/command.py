"""View: a local page to look at scans, predictions and explanations."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from slivit.viewer.server import ViewError, bind, open_browser, serve


def run(
    checkpoint: str | Path,
    manifest: str | Path | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    browser: bool = True,
    device: str = "auto",
    batch_size: int = 8,
    tell: Callable[[str], None] = print,
) -> None:
    """Serve the page until the process is stopped.

    Args:
        checkpoint: a run or checkpoint folder.
        manifest: a CSV of scans to choose from; the run's own split where None.
        host: the address to listen on; the default is this machine's own and nobody else's.
        port: 0 for any free one.
        browser: open the user's browser.
        device: "auto", "cpu", "cuda", ...
        batch_size: scans that are predicted at a time.
        tell: is told the address once the page is there.

    Raises:
        ViewError: NiceGUI is missing, or the port is in use.
        SlivitError: a checkpoint or manifest that cannot be read.
    """
    if find_spec("nicegui") is None:
        raise ViewError('the page needs NiceGUI: pip install "slivit[view]"')
    taken = bind(host, port)
    with taken:
        from slivit.viewer.bench import Bench
        from slivit.viewer.page import Page

        bench = Bench(checkpoint, manifest, device=device, batch_size=batch_size)

        def ready(url: str) -> None:
            tell(url)
            if browser:
                open_browser(url)

        serve(lambda: Page(bench).build(), taken, f"slivit: {bench.run.name}", ready)
