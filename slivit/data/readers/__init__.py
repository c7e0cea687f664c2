"""Scans of every supported format, read into a `Volume` by one function."""

from slivit.data.readers.base import Scan, ScanInfo
from slivit.data.readers.dispatch import (
    READERS,
    Reader,
    describe,
    open_scan,
    read_volume,
    register_reader,
    suffixes,
    supported_formats,
)

__all__ = [
    "READERS",
    "Reader",
    "Scan",
    "ScanInfo",
    "describe",
    "open_scan",
    "read_volume",
    "register_reader",
    "suffixes",
    "supported_formats",
]
