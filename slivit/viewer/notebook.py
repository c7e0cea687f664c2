"""A scan of a run in a notebook: three planes with an explanation over them, as a widget or as still pictures."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from slivit.display import DEEP, bundle, nifti_bytes, percentiles, picture, planes_widget, volume_image
from slivit.errors import SlivitError, nearest
from slivit.explanation import Explanation, target_or
from slivit.report.style import amount, number
from slivit.viewer.bench import Bench
from slivit.viewer.nifti import map_bytes
from slivit.volume import Volume


@dataclass(frozen=True, eq=False)
class ViewedScan:
    """A scan with what a run says of it; shows itself in a notebook.

    Args:
        volume: at stored resolution, one channel.
        found: an explanation of the prediction.
        said: the prediction in words.
    """

    volume: Volume
    found: Explanation
    said: str

    def widget(self) -> Any | None:
        """Three planes with the explanation's map over them; None outside of a notebook and without ipyniivue."""
        if self.volume.shape[0] < DEEP:
            return None
        low, high = percentiles(self.volume.array)
        scan = nifti_bytes(self.volume.array, self.volume.affine, self.volume.spacing)
        layers: list[dict[str, Any]] = [{"data": scan, "name": "scan.nii", "colormap": "gray"}]
        layers[0] |= {"cal_min": low, "cal_max": high}
        for method, attribution in self.found.attributions.items():
            if attribution.maps is not None:
                data = map_bytes(self.found, method)
                look = {"colormap": "inferno", "opacity": 0.6, "cal_min": 140, "cal_max": 255, "colormap_type": 2}
                layers.append({"data": data, "name": f"{method}.nii", **look})
        return planes_widget(layers)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return bundle(repr(self), self._repr_html_(), self.widget())

    def _repr_html_(self) -> str:
        volume = self.volume
        planes = picture(volume_image(volume.array, volume.spacing, volume.affine), f"slices of {volume.source}")
        sheet = b64encode(self.found._repr_png_()).decode()
        why = f'<br><img alt="explanation" style="max-width:100%" src="data:image/png;base64,{sheet}">'
        return f"<div><b>{escape(self.said)}</b>{planes}{why}</div>"

    def __repr__(self) -> str:
        return f"ViewedScan({self.said}, {self.volume.source})"


def view(run: Path, scan: str | Path | int, *, target: str | None, method: str, device: str) -> ViewedScan:
    """See `slivit.Run.view`."""
    bench = Bench(run, device=device)
    if bench.checkpoint.task.dense:
        raise SlivitError(f"{run}: segments; slivit view {run} shows its masks over the planes of a scan")
    opened = bench.open_row(_row(bench, scan))
    name = target_or(bench.checkpoint.task, target, opened.predictions)
    found = bench.explain(opened, name, method)
    task = bench.checkpoint.task
    value = amount(number(found.prediction), "" if task.makes_calls else task.unit)
    said = f"{opened.name}: {'probability of ' if task.makes_calls else ''}{name} {value}"
    return ViewedScan(bench.shown(opened), found, said)


def _row(bench: Bench, scan: str | Path | int) -> Any:
    """A row by its number, its path or the name of its file; a scan elsewhere is a row of its own."""
    if isinstance(scan, int):
        if not 0 <= scan < len(bench.rows):
            raise SlivitError(f"there is no scan {scan}; the run has scans 0 to {len(bench.rows) - 1}")
        return bench.rows[scan]
    paths = [str(row["path"]) for row in bench.rows]
    near = [i for i, path in enumerate(paths) if str(scan) in (path, Path(path).name)]
    if len(near) == 1:
        return bench.rows[near[0]]
    if not near and Path(scan).exists():
        return {"path": str(scan), "patient": str(scan), "split": ""}
    what = f"{len(near)} scans are called so; give the whole path" if near else "there is no such scan"
    raise SlivitError(f"{scan}: {what}.{nearest(str(scan), [Path(p).name for p in paths])}")
