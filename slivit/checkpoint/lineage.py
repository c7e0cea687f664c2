"""Where a checkpoint comes from: the chain of runs behind its weights."""

from __future__ import annotations

import operator
from pathlib import Path
from typing import Any

from slivit.checkpoint import WEIGHTS, checkpoint_folder, file_checksum, read_config
from slivit.errors import CheckpointError, RecipeError
from slivit.models._starts import fetched, starts
from slivit.models.recipe import Model
from slivit.models.registry import argument_defaults, list_models


def started_from(model: Model) -> dict[str, Any]:
    """Describe what a recipe's network starts from, under the key "started_from"; nothing where that is chance.

    Args:
        model: the recipe's section; its `weights` come before what its network's own `pretrained` names.
    """
    named = model.weights or model.args.get("pretrained", "")
    if named is True:
        return {"started_from": {"file": f"published weights of {model.args.get('backbone', model.name)}"}}
    return {"started_from": describe_start(str(named))} if named else {}


def check_start(model: Model) -> None:
    """Check that the network of a recipe has the backbone of the run that it starts from; nothing heavy is loaded.

    Raises:
        RecipeError: a larger stride, whose later layers it lacks, or another patch; both are named, and the way out.
    """
    try:
        described = read_config(checkpoint_folder(Path(model.weights)))["model"] if model.weights else None
    except CheckpointError:
        return  # other weights, which loading itself checks
    if described is None or described["name"] not in list_models():
        return
    own, theirs = argument_defaults(model.name) | model.args, argument_defaults(described["name"]) | described["args"]
    for key, misfits in (("stride", operator.gt), ("patch_size", operator.ne)):
        if key in own and key in theirs and misfits(own[key], theirs[key]):
            raise RecipeError(
                f"model.weights: {model.weights} was trained with {key}={theirs[key]}, and this recipe has model.{key}="
                f"{own[key]}: its layers do not fit; set model.{key}={theirs[key]}"
            )


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
