"""Prediction: a checkpoint and new scans in, a table out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from slivit.checkpoint import load_checkpoint
from slivit.errors import ReadError
from slivit.files import whole_file

if TYPE_CHECKING:
    import pandas as pd


def run(
    checkpoint: str | Path,
    scans: Sequence[str],
    out: str | Path | None = None,
    *,
    device: str = "auto",
    batch_size: int = 8,
    workers: int = 0,
) -> pd.DataFrame:
    """Predict scans; one that cannot be read is recorded and does not stop the others.

    Args:
        checkpoint: a run or checkpoint folder.
        scans: files or folders, in any format that `read_volume` takes.
        out: where the table is written as CSV, if anywhere.
        device: "auto", "cpu", "cuda", ...
        batch_size: scans a batch.
        workers: processes that read scans.

    Returns:
        One row a scan: `path`, `prob_*` or `pred_*`, `call_*` where the checkpoint holds an operating point, `notes`,
        and `error` ("" where all is well).

    Raises:
        ReadError: not one of the scans could be read.
    """
    from slivit.predict import predict_table

    loaded = load_checkpoint(checkpoint)
    table = predict_table(
        loaded.model,
        [{"path": scan} for scan in scans],
        loaded.task,
        loaded.preprocessing,
        device=device,
        batch_size=batch_size,
        workers=workers,
        on_error="record",
        progress=True,
    )
    if loaded.operating_point:
        table = loaded.operating_point.apply(table, loaded.task)
    if (table["error"] != "").all():
        raise ReadError("no scan could be read:\n" + "\n".join(f"  - {e}" for e in table["error"]))
    if out is not None:
        with whole_file(out) as partial:
            table.to_csv(partial, index=False)
    return table
