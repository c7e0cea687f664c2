"""A folder of several runs, as a study, a sweep or a planned run leaves it: a page that lists and opens them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from slivit.checkpoint import read_config
from slivit.errors import SlivitError
from slivit.folder import METRICS, read_metrics
from slivit.report.page import shown_split
from slivit.report.style import interval, metric_name, number
from slivit.targets.task import Task
from slivit.viewer.bench import Recent
from slivit.viewer.desk import Desk
from slivit.viewer.opinions import runs_in
from slivit.viewer.record import PLACES
from slivit.viewer.segments import open_bench
from slivit.viewer.server import ViewError
from slivit.viewer.web import FRESH, WRONG, application, as_json

OPEN = 3
"""Choices of runs that are kept open at most."""


class Shelf:
    """The runs of a folder.

    Args:
        folder: a study, a sweep, or any folder with runs in it.
        manifest: a CSV of scans to choose from; each run's own split where None.
        options: of `Bench`.
    """

    def __init__(self, folder: Path, manifest: Path | None = None, **options: Any) -> None:
        self.folder, self.manifest, self.options = folder, manifest, options
        self._open = Recent[Starlette](OPEN)

    @cached_property
    def runs(self) -> list[Path]:
        """The runs, in the order of their names."""
        return runs_in(self.folder)

    def about(self) -> dict[str, Any]:
        """What the page lists: of each run its name, model, task, and main metric on its test scans."""
        rows = [{"number": n, **facts(run, self.folder)} for n, run in enumerate(self.runs)]
        return {"folder": self.folder.name, "runs": sorted(rows, key=lambda row: str(row["task"]))}

    def opened(self, numbers: str) -> Starlette:
        """The page of chosen runs.

        Args:
            numbers: of the runs, with commas between; the first one's scans are listed.

        Raises:
            SlivitError: no such runs, or runs of different tasks.
        """
        asked = numbers.split(",")
        if not all(n.isdecimal() and int(n) < len(self.runs) for n in asked):
            raise ViewError(f"there are no runs {numbers!r} here; they are 0 to {len(self.runs) - 1}")
        return self._open.get(numbers, lambda: self._desk([self.runs[int(n)] for n in asked]))

    def _desk(self, runs: Sequence[Path]) -> Starlette:
        first, *others = runs
        benches = [open_bench(first, self.manifest, **self.options)]
        benches += [open_bench(other, **self.options) for other in others]
        if not others:
            benches[0].name = str(first.relative_to(self.folder))
        return application(Desk(benches))


def shelf_application(shelf: Shelf) -> Starlette:
    """The web application over a shelf; what runs are opened is in the address, `/open/0,2/`."""
    folder = Path(str(files("slivit.viewer").joinpath("web")))

    async def listed(request: Request) -> Response:
        return as_json(await run_in_threadpool(shelf.about))

    async def opened(scope: Any, receive: Any, send: Any) -> None:
        try:
            page: Any = await run_in_threadpool(shelf.opened, scope["path_params"]["numbers"])
        except SlivitError as error:
            page = as_json({"error": str(error)}, WRONG)
        await page(scope, receive, send)

    return Starlette(
        routes=[
            Route("/", lambda request: FileResponse(folder / "shelf.html", headers=FRESH)),
            Route("/api/shelf", listed),
            Mount("/web", StaticFiles(directory=folder)),
            Mount("/open/{numbers}", opened),
        ]
    )


def facts(run: Path, folder: Path) -> dict[str, Any]:
    """What is listed of a run."""
    checkpoint = run / "checkpoint" if (run / "checkpoint").is_dir() else run
    try:
        config = read_config(checkpoint)
    except SlivitError as error:
        return {"name": str(run.relative_to(folder)), "error": str(error), "model": "", "task": "", "metrics": []}
    task: Any = Task(**config["task"])
    return {
        "name": str(run.relative_to(folder)),
        "error": "",
        "model": config["model"]["name"],
        "task": f"{task.kind} of {', '.join(task.parts if task.dense else task.targets)}",
        "metrics": list(measured(run, task)),
    }


def measured(run: Path, task: Task) -> Iterator[Mapping[str, str]]:
    """The first two metrics of a run's test scans (else its first split), of its evaluation where there is one."""
    file = next((run / place / METRICS for place in PLACES if (run / place / METRICS).is_file()), None)
    if file is None:
        return
    metrics = read_metrics(file)
    split = shown_split(metrics)
    for name in task.measures.headlines[:2]:
        value = metrics["splits"][split]["metrics"].get(name)
        if value:
            between = interval(value.get("low"), value.get("high"))
            yield {"name": f"{metric_name(name)}, {split}", "value": number(value["value"]), "interval": between}
