"""Explanation: a checkpoint and a scan in; slice scores, a contact sheet and overlays out."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slivit.explanation import TITLES, explain
from slivit.explanation.outputs import check_folder
from slivit.explanation.sheet import prediction_text

if TYPE_CHECKING:
    from slivit.explanation import Explanation
    from slivit.explanation.occlusion import Fill, Progress

log = logging.getLogger(__name__)


def run(
    checkpoint: str | Path,
    scan: str | Path,
    out: str | Path,
    *,
    target: str | None = None,
    methods: Sequence[str] | None = None,
    fill: Fill = "mean",
    device: str = "auto",
    batch_size: int = 8,
    overwrite: bool = False,
    progress: Progress | None = None,
    covariates: Mapping[str, Any] | None = None,
) -> Explanation:
    """Explain the prediction of one scan, and write it down.

    Args:
        checkpoint: a run or checkpoint folder.
        scan: a file or folder, in any format that `read_volume` takes.
        out: the folder to write to.
        target: the output to explain; the most likely one where None.
        methods: of "occlusion", "rollout" and "gradcam"; all that are defined for the model where None.
        fill: by what occlusion replaces a slice.
        device: "auto", "cpu", "cuda", ...
        batch_size: scans that occlusion predicts at a time.
        overwrite: replace an earlier explanation in the same folder.
        progress: is called with how many of how many predictions are done.
        covariates: of a model that reads such, by column.
    """
    check_folder(Path(out), overwrite)
    options = {"target": target, "methods": methods, "fill": fill, "device": device, "batch_size": batch_size}
    result = explain(checkpoint, scan, **options, progress=progress, covariates=covariates)  # type: ignore[arg-type]
    for note in result.scan.notes:
        log.warning("%s", note)
    log.info("%s", prediction_text(result))
    for method in result.attributions:
        log.info("%s: slices %s", TITLES[method], ", ".join(str(n) for n in result.ranking(method)[:3]))
    for why in result.skipped.values():
        log.info("left out: %s", why)
    result.save(out, overwrite=overwrite)
    return result
