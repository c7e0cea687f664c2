"""The address of a scan: a path, and behind a # what of it is read and how.

One string names a scan wherever one is needed: in manifests, caches, tables of predictions and on the command line.

    knee.nii.gz                     the whole file
    scans.npz#train/17              an item of it
    study/#series=4&axis=coronal    the DICOM series number 4, as coronal slices
    t1.nii.gz | study/#series=4     a scan of two channels, each with an address of its own
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote

from slivit.errors import ReadError

ROW_OPTIONS = ("series", "frame", "axis", "channel")
"""Options of `read_volume` that an address can hold, and the columns of a manifest that are put into it."""

_ITEM = "item"
_BESIDE = " | "


def parts_of(address: str) -> list[str]:
    """Return the addresses of a scan's channels, or the address alone where it names one file or folder.

    Example:
        >>> parts_of("t1.nii.gz | t2.nii.gz"), parts_of("t1.nii.gz")
        (['t1.nii.gz', 't2.nii.gz'], ['t1.nii.gz'])
    """
    # (os.path: a long address is no name that a file can have, which Path raises for)
    return [address] if _BESIDE not in address or os.path.exists(address) else address.split(_BESIDE)  # noqa: PTH110


def of_parts(addresses: Sequence[str]) -> str:
    """Return the address of a scan whose channels have these addresses; the inverse of `parts_of`."""
    return _BESIDE.join(addresses)


def files_in(address: str) -> list[str]:
    """Return the files and folders that an address names: one for each channel."""
    return [split_address(part)[0] for part in parts_of(address)]


def short_name(address: str) -> str:
    """Return how lists and pictures call a scan: the name of its file, or those of its channels."""
    return ", ".join(part.replace("\\", "/").rstrip("/").rpartition("/")[2] for part in parts_of(address))


def split_address(address: str) -> tuple[str, str]:
    """Return the file or folder, and what stands behind the # ("" where there is none).

    A file whose own name holds a # is taken as it is where it exists.

    Example:
        >>> split_address("scans.npz#train/17")
        ('scans.npz', 'train/17')
    """
    if "#" not in address or Path(address).exists():
        return address, ""
    file, _, fragment = address.rpartition("#")
    return file, fragment


def options_of(fragment: str) -> dict[str, str]:
    """Return the options that stand behind the # of an address, as text.

    Example:
        >>> options_of("series=4&axis=coronal"), options_of("train/17")
        ({'series': '4', 'axis': 'coronal'}, {'item': 'train/17'})
    """
    if not fragment:
        return {}
    pairs = parse_qsl(fragment, keep_blank_values=True)
    known = {*ROW_OPTIONS, _ITEM}
    return dict(pairs) if pairs and all(name in known for name, _ in pairs) else {_ITEM: fragment}


def with_options(address: str, options: Mapping[str, str]) -> str:
    """Return an address with options put into it; those that it has under the same name give way.

    Example:
        >>> with_options("study", {"series": "T1 axial"})
        'study#series=T1%20axial'
    """
    given = {name: value for name, value in options.items() if value}
    if not given:
        return address
    if len(parts := parts_of(address)) > 1:
        return of_parts([with_options(part, given) for part in parts])
    file, fragment = split_address(address)
    merged = {**options_of(fragment), **given}
    order = (_ITEM, *ROW_OPTIONS)
    return f"{file}#" + "&".join(f"{name}={quote(merged[name], safe='')}" for name in order if name in merged)


def typed_options(options: Mapping[str, str], source: str) -> dict[str, Any]:
    """Return the options of an address as `read_volume` takes them: whole numbers where they are.

    Raises:
        ReadError: a frame that is no whole number.
    """
    typed: dict[str, Any] = dict(options)
    for name in ("frame", "channel"):
        value = typed.get(name, "")
        if value.isdecimal():
            typed[name] = int(value)
        elif value and name == "frame":
            raise ReadError(f"{source}: frame must be a whole number from 0. Got {value!r}.")
    return typed
