"""The errors that a model is surest of, with pictures of the slices that it saw."""

from __future__ import annotations

import warnings
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from slivit.data.preprocessing import Preprocessing, load_slices
from slivit.data.slices import resize_slices
from slivit.errors import ReadError
from slivit.report.style import number
from slivit.targets.task import Task, is_missing

if TYPE_CHECKING:
    import pandas as pd

SLICES, COLUMNS, SIDE, GAP = 8, 4, 96, 2


@dataclass(frozen=True)
class Mistake:
    """A scan that was called wrongly, or whose value was predicted far off.

    Args:
        path: of the scan.
        patient: whose it is.
        target: which of the targets.
        true: the truth, in words.
        predicted: what the model said, in words.
        picture: slices as a data URI; empty where there is none.
        problem: why there is no picture.
    """

    path: str
    patient: str
    target: str
    true: str
    predicted: str
    picture: str = ""
    problem: str = ""

    @property
    def file(self) -> str:
        """The last part of the path."""
        return Path(self.path).name


def mistakes(
    table: pd.DataFrame,
    task: Task,
    most: int,
    settings: Preprocessing | None,
    thresholds: Mapping[str, float] | None = None,
) -> list[Mistake]:
    """The most confident errors of a table of predictions, the surest first.

    Args:
        table: with `call_*` columns, where calls are made.
        task: what is predicted.
        most: how many.
        settings: how scans are read; None for no pictures.
        thresholds: by target, from which the calls were made; 0.5 where None.
    """
    errors = sorted(_errors(table, task, thresholds or {}), key=lambda f: -f[0])[:most]
    return [_mistake(table.loc[row], task, target, settings) for _, row, target in errors]


def _errors(table: pd.DataFrame, task: Task, thresholds: Mapping[str, float]) -> Iterator[tuple[float, Any, str]]:
    """How sure the model is of each error, its row, and its target."""
    for target in task.targets:
        truth, known = table[f"target_{target}"], ~table[f"target_{target}"].map(is_missing).astype(bool)
        if not task.makes_calls:
            off = (table[f"pred_{target}"] - truth).abs() / (float(truth.std()) or 1.0)
            yield from ((float(v), i, target) for i, v in off[known].items() if np.isfinite(v) and v > 0)
            continue
        call = table[f"call_{target}"]
        sure = _confidence(table, task, target, thresholds.get(target, 0.5))
        wrong = known & call.notna() & (call != "") & (call.astype(object) != truth.astype(object))
        yield from ((float(sure[i]), i, target) for i in table.index[wrong.fillna(False).astype(bool)])


def _confidence(table: pd.DataFrame, task: Task, target: str, threshold: float) -> pd.Series:
    """The probability of the called class; with a threshold, how far beyond it the probability lies, from 0 to 1."""
    if task.exclusive:
        return table[list(task.prediction_columns)].max(axis=1)
    p = table[f"prob_{target}"]
    above, below = (p - threshold) / max(1 - threshold, 1e-9), (threshold - p) / max(threshold, 1e-9)
    return above.where(p >= threshold, below)


def _mistake(row: pd.Series, task: Task, target: str, settings: Preprocessing | None) -> Mistake:
    true, predicted = _words(row, task, target)
    picture, problem = _picture(str(row["path"]), settings)
    return Mistake(str(row["path"]), str(row["patient"]), target, true, predicted, picture, problem)


def _words(row: pd.Series, task: Task, target: str) -> tuple[str, str]:
    if task.makes_calls:
        return task.said_answer(row, target)
    unit = f" {task.unit}" if task.unit else ""
    true, predicted = (number(float(row[f"{prefix}_{target}"]), 1) for prefix in ("target", "pred"))
    return true + unit, predicted + unit


def _picture(path: str, settings: Preprocessing | None) -> tuple[str, str]:
    if settings is None:
        return "", "no picture: the checkpoint's preprocessing is not at hand."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            stack = load_slices(path, settings)
        except ReadError as error:
            return "", f"no picture: {error}"
    return png_uri(contact_sheet(stack)), ""


def contact_sheet(stack: npt.NDArray[np.uint8], slices: int = SLICES, side: int = SIDE) -> npt.NDArray[np.uint8]:
    """Evenly chosen slices of a scan side by side.

    Args:
        stack: (S, H, W), or (C, S, H, W), of which each channel is shown below the one before.
        slices: at most this many are shown, four in a row.
        side: height and width of a slice in pixels; a single slice is shown at twice that.

    Returns:
        (rows, columns) of pixels.
    """
    if stack.ndim == 4:
        each = [contact_sheet(channel, slices, side) for channel in stack]
        return np.concatenate([np.pad(sheet, ((0, GAP), (0, 0)), constant_values=255) for sheet in each])
    chosen = stack[((np.arange(min(slices, len(stack))) + 0.5) * len(stack) / min(slices, len(stack))).astype(int)]
    if len(chosen) == 1:
        return resize_slices(chosen, (2 * side, 2 * side))[0]
    columns = min(COLUMNS, len(chosen))
    rows = -(-len(chosen) // columns)
    step = side + GAP
    tiles = np.full((rows * columns, step, step), 255, np.uint8)
    tiles[: len(chosen), :side, :side] = resize_slices(chosen, (side, side))
    sheet = tiles.reshape(rows, columns, step, step).swapaxes(1, 2).reshape(rows * step, columns * step)
    return sheet[:-GAP, :-GAP]


def png_uri(picture: npt.NDArray[np.uint8]) -> str:
    """A grey picture as a PNG data URI."""
    import cv2

    done, data = cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    if not done:
        raise RuntimeError("OpenCV could not write a PNG")
    return f"data:image/png;base64,{b64encode(data.tobytes()).decode()}"
