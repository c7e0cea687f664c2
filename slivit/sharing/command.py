"""Export: a run in, a folder for other people out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slivit.checkpoint import Checkpoint
from slivit.data.scan_finding import Finder
from slivit.data.scan_reading import ScanRef
from slivit.errors import RecipeError, SlivitError
from slivit.evaluate.described import run_manifest
from slivit.files import scratch_folders
from slivit.predict.opening import open_checkpoint
from slivit.predict.sums import SUMS
from slivit.sharing.export import MOST_SCANS, Exported, Format, Options, check_format, export
from slivit.sharing.hub import run_metrics
from slivit.sharing.notes import read_notes

log = logging.getLogger(__name__)


def run(
    target: str | Path,
    out: str | Path,
    *,
    format: Format = "safetensors",
    bf16: bool = False,
    notes: str | Path | None = None,
    scans: Sequence[str] = (),
    tolerance: float | None = None,
    most: int = MOST_SCANS,
    overwrite: bool = False,
) -> Exported:
    """Write a trained model for other people, after it was compared with the original on real scans.

    Args:
        target: a run or checkpoint folder.
        out: a new folder.
        format: "safetensors", "onnx" or "torch-export".
        bf16: large weights in bfloat16.
        notes: a TOML file of what its makers write on the card; see `slivit.sharing.notes.CardNotes`.
        scans: what it is compared on: files, folders, archives, manifests; the run's own test scans where empty.
        tolerance: the largest difference allowed; see `slivit.sharing.checking`.
        most: scans that are compared.
        overwrite: replace an earlier export in `out`.

    Returns:
        The folder, the difference from the original, and the fingerprint.

    Raises:
        SlivitError: a run that is not there, a folder that is, or an export that computes something else.
    """
    check_format(format)
    written = read_notes(notes)
    _check_out(Path(out), Path(target), overwrite)
    checkpoint = open_checkpoint(target)
    with scratch_folders() as scratch:
        refs = _scans(checkpoint, scans, scratch)
        options = Options(format, bf16, written, tolerance, refs, most)
        exported = export(checkpoint, out, options, run_metrics(checkpoint.path))
    log.info("%s", exported.difference)
    return exported


def _check_out(out: Path, target: Path, overwrite: bool) -> None:
    if out.is_file():
        raise RecipeError(f"{out}: is a file; an export is a folder")
    if target.exists() and target.resolve().is_relative_to(out.resolve()):
        raise RecipeError(f"{out}: holds the run itself, and would be replaced; choose another folder")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not (out / SUMS).is_file():
        raise RecipeError(f"{out}: is not empty, and holds no export that could be replaced; choose another folder")
    if not overwrite:
        raise RecipeError(f"{out}: holds an export; replace it with --overwrite, or choose another folder")


def _scans(checkpoint: Checkpoint, given: Sequence[str], scratch: Any) -> list[ScanRef]:
    """The scans to compare on: those that were given, else the run's test scans, else its validation scans."""
    size = checkpoint.preprocessing.size
    finder = Finder(size[0] if size else 1, scratch, checkpoint.preprocessing.channels)
    if given:
        return finder.find(given)
    try:
        manifest = run_manifest(checkpoint.path, checkpoint.task)
    except SlivitError as error:
        log.warning("the run's own scans are not looked at: %s", error)
        return []
    if manifest is None:
        return []
    split = next((s for s in ("test", "val", "train") if s in manifest.splits), None)
    return [ScanRef(str(row["path"]), str(row["path"])) for row in manifest.rows(split)]
