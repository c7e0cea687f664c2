"""What Jupyter shows of a scan, a table of scans, a task, a model: small HTML, and three planes as a widget."""

from __future__ import annotations

import base64
import io
import sys
from collections.abc import Mapping, Sequence
from html import escape
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
SHEET, PLANE, DEEP = 12, 220, 16
"""Slices on a contact sheet; pixels of the longest side of a plane; slices from which three planes are shown."""
VEIL = 0.5
"""How strongly a mask covers the scan."""
CELL = "padding:1px 12px 1px 0;text-align:left;vertical-align:top"


def facts(title: str, rows: Mapping[str, Any], picture: str = "") -> str:
    """A title, a table of names and values, and a picture beside it."""
    cells = "".join(
        f'<tr><td style="{CELL};opacity:.7">{escape(str(name))}</td><td style="{CELL}">{escape(str(value))}</td></tr>'
        for name, value in rows.items()
        if value not in ("", None)
    )
    return f'<div><b>{escape(title)}</b>{picture}<table style="margin:4px 0">{cells}</table></div>'


def grid(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table with headings."""
    heads = "".join(f'<th style="{CELL}">{escape(str(c))}</th>' for c in columns)
    lines = ["".join(f'<td style="{CELL}">{escape(str(v))}</td>' for v in row) for row in rows]
    return f"<table><tr>{heads}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def picture(image: Array, alt: str) -> str:
    """An image, (H, W) or (H, W, 3) uint8, within a page; as JPEG, so that a notebook stays small."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.asarray(image, np.uint8)).save(file, "JPEG", quality=85)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<br><img alt="{escape(alt, quote=True)}" style="max-width:100%" src="data:image/jpeg;base64,{data}">'


def volume_image(
    array: Array, spacing: tuple[float, float, float] | None, affine: npt.NDArray[np.float64] | None = None
) -> npt.NDArray[np.uint8]:
    """Three planes through the middle of a volume where its geometry is known, else a contact sheet.

    Args:
        array: (D, H, W).
        spacing: in mm, in that order.
        affine: (4, 4), from voxel indices to RAS coordinates; with it the planes are axial, coronal and sagittal as
            radiologists view them: head or front up, the patient's left on the right.

    Returns:
        (rows, columns) uint8; percentiles 1 to 99 are black and white.
    """
    low, high = _limits(array[_chosen(array)] if _shallow(array, spacing) else array[:: max(1, len(array) // SHEET)])
    middle = (array.shape[0] // 2, array.shape[1] // 2, array.shape[2] // 2)
    shown = _shown(array, spacing, patient_axes(affine), middle)
    images = [_scaled(_between(image, low, high), mm, side) for image, mm, side in shown]
    return _sheet(images, _columns(len(images)) if _shallow(array, spacing) else 3)


def mask_image(
    array: Array,
    mask: npt.NDArray[np.uint8],
    colours: Sequence[Sequence[int]],
    spacing: tuple[float, float, float] | None,
    affine: npt.NDArray[np.float64] | None,
    at: tuple[int, int, int],
) -> npt.NDArray[np.uint8]:
    """As `volume_image`, with a mask over it.

    Args:
        array: (D, H, W).
        mask: (D, H, W), 0 where there is nothing.
        colours: red, green and blue of the mask's numbers from 1, over and over again.
        spacing: in mm.
        affine: see `volume_image`.
        at: the voxel that planes go through.

    Returns:
        (rows, columns, 3) uint8.
    """
    low, high = percentiles(array)
    table = np.array([(0, 0, 0), *colours], np.float32)
    images = []
    for values, where in ((array, 0), (mask, 1)):
        shown = _shown(values, spacing, patient_axes(affine), at)
        grey = [_between(image, low, high) if where == 0 else image for image, _, _ in shown]
        images.append([_scaled(g, mm, side, where == 1) for g, (_, mm, side) in zip(grey, shown, strict=True)])
    painted = []
    for grey, labels in zip(*images, strict=True):
        numbers = np.where(labels > 0, (labels - 1) % len(colours) + 1, 0)
        rgb = np.where((numbers > 0)[..., None], (1 - VEIL) * grey[..., None] + VEIL * table[numbers], grey[..., None])
        painted.append(rgb.astype(np.uint8))
    return _sheet(painted, _columns(len(painted)) if _shallow(array, spacing) else 3)


def middle_of(mask: Array) -> tuple[int, int, int]:
    """The voxel in the middle of a (D, H, W) mask; of the whole array where the mask is empty."""
    inside = np.argwhere(mask) if mask.any() else np.array(mask.shape)[None] // 2
    depth, row, column = (int(place) for place in np.median(inside, 0))
    return depth, row, column


def _shallow(array: Array, spacing: tuple[float, float, float] | None) -> bool:
    """Whether slices are shown, and not planes."""
    return spacing is None or len(array) < DEEP


def _chosen(array: Array) -> npt.NDArray[np.intp]:
    """The slices of a contact sheet."""
    return np.linspace(0, len(array) - 1, min(SHEET, len(array))).round().astype(int)


def _columns(count: int) -> int:
    return 1 if count == 1 else min(6, -(-count // 2))


def _shown(
    array: npt.NDArray[Any],
    spacing: tuple[float, float, float] | None,
    steps: tuple[int, int, int] | None,
    at: tuple[int, int, int],
) -> list[tuple[npt.NDArray[Any], Sequence[float], int]]:
    """The planes through a voxel, or the slices of a contact sheet, with mm a pixel and pixels of the longest side."""
    if spacing is None or _shallow(array, spacing):
        chosen = _chosen(array)
        side = PLANE if len(chosen) == 1 else 120
        return [(_as_viewed(image, 0, steps), (1.0, 1.0), side) for image in array[chosen]]
    order = (0, 1, 2) if steps is None else sorted(range(3), key=lambda axis: -abs(steps[axis]))
    shown: list[tuple[npt.NDArray[Any], Sequence[float], int]] = []
    for axis in order:
        mm = [spacing[other] for other in range(3) if other != axis]
        plane = _as_viewed(np.take(array, at[axis], axis), axis, steps)
        shown.append((plane, mm[::-1] if _turned(axis, steps) else mm, PLANE))
    return shown


def patient_axes(affine: npt.NDArray[np.float64] | None) -> tuple[int, int, int] | None:
    """Where the axes of an array point in the patient, the nearest axis each; None where that is not known.

    Args:
        affine: (4, 4), from voxel indices to RAS coordinates.

    Returns:
        Of each axis 1 (right), 2 (front) or 3 (head), negative where it points the other way.
    """
    if affine is None or not np.isfinite(affine).all() or np.linalg.matrix_rank(affine[:3, :3]) < 3:
        return None
    from nibabel.orientations import io_orientation

    first, second, third = (int(flip) * (int(axis) + 1) for axis, flip in io_orientation(affine))
    return first, second, third


def _turned(axis: int, steps: tuple[int, int, int] | None) -> bool:
    """Whether a plane's rows and columns change places, so that the head, or else the front, is up."""
    if steps is None:
        return False
    rows, columns = (abs(steps[other]) for other in range(3) if other != axis)
    return rows < columns


def _as_viewed(plane: npt.NDArray[Any], axis: int, steps: tuple[int, int, int] | None) -> npt.NDArray[Any]:
    """A plane across an axis as radiologists view it: right and front on the left, front and head up."""
    if steps is None:
        return plane
    points = [steps[other] for other in range(3) if other != axis]
    flipped = np.flip(plane, tuple(i for i, step in enumerate(points) if step > 0))
    return flipped.T if _turned(axis, steps) else flipped


def percentiles(array: Array) -> tuple[float, float]:
    """Percentiles 1 and 99 of (D, H, W), of about a hundred thousand voxels; what is shown black and white."""
    sample = np.asarray(array[:: max(1, len(array) // 24), ::2, ::2], np.float32)
    sample = sample[np.isfinite(sample)]
    low, high = np.percentile(sample, (1, 99)) if sample.size else (0.0, 1.0)
    return float(low), float(high if high > low else low + 1)


def _limits(array: Array) -> tuple[float, float]:
    low, high = np.percentile(np.asarray(array, np.float32)[..., ::2, ::2], (1, 99))
    return float(low), float(high)


def _between(array: Array, low: float, high: float) -> npt.NDArray[np.uint8]:
    span = high - low if high > low else 1.0
    return (np.clip((np.asarray(array, np.float32) - low) / span, 0, 1) * 255).astype(np.uint8)


def _scaled(
    image: npt.NDArray[np.uint8], mm: Sequence[float], side: int, nearest: bool = False
) -> npt.NDArray[np.uint8]:
    """An image in its true proportions, its longer side `side` pixels; numbers of labels are not mixed (`nearest`)."""
    from PIL import Image

    size = np.array(image.shape) * np.array(mm)
    rows, columns = np.maximum(np.round(size / size.max() * side), 8).astype(int)
    how = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize((int(columns), int(rows)), how))


def _sheet(images: Sequence[npt.NDArray[np.uint8]], columns: int, gap: int = 3) -> npt.NDArray[np.uint8]:
    """Images in rows, each in the middle of a cell of the largest one's size."""
    height, width = (max(im.shape[axis] for im in images) for axis in (0, 1))
    rows = -(-len(images) // columns)
    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap, *images[0].shape[2:])
    sheet = np.full(shape, 255, np.uint8)
    for i, image in enumerate(images):
        top = i // columns * (height + gap) + (height - image.shape[0]) // 2
        left = i % columns * (width + gap) + (width - image.shape[1]) // 2
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet


def nifti_bytes(
    array: Array, affine: npt.NDArray[np.float64] | None, spacing: tuple[float, float, float] | None
) -> bytes:
    """A volume as an uncompressed NIfTI file with columns, rows and slices as its axes.

    Args:
        array: (D, H, W), any real numbers; what browsers lack is stored as float32 or int32.
        affine: (4, 4) from (d, h, w, 1) to RAS coordinates in mm; None as `unplaced` has it.
        spacing: in mm, in the order (D, H, W).
    """
    import nibabel

    own = (unplaced(spacing) if affine is None else affine)[:, [2, 1, 0, 3]]
    image = nibabel.Nifti1Image(_plain(array).transpose(2, 1, 0), own)
    image.set_sform(own, code="scanner")
    image.set_qform(own, code="scanner", strip_shears=True)
    image.header.set_xyzt_units("mm")
    return bytes(image.to_bytes())


def unplaced(spacing: tuple[float, float, float] | None) -> npt.NDArray[np.float64]:
    """(4, 4) from (d, h, w, 1) to mm of a scan whose place is not known: a viewer shows its slices as they are stored.

    Args:
        spacing: in mm; 1 mm where None.
    """
    depth, row, column = spacing or (1.0, 1.0, 1.0)
    matrix = np.diag([0.0, 0.0, 0.0, 1.0])
    matrix[2, 0], matrix[1, 1], matrix[0, 2] = depth, -row, -column  # rows run down, and columns to the viewer's right
    return matrix


def _plain(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """An array of a type that both NIfTI and the viewer hold."""
    if array.dtype == bool or array.dtype == np.int8:
        return array.astype(np.int16)
    if array.dtype in (np.uint8, np.int16, np.int32, np.float32):
        return array
    if array.dtype == np.uint16:
        return (
            array.astype(np.int32)
            if array.size and int(array.max()) > np.iinfo(np.int16).max
            else array.astype(np.int16)
        )
    return array.astype(np.int32) if np.issubdtype(array.dtype, np.integer) else array.astype(np.float32)


def planes_widget(layers: Sequence[Mapping[str, Any]], *, placed: bool = True, height: int = 480) -> Any | None:
    """Three planes of a scan and what lies over it, as a widget of NiiVue.

    Args:
        layers: for `ipyniivue.Volume`, the scan first: `data` (a NIfTI file's bytes), `name`, `colormap`, ...
        placed: whether the place of the scan is known, so that R, L, A, P, S and I can stand at the edges.
        height: in pixels.

    Returns:
        The widget; None outside of a notebook, and where ipyniivue is not installed.
    """
    if not in_notebook() or find_spec("ipyniivue") is None:
        return None
    from ipyniivue import NiiVue

    options: dict[str, Any]
    blue, width = (0.34, 0.71, 0.91, 0.9), {"crosshair_width": 0.3, "crosshair_width_unit": "percent"}
    options = {"is_radiological_convention": True, "sagittal_nose_left": True, "drag_and_drop_enabled": False}
    options |= {"is_orientation_text_visible": placed, "show_all_orientation_markers": True, "font_min_px": 16}
    options |= {"font_color": (1.0, 0.85, 0.2, 1.0), "multiplanar_show_render": 0}
    widget = NiiVue(height=height, back_color=(0, 0, 0, 1), crosshair_color=blue, **width, **options)
    widget.load_volumes([{"colorbar_visible": False, **layer} for layer in layers])
    return widget


def label_table(colours: Sequence[Sequence[int]]) -> Any:
    """The colours of a mask's numbers from 1, for `ipyniivue.Volume`."""
    from ipyniivue.traits import LUT

    lut = [0, 0, 0, 0, *(int(v) for i in range(32) for v in (*colours[i % len(colours)], 255))]
    return LUT(lut=lut, min=0.0, max=32.0)


def with_choice(planes: Any, names: Sequence[str], first: str) -> Any:
    """Three planes below a row of buttons, of which each shows one of the layers over the scan."""
    from ipywidgets import ToggleButtons, VBox

    choice = ToggleButtons(options=[*names, "none"], value=first)

    def show(change: Mapping[str, Any]) -> None:
        for name, layer in zip(names, planes.volumes[1:], strict=True):
            layer.opacity = VEIL if name == change["new"] else 0.0

    choice.observe(show, "value")
    return VBox([choice, planes])


def in_notebook() -> bool:
    """Whether a kernel of Jupyter runs this, which shows widgets."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and hasattr(shell, "kernel")


def bundle(text: str, html: str, widget: Any | None) -> dict[str, Any]:
    """What a notebook is given to show: the widget where there is one, and for all else a still picture."""
    plain: dict[str, Any] = {"text/plain": text, "text/html": html}
    shown = widget._repr_mimebundle_() if widget is not None else None
    data = shown[0] if isinstance(shown, tuple) else shown
    return {**(data or {}), **plain}
