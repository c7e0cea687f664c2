"""MONAI's PersistentDataset over the same scans: its readers and transforms, and the slices kept on disk as tensors."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from plain_loaders import Choose


def persistent(kind: str, paths: Sequence[Path], folder: Path, choose: Choose, *, as_bytes: bool) -> Any:
    """A PersistentDataset of (S, 256, 256) tensors from 0 to 255.

    Args:
        kind: "OCT", "MRI" or "video".
        paths: the scans.
        folder: where it keeps its tensors.
        choose: which slices are read. Of a DICOM series MONAI reads all, and resizes along the series too.
        as_bytes: keep uint8 tensors, instead of the float32 that its transforms leave.
    """
    with quiet():
        from monai.data import PersistentDataset, set_track_meta
        from monai.transforms import Compose, Lambda, Resize, ScaleIntensityRangePercentiles

        set_track_meta(False)  # tensors with its metadata are larger, and refused when they are loaded from disk
        size = (256, 256, len(choose(1000))) if kind == "MRI" else (256, 256)
        finish = Lambda(partial(_finish, kind=kind, as_bytes=as_bytes))
        stretch = ScaleIntensityRangePercentiles(2, 98, 0, 255, clip=True)
        # A list is one scan of many frames here, not many items.
        chain = Compose([*_reading(kind, choose), stretch, Resize(size), finish], map_items=False)
    items = [_frames(path, choose) if kind == "OCT" else str(path) for path in paths]
    return PersistentDataset(items, chain, cache_dir=folder)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what MONAI says about missing plug-ins off the screen."""
    silence = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        warnings.simplefilter("ignore")
        yield


def _reading(kind: str, choose: Choose) -> list[Any]:
    from monai.transforms import EnsureChannelFirst, Lambda, LoadImage

    if kind == "OCT":
        return [LoadImage(reader="PILReader", image_only=True)]  # one channel a frame
    if kind == "MRI":
        load = LoadImage(reader="PydicomReader", image_only=True)
        return [load, EnsureChannelFirst(channel_dim="no_channel")]
    return [Lambda(partial(_read_video, choose=choose))]  # MONAI reads no videos


def _read_video(path: str, choose: Choose) -> Any:
    import cv2

    capture = cv2.VideoCapture(path)
    frames = []
    while (read := capture.read())[0]:
        frames.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2GRAY))
    capture.release()
    return np.stack([frames[i] for i in choose(len(frames))]).astype(np.float32)


def _frames(path: Path, choose: Choose) -> list[str]:
    names = sorted(path.glob("*.tif"), key=lambda p: int(p.stem.split("_")[1]))
    return [str(names[i]) for i in choose(len(names))]


def _finish(x: Any, kind: str, as_bytes: bool) -> Any:
    """A plain (S, H, W) tensor, whatever the order of axes in which MONAI's readers leave it: theirs is (..., W, H)."""
    import torch

    x = torch.as_tensor(x)
    if kind == "MRI":
        x = x[0].permute(2, 1, 0)
    elif kind == "OCT":
        x = x.transpose(1, 2)
    return (x.round().to(torch.uint8) if as_bytes else x).contiguous()
