"""MONAI-ViT: a plain 3D ViT restores spoilt volumes, tells them from others, and says how they are turned.

Each sub-volume is seen twice, turned about its slices' axis and spoilt anew. Three heads read the network: one rebuilds
what was spoilt, one finds the other view, one says by how many quarters the view is turned.

Papers: Tang et al. 2022 (arXiv:2111.14791), whose three tasks these are; MONAI's tutorial of self-supervised
pre-training with a ViT, for network and corruption; a baseline of Xu et al. 2025 (3DINO, arXiv:2501.11755).
Origin: written for this project from the papers and from MONAI's documentation. Licence: Apache-2.0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from slivit.errors import ModelError
from slivit.models.monai_vit import PlainViT
from slivit.models.registry import ModelSpec, spec_of
from slivit.settings import Count, NonNegative, Percents, Shares
from slivit.ssl._corruption3d import Corruption, corrupt, rotate
from slivit.ssl._crops3d import Crops, LoadCrops
from slivit.ssl._images import feature_dim
from slivit.ssl.collapse import SPREAD, WatchCollapse, feature_spread
from slivit.ssl.dino3d import frozen_features
from slivit.ssl.losses.contrastive import nt_xent
from slivit.ssl.pretext import Pretext
from slivit.ssl.registry import register_pretext
from slivit.ssl.views import Range
from slivit.train.schedules import block_depth

Region = Literal["whole", "spoilt"]
Targets = tuple[Tensor, Tensor, Tensor]
Views = Callable[[Tensor], tuple[Tensor, Targets]]

QUARTERS = 4
INPAINTING, CONTRASTIVE, ROTATION, ACCURACY = (
    "inpainting_loss",
    "contrastive_loss",
    "rotation_loss",
    "rotation_accuracy",
)


@register_pretext
def monai_vit(
    model: nn.Module,
    *,
    crops: Count = 2,
    in_plane: Shares = (0.48, 1.0),
    through: Shares = (0.5, 1.0),
    stretch: Percents = (0.05, 99.95),
    foreground: bool = True,
    corruption: Corruption,
    inpainting_weight: NonNegative = 1.0,
    inpainted: Region = "whole",
    contrastive_weight: NonNegative = 1.0,
    temperature: Annotated[float, Field(gt=0)] = 0.5,
    projection: Count = 512,
    rotation_weight: NonNegative = 1.0,
    decoder_channels: Count = 16,
) -> Pretext:
    """MONAI-ViT's pre-training for `monai_vit`: inpainting, contrast and rotation.

    Contrast and rotation read the model's class token, or the mean of its tokens where it has none. Sub-volumes have
    the size that the model takes, 96 voxels cubed by default.

    Args:
        model: a registered `monai_vit` of cubes.
        crops: sub-volumes of a scan in an epoch, each seen twice.
        in_plane: smallest and largest area of a slice that one takes.
        through: smallest and largest part of the slices that one takes.
        stretch: percentiles of a scan that become 0 and 1.
        foreground: cut margins off that are not above the low percentile.
        corruption: settings of how a view is spoilt.
        inpainting_weight: weight of rebuilding (L1); 0 leaves the task out.
        inpainted: where it is measured, on the "whole" view or where it was "spoilt".
        contrastive_weight: weight of finding the other view (NT-Xent); 0 leaves the task out.
        temperature: of NT-Xent.
        projection: width of what it compares.
        rotation_weight: weight of telling the turn (cross-entropy of 0, 90, 180, 270 degrees); 0 leaves the task out.
        decoder_channels: between the decoder's two layers.

    Raises:
        ModelError: another kind of model, one of no cubes, or no task at all.

    Source: Tang et al. 2022, section 3.2 (tasks, heads, weights), but for the batch norm behind the contrastive head;
        MONAI's tutorial (crops, corruption, decoder).
    """
    side = _check(model)
    tasks = {INPAINTING: inpainting_weight, CONTRASTIVE: contrastive_weight, ROTATION: rotation_weight}
    weights = {name: weight for name, weight in tasks.items() if weight}
    if not weights:
        raise ModelError("monai_vit: the weights of all three tasks are 0, so there is nothing to learn")
    network = Tasks(model, list(weights), projection, decoder_channels)
    view = partial(views, spec=spec_of(model), corruption=corruption)
    names = [*weights, *[ACCURACY] * (ROTATION in weights), *[SPREAD] * (CONTRASTIVE in weights)]
    parts = dict.fromkeys(names, float("nan"))
    decodes = INPAINTING in weights
    large = Crops(size=side, count=crops, in_plane=in_plane, through=through)
    return Pretext(
        name="monai_vit",
        model=network,
        views=view,
        loss=TasksLoss(weights=weights, temperature=temperature, inpainted=inpainted, parts=parts),
        encoder=model,
        features=partial(frozen_features, model),
        load=LoadSubvolumes(_load_crops(large, stretch, foreground)),
        callbacks=[WatchCollapse(measure, parts)] if CONTRASTIVE in weights else [],
        pictures=partial(pictures, network=network, view=view, spec=spec_of(model)) if decodes else None,
        parts=parts,
        extra={"decoder": network.heads[INPAINTING]} if decodes else {},
        depth_of=block_depth(len(network.backbone.blocks)),
    )


def _check(model: nn.Module) -> int:
    """The side in voxels of the cubes that a model takes."""
    backbone, name = getattr(model, "backbone", None), getattr(getattr(model, "spec", None), "name", "the model")
    if not isinstance(backbone, PlainViT):
        raise ModelError(f"monai_vit pre-trains the model monai_vit; got {name}")
    size = spec_of(model).size
    if len(set(size)) > 1:
        raise ModelError(
            f"monai_vit pre-trains on cubes: slices and image_size of the model must be equal, got {size[0]} and "
            f"{size[1]}. A model of another shape can start from its weights: positions are interpolated."
        )
    return size[0]


def _load_crops(crops: Crops, stretch: Range, foreground: bool) -> LoadCrops:
    none = Crops(size=1, count=0, in_plane=crops.in_plane, through=crops.through)
    return LoadCrops(large=crops, small=none, stretch=stretch, foreground=foreground)


@dataclass(frozen=True)
class LoadSubvolumes:
    """An item to the sub-volumes of its scan: what a reading process does.

    Args:
        load: the crops of a scan.
    """

    load: LoadCrops

    def __call__(self, row: Mapping[str, Any]) -> Tensor:
        """A row with "path" -> (crops, 1, s, s, s) float32 from -1 to 1."""
        return self.load(row)["large"]


def views(batch: Tensor, spec: ModelSpec, corruption: Corruption) -> tuple[Tensor, Targets]:
    """Two turned and spoilt views of each sub-volume.

    Args:
        batch: (B, crops, 1, s, s, s) from -1 to 1.
        spec: of the model: how it takes values from 0 to 1.
        corruption: what spoils a view.

    Returns:
        (2 * N, 1, s, s, s) spoilt views of N = B * crops sub-volumes, the first ones of all before the second ones;
        and for each of them the turned volume, where it was spoilt (bool), and its quarter turns (2 * N,).
    """
    (mean,), (std,) = spec.mean, spec.std
    volumes = ((batch.flatten(0, 1) + 1) / 2 - mean) / std
    turns = torch.randint(QUARTERS, (2 * len(volumes),))
    turned = rotate(volumes.repeat(2, 1, 1, 1, 1), turns)
    spoilt, where = corrupt(turned, corruption)
    return spoilt, (turned, where, turns.to(batch.device))


def _projection(dim: int, out: int) -> nn.Module:
    """What the contrastive task compares.

    A head without a norm over the batch, such as the paper's, makes all projections the same within a few steps:
    spoiling makes two views differ by more than two volumes do, and a constant costs least.
    """
    return nn.Sequential(nn.Linear(dim, out, bias=False), nn.BatchNorm1d(out, affine=False))


class Tasks(nn.Module):
    """An encoder and a head for each task; the head of inpainting is ViTAutoEnc's, two transposed convolutions.

    Args:
        encoder: a registered `monai_vit`.
        tasks: those of the three that are trained.
        projection: width of what the contrastive task compares.
        channels: between the layers of the decoder.
    """

    def __init__(self, encoder: nn.Module, tasks: list[str], projection: int, channels: int) -> None:
        super().__init__()
        self.encoder = encoder
        dim, patch = feature_dim(encoder), self.backbone.patch
        first = max(n for n in range(1, math.isqrt(patch) + 1) if patch % n == 0)
        made: dict[str, nn.Module] = {
            INPAINTING: nn.Sequential(
                nn.ConvTranspose3d(dim, channels, first, first),
                nn.ConvTranspose3d(channels, 1, patch // first, patch // first),
            ),
            CONTRASTIVE: _projection(dim, projection),
            ROTATION: nn.Linear(dim, QUARTERS),
        }
        self.heads = nn.ModuleDict({name: made[name] for name in tasks})
        encoder.get_submodule("head").requires_grad_(False)

    @property
    def backbone(self) -> PlainViT:
        """The encoder's network."""
        return cast(Any, self.encoder).backbone

    def forward(self, volumes: Tensor) -> dict[str, Tensor]:
        """(N, 1, s, s, s) -> by task: (N, 1, s, s, s) rebuilt, (N, projection), (N, 4) logits of turns."""
        pooled, tokens = self.backbone.forward_both(volumes)
        return {name: head(tokens if name == INPAINTING else pooled) for name, head in self.heads.items()}


