"""Open a model that somebody shared: from a folder or the hub, checked, and without running its code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from slivit.checkpoint import CONFIG, WEIGHTS, Checkpoint, load_checkpoint
from slivit.errors import CheckpointError, one_of
from slivit.predict.sums import SUMS, check_sums

FILES = (WEIGHTS, "*.json", "*.md", "*.npz", "*.py", SUMS, "LICENSE*")
"""What is fetched from the hub; nothing else of a repository is."""

HUB = "hub:"
"""What stands before the name of a model on the hub: nothing else is looked for there."""
_HUB_NAME = re.compile(r"^[\w.-]+/[\w.-]+$")
_OTHER = {"model.onnx": "ONNX", "model.pt2": "torch.export"}
_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt")


def open_checkpoint(
    where: str | Path,
    *,
    revision: str | None = None,
    fingerprint: str | None = None,
    device: str = "cpu",
    backbone: str | Path | Checkpoint = "",
    **hub: Any,
) -> Checkpoint:
    """Open a run, a checkpoint, an export, or a model on the hub.

    Args:
        where: a folder, or hub:OWNER/NAME for a model on the hub. A path without a folder is an error, and is never
            looked for on the hub.
        revision: branch, tag or commit, of a model on the hub.
        fingerprint: see `slivit.predict.sums.check_sums`.
        device: where the weights go.
        backbone: of a model that holds adapters alone; see `slivit.load_checkpoint`.
        **hub: further options of `huggingface_hub.snapshot_download`, such as `cache_dir` or `token`.

    Raises:
        CheckpointError: no model there, one that was changed, or a format that is not opened here.
    """
    folder = Path(where)
    if str(where).startswith(HUB):
        folder = fetch(str(where).removeprefix(HUB), revision, **hub)
    elif not folder.exists():
        also = f"; a model on Hugging Face's hub is {HUB}{where}" if _HUB_NAME.match(str(where)) else ""
        raise CheckpointError(f"{where}: there is no such folder{also}")
    elif revision:
        raise CheckpointError(f"{where}: is a folder; revision={revision!r} is of a model on the hub")
    _check_kind(folder)
    check_sums(folder, fingerprint)
    return load_checkpoint(folder, device=device, backbone=backbone)


def fetch(name: str, revision: str | None = None, **hub: Any) -> Path:
    """Fetch a model from the hub, or from this machine's copy where HF_HUB_OFFLINE=1 says so; returns its folder.

    Raises:
        CheckpointError: no such model, or no network.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(FILES), **hub))
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError, ValueError) as error:
        at = f" at {revision}" if revision else ""
        raise CheckpointError(
            f"{HUB}{name}: Hugging Face's hub gives no model of that name{at} "
            f"({str(error).splitlines()[0]}). Where there is no network, give the path of a folder."
        ) from error


def _check_kind(folder: Path) -> None:
    """Say what to do with a model of another kind; pickles are never opened."""
    if folder.suffix.casefold() in _PICKLES or (any(folder.glob("*.pkl")) and not (folder / WEIGHTS).is_file()):
        raise CheckpointError(
            f"{folder}: opening a pickled model could run foreign code, so it is not done. Ask for a folder made by "
            "`slivit export`; fastai's learn.export() is not read."
        )
    for name, kind in _OTHER.items():
        if (folder / name).is_file() and not (folder / WEIGHTS).is_file():
            raise CheckpointError(
                f"{folder}: is a model for {kind}, which runs without slivit: see its README.md and predict.py. "
                f"slivit itself opens exports of the format safetensors ({one_of((WEIGHTS, CONFIG))})."
            )
