"""Checkpoints of adapters: without the weights of the backbone, which are found again and known by their digest."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slivit.errors import CheckpointError
from slivit.models._lora import backbone_digest, is_adapter, is_frozen
from slivit.models._starts import FOLDER, fetched, starts

if TYPE_CHECKING:
    from torch import Tensor, nn

    from slivit.checkpoint import Checkpoint


def described_adapter(model: nn.Module) -> dict[str, Any]:
    """What a `config.json` says of a model's adapters, under the key "adapter"."""
    lora, start = model.low_rank  # type: ignore[misc]
    rules = getattr(model, "backbone_info", None)
    name = getattr(rules, "architecture", type(model.get_submodule("backbone")).__name__)
    revision = starts()[start].revision if start in starts() else ""
    described = {"revision": revision, "lora": lora.model_dump(mode="json"), "backbone": name, "start": start}
    return {"adapter": described | {"sha256": backbone_digest(model)}}


def is_stored(config: Mapping[str, Any]) -> Callable[[str], bool]:
    """Whether the file of a checkpoint holds a tensor of its network, by the tensor's name."""
    return (lambda name: not is_frozen(name)) if config.get("adapter") else bool


def frozen_state(
    model: nn.Module, config: Mapping[str, Any], folder: Path, given: str | Path | Checkpoint
) -> dict[str, Tensor]:
    """The weights of the backbone that adapters are for, by their names in the model.

    Args:
        model: the network, with adapters; without adapters nothing is looked for.
        config: of the checkpoint.
        folder: of the checkpoint, for messages.
        given: where the user says that the backbone is, if anywhere.

    Raises:
        CheckpointError: no such backbone, or another one.
    """
    from slivit.checkpoint import Checkpoint

    adapter = config.get("adapter")
    if not adapter:
        if given:
            raise CheckpointError(f"{folder}: holds its whole network, no adapters; leave out backbone (--backbone)")
        return {}
    where = f"{given.path}" if isinstance(given, Checkpoint) else str(given or adapter["start"])
    if isinstance(given, Checkpoint):
        source = given.model
    else:
        source = model
        _load(model, adapter, folder, str(given))
    if (digest := backbone_digest(source)) != adapter["sha256"]:
        raise CheckpointError(
            f"{folder}: its adapters are for {adapter['backbone']} with the digest {adapter['sha256'][:16]}..., and "
            f"{where} has {digest[:16]}...: another backbone, or other weights of it. Give the one that they were "
            "trained on (--backbone)"
        )
    return {f"backbone.{n}": t for n, t in source.get_submodule("backbone").state_dict().items() if not is_adapter(n)}


def _load(model: nn.Module, adapter: Mapping[str, Any], folder: Path, given: str) -> None:
    """Load the backbone of an adapted model from the first place that has it."""
    from slivit.models._weights import load_backbone

    for place in [given] if given else _places(adapter["start"]):
        load_backbone(model, place)
        return
    raise CheckpointError(
        f"{folder}: holds adapters and a head alone. Give the backbone that they are for, {adapter['backbone']} "
        f'("{adapter["start"]}" where they were trained): --backbone PATH, or put it into the folder that {FOLDER} '
        "names"
    )


def _places(start: str) -> Iterator[str]:
    """Where a backbone may lie that a checkpoint names; nothing is fetched because a checkpoint says so."""
    if start in starts() and (kept := fetched(starts()[start])):
        yield str(kept)
    for place in (Path(start), Path(os.environ.get(FOLDER, "")) / Path(start).name if os.environ.get(FOLDER) else None):
        if start and place is not None and place.exists():
            yield str(place)
