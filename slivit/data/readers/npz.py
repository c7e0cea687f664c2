"""NumPy's files: one item of a MedMNIST archive (`FILE.npz#SPLIT/INDEX`), and an array of one scan (`FILE.npy`)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np

from slivit.data.medmnist_files import official_md5
from slivit.data.readers.base import COLOUR_NOTE, Array, Scan, ScanInfo, check_size, decoding, grey_type, to_grey
from slivit.errors import ReadError, nearest, one_of


def open_npz(path: Path, source: str, *, item: str = "", check_md5: bool = True) -> Scan:
    """Open one image or volume of a MedMNIST .npz file.

    The array of a split is unpacked once a process and then kept, so that the many items of one file cost one read.

    Args:
        path: the .npz file.
        source: path and item for messages.
        item: "SPLIT/INDEX", such as "train/17".
        check_md5: where the file has an official name, whether its MD5 must be the official one.
    """
    stat = path.stat()
    version = (str(path), stat.st_mtime_ns, stat.st_size)
    split, index = _parse(item, version, source)
    if check_md5:
        _check_md5(*version)
    images = _images(*version, split)
    if index >= len(images):
        raise ReadError(f"{source}: index {index} is outside the split {split!r}; allowed are 0 to {len(images) - 1}.")
    colour = images.ndim == 4 and images.shape[-1] == 3
    item_array = images[index]
    notes = (COLOUR_NOTE,) if colour else ()
    stack = item_array[None] if colour else item_array.reshape((-1, *item_array.shape[-2:]))
    depth, height, width = stack.shape[:3]

    def load(indices: Sequence[int]) -> Array:
        chosen = stack[list(indices)]
        return to_grey(chosen) if colour else chosen

    dtype = grey_type(stack.dtype) if colour else stack.dtype
    return Scan(ScanInfo("npz", (depth, height, width), str(dtype), None, source, notes=notes), load)


def open_npy(path: Path, source: str) -> Scan:
    """Open an array of a scan's slices, (S, H, W), or of one image, (H, W); only the slices that are used are read.

    Raises:
        ReadError: an array of other axes, or of what are no numbers.
    """
    with decoding(path, "NumPy array"):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim not in (2, 3) or array.dtype.kind not in "uif" or not array.size:
        raise ReadError(
            f"{source}: is an array {array.shape} of {array.dtype}; expected numbers, (slices, rows, columns) or "
            "(rows, columns). Save each channel or time point in a file of its own."
        )
    stack = array.reshape((-1, *array.shape[-2:]))
    depth, height, width = stack.shape
    stored = path.stat().st_size

    def load(indices: Sequence[int]) -> Array:
        check_size(path, (len(indices), height, width), array.itemsize, stored)
        with decoding(path, "NumPy array"):
            return np.array(stack[list(indices)])

    return Scan(ScanInfo("npy", (depth, height, width), str(stack.dtype), None, source), load)


def _parse(item: str, version: tuple[str, int, int], source: str) -> tuple[str, int]:
    counts = counts_of_splits(*version)
    split, _, index = item.partition("/")
    if split in counts and index.isdecimal():
        return split, int(index)
    have = ", ".join(f"{name}/0 to {name}/{count - 1}" for name, count in counts.items())
    hint = nearest(split, counts) if split else ""
    raise ReadError(f"{source}: name one item after the file, as FILE.npz#SPLIT/INDEX. The file has {have}.{hint}")


@lru_cache(maxsize=64)
def counts_of_splits(path: str, mtime: int, size: int) -> dict[str, int]:
    """Return the number of images in each split, from the headers of the arrays alone."""
    with decoding(path, "MedMNIST archive"), np.load(path, allow_pickle=False) as archive:
        names = [name.removesuffix("_images") for name in archive.files if name.endswith("_images")]
        counts = {name: _header(archive, f"{name}_images")[0][0] for name in names}
    if not counts:
        raise ReadError(
            f"{path}: is no MedMNIST archive: it has the arrays {one_of(archive.files) or 'none'}, but none is named "
            '"train_images", "val_images" or "test_images".'
        )
    return counts


def _header(archive: np.lib.npyio.NpzFile, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return the shape and type of an array, from its header alone."""
    members: Any = archive.zip
    with members.open(f"{name}.npy") as stream:
        major, _ = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
    return shape, dtype


@lru_cache(maxsize=6)
def _images(path: str, mtime: int, size: int, split: str) -> Array:
    """Return all images of a split, read-only, kept for the life of the process."""
    with decoding(path, "MedMNIST archive"), np.load(path, allow_pickle=False) as archive:
        name = f"{split}_images"
        shape, dtype = _header(archive, name)
        check_size(path, shape, dtype.itemsize, cast(Any, archive.zip).getinfo(f"{name}.npy").compress_size)
        images = archive[name]
    if images.ndim not in (3, 4) or images.dtype.kind not in "uif":
        raise ReadError(f"{path}: {split}_images is {images.shape} {images.dtype}; expected (N, H, W) or (N, D, H, W).")
    images.setflags(write=False)
    return images


@lru_cache(maxsize=64)
def _check_md5(path: str, mtime: int, size: int) -> None:
    """Raise where a file with an official MedMNIST name is not the official file."""
    official = official_md5(Path(path).name)
    if official is None:
        return
    with Path(path).open("rb") as stream:
        actual = hashlib.file_digest(stream, "md5").hexdigest()
    if actual != official:
        raise ReadError(
            f"{path}: has the name of an official MedMNIST file, but its MD5 is {actual} instead of {official}: the "
            "download is damaged or the content was changed. Download it again, rename it, or pass check_md5=False."
        )
