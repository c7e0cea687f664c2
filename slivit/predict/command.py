"""Prediction: a checkpoint and new scans in, a table out."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slivit.checkpoint import Checkpoint, read_config
from slivit.data.scan_finding import Finder
from slivit.data.scan_reading import ScanRef
from slivit.data.table import write_table
from slivit.data.training_range import range_of
from slivit.errors import ManifestError, SlivitError
from slivit.files import scratch_folders
from slivit.folder import MASKS
from slivit.machines import devices, machines_at
from slivit.predict.batching import default_workers
from slivit.predict.journal import Journal, Row, journal_of
from slivit.predict.table import table_of
from slivit.settings import Precision
from slivit.targets.covariates import check_cells

if TYPE_CHECKING:
    import pandas as pd

    from slivit.predict.engine import Engine

log = logging.getLogger(__name__)
FEW = 32
"""Scans, below which starting a process for each GPU takes longer than predicting with one."""


def run(
    checkpoint: str | Path | Checkpoint,
    scans: Sequence[str],
    out: str | Path | None = None,
    *,
    backbone: str = "",
    device: str = "auto",
    batch_size: int = 0,
    workers: int | None = None,
    processes: int | None = None,
    cluster: str = "",
    precision: Precision = "auto",
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Predict scans; one that cannot be read is recorded and does not stop the others.

    Args:
        checkpoint: a run, checkpoint or export folder, hub:OWNER/NAME for a model on Hugging Face's hub, or one that is
            loaded.
        scans: files, folders, zip archives and manifests; see `slivit.data.scan_finding.Finder`.
        out: where the table is written as CSV, if anywhere. Until it is whole, its rows lie in OUT.part.
        backbone: of a model that holds adapters alone: where the weights that they are for lie.
        device: "auto", "cpu", "cuda", ...
        batch_size: scans a batch; 0 finds out what is fastest and fits into memory.
        workers: processes that read scans; by the number of scans and cores where None.
        processes: that predict, each with a GPU of its own where there are any; where None, one for each GPU if there
            are several and many scans, else 0, which predicts in this one.
        cluster: a Ray cluster whose machines predict; they must see the checkpoint and the scans under these paths.
        precision: in which the network computes; "auto" takes the fastest that the device has.
        resume: go on with a table that was not finished; scans that failed are tried again, and scans that changed.
        overwrite: replace a table, or begin one anew.
        progress: show a progress bar.

    Returns:
        One row a scan, in the order given: `path` (and `series`), the columns of its manifest, `prob_*` or `pred_*` and
        `unit` (of a segmentation `ml_*`, volumes in mL, with its masks in the folder `masks` beside `out`), `call_*`
        where the checkpoint holds an operating point, `warnings` of what makes the prediction doubtful, `notes` of the
        reader, and `error` ("" where all is well).

    Raises:
        SlivitError: a checkpoint or scans that are not there, or a table that is.
    """
    from slivit.predict.opening import open_checkpoint
    from slivit.predict.parts import Loaded, predict_parts

    _check_out(out, resume, overwrite)
    loaded = checkpoint if isinstance(checkpoint, Checkpoint) else open_checkpoint(checkpoint, backbone=backbone)
    masks = _masks_folder(loaded, out)
    if not masks and range_of(loaded.training) is None:
        log.warning("the checkpoint does not say what its training scans were like: only the slices are checked")
    with scratch_folders() as scratch:
        refs = Finder(loaded.slices, scratch, loaded.preprocessing.channels).find(scans)
        refs = _with_covariates(refs, loaded)
        with _journal(loaded, out, resume) as journal:
            todo = [ref for ref in {ref.key: ref for ref in refs}.values() if not journal.done(ref)]
            _announce(len(refs), len(todo))
            names = _mask_names(refs, todo) if masks else []
            count = _processes(processes, device, len(todo))
            if cluster or count:
                where = Loaded(_name_of(checkpoint), backbone, device, batch_size, workers, precision)
                _check_seen(todo, cluster)
                with machines_at(cluster, count, Path(out or ".").parent / "workers") as machines:
                    _keep(predict_parts(machines, where, todo, names, masks), todo, journal, progress, loaded)
            else:
                workers = default_workers(len(todo)) if workers is None else workers
                options: dict[str, Any] = {"batch_size": batch_size, "workers": workers, "precision": precision}
                _predict(loaded, device, options, todo, names, masks, journal, progress)
        table = table_of(loaded, refs, journal.rows)
        if out is not None:
            write_table(out, table)
            if not (table["error"] != "").any():
                journal.remove()
    return table


def _with_covariates(refs: Sequence[ScanRef], loaded: Checkpoint) -> list[ScanRef]:
    """The scans of a model that reads covariates, which are new to a journal where those changed.

    Raises:
        ManifestError: columns that are missing, or texts in those of numbers.
    """
    inputs = loaded.task.inputs
    check_cells(inputs, [{"path": ref.name, **ref.columns} for ref in refs])
    by_key: dict[str, str] = {}
    for ref in refs if inputs else ():
        cells = str({c.name: ref.columns[c.name] for c in inputs if c.name in ref.columns})
        if by_key.setdefault(ref.key, cells) != cells:
            raise ManifestError(f"{ref.key}: stands twice in the table, with {by_key[ref.key]} and with {cells}")
    return [replace(ref, state=f"{ref.state} {by_key[ref.key]}") if inputs else ref for ref in refs]


