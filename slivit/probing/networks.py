"""The frozen network that a probe or a picture is of: from a checkpoint, from published weights, or at random."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from slivit.checkpoint import Checkpoint, checkpoint_folder, load_encoder, read_config
from slivit.checkpoint.lineage import describe_start
from slivit.data.preprocessing import Preprocessing
from slivit.data.stacking import settings_for
from slivit.models.recipe import Model
from slivit.models.registry import spec_of
from slivit.probing.recipe import NetworkRecipe
from slivit.targets.task import Task

if TYPE_CHECKING:
    from torch import nn


def load_network(recipe: NetworkRecipe, channels: tuple[str, ...] = ()) -> Checkpoint:
    """Load a network, given by a checkpoint or by its name.

    Args:
        recipe: of a checkpoint that is to be at random, only the architecture is taken; what the recipe says of the
            preprocessing goes before what the checkpoint says.
        channels: of the scans that it will see; those of the checkpoint where empty.

    Returns:
        The network, with its size in its preprocessing, and in `origin` where its weights come from.

    Raises:
        CheckpointError: no such weights, or weights that do not fit.
        ModelError: no such model.
    """
    given, seed = recipe.preprocessing, recipe.seed
    if recipe.model:
        origin = {"random_init": True, "seed": seed} if recipe.random_init else _start(recipe.model)
        created = _created(recipe.model.name, recipe.model.args_for(given.planes), seed, recipe.model.weights)
        return _network(created, given, channels, origin)
    folder = checkpoint_folder(recipe.checkpoint)
    config = read_config(folder)
    settings = Preprocessing(**config["preprocessing"])
    settings = settings.model_copy(update={name: getattr(given, name) for name in given.model_fields_set})
    task = Task(**config["task"]) if config["task"] else None
    if recipe.random_init:
        args = {key: value for key, value in config["model"]["args"].items() if key != "pretrained"}
        created = _created(config["model"]["name"], args, seed)
        return _network(created, settings, channels, {"random_init": True, "seed": seed}, task)
    return _network(load_encoder(folder).model, settings, channels, describe_start(str(folder)), task)


def _start(model: Model) -> dict[str, Any]:
    return describe_start(model.weights) if model.weights else {"pretrained": str(model.args["pretrained"])}


def _created(name: str, args: Mapping[str, Any], seed: int, weights: str = "") -> nn.Module:
    import torch

    from slivit.models._weights import load_backbone
    from slivit.models.registry import check_output, create_model

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = create_model(name, 1, **args)
    check_output(model, "vector")
    if weights:
        load_backbone(model, weights)
    return model.eval()


def _network(
    model: nn.Module,
    settings: Preprocessing,
    channels: tuple[str, ...],
    origin: Mapping[str, Any],
    task: Task | None = None,
) -> Checkpoint:
    spec = spec_of(model)
    described = {"model": spec.name, "args": {k: v for k, v in spec.args.items() if k != "pretrained"}, **origin}
    return Checkpoint(model, task, settings_for(settings, spec, channels or settings.channels), origin=described)
