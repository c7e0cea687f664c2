"""Deflated DICOM: how large a file becomes is known before pydicom unpacks it in memory."""

from __future__ import annotations

import zlib
from typing import BinaryIO

from slivit.data.readers.base import MAX_GB, size_limit
from slivit.data.readers.dicom_scan import transfer_syntax
from slivit.errors import ReadError

_DEFLATED = "1.2.840.10008.1.2.1.99"
_CHUNK, _HEAD = 1 << 20, 1 << 14


def inflated(stream: BinaryIO, source: str) -> BinaryIO:
    """Return the stream, or raise where it is a deflated DICOM file that unpacks to more than a scan.

    The file is unpacked piece by piece, and nothing of it is kept.

    Args:
        stream: the file, at its start.
        source: its name for messages.
    """
    at, syntax = transfer_syntax(stream.read(_HEAD))
    stream.seek(0)
    if syntax != _DEFLATED:
        return stream
    stored = len(stream.read())
    stream.seek(at)
    limit, size, unpack = size_limit(stored), 0, zlib.decompressobj(-zlib.MAX_WBITS)
    while size <= limit and (packed := unpack.unconsumed_tail or stream.read(_CHUNK)):
        size += len(unpack.decompress(packed, _CHUNK))
    if size > limit:
        raise ReadError(
            f"{source}: is a deflated DICOM file of {stored} bytes that unpacks to more than {limit / 1e9:.3g} GB. "
            "It is damaged or hostile: copy or export it again. Where it is right, set the environment variable "
            f"{MAX_GB} to more."
        )
    stream.seek(0)
    return stream
