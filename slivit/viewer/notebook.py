"""A scan of a run in a notebook: three planes with an explanation or masks over them, as a widget or still pictures."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from slivit.display import (
    CELL,
    DEEP,
    VEIL,
    bundle,
    in_notebook,
    label_table,
    mask_image,
    middle_of,
    nifti_bytes,
    percentiles,
    picture,
    planes_widget,
    volume_image,
    with_choice,
)
from slivit.errors import SlivitError, nearest
from slivit.explanation import Explanation, target_or
from slivit.report.style import amount, number
from slivit.viewer.bench import Bench, Opened
from slivit.viewer.nifti import map_bytes
from slivit.viewer.pictures import COLOURS, DIFFERENT
from slivit.viewer.segments import DIFFERENCE, CaseMasks, MaskBench, open_bench
from slivit.volume import Volume

ORDER, FIRST = ("true", "predicted", "difference"), "predicted"
"""The masks as they are drawn, and which one the widget shows first."""
RIGHT = "As radiologists view it: the patient's right on the left, head or front up."
MILLILITRES = {"true_ml": "true mL", "predicted_ml": "predicted mL"}


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
        return planes_widget(layers, placed=self.volume.affine is not None)

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


@dataclass(frozen=True, eq=False)
class ViewedMasks:
    """A scan with the masks that a run predicts and those that are true; shows itself in a notebook.

    Args:
        volume: at stored resolution, one channel.
        found: its masks, as far as they are known.
        said: the scan, and how well the run does on it, in words.
    """

    volume: Volume
    found: CaseMasks
    said: str

    def widget(self) -> Any | None:
        """Three planes, and a choice of masks to lie over them; None outside of a notebook and without ipyniivue."""
        if self.volume.shape[0] < DEEP or not in_notebook():
            return None
        low, high = percentiles(self.volume.array)
        place = (self.volume.affine, self.volume.spacing)
        layers: list[dict[str, Any]] = [{"data": nifti_bytes(self.volume.array, *place), "name": "scan.nii"}]
        layers[0] |= {"colormap": "gray", "cal_min": low, "cal_max": high}
        names = [name for name in ORDER if name in self.found.layers]
        for name in names:
            look = {"opacity": VEIL if name == FIRST else 0.0, "colormap_label": label_table(colours_of(name))}
            layers.append({"data": nifti_bytes(self.found.layers[name], *place), "name": f"{name}.nii", **look})
        planes = planes_widget(layers, placed=self.volume.affine is not None)
        return None if planes is None else with_choice(planes, names, FIRST)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return bundle(repr(self), self._repr_html_(), self.widget())

    def _repr_html_(self) -> str:
        heads = "".join(f'<th style="{CELL}">{head}</th>' for head in ("", "Dice", *MILLILITRES.values()))
        lines = ""
        for i, one in enumerate(self.found.structures):
            cells = [cell_text(one[key]) for key in ("dice", *MILLILITRES)]
            named = swatch(COLOURS[i % len(COLOURS)]) + escape(one["name"])
            row = "".join(f'<td style="{CELL}">{cell}</td>' for cell in (named, *cells))
            lines += f"<tr>{row}</tr>"
        notes = [*self.found.notes, RIGHT] if self.volume.affine is not None else self.found.notes
        said = "".join(f"<p>{escape(note)}</p>" for note in notes)
        title = f"<b>{escape(self.said)}</b><table><tr>{heads}</tr>{lines}</table>"
        return f"<div>{title}{''.join(self._pictures())}{said}</div>"

    def _pictures(self) -> Iterator[str]:
        """Each mask over the same planes or slices."""
        volume, layers = self.volume, self.found.layers
        at = middle_of(np.any([mask > 0 for name, mask in layers.items() if name != "difference"], axis=0))
        for name in (name for name in ORDER if name in layers):
            image = mask_image(volume.array, layers[name], colours_of(name), volume.spacing, volume.affine, at)
            words = ", ".join(swatch(c) + w for c, w in zip(DIFFERENT, DIFFERENCE, strict=True))
            yield f"<div>{f'{name} ({words})' if name == 'difference' else name}{picture(image, name)}</div>"

    def __repr__(self) -> str:
        return f"ViewedMasks({self.said}, {self.volume.source})"


def colours_of(layer: str) -> Sequence[Sequence[int]]:
    """Red, green and blue of the numbers of a layer of `CaseMasks`, from 1."""
    return DIFFERENT if layer == "difference" else COLOURS


def swatch(colour: Sequence[int]) -> str:
    """A square of a colour within a page."""
    return f'<span style="color:rgb{tuple(colour)}">&#9632;</span> '


def cell_text(value: float | None) -> str:
    """A number of a case, or a dash where it is not known."""
    return "\u2013" if value is None else number(value)


def view(
    run: Path, scan: str | Path | int, *, target: str | None, method: str, device: str
) -> ViewedScan | ViewedMasks:
    """See `slivit.Run.view`."""
    bench = open_bench(run, device=device)
    if isinstance(bench, MaskBench):
        if target is not None:
            raise SlivitError(f"target={target!r}: {run} segments; there is no output to explain, leave target out")
        return _masks(bench, bench.open_row(_row(bench, scan)))
    opened = bench.open_row(_row(bench, scan))
    name = target_or(bench.checkpoint.task, target, opened.predictions)
    explanation = bench.explain(opened, name, method)
    task = bench.checkpoint.task
    value = amount(number(explanation.prediction), "" if task.makes_calls else task.unit)
    said = f"{opened.name}: {'probability of ' if task.makes_calls else ''}{name} {value}"
    return ViewedScan(bench.shown(opened), explanation, said)


def _masks(bench: MaskBench, opened: Opened) -> ViewedMasks:
    """An opened scan of a run that segments."""
    masks = bench.masks(opened)
    known = [s["dice"] for s in masks.structures if s["dice"] is not None and math.isfinite(s["dice"])]
    mean = f", mean Dice {number(math.fsum(known) / len(known))}" if known else ", the true mask is not known"
    return ViewedMasks(bench.shown(opened), masks, f"{opened.name}: {', '.join(bench.task.structures)}{mean}")


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
