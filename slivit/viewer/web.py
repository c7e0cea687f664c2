"""The page's addresses: what can be asked of the bench over HTTP. No state of a visitor is kept here."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from slivit.display import nifti_bytes
from slivit.errors import SlivitError, install_command
from slivit.explanation import Explanation, target_or
from slivit.viewer import panels, pictures
from slivit.viewer.bench import DropFolder
from slivit.viewer.desk import Desk
from slivit.viewer.jobs import Jobs
from slivit.viewer.nifti import map_bytes, mask_bytes, place_of
from slivit.viewer.panels import masks_of
from slivit.viewer.segments import MaskBench, case_facts, masks_facts
from slivit.viewer.thumbnails import jpeg

NOTHING, NOT_FOUND, WRONG = 204, 404, 422
FRESH = {"Cache-Control": "no-store"}
Answer = Callable[[Request], Any]


def application(desk: Desk) -> Starlette:
    """The web application over a desk."""
    web = Web(desk)
    folder = Path(str(files("slivit.viewer").joinpath("web")))
    scan = "/api/scan/{key}"
    routes = [
        Route("/", lambda request: FileResponse(folder / "index.html", headers=FRESH)),
        Route("/niivue.js", _niivue),
        Route("/api/about", _json(web.about)),
        Route("/api/worklist", _json(web.worklist)),
        Route("/api/thumbnails", _json(web.thumbnails)),
        Route("/api/thumbnail/{number:int}", _picture(web.thumbnail, "image/jpeg")),
        Route("/api/drop", web.drop, methods=["POST"]),
        Route("/api/reviews", web.review, methods=["POST"]),
        Route("/api/reviews", _json(web.reviews)),
        Route(scan, _json(web.scan)),
        Route(f"{scan}/explain", _json(web.explain)),
        Route(f"{scan}/masks", _json(web.masks)),
        Route(f"{scan}/layer/{{name:str}}.nii", _picture(web.layer, "application/octet-stream")),
        Route(f"{scan}/place", _json(web.place)),
        Route(f"{scan}/neighbours", _json(web.neighbours)),
        Route(f"{scan}/neighbour/{{number:int}}", _picture(web.neighbour, "image/jpeg")),
        Route(f"{scan}/slice/{{number:int}}", _picture(web.slice, "image/png", NOTHING)),
        Route(f"{scan}/heat/{{number:int}}", _picture(web.heat, "image/png", NOTHING)),
        Route(f"{scan}/cut/{{name:str}}/{{number:int}}", _picture(web.cut, "image/png", NOTHING)),
        Route(f"{scan}/calibration.svg", _picture(web.calibration, "image/svg+xml")),
        Route(f"{scan}/volume.nii", _picture(web.volume, "application/octet-stream")),
        Route(f"{scan}/map.nii", _picture(web.map, "application/octet-stream")),
        Route(f"{scan}/mask/{{number:int}}.nii", _picture(web.mask, "application/octet-stream")),
        Mount("/web", StaticFiles(directory=folder)),
    ]
    return Starlette(routes=routes)


def _niivue(request: Request) -> Response:
    """NiiVue as the installed package ipyniivue holds it."""
    spec = find_spec("ipyniivue")
    file = Path(str(spec.origin)).parent / "static" / "widget.js" if spec and spec.origin else None
    if file is None or not file.is_file():
        return Response(f"ipyniivue is missing: {install_command('view')}", NOT_FOUND)
    return FileResponse(file, media_type="text/javascript", headers={"Cache-Control": "max-age=86400"})


def _json(answer: Answer) -> Any:
    """An endpoint that answers with plain values; an error of the user's or the scan's as `error`."""

    async def endpoint(request: Request) -> Response:
        try:
            return as_json(await run_in_threadpool(answer, request))
        except SlivitError as error:
            return as_json({"error": str(error)}, WRONG)

    return endpoint


def as_json(values: Any, status: int = 200) -> Response:
    """An answer of plain values; numbers that are none become null, which JSON has."""
    return Response(json.dumps(_finite(values)), status, FRESH, "application/json")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _picture(answer: Answer, kind: str, none: int = NOT_FOUND) -> Any:
    """An endpoint that answers with a file's bytes, or with the status `none` where there is none."""

    async def endpoint(request: Request) -> Response:
        try:
            data = await run_in_threadpool(answer, request)
        except SlivitError as error:
            return as_json({"error": str(error)}, WRONG)
        return Response(data, 200 if data is not None else none, FRESH, kind)

    return endpoint