def _announce(scans: int, todo: int) -> None:
    """Say how many scans were found, and how many an earlier call left."""
    left = "" if todo == scans else f", {todo} of them still to be predicted"
    log.info("%d %s%s", scans, "scan" if scans == 1 else "scans", left)


def _check_out(out: str | Path | None, resume: bool, overwrite: bool) -> None:
    """Refuse to lose a table, whole or begun, by accident."""
    if resume and (out is None or overwrite):
        raise SlivitError("--resume goes on with the table of --out; leave out --overwrite, and name the table")
    if out is None or resume or overwrite:
        return
    if journal_of(out).exists():
        raise SlivitError(f"{journal_of(out)}: holds the rows of an unfinished table; --resume or --overwrite it")
    if Path(out).exists():
        raise SlivitError(f"{out}: is there already; replace it with --overwrite, or choose another --out")


def _journal(loaded: Checkpoint, out: str | Path | None, resume: bool) -> Journal:
    """The rows that there are: of a run that was stopped, or of a whole table that gets more scans."""
    if out is None:
        return Journal(None, {}, resume=False)
    made_by = {
        "checkpoint": read_config(loaded.path)["sha256"],
        "preprocessing": loaded.preprocessing.model_dump(mode="json"),
    }
    return Journal(journal_of(out), made_by, resume=resume)


def _masks_folder(loaded: Checkpoint, out: str | Path | None) -> Path | None:
    """Where the masks of a segmentation go: beside the table of volumes; None where a model predicts none.

    Raises:
        SlivitError: there is no place for them.
    """
    if not loaded.task.dense:
        return None
    if out is None:
        raise SlivitError("the model segments: give --out TABLE.csv; masks go into the folder masks beside it")
    return Path(out).parent / MASKS


def _predict(
    loaded: Checkpoint,
    device: str,
    options: Mapping[str, Any],
    refs: Sequence[ScanRef],
    names: Sequence[str],
    masks: Path | None,
    journal: Journal,
    progress: bool,
) -> None:
    """Predict scans in this process."""
    from slivit.predict.engine import Engine
    from slivit.predict.masks import mask_rows
    from slivit.predict.parts import rows_of

    engine = Engine(loaded, device, **options)
    rows = mask_rows(engine, refs, names, masks) if masks else rows_of(engine, refs)
    _keep(rows, refs, journal, progress, loaded, engine)


def _keep(
    rows: Iterator[tuple[int, Row]],
    refs: Sequence[ScanRef],
    journal: Journal,
    progress: bool,
    loaded: Checkpoint,
    engine: Engine | None = None,
) -> None:
    """Put rows into the journal as they come, and say what they took."""
    from tqdm import tqdm

    blank = dict.fromkeys(loaded.task.prediction_columns)
    begun = time.perf_counter()
    with tqdm(total=len(refs), desc="predict", unit="scan", disable=None if progress else True, leave=False) as bar:
        failed = 0
        for index, row in rows:
            journal.add(refs[index], {**blank, **row})
            failed += bool(row["error"])
            bar.set_postfix_str(f"{failed} failed" if failed else "", refresh=False)
            bar.update()
    if refs:
        _tell_seconds(engine, len(refs), time.perf_counter() - begun)


def _mask_names(refs: Sequence[ScanRef], todo: Sequence[ScanRef]) -> list[str]:
    """The names of the masks' files of some scans; all scans have a say in them."""
    from slivit.predict.masks import case_names

    names = dict(zip((ref.key for ref in refs), case_names([ref.key for ref in refs]), strict=True))
    return [names[ref.key] for ref in todo]


def _name_of(checkpoint: str | Path | Checkpoint) -> str:
    """By what another process opens a checkpoint."""
    return str(checkpoint.path if isinstance(checkpoint, Checkpoint) else checkpoint)


def _processes(asked: int | None, device: str, scans: int) -> int:
    """How many processes predict, where no cluster does; 0 for this one alone."""
    if asked is not None:
        return asked
    gpus = len(devices()) if device == "auto" and scans >= FEW else 0
    return gpus if gpus > 1 else 0


def _check_seen(refs: Sequence[ScanRef], cluster: str) -> None:
    """Refuse scans that only this machine sees: those out of an archive, which lie in a temporary folder.

    Raises:
        SlivitError: there is one.
    """
    apart = (ref.name for ref in refs if ref.path != ref.name and not Path(ref.name.partition("#")[0]).exists())
    hidden = next(apart, "") if cluster else ""
    if hidden:
        raise SlivitError(f"{hidden}: lies in an archive, which no other machine sees into; unpack it for --cluster")


def _tell_seconds(engine: Engine | None, scans: int, seconds: float) -> None:
    """Say what the prediction took, in all and a scan."""
    if engine is None:
        log.info("%.1f s, %.2g s a scan", seconds, seconds / scans)
        return
    parts = ", ".join(f"{spent / scans:.2g} {what}" for what, spent in _named(engine))
    log.info("%.1f s, %.2g s a scan (%s); batches of up to %d", seconds, seconds / scans, parts, engine.batcher.size)


def _named(engine: Engine) -> list[tuple[str, float]]:
    names = {"waiting": "waiting for scans to be read" if engine.workers else "reading", "network": "in the network"}
    return [(names[what], spent) for what, spent in engine.seconds.items()]
