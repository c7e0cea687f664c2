"""Frozen features: what pre-trained networks make of every scan, for linear models and forests of the leaderboard.

Where labels are few this is what training has to beat. A network is named by a run of one's own, by the name of a
published one (`slivit list weights`), or as NAME=FILE.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from slivit.errors import CheckpointError, nearest
from slivit.experiments.study_schedule import spoken_time
from slivit.files import whole_file
from slivit.settings import Section

if TYPE_CHECKING:
    from slivit.models._frozen import FrozenNetwork

log = logging.getLogger(__name__)
Array = npt.NDArray[Any]
FOLDER, BATCH = "features", 4
FOR_FROZEN = 0.25
"""Of the time, for the features of all frozen networks."""
VIEWS = ((3, 24, 224), (3, 24, 112), (3, 12, 112), (1, 4, 112))
"""Planes, slices of all of them, and pixels a side of networks of slices, the dearest first."""


class Frozen(Section):
    """A pre-trained network whose features are read.

    Args:
        name: of its rows in the leaderboard.
        model: a registered model.
        args: of the model.
        planes: from how many sides a network of slices sees a volume.
        weights: a folder, a file or a published name.
        licence: of the weights, where they are published.
        why: what it is, and how long it was thought to take.
    """

    name: str = Field(pattern=r"^[\w.-]+$")
    model: str
    args: dict[str, Any] = Field(default_factory=dict)
    planes: int = 1
    weights: str
    licence: str = ""
    why: str = ""

    @property
    def feature(self) -> str:
        """What baselines call its features."""
        return f"frozen {self.name}"


def plan_frozen(weights: Sequence[str], volume: bool, scans: int, seconds: float) -> tuple[list[Frozen], list[str]]:
    """Describe the networks that weights are for, and look at scans as closely as the time allows.

    Args:
        weights: see the module.
        volume: whether scans have several slices.
        scans: of which features are made.
        seconds: that all of it may take.

    Returns:
        The networks, and sentences that say which were left out.

    Raises:
        CheckpointError: weights that are not there or tell no network; it says what to fetch and where to put it.
    """
    if not weights:
        return [], [at_hand()]
    networks, reasons, each = [], [], FOR_FROZEN * seconds / len(weights)
    for where in weights:
        tried = list(_described(where, volume))
        for number, frozen in enumerate(tried):
            taken = scans * seconds_each(frozen)
            if taken <= each:
                why = f"{frozen.why}; about {spoken_time(taken)} for the features of all scans"
                networks.append(frozen.model_copy(update={"why": why}))
                break
            if number == len(tried) - 1:
                reasons.append(f"{frozen.name} is left out: features of all scans take {spoken_time(taken)}")
    return networks, reasons


def at_hand() -> str:
    """Which published weights are on this machine, or how to get some."""
    from slivit.models._starts import fetched, starts

    here = [name for name, start in starts().items() if fetched(start)]
    if here:
        return f"no frozen features: --weights {here[0]} would read them ({', '.join(here)} on this machine)"
    return (
        "no frozen features: no published weights are on this machine; the first thing to try where labels are few: "
        "slivit weights get dinov2-small, then --weights dinov2-small"
    )


def _described(where: str, volume: bool) -> Iterator[Frozen]:
    """A network in its sizes, the dearest first."""
    from slivit.models._starts import find_start, locate, starts

    name, _, file = where.partition("=")
    if name in starts() and not Path(where).exists():
        start = find_start(name)
        path = Path(file) if file else locate(name)
        if not path.exists():
            raise CheckpointError(f"--weights {where}: there is no file {file}")
        options: dict[str, Any] = {"name": name, "model": start.model, "licence": start.terms, "why": start.title}
        for planes, args in _sizes(start.model, volume):
            given = file or name
            yield Frozen(**options, args={**start.args, **args}, planes=planes, weights=given)
        return
    model, args = _of_run(where)
    folder = Path(where).absolute()
    yield Frozen(name=_plain(folder.name), model=model, args=args, weights=str(folder), why=f"{model} of {folder.name}")


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name)


def _of_run(where: str) -> tuple[str, dict[str, Any]]:
    """The network of a run or checkpoint."""
    from slivit.checkpoint import CONFIG, read_config
    from slivit.folder import CHECKPOINT
    from slivit.models._starts import starts

    place = next((p for p in (Path(where) / CHECKPOINT, Path(where)) if (p / CONFIG).is_file()), None)
    if place is None:
        raise CheckpointError(
            f"--weights {where}: is no folder of a run of yours, and no published network.{nearest(where, starts())} "
            "slivit list weights shows those; a file of the weights of one is NAME=FILE, such as "
            "dinov3-small=/data/model.safetensors"
        )
    described = read_config(place)["model"]
    args = {key: value for key, value in described["args"].items() if key != "pretrained"}
    return described["name"], args


def _sizes(model: str, volume: bool) -> Iterator[tuple[int, dict[str, Any]]]:
    """(planes, arguments) of a published network: of slices in several sizes, of volumes in its own alone."""
    from slivit.models.registry import takes_argument

    if model not in ("slice_vit", "slice_swin"):
        yield 1, ({"pretrained": False} if takes_argument(model, "pretrained") else {})
        return
    for planes, slices, side in VIEWS:
        if volume or planes == 1:
            yield planes, {"slices": slices if volume else 1, "image_size": side if volume else 224}


def seconds_each(frozen: Frozen) -> float:
    """How long a scan takes, by the clock: the faster of two passes of the network at random."""
    import torch

    from slivit.models._frozen import FrozenNetwork

    network = FrozenNetwork(frozen.model, frozen.args, frozen.planes)
    x, taken = torch.rand(1, 1, 8, 64, 64), []
    for _ in range(2):
        start = time.monotonic()
        with torch.inference_mode():
            network(x)
        taken.append(time.monotonic() - start)
    return min(taken)


def load_frozen(frozen: Frozen) -> FrozenNetwork:
    """The network with its weights.

    Raises:
        CheckpointError: weights that are not there, or that do not fit.
    """
    from slivit.models._frozen import FrozenNetwork
    from slivit.models._weights import load_backbone

    network = FrozenNetwork(frozen.model, frozen.args, frozen.planes)
    load_backbone(network.network, frozen.weights)
    return network


def frozen_features(chosen: Sequence[Frozen], stacks: Sequence[Array], folder: Path) -> Mapping[str, Array]:
    """(n, k) float32 features by name; those that were made before are read.

    Args:
        chosen: the networks.
        stacks: (S, H, W) or (C, S, H, W) uint8 of every scan.
        folder: of the run.
    """
    return {frozen.feature: _kept(frozen, stacks, folder / FOLDER / f"{frozen.name}.npy") for frozen in chosen}


def _kept(frozen: Frozen, stacks: Sequence[Array], file: Path) -> Array:
    import torch
    from tqdm import tqdm

    from slivit.models._table_features import table_features

    if file.is_file():
        return np.asarray(np.load(file))
    network, parts = load_frozen(frozen), []
    for first in tqdm(range(0, len(stacks), BATCH), f"features of {frozen.name}", disable=None):
        some = np.stack(stacks[first : first + BATCH])
        x = torch.from_numpy(some.reshape(len(some), -1, *some.shape[-3:])).float() / 255
        with torch.inference_mode():
            parts.append(table_features(x, [frozen.feature], frozen={frozen.feature: network})[frozen.feature].numpy())
    file.parent.mkdir(exist_ok=True)
    with whole_file(file) as partial, partial.open("wb") as out:
        np.save(out, np.concatenate(parts))
    return np.concatenate(parts)
