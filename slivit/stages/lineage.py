"""Where a checkpoint comes from: the chain of runs behind its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slivit.checkpoint import checkpoint_folder, read_config
from slivit.errors import CheckpointError


def describe_start(weights: str) -> dict[str, Any]:
    """Describe the weights that a run started from, and what those started from in turn.

    Args:
        weights: a run or checkpoint folder of this package, or any other weight file.
    """
    try:
        config = read_config(checkpoint_folder(weights))
    except CheckpointError:
        return {"file": str(Path(weights).name)}
    training = config["training"]
    described = {"folder": str(weights), "sha256": config["sha256"], "model": config["model"]["name"]}
    described |= {key: training[key] for key in ("stage", "source", "scans") if key in training}
    return described | ({"started_from": training["started_from"]} if "started_from" in training else {})
