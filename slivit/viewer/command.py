"""View: a local page to look at scans, predictions and explanations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from slivit.errors import install_command
from slivit.viewer.server import ViewError, bind, is_loopback, open_browser, serve

NEEDED = ("starlette", "uvicorn", "multipart")
OPEN_TO_OTHERS = (
    "warning: {host} is open to others: whoever reaches this port sees the scans and can add notes. There is no "
    "password and no encryption; use it within a trusted network alone, or leave --host out and use an SSH tunnel"
)


def run(
    checkpoint: str | Path,
    more: Sequence[str | Path] = (),
    *,
    readers: Sequence[str | Path] = (),
    host: str = "127.0.0.1",
    port: int = 8080,
    browser: bool = True,
    device: str = "auto",
    batch_size: int = 8,
    tell: Callable[[str], None] = print,
    warn: Callable[[str], None] = print,
) -> None:
    """Serve the page until the process is stopped.

    Args:
        checkpoint: a run or checkpoint folder, or a folder of runs, such as a study, whose page lists them.
        more: a CSV of scans to choose from (the run's own split where there is none), and further runs to compare with.
        readers: CSVs of people's calls, or masks; see `slivit.viewer.opinions.read_calls` and
            `slivit.viewer.segments.reader_masks`.
        host: the address to listen on; the default is this machine's own and nobody else's.
        port: 0 for any free one.
        browser: open the user's browser.
        device: "auto", "cpu", "cuda", ...
        batch_size: scans that are predicted at a time.
        tell: is called with the address once the page is there.
        warn: is called with what is not safe.

    Raises:
        ViewError: a package is missing, or the port is in use.
        SlivitError: a checkpoint or manifest that cannot be read.
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise ViewError(f"the page needs {missing[0]}: {install_command('view')}")
    taken = bind(host, port)
    with taken:
        from slivit.viewer.opinions import check_runs, is_run, runs_in, sort_out

        if not is_loopback(taken):
            warn(OPEN_TO_OTHERS.format(host=host))
        manifest, others = sort_out(more)
        options: dict[str, Any] = {"device": device, "batch_size": batch_size}
        if not others and not readers and not is_run(checkpoint) and runs_in(checkpoint):
            app = _of_a_folder(Path(checkpoint), manifest, options)
        else:
            check_runs([checkpoint, *others])
            app = _of_runs(checkpoint, manifest, others, readers, options)

        def ready(url: str) -> None:
            tell(url)
            if browser:
                open_browser(url)

        serve(app, taken, ready)


def _of_a_folder(folder: Path, manifest: Path | None, options: Mapping[str, Any]) -> Any:
    """The application that lists the runs of a folder."""
    from slivit.viewer.shelf import Shelf, shelf_application

    return shelf_application(Shelf(folder, manifest, **options))


def _of_runs(
    checkpoint: str | Path,
    manifest: Path | None,
    others: Sequence[Path],
    readers: Sequence[str | Path],
    options: Mapping[str, Any],
) -> Any:
    """The application over one run, or several beside each other."""
    from slivit.viewer.desk import Desk
    from slivit.viewer.opinions import Other, read_calls
    from slivit.viewer.segments import MaskBench, open_bench, reader_masks
    from slivit.viewer.web import application

    benches = [open_bench(checkpoint, manifest, **options), *(open_bench(other, **options) for other in others)]
    first, calls = benches[0], list[Other]()
    for csv in readers:
        if isinstance(first, MaskBench):
            benches += reader_masks(csv, first)
        else:
            calls += read_calls(csv, first)
    return application(Desk(benches, calls))
