"""One preprocessed scan on disk: a .npy file with a checked footer behind it, mapped into memory as it is read.

The footer makes the entry whole: it holds a checksum of everything before it, so that a file that was cut short or
damaged is told from a good one. What stands before it is the array as numpy writes it, so `numpy.load` reads it too.
"""

from __future__ import annotations

import io
import json
import math
import mmap
import os
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from slivit.data.slices import Grey
from slivit.files import whole_file

_FOOTER = struct.Struct("<QQ8s")  # checksum, bytes of JSON before it, magic
_MAGIC = b"SLICES_2"


class Damaged(Exception):
    """An entry that is cut short or altered."""


@dataclass(frozen=True)
class Stack:
    """A preprocessed scan.

    Args:
        slices: (S, H, W) or (C, S, H, W), uint8 or float32. Mapped copy-on-write: changing it does not change the file.
        notes: what was noticed when it was prepared.
        seen: what the reader noticed.
        used: when it was last used, in seconds since 1970.
    """

    slices: Grey
    notes: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()
    used: float = 0.0


def encode_stack(stack: Stack, source: str) -> list[bytes | memoryview]:
    """The parts of an entry, in order."""
    import xxhash

    slices = np.ascontiguousarray(stack.slices)
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(slices))
    facts: dict[str, Any] = {"shape": slices.shape, "start": head.tell(), "notes": stack.notes, "seen": stack.seen}
    facts |= {"source": source, "dtype": slices.dtype.name}
    text = json.dumps(facts).encode()
    checksum = xxhash.xxh3_64()
    parts: list[bytes | memoryview] = [head.getvalue(), slices.reshape(-1).view(np.uint8).data, text]
    for part in parts:
        checksum.update(part)
    return [*parts, _FOOTER.pack(checksum.intdigest(), len(text), _MAGIC)]


def write_stack(path: Path, parts: Sequence[bytes | memoryview]) -> None:
    """Write an entry whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    with whole_file(path) as partial, partial.open("wb", buffering=0) as stream:
        for part in parts:
            _write_all(stream, part)


def _write_all(stream: Any, part: bytes | memoryview) -> None:
    rest = memoryview(part)
    while len(rest):
        rest = rest[stream.write(rest) :]


def read_stack(path: Path) -> Stack | None:
    """Map an entry into memory and check it.

    Returns:
        The stack, or None where there is no such entry.

    Raises:
        Damaged: the file is cut short or altered.
        OSError: it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            used = os.fstat(stream.fileno()).st_mtime
            data = _map(stream)
    except FileNotFoundError:
        return None
    return replace(_decoded(data), used=used)


def decode_stack(data: memoryview) -> Stack:
    """A stack out of the parts of an entry, in memory of its own.

    Raises:
        Damaged: they are cut short or altered.
    """
    stack = _decoded(data)
    return replace(stack, slices=stack.slices.copy())


def _decoded(data: mmap.mmap | memoryview) -> Stack:
    facts = _checked(data)
    shape = tuple(facts["shape"])
    slices = np.frombuffer(data, facts["dtype"], math.prod(shape), facts["start"]).reshape(shape)
    return Stack(slices, tuple(facts["notes"]), tuple(facts["seen"]))


def _map(stream: BinaryIO) -> mmap.mmap:
    # Without `trackfd`, newer Pythons keep no file open for every stack that is in use.
    options: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}
    try:
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY, **options)
    except ValueError as error:  # an empty file
        raise Damaged(str(error)) from error


def _checked(data: mmap.mmap | memoryview) -> dict[str, Any]:
    """What the footer tells, once it is proven."""
    import xxhash

    end = len(data) - _FOOTER.size
    if end < 0:
        raise Damaged("is cut short")
    checksum, length, magic = _FOOTER.unpack_from(data, end)
    with memoryview(data) as view, view[:end] as body:
        if magic != _MAGIC or length > end or xxhash.xxh3_64_intdigest(body) != checksum:
            raise Damaged("is cut short or altered")
    facts: dict[str, Any] = json.loads(bytes(data[end - length : end]))
    return facts
