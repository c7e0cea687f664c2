"""Where a checkpoint comes from: the chain of runs behind its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slivit.checkpoint import WEIGHTS, checkpoint_folder, file_checksum, read_config
from slivit.errors import CheckpointError
from slivit.models._starts import fetched, starts
from slivit.models.recipe import Model


def started_from(model: Model) -> dict[str, Any]:
    """Describe what a recipe's network starts from, under the key "started_from"; nothing where that is chance.

    Args:
        model: the recipe's section; its `weights` come before what its network's own `pretrained` names.
    """
    named = model.weights or model.args.get("pretrained", "")
    if named is True:
        return {"started_from": {"file": f"published weights of {model.args.get('backbone', model.name)}"}}
    return {"started_from": describe_start(str(named))} if named else {}


def describe_start(weights: str) -> dict[str, Any]:
    """Describe the weights that a run started from, and what those started from in turn.

    Args:
        weights: a run or checkpoint folder of this package, any other weight file, or an identifier of published ones.
    """
    file = Path(weights)
    if weights in starts() and not file.exists():
        start = starts()[weights]
        kept = fetched(start)
        described = {"file": start.name, "revision": start.revision, "licence": start.licence}
        return described | ({"sha256": file_checksum(kept)} if kept else {})
    try:
        config = read_config(checkpoint_folder(file.parent if file.name == WEIGHTS else file))
    except CheckpointError:
        return {"file": file.name} | ({"sha256": file_checksum(file)} if file.is_file() else {})
    training = config["training"]
    described = {"folder": str(weights), "sha256": config["sha256"], "model": config["model"]["name"]}
    described |= {key: training[key] for key in ("stage", "method", "source", "scans") if key in training}
    return described | ({"started_from": training["started_from"]} if "started_from" in training else {})
