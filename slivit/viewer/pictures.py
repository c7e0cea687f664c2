"""Pictures for the page."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from slivit.explanation import Explanation, SeenScan
from slivit.explanation.outputs import slice_map

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LONG = 512
"""Pixels of a slice's longer side at most."""


def slice_png(scan: SeenScan, number: int) -> bytes | None:
    """One of the scan's slices as the model saw it; None where it did not see it."""
    channels = len(scan.stack) if scan.stack.ndim == 4 else 1
    seen = scan.shown[scan.slices == number] if scan.channel < channels else []
    return png_bytes(seen[0]) if len(seen) else None


def heat_png(found: Explanation, method: str, number: int) -> bytes | None:
    """A method's map over a slice: colours whose opacity grows with the value; None where it has no map.

    All slices of a scan share one scale, so that they can be compared.
    """
    maps = found.attributions[method].maps
    peak = float(maps.max()) if maps is not None else 0.0
    if maps is None or peak <= 0 or number not in found.scan.sampled:
        return None
    height, width = found.scan.stack.shape[-2:]
    return png_bytes(coloured(slice_map(found.scan, maps, number, (height, width)) / peak))


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

    height, width = picture.shape[:2]
    scale = LONG / max(height, width)
    if scale >= 1:
        return picture
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def svg_bytes(figure: Figure) -> bytes:
    """A figure as SVG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    return buffer.getvalue()
