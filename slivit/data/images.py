"""Slices of scans as single images, and the DataLoaders of pre-training without labels."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from fastai.data.block import DataBlock, TransformBlock
from fastai.data.core import DataLoaders
from fasttransform import Transform
from torch import Tensor

from slivit.data.cache import SliceCache
from slivit.data.preprocessing import Preprocessing, load_slices, preprocess
from slivit.data.sampling import SharedSteps
from slivit.data.slices import Grey
from slivit.data.windows import Windows
from slivit.parallel import from_main, rank_and_size

Row = Mapping[str, Any]
OPEN = 64
"""Scans whose slices stay mapped into memory; each may hold a file open."""
LARGER, LOOKED_AT = 1.5, 4
"""Sides of the slices from which crops are cut, over a model's, and the scans whose slices are looked at for it."""
SMALL, IN_MEMORY = 2**20, 2**29
"""Bytes of the slices of a scan that stay in memory as they are, and of all of them, in each process that reads."""


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


def for_crops(settings: Preprocessing, paths: Sequence[str]) -> Preprocessing:
    """The preprocessing of slices that random crops are cut from: up to half as long again a side as a model takes.

    So a crop shows details that a slice shrunk to the model's size has lost. Slices are not enlarged beyond what a few
    of the scans have; `resize` gives another size, such as that in which slices are stored.

    Args:
        settings: with the model's size set; square.
        paths: of the scans.

    Raises:
        ReadError: a scan that cannot be read.
    """
    from slivit.data.readers import read_volume

    slices, *size = settings.stored.size or (1, 1, 1)
    if settings.resize is None:
        places = np.unique(np.linspace(0, len(paths) - 1, min(LOOKED_AT, len(paths))).round().astype(int))
        looked_at = (read_volume(paths[i], select=lambda d: [d // 2], **settings.reader) for i in places)
        largest = max((max(volume.shape[1:]) for volume in looked_at), default=0)
        size = [max(side, min(round(LARGER * side), largest)) for side in size]
    spacing = settings.spacing
    if spacing and settings.size:  # what a slice shows stays the same
        finer = [model / side for model, side in zip(settings.size[1:], size, strict=True)]
        spacing = (spacing[0], spacing[1] * finer[0], spacing[2] * finer[1])
    return settings.model_copy(update={"size": (slices, *size), "resize": None, "spacing": spacing})


class SliceReader:
    """Single slices of scans, with the limits of intensity of the whole scan, as in fine-tuning.

    Args:
        settings: the preprocessing, with its size set.
        cache: where all slices of a scan are kept, so that it is decoded once however many of them are asked for.
            Without one a scan is read anew for a slice, and whole where its limits follow from its intensities.
    """

    def __init__(self, settings: Preprocessing, cache: SliceCache | None = None) -> None:
        self.settings, self.cache = settings, cache
        spacing = settings.spacing and (0.0, *settings.spacing[1:])
        size = settings.size and (1, *settings.size[1:])
        # Windows of one slice: all slices of a scan, as they are.
        every = {"windows": Windows(), "sampling": "even", "spacing": spacing, "size": size}
        self._every = settings.model_copy(update=every)
        self._stacks: dict[str, Grey] = {}
        self._small: dict[str, Grey] = {}
        self._room = IN_MEMORY

    def load(self, item: Row, where: float | None = None) -> Grey:
        """Read one slice of a scan: (1, H, W).

        In training the slice is drawn from the item's part of the scan; in validation it is the middle of that part.

        Args:
            item: of `slice_items`.
            where: in the part, from 0 to 1, in training; drawn from torch's random numbers where None.

        Raises:
            ReadError: the scan cannot be read.
        """
        if item["split"] == "val":
            where = 0.5
        elif where is None:
            where = float(torch.rand(()))

        def chosen(depth: int) -> int:
            return min(int((item["part"] + where) / item["parts"] * depth), depth - 1)

        path = str(item["path"])
        stack = self._small.get(path)
        if stack is None:
            alone = None if self.cache else self._alone(path, chosen)
            if alone is not None:
                return alone
            stack = self._stack(path)
        number = chosen(len(stack))
        return stack[number : number + 1]

    def _alone(self, path: str, chosen: Callable[[int], int]) -> Grey | None:
        """The slice, of which nothing else is read; None where its limits follow from the rest of the scan."""
        from slivit.data.readers import read_volume

        if path in self._stacks:
            return None
        volume = read_volume(path, select=lambda depth: [chosen(depth)], **self.settings.reader)
        by_itself = self.settings.fixed_range or (volume.array.dtype == np.uint8 and not self.settings.stretch)
        if volume.depth > 1:
            return preprocess(volume, self.settings) if by_itself else None
        image = preprocess(volume, self.settings)
        self._keep(path, image)
        return image

    def _stack(self, path: str) -> Grey:
        """(D, H, W): all slices; some scans stay open, as their slices come from all over an epoch."""
        if path not in self._stacks:
            while len(self._stacks) >= (OPEN if self.cache else 1):
                del self._stacks[next(iter(self._stacks))]
            # The arrays of an archive are in memory: a file for each of its items would be slower.
            load = load_slices if _in_archive(path) or not self.cache else self.cache.load
            stack = load(path, self._every)
            if self._keep(path, stack):
                return stack
            self._stacks[path] = stack
        return self._stacks[path]

    def _keep(self, path: str, stack: Grey) -> bool:
        """Keep a small stack in memory while there is room."""
        if stack.nbytes > min(SMALL, self._room):
            return False
        self._small[path] = np.array(stack)
        self._room -= stack.nbytes
        return True


def _in_archive(path: str) -> bool:
    from slivit.data.readers.address import split_address

    return split_address(path)[0].endswith(".npz")


class LoadImage(Transform):
    """An item of `slice_items` to (1, H, W), as `load_slices` gives it."""

    def __init__(self, settings: Preprocessing, cache: SliceCache | None = None) -> None:
        super().__init__()
        self.reader = SliceReader(settings, cache)

    def encodes(self, item: dict) -> Tensor:
        return torch.from_numpy(self.reader.load(item))

    def read(self, item: Row, name: str) -> Tensor:
        """As `encodes`; what is random follows from a name alone."""
        return torch.from_numpy(self.reader.load(item, random.Random(name).random()))


class LoadItem(Transform):
    """An item to whatever `load` makes of it."""

    def __init__(self, load: Callable[[Row], Any]) -> None:
        super().__init__()
        self.load = load

    def encodes(self, item: dict) -> object:
        return self.load(item)

    def read(self, item: Row, name: str) -> object:
        """As `encodes`; what is random follows from a name alone."""
        with seeded(name):
            return self.load(item)


class SharedDL(SharedSteps):
    """A DataLoader of items without labels, shared out among processes.

    What is random about an item follows from the epoch and the item alone, however many processes train or read.
    """

    epoch_seed = 0
    read: Callable[[Row, str], Any] | None = None
    items: Sequence[Row] = ()

    def get_idxs(self) -> list[int]:
        """The items of this process, in the order of the epoch."""
        # In validation the items are the same in every epoch, so that its losses can be compared.
        self.epoch_seed = from_main(self.rng.randint(0, 2**32 - 1) if self.shuffle else 0)
        return super().get_idxs()

    def create_item(self, index: int) -> object:
        """Item `index`, with random numbers of its own."""
        with seeded(f"{self.epoch_seed}/{index}"):
            return super().create_item(index)

    def do_item(self, index: int) -> object:
        """Item `index`, past fastai's pipelines for an item, which take longer than to read a small image."""
        if self.read is None:
            return super().do_item(index)
        return (self.read(self.items[index], f"{self.epoch_seed}/{index}"),)


@contextmanager
def seeded(name: str) -> Iterator[None]:
    """Random numbers of torch, NumPy and Python that follow from `name` alone; afterwards all goes on as before."""
    before = random.getstate(), np.random.get_state()  # noqa: NPY002 (MONAI draws from the global state)
    own = torch.get_rng_state()
    seed = random.Random(name).getrandbits(32)
    try:
        # Not torch.manual_seed, which takes a hundred times as long, as it writes down who called it.
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        yield
    finally:
        torch.set_rng_state(own)
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002


def unlabelled_dataloaders(
    items: Sequence[Row],
    load: LoadImage | LoadItem,
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
        batch_size: items a step of each process; lowered to what the training items allow where they are fewer.
        workers: processes that read.
        device: fastai's default device where None.
        collate: a list of what `load` gave to a batch; fastai's where None.
    """
    train = [i for i, item in enumerate(items) if item["split"] == "train"]
    val = [i for i, item in enumerate(items) if item["split"] == "val"]
    block = DataBlock(
        blocks=(TransformBlock(type_tfms=[load]),),
        dl_type=SharedDL,
        get_items=lambda _: list(items),
        splitter=lambda _: (train, val),
    )
    size = min(batch_size, max(1, len(train) // rank_and_size()[1]))
    options = {} if collate is None else {"create_batch": lambda samples: (collate([s[0] for s in samples]),)}
    dls = block.dataloaders(None, bs=size, num_workers=workers, device=device, **options)
    for loader, part in zip(dls.loaders, (train, val), strict=True):
        loader.read, loader.items = load.read, [items[i] for i in part]
    return dls
