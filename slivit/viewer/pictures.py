"""Pictures for the page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from slivit.data.physical import place_stack
from slivit.explanation import Explanation, SeenScan
from slivit.explanation.outputs import slice_map

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LONG = 512
"""Pixels of a slice's longer side at most."""
COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233), (122, 81, 149),
           (240, 228, 66))  # fmt: skip
"""Red, green and blue of structures and labels; people who see fewer colours tell them apart."""
DIFFERENT = ((86, 180, 233), (230, 159, 0), (204, 121, 167))
"""As `COLOURS`, of the kinds of a difference between two masks."""


def slice_png(scan: SeenScan, number: int) -> bytes | None:
    """One of the scan's slices as the model saw it; None where it did not see it."""
    channels = len(scan.stack) if scan.stack.ndim == 4 else 1
    seen = scan.shown[scan.slices == number] if scan.channel < channels else []
    return png_bytes(seen[0]) if len(seen) else None


def mask_png(scan: SeenScan, mask: npt.NDArray[Any], number: int, colours: Sequence[Sequence[int]]) -> bytes | None:
    """A mask over one of the scan's slices as the model saw it; None where it did not see it.

    Args:
        scan: what the model saw.
        mask: (D, H, W) whole numbers on the scan's voxels; 0 is nothing.
        number: of the slice.
        colours: of the numbers from 1, over and over again.
    """
    import cv2

    if number not in scan.sampled:
        return None
    table = np.array([(*colour[::-1], 255) for colour in colours], np.uint8)  # OpenCV's order: blue first
    values = np.where(mask[number] > 0, (mask[number] - 1) % len(colours) + 1, 0).astype(np.uint8)
    if scan.grid is not None:
        grid = cv2.resize(values, scan.grid[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        values = place_stack(grid[None], (1, *scan.stack.shape[-2:]))[0]
    size = _size(values.shape)
    places = np.asarray(cv2.resize(values, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT), np.intp)
    return png_bytes(np.vstack([np.zeros((1, 4), np.uint8), table])[places])


def heat_png(explanation: Explanation, method: str, number: int) -> bytes | None:
    """A method's map over a slice: colours whose opacity grows with the value; None where it has no map.

    All slices of a scan share one scale, so that they can be compared.
    """
    maps = explanation.attributions[method].maps
    peak = float(maps.max()) if maps is not None else 0.0
    if maps is None or peak <= 0 or number not in explanation.scan.sampled:
        return None
    height, width = explanation.scan.stack.shape[-2:]
    return png_bytes(coloured(slice_map(explanation.scan, maps, number, (height, width)) / peak))


def coloured(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """(H, W) values from 0 to 1 -> (H, W, 4) blue, green, red and opacity."""
    import cv2

    levels = np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)
    colours = cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)
    return np.dstack([colours, np.clip(levels.astype(np.int16) * 2, 0, 255).astype(np.uint8)])


def png_bytes(picture: npt.NDArray[np.uint8]) -> bytes:
    """A grey (H, W) or coloured (H, W, 4) picture as PNG, quickly packed."""
    import cv2

    done, data = cv2.imencode(".png", shrunk(picture), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise RuntimeError("OpenCV could not write a PNG")
    return bytes(data.tobytes())


def shrunk(picture: npt.NDArray[np.uint8]) -> Any:
    """A picture no larger than the page shows it."""
    import cv2

    size = _size(picture.shape[:2])
    return picture if size == picture.shape[:2] else cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA)


def _size(shape: Sequence[int]) -> tuple[int, int]:
    """(rows, columns) of a picture that has no more than `LONG` of them."""
    scale = min(LONG / max(shape), 1)
    rows, columns = (max(round(n * scale), 1) for n in shape)
    return rows, columns


def svg_bytes(figure: Figure) -> bytes:
    """A figure as SVG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    return buffer.getvalue()
