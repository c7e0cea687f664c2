"""A shared model as an object: predict with it, save it, push it to Hugging Face's hub and fetch it from there."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from huggingface_hub import ModelHubMixin

from slivit.checkpoint import Checkpoint
from slivit.data.preprocessing import Preprocessing
from slivit.predict.command import run
from slivit.predict.opening import open_checkpoint
from slivit.settings import Precision
from slivit.sharing.export import Options, export
from slivit.sharing.notes import CardNotes
from slivit.targets.decision import Decision
from slivit.targets.task import Task

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

Scans = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
METRICS = "metrics.json"


class SharedModel(ModelHubMixin, library_name="slivit", tags=["medical-imaging", "slivit"]):
    """A trained model with all that a prediction needs.

    Args:
        checkpoint: what `slivit.load_checkpoint` returns.

    Example:
        >>> model = slivit.from_pretrained("runs/mine")  # doctest: +SKIP
        >>> model.predict("new_scan.nii.gz")  # doctest: +SKIP
        >>> model.push_to_hub("somebody/drusen")  # doctest: +SKIP
    """

    _hub_mixin_config: Any = {}  # noqa: RUF012 (set, so that the mixin does not take the checkpoint apart)

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.notes = CardNotes()

    def __repr__(self) -> str:
        size = " x ".join(str(n) for n in self.preprocessing.size or ())
        return f"SharedModel({self.task.kind}: {', '.join(self.task.targets)}; {size}; {self.checkpoint.path})"

    @property
    def model(self) -> nn.Module:
        """The network, in evaluation mode."""
        return self.checkpoint.model

    @property
    def task(self) -> Task:
        """What it predicts."""
        return self.checkpoint.task

    @property
    def preprocessing(self) -> Preprocessing:
        """How scans are brought into its input."""
        return self.checkpoint.preprocessing

    @property
    def operating_point(self) -> Decision | None:
        """How its probabilities become calls, where that was fixed."""
        return self.checkpoint.operating_point

    def predict(
        self,
        scans: Scans,
        *,
        device: str = "auto",
        batch_size: int = 0,
        workers: int = 0,
        precision: Precision = "auto",
    ) -> pd.DataFrame:
        """Predict scans.

        Args:
            scans: a file, folder, zip archive or manifest, or several.
            device: "auto", "cpu", "cuda", ...
            batch_size: scans a batch; 0 finds out.
            workers: processes that read scans.
            precision: in which the network computes; "auto" takes the fastest that the device has.

        Returns:
            One row a scan, as `slivit predict` writes it; a scan that cannot be read has the reason in `error`.

        Raises:
            SlivitError: nothing there.
        """
        given = [scans] if isinstance(scans, str | os.PathLike) else list(scans)
        options: dict[str, Any] = {"device": device, "batch_size": batch_size, "workers": workers}
        paths = [os.fspath(scan) for scan in given]
        return run(self.checkpoint, paths, precision=precision, progress=False, **options)

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write what `slivit export` writes, in the format safetensors; called by the mixin."""
        metrics = run_metrics(self.checkpoint.path)
        export(self.checkpoint, save_directory, Options(notes=self.notes), metrics)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **options: Any) -> Self:
        """Open a model as the function `slivit.from_pretrained` does: the mixin's own would go online for any name."""
        return cls(open_checkpoint(os.fspath(pretrained_model_name_or_path), **options))


def from_pretrained(
    where: str | os.PathLike[str],
    *,
    revision: str | None = None,
    fingerprint: str | None = None,
    device: str = "cpu",
    **hub: Any,
) -> SharedModel:
    """Open a shared model: a run, a checkpoint, an export of the format safetensors, or a model on the hub.

    Nothing of it is run: weights are safetensors, the rest is JSON, and its files must be those that its checksums
    name. With HF_HUB_OFFLINE=1 only models that were fetched before are found.

    Args:
        where: a folder, or hub:OWNER/NAME for a model on Hugging Face's hub; a path without a folder is an error.
        revision: branch, tag or commit, of a model on the hub. Name a commit to get the same model for ever.
        fingerprint: the SHA-256 of its `SHA256SUMS`, as `slivit export` showed it to its maker.
        device: where the weights go.
        **hub: `backbone`, of a model that holds adapters alone (see `slivit.load_checkpoint`), and options of
            `huggingface_hub.snapshot_download`, such as `cache_dir`, `token` or `local_files_only`.

    Raises:
        CheckpointError: no model there, one that was changed, or a format that is not opened here.

    Example:
        >>> model = slivit.from_pretrained("my_export/")  # doctest: +SKIP
    """
    options: dict[str, Any] = {"revision": revision, "fingerprint": fingerprint, "device": device}
    return SharedModel(open_checkpoint(os.fspath(where), **options, **hub))


def run_metrics(checkpoint: Path) -> dict[str, Any] | None:
    """The `metrics.json` beside a checkpoint folder; None where there is none that can be read.

    Args:
        checkpoint: the checkpoint folder of a run.
    """
    try:
        metrics = json.loads((checkpoint.resolve().parent / METRICS).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return metrics if isinstance(metrics, dict) and metrics.get("schema") == "slivit.metrics" else None
