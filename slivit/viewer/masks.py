"""The masks that belong to a scan: those that a run predicted, and those that its manifest names."""

from __future__ import annotations

from pathlib import Path

from slivit.data.readers.address import parts_of
from slivit.targets.task import is_missing
from slivit.viewer.bench import Row

MASKS, SUFFIXES = "masks", (".nii.gz", ".nii")
PLACES = (MASKS, f"evaluation/{MASKS}")


def masks_of(run: Path, row: Row) -> dict[str, Path]:
    """Where the masks of a scan lie, by what the page calls them.

    Args:
        run: the folder of the run; it may hold `masks/CASE.nii.gz` of its predictions, CASE being the scan's file
            without suffixes, or its patient.
        row: of the manifest; a cell that names a NIfTI file is a mask. Empty for a scan that was dropped.
    """
    if not row:
        return {}
    found = {}
    names = [stem_of(str(row["path"])), str(row.get("patient", ""))]
    for place in PLACES:
        files = [run / place / f"{name}{suffix}" for name in names if name for suffix in SUFFIXES]
        there = next((file for file in files if file.is_file()), None)
        if there:
            found["predicted"] = there
    channels = parts_of(str(row["path"]))
    for column, cell in row.items():
        if str(cell) in channels or column == "path" or is_missing(cell):
            continue
        if str(cell).lower().endswith(SUFFIXES):
            file = Path(str(cell))
            file = file if file.is_absolute() else Path(str(row["path"])).parent / file
            if file.is_file():
                found[str(column)] = file
    return found


def stem_of(path: str) -> str:
    """The name of a scan's file or folder without `.nii.gz` and the like."""
    name = Path(parts_of(path)[0]).name
    suffix = next((s for s in SUFFIXES if name.lower().endswith(s)), Path(name).suffix)
    return name[: len(name) - len(suffix)] if suffix else name
