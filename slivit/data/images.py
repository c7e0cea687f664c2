"""Slices of scans as single images, and the DataLoaders of pre-training without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from fastai.data.block import DataBlock, TransformBlock
from fastai.data.core import DataLoaders
from fasttransform import Transform
from torch import Tensor

from slivit.data.preprocessing import Preprocessing, preprocess

Row = Mapping[str, Any]


def slice_items(
    rows: Iterable[Row], slices: int | Literal["all"], depths: Mapping[str, int] | None = None
) -> list[dict[str, Any]]:
    """One item an image: which scan, and which part of its slices the image is taken from.

    Args:
        rows: of a manifest, with "path" and "split".
        slices: images a scan and epoch, or "all" of its slices.
        depths: the number of slices of each path, for "all".

    Returns:
        Rows with "part" and "parts". Part k of n is the k-th of n equal stretches of the scan; with n the depth it is
        the k-th slice.
    """
    items = []
    for row in rows:
        parts = (depths or {})[row["path"]] if slices == "all" else slices
        items += [{**row, "part": part, "parts": parts} for part in range(parts)]
    return items


def count_slices(path: str, reader: Mapping[str, Any] | None = None) -> int:
    """The number of slices of a scan; one of them is decoded at most.

    Raises:
        ReadError: the scan cannot be read.
    """
    from slivit.data.readers import read_volume

    return read_volume(path, select=lambda depth: [depth // 2], **(reader or {})).depth


def load_image(item: Row, settings: Preprocessing) -> npt.NDArray[np.uint8]:
    """Read one slice of a scan: (1, H, W).

    In training the slice is drawn from the item's part of the scan; in validation it is the middle of that part.

    Raises:
        ReadError: the scan cannot be read.
    """
    from slivit.data.readers import read_volume

    where = 0.5 if item["split"] == "val" else float(torch.rand(()))

    def select(depth: int) -> list[int]:
        return [min(int((item["part"] + where) / item["parts"] * depth), depth - 1)]

    return preprocess(read_volume(item["path"], select=select, **settings.reader), settings)


class LoadImage(Transform):
    """An item of `slice_items` to (1, H, W) uint8."""

    def __init__(self, settings: Preprocessing) -> None:
        super().__init__()
        self.settings = settings

    def encodes(self, item: dict) -> Tensor:
        return torch.from_numpy(load_image(item, self.settings))


class LoadItem(Transform):
    """An item to whatever `load` makes of it."""

    def __init__(self, load: Callable[[Row], Any]) -> None:
        super().__init__()
        self.load = load

    def encodes(self, item: dict) -> object:
        return self.load(item)


def unlabelled_dataloaders(
    items: Sequence[Row],
    load: Transform,
    *,
    batch_size: int,
    workers: int = 0,
    device: str | torch.device | None = None,
    collate: Callable[[Sequence[Any]], Any] | None = None,
) -> DataLoaders:
    """fastai DataLoaders of items without targets.

    Args:
        items: with "split": those of "train" are shuffled, a last batch that is not full is left out of the epoch;
            those of "val" all come.
        load: an item to tensors.
        batch_size: items a step; lowered to the number of training items where there are fewer.
        workers: processes that read.
        device: fastai's default device where None.
        collate: a list of what `load` gave to a batch; fastai's where None.
    """
    train = [i for i, item in enumerate(items) if item["split"] == "train"]
    val = [i for i, item in enumerate(items) if item["split"] == "val"]
    block = DataBlock(
        blocks=(TransformBlock(type_tfms=[load]),), get_items=lambda _: list(items), splitter=lambda _: (train, val)
    )
    options = {} if collate is None else {"create_batch": lambda samples: (collate([s[0] for s in samples]),)}
    return block.dataloaders(None, bs=min(batch_size, len(train)), num_workers=workers, device=device, **options)
