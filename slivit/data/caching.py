"""The cache of preprocessed slices that a recipe's data section asks for."""

from __future__ import annotations

from slivit.data.cache import SliceCache
from slivit.data.recipe import Data

GB = 1e9


def size_text(count: int) -> str:
    """A number of bytes as people read it: "12.3 MB"."""
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"


def cache_of(data: Data) -> SliceCache | None:
    """The cache of a recipe, or None where it has none.

    Raises:
        CacheError: a folder that cannot be used.
    """
    if not data.cache:
        return None
    return SliceCache(data.cache, max_bytes=round(data.cache_gb * GB) or None)