def channel_of(request: Request) -> int:
    """Which channel is asked for, the first one by default."""
    channel = request.query_params.get("channel", "0")
    return int(channel) if channel.isdecimal() else 0


class Web:
    """The answers, one a method; each takes the request alone.

    Args:
        desk: the runs and what is kept beside them.
    """

    def __init__(self, desk: Desk) -> None:
        self.desk, self.jobs = desk, Jobs()

    def about(self, request: Request) -> Any:
        """What the page is about."""
        return {
            **panels.about(self.desk.main),
            "runs": self.desk.names,
            "opinions": 1 + len(self.desk.others),
            "planes": find_spec("ipyniivue") is not None,
        }

    def worklist(self, request: Request) -> Any:
        """The whole list for a target."""
        return self.desk.worklist(request.query_params.get("target", ""))

    def thumbnails(self, request: Request) -> Any:
        """Which of the asked rows have a picture by now; the others are made next."""
        wanted = [int(n) for n in request.query_params.get("rows", "").split(",") if n.isdecimal()]
        thumbnails = self.desk.thumbnails
        return {
            "ready": thumbnails.want(wanted),
            "left": thumbnails.left,
            "failed": {n: thumbnails.failed[n] for n in wanted if n in thumbnails.failed},
        }

    def thumbnail(self, request: Request) -> bytes | None:
        """The picture of a row."""
        return self.desk.thumbnails.get(request.path_params["number"])

    def scan(self, request: Request) -> Any:
        """Everything about a scan but its pictures."""
        bench, opened = self.desk.opened(request)
        if isinstance(bench, MaskBench):
            return case_facts(bench, opened)
        target = target_or(bench.checkpoint.task, request.query_params.get("target") or None, opened.predictions)
        return panels.opened_facts(bench, opened, target)

    def explain(self, request: Request) -> Any:
        """The scores of a method, or how far it is."""
        bench, opened = self.desk.opened(request)
        target, method = request.query_params["target"], request.query_params["method"]
        if (target, method) not in opened.explanations:
            name = f"{bench.run}|{bench.name}|{opened.scan.source}|{opened.name}|{target}|{method}"
            state = self.jobs.ask(name, lambda progress: bench.explain(opened, target, method, progress))
            if (target, method) not in opened.explanations:
                return state
        explanation = opened.explanations[target, method]
        attribution = explanation.attributions[method]
        return {
            "state": "done",
            "slices": explanation.scan.sampled.tolist(),
            "scores": [float(s) for s in attribution.scores],
            "map": attribution.maps is not None and bool(attribution.maps.max() > 0),
            "best": int(explanation.ranking(method)[0]),
        }

    def place(self, request: Request) -> Any:
        """Where the slices of the scan itself run, and how bright they are."""
        bench, opened = self.desk.opened(request)
        return place_of(bench.shown(opened, channel_of(request)))

    def volume(self, request: Request) -> bytes:
        """The scan itself, at stored resolution; one of several channels."""
        bench, opened = self.desk.opened(request)
        volume = bench.shown(opened, channel_of(request))
        return nifti_bytes(volume.array, volume.affine, volume.spacing)

    def map(self, request: Request) -> bytes:
        """A method's map over the scan."""
        return map_bytes(*self._explained(request))

    def _explained(self, request: Request) -> tuple[Explanation, str]:
        """The explanation and its method; made anew where the scan has left memory since the page learned of it."""
        bench, opened = self.desk.opened(request)
        target, method = (request.query_params.get(name, "") for name in ("target", "method"))
        return bench.explain(opened, target, method), method

    def slice(self, request: Request) -> bytes | None:
        """A slice as the model saw it."""
        _, opened = self.desk.opened(request)
        channel = channel_of(request) if opened.scan.stack.ndim == 4 else 0
        return pictures.slice_png(replace(opened.scan, channel=channel), request.path_params["number"])

    def heat(self, request: Request) -> bytes | None:
        """A method's map over a slice."""
        return pictures.heat_png(*self._explained(request), request.path_params["number"])

    def mask(self, request: Request) -> bytes | None:
        """One of the scan's masks."""
        bench, opened = self.desk.opened(request)
        masks = list(masks_of(bench.run, opened.row).values())
        number = request.path_params["number"]
        return mask_bytes(masks[number])[0] if number < len(masks) else None

    def masks(self, request: Request) -> Any:
        """The masks of a case of a run that segments, with Dice by structure, or that they are being made."""
        bench, opened = self.desk.opened(request)
        if not isinstance(bench, MaskBench):
            raise SlivitError(f"{bench.run}: does not segment")
        if not bench.has_masks(opened):
            name = f"{bench.run}|{bench.name}|{opened.scan.source}|{opened.name}|masks"
            state = self.jobs.ask(name, lambda progress: bench.masks(opened))
            if not bench.has_masks(opened):
                return state
        return {"state": "done", **masks_facts(bench.masks(opened))}

    def layer(self, request: Request) -> bytes | None:
        """A mask of a case of a run that segments; made anew where it has left memory since the page learned of it."""
        bench, opened = self.desk.opened(request)
        if not isinstance(bench, MaskBench):
            return None
        return bench.layer(opened, request.path_params["name"])

    def cut(self, request: Request) -> bytes | None:
        """A mask over a slice as the model saw it: a layer of a run that segments, or one of the scan's masks."""
        bench, opened = self.desk.opened(request)
        name, number = request.path_params["name"], request.path_params["number"]
        if isinstance(bench, MaskBench):
            layer = bench.masks(opened).layers.get(name)
            colours = pictures.DIFFERENT if name == "difference" else pictures.COLOURS
            return None if layer is None else pictures.mask_png(opened.scan, layer, number, colours)
        files = list(masks_of(bench.run, opened.row).values())
        if not name.isdecimal() or int(name) >= len(files):
            return None
        mask = bench.mask(opened, files[int(name)])
        first = panels.first_colour(int(name))
        return pictures.mask_png(opened.scan, mask, number, (*pictures.COLOURS[first:], *pictures.COLOURS[:first]))

    def calibration(self, request: Request) -> bytes | None:
        """The calibration of the run with this scan's prediction marked."""
        bench, opened = self.desk.opened(request)
        target = request.query_params["target"]
        value = panels.predictions_of(bench, opened)[panels.column_of(bench.checkpoint.task, target)]
        figure = bench.record.figure(target, float(value))
        return pictures.svg_bytes(figure) if figure is not None else None

    def neighbours(self, request: Request) -> Any:
        """The nearest training scans; with `build`, the features of all are computed first."""
        bench, opened = self.desk.opened(request)
        state: dict[str, Any] = {"state": "done"}
        if "build" in request.query_params:
            state = self.jobs.ask(f"{bench.run}|neighbours", bench.neighbours.build)
        return {**panels.neighbours_facts(bench, opened), **state}

    def neighbour(self, request: Request) -> bytes | None:
        """The picture of a training scan."""
        bench, _ = self.desk.opened(request)
        thumbnail = bench.neighbours.thumbnail(request.path_params["number"])
        return jpeg(thumbnail) if thumbnail is not None else None

    def reviews(self, request: Request) -> Any:
        """All notes."""
        return self.desk.reviews()

    async def review(self, request: Request) -> Response:
        """Keep a note."""
        try:
            values = json.loads(await request.body())
            await run_in_threadpool(self.desk.add_review, values)
        except (SlivitError, ValueError, TypeError, KeyError, RecursionError) as error:
            return as_json({"error": str(error) or repr(error)}, WRONG)
        return as_json(await run_in_threadpool(self.desk.reviews))

    async def drop(self, request: Request) -> Response:
        """Open what was dropped: one file, or several as the slices of one scan. Nothing of it stays on the disk."""
        with DropFolder() as folder:
            async with request.form(max_files=5000, max_fields=10) as form:
                for file in form.getlist("files"):
                    if not isinstance(file, str):
                        data = folder / (Path(file.filename or "scan").name or "scan")
                        with data.open("wb") as stream:
                            while part := await file.read(1 << 20):
                                stream.write(part)
            if not any(folder.iterdir()):
                return as_json({"error": "no file was dropped"}, WRONG)
            try:
                return as_json({"key": await run_in_threadpool(self.desk.main.drop, folder)})
            except SlivitError as error:
                return as_json({"error": str(error).replace(f"{folder}/", "")}, WRONG)