@dataclass(frozen=True, kw_only=True)
class TasksLoss:
    """The weighted sum of the tasks' losses.

    Args:
        weights: by task; those that are left out are missing.
        temperature: of NT-Xent.
        inpainted: where the rebuilt volume is compared.
        parts: where the weighted losses and the accuracy go, in validation.
    """

    weights: Mapping[str, float]
    temperature: float
    inpainted: Region
    parts: dict[str, float]

    def __call__(self, out: Mapping[str, Tensor], targets: Targets) -> Tensor:
        """Outputs of `Tasks` and targets of `views` -> a scalar.

        Source: Tang et al. 2022, equations 1 to 4.
        """
        volumes, spoilt, turns = targets
        losses = {}
        if INPAINTING in self.weights:
            error = (out[INPAINTING].float() - volumes).abs()
            losses[INPAINTING] = error.mean() if self.inpainted == "whole" else _mean(error, spoilt)
        if CONTRASTIVE in self.weights:
            first, second = out[CONTRASTIVE].chunk(2)
            losses[CONTRASTIVE] = nt_xent(first, second, self.temperature)
        if ROTATION in self.weights:
            losses[ROTATION] = F.cross_entropy(out[ROTATION].float(), turns)
        losses = {name: self.weights[name] * loss for name, loss in losses.items()}
        if not any(loss.requires_grad for loss in losses.values()):
            self.parts.update({name: float(loss) for name, loss in losses.items()})
            if ROTATION in self.weights:
                self.parts[ACCURACY] = float((out[ROTATION].argmax(1) == turns).float().mean())
        return torch.stack(list(losses.values())).sum()


def _mean(values: Tensor, where: Tensor) -> Tensor:
    return (values * where).sum() / where.sum().clamp(min=1)


def measure(out: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `WatchCollapse` looks at: the projections of the contrastive task."""
    return {SPREAD: feature_spread(out[CONTRASTIVE])}


@torch.no_grad()
def pictures(batch: Tensor, network: Tasks, view: Views, spec: ModelSpec) -> dict[str, Tensor]:
    """The middle slice of each item's first view: as it is, spoilt, and rebuilt; (B, s, s) from 0 to 1."""
    spoilt, (volumes, _, _) = view(batch[:, :1])
    rebuilt = network(spoilt)[INPAINTING].float()
    (mean,), (std,) = spec.mean, spec.std
    named = {"original": volumes, "spoilt": spoilt, "rebuilt": rebuilt}
    middle = volumes.shape[2] // 2
    return {name: (x[: len(batch), 0, middle] * std + mean).clamp(0, 1) for name, x in named.items()}
