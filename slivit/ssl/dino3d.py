"""3DINO: a 3D vision transformer that learns from whole volumes without labels, by distilling itself.

The student sees two large crops, parts of them masked, and small ones; the teacher, a running average of the student,
sees the large ones whole. The student is to say of a volume, and of its masked patches, what the teacher says.

Paper: Xu et al., A generalizable 3D framework and model for self-supervised learning in medical imaging, npj Digital
Medicine 2025 (arXiv:2501.11755), after DINOv2 (Oquab et al. 2023, arXiv:2304.07193).
Origin: written for this project from the papers. Licence: Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from slivit.data.blocks import to_input
from slivit.errors import ModelError
from slivit.models._dino3d_vit import PATCH, VisionTransformer3d
from slivit.models._weights import load_strictly, read_weights
from slivit.models.registry import spec_of
from slivit.settings import Count, NonNegative, Percents, Share, Shares
from slivit.ssl._crops3d import Crops, LoadCrops, collate_crops
from slivit.ssl._dino3d_model import LARGE, Branch, Dino3dLoss, Dino3dPair
from slivit.ssl._images import frozen, image_features
from slivit.ssl._intensity3d import Intensities, MonaiChanges, change_batch
from slivit.ssl.collapse import ENTROPY, EVENNESS, SPREAD
from slivit.ssl.pretext import Pretext
from slivit.ssl.registry import register_pretext
from slivit.ssl.teacher import Centring, Distilling, copy_teacher
from slivit.train.schedules import block_depth

HEADS = ("dino_head", "ibot_head")


@dataclass(frozen=True, kw_only=True)
class CropSettings:
    """The crops of a volume, and their masks.

    Args:
        large_size: side in voxels of the two global crops, a multiple of 16.
        large_in_plane: smallest and largest area of a slice that they take.
        large_through: smallest and largest part of the slices that they take.
        small_size: side in voxels of the local crops, a multiple of 16.
        small_crops: local crops a volume.
        small_in_plane: as `large_in_plane`.
        small_through: as `large_through`.
        stretch: percentiles of a scan that become -1 and 1.
        foreground: cut margins off that are not above the low percentile.
        mask_ratio: smallest and largest part of a global crop's patches that are masked.
        mask_share: part of the global crops that are masked at all.
    """

    large_size: Count = 96
    large_in_plane: Shares = (0.48, 1.0)
    large_through: Shares = (0.5, 1.0)
    small_size: Count = 48
    small_crops: Annotated[int, Field(ge=0)] = 8
    small_in_plane: Shares = (0.16, 0.48)
    small_through: Shares = (0.2, 0.5)
    stretch: Percents = (0.05, 99.95)
    foreground: bool = True
    mask_ratio: Shares = (0.2, 0.75)
    mask_share: Share = 0.5

    def load(self, change: Callable[[Tensor], Tensor] | None) -> LoadCrops:
        """What a reading process does; `change` is made of each crop."""
        large, small = (self.large_in_plane, self.large_through), (self.small_in_plane, self.small_through)
        return LoadCrops(
            large=Crops(size=self.large_size, count=LARGE, in_plane=large[0], through=large[1]),
            small=Crops(size=self.small_size, count=self.small_crops, in_plane=small[0], through=small[1]),
            stretch=self.stretch,
            foreground=self.foreground,
            change=change,
        )


@dataclass(frozen=True, kw_only=True)
class Distilling3d(Distilling):
    """As `Distilling`, with a second head, for patches.

    Args:
        patch_prototypes: outputs of the second head.
    """

    patch_prototypes: Count = 65_536
    centring: Centring = "sinkhorn"
    momentum: tuple[Share, Share] = (0.992, 1.0)


@register_pretext
def dino3d(
    model: nn.Module,
    *,
    crops: CropSettings,
    augmentation: Literal["batch", "monai", "none"] = "batch",
    changes: Intensities,
    distilling: Distilling3d,
    heads: str = "",
    keep_heads: bool = True,
    ibot_weight: NonNegative = 1.0,
    koleo_weight: NonNegative = 0.1,
) -> Pretext:
    """3DINO's pre-training for `dino3d_vit_small`, `_base` and `_large`; the teacher's backbone is kept.

    Args:
        model: a registered 3DINO-ViT of one channel with `mask_token = true`.
        crops: settings of the crops and their masks.
        augmentation: "batch" changes crops on the device, many at a time; "monai" one by one in the reading
            processes, by MONAI's transforms (extra `baselines`); "none" neither changes nor mirrors them.
        changes: settings of these changes.
        distilling: settings of heads, teacher and student.
        heads: a checkpoint folder of this method, whose heads to start from; random where empty.
        keep_heads: keep the teacher's heads beside the backbone, for a further stage.
        ibot_weight: weight of the loss on masked patches; 0 switches it off.
        koleo_weight: weight of KoLeo; 0 switches it off.

    Raises:
        ModelError: another kind of model, or sizes that do not fit.
        CheckpointError: heads that cannot be had, or that do not fit.

    Source: Xu et al. 2025, Methods; sizes of crops and strengths of intensities as in the released code, which also
        blurs and sharpens crops and turns them by quarters (`smooth`, `sharpen`, `turn`, in MONAI's default strengths),
        and has Gibbs ringing in one of the large ones alone. Its gradients are clipped network by network, as here.
    """
    backbone = _check(model, crops.large_size, crops.small_size)
    prototypes = distilling.prototypes, distilling.patch_prototypes
    student = Branch(backbone, *(distilling.head(backbone.dim, count) for count in prototypes))
    if heads:
        load_heads(student, heads)
    pair = Dino3dPair(student, prototypes, distilling.centring)
    encoder = copy_teacher(model).eval()  # its backbone is the teacher's, and stays in evaluation
    encoder.backbone = pair.teacher.backbone

    names = ("dino_loss", *["ibot_loss"] * bool(ibot_weight), *["koleo_loss"] * bool(koleo_weight))
    parts = dict.fromkeys((*names, SPREAD, ENTROPY, EVENNESS), float("nan"))
    targets, own_heads = (pair.dino_targets, pair.ibot_targets), (student.dino_head, student.ibot_head)
    return Pretext(
        name="dino3d",
        model=pair,
        views=partial(views, changes=changes if augmentation == "batch" else None),
        loss=Dino3dLoss(temperature=distilling.student_temperature, ibot=ibot_weight, koleo=koleo_weight, parts=parts),
        encoder=encoder,
        features=partial(frozen_features, encoder),
        load=crops.load(MonaiChanges(changes) if augmentation == "monai" else None),
        collate=partial(collate_crops, ratio=crops.mask_ratio, share=crops.mask_share if ibot_weight else 0.0),
        callbacks=distilling.callbacks(pair, targets, own_heads, parts),
        parts=parts,
        extra={name: pair.teacher.get_submodule(name) for name in HEADS} if keep_heads else {},
        networks=(student.backbone, *own_heads),
        depth_of=block_depth(len(backbone.blocks)),
    )


def _check(model: nn.Module, large: int, small: int) -> VisionTransformer3d:
    backbone, name = getattr(model, "backbone", None), getattr(getattr(model, "spec", None), "name", "the model")
    if not isinstance(backbone, VisionTransformer3d):
        raise ModelError(f"dino3d pre-trains dino3d_vit_small, dino3d_vit_base and dino3d_vit_large; got {name}")
    if backbone.mask_token is None:
        raise ModelError(f"dino3d: {name} has no mask token; create it with mask_token = true")
    if (channels := spec_of(model).channels) != 1:
        raise ModelError(f"dino3d pre-trains on one channel at a time; {name} has in_chans = {channels}")
    for key, value in {"large_size": large, "small_size": small}.items():
        if value % PATCH:
            raise ModelError(f"dino3d: {key} must be a multiple of {PATCH}, the side of a patch; got {value}")
    return backbone


def load_heads(branch: Branch, checkpoint: str | Path) -> None:
    """Load the heads that an earlier stage kept, strictly.

    Raises:
        CheckpointError: no such files, or heads of other sizes.
    """
    folder = Path(checkpoint)
    folder = folder / "checkpoint" if (folder / "checkpoint").is_dir() else folder
    for name in HEADS:
        where, state = read_weights(folder / f"{name}.safetensors")
        load_strictly(branch.get_submodule(name), state, where, "a head of the sizes that the settings say")


def views(crops: dict[str, Tensor], changes: Intensities | None) -> tuple[dict[str, Tensor], Tensor]:
    """A batch of crops -> the same with other intensities, and the numbers of its volumes."""
    changed = {key: change_batch(crops[key], changes) for key in ("large", "small") if changes and len(crops[key])}
    return crops | changed, torch.arange(len(crops["mask"]) // LARGE, device=crops["mask"].device)


def frozen_features(model: nn.Module, batch: Tensor) -> Tensor:
    """(B, S, H, W) uint8 -> (B, D), the teacher's class tokens."""
    spec = spec_of(model)
    with frozen(model):
        return image_features(model, to_input(batch, spec.input, spec.mean, spec.std))
