"""2D transformers (ViT, Swin) over slices: their features of each slice, and what makes one vector of them.

With one slice they classify images, and are what masked and contrastive pre-training train; with several they start
from such backbones. Papers: Dosovitskiy et al. 2021 (arXiv:2010.11929), Liu et al. 2021 (arXiv:2103.14030); over
volumes as in VIS-MAE, Liu et al. 2024 (arXiv:2402.01034). Origin: written for this project; the 2D networks are timm's.
Licence: Apache-2.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from slivit.errors import ModelError
from slivit.models._integrators import GatedAttention, Integrator, MeanIntegrator, QueryIntegrator, SlivitIntegrator
from slivit.models._slices import SliceModel, Slices
from slivit.models._transformers import (
    SWINS,
    Family,
    TransformerInfo,
    Windows,
    build_transformer,
    own_normalisation,
    patch_tokens,
)
from slivit.models._weights import ChannelWeights
from slivit.models.registry import check_volume, register_model
from slivit.settings import Count, Share

Pool = Literal["token", "mean"]
WEIGHTS = "{} of timm with pretrained = true; files of {} load too"


@dataclass(frozen=True, kw_only=True)
class IntegratedSlices(Slices):
    """The slices that a transformer sees one by one, and the integrator that makes one vector of theirs.

    Args:
        slices: S; 1 for single images.
        image_size: P, rows and columns in pixels, a multiple of the patch size.
        integrator: "mean" over slices, "attention" (gated attention pooling), "queries" (learned queries look at the
            slices) or "slivit" (SLIViT's transformer, the one that knows the order of slices).
        hidden: width of the gated attention.
        queries: how many look, of "queries", which also has `vit_dim`, `vit_heads` and `dim_head`.
        vit_dim: width of a token of "slivit"; so are the next four.
        vit_depth: transformer blocks.
        vit_heads: attention heads.
        dim_head: width of a head.
        mlp_dim: hidden width of a block's perceptron.
        dropout: probability, in the integrator and before the head.
        planes: in how many planes the slices lie, as many in each; that of `preprocessing.planes`.
        in_chans: 3, or 1 for grey input with a summed patch embedding.
        pretrained: True downloads timm's weights; a path loads a file or folder (see `load_backbone`). Positions of
            another grid, or window, are resampled.
        channel_weights: how grey weights become colour weights and back: "output" keeps the output for grey images
            (the sum over channels; a third in each), "copy" averages and copies.
        backbone_args: further arguments of the timm network: patch_size, embed_dim, depth, drop_path_rate ...
    """

    slices: Count = 28
    integrator: Integrator = "mean"
    hidden: Count = 128
    queries: Count = 4
    vit_dim: Count = 256
    vit_depth: Count = 5
    vit_heads: Count = 20
    dim_head: Count = 64
    mlp_dim: Count = 512
    dropout: Share = 0.0
    planes: Count = 1
    channel_weights: ChannelWeights = "output"

    def made(self, width: int) -> tuple[nn.Module, int]:
        """The integrator of vectors of a width, and the length of what it gives."""
        if self.integrator == "mean":
            return MeanIntegrator(), width
        if self.integrator == "attention":
            return GatedAttention(width, self.hidden), width
        if self.integrator == "queries":
            return QueryIntegrator(width, self.queries, self.vit_dim, self.vit_heads, self.dim_head), self.vit_dim
        transformer = SlivitIntegrator(
            width,
            self.slices,
            dim=self.vit_dim,
            depth=self.vit_depth,
            heads=self.vit_heads,
            dim_head=self.dim_head,
            mlp_dim=self.mlp_dim,
            dropout=self.dropout,
        )
        return transformer, self.vit_dim


class SliceTransformer(SliceModel):
    """A 2D transformer over each slice by itself, an integrator of the slices' vectors, and a linear head.

    Args:
        family: "vit" or "swin".
        out_dim: the number of outputs.
        backbone: the timm network.
        pool: "token" (the class token) or "mean" (of all patches of a slice, without registers).
        over: the settings of the slices, and of the integrator. The planes have an embedding each.
        options: of `build_transformer`.
    """

    backbone_info: TransformerInfo

    def __init__(
        self, family: Family, out_dim: int, backbone: str, pool: Pool, over: IntegratedSlices, **options: Any
    ) -> None:
        name = f"slice_{family}"
        if over.slices % over.planes:
            raise ModelError(f"{name}: slices must be a multiple of planes, got {over.slices} and {over.planes}")
        options |= {"args": over.backbone_args, "channel_weights": over.channel_weights}
        built = build_transformer(
            family, backbone, image_size=over.image_size, pretrained=over.pretrained is True, **options
        )
        super().__init__(name, built, over)
        if own := own_normalisation(self.backbone):
            self.normalisation = own
        if pool == "token" and family == "vit" and cast(Any, self.backbone).cls_token is None:
            raise ModelError(f'backbone {backbone} has no class token; set pool = "mean"')
        width, self.pool = self.backbone_info.channels, pool
        self.integrator, features = over.made(width)
        self.dropout = nn.Dropout(over.dropout)
        self.planes = nn.Parameter(0.02 * torch.randn(over.planes, width)) if over.planes > 1 else None
        self.head = nn.Linear(features, out_dim)

    def slice_tokens(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, S, P, P) -> the backbone's vector of each slice (B, S, D), and of each of its patches (B, S, N, D)."""
        images = x.transpose(1, 2).flatten(0, 1)
        token, patches = patch_tokens(self.backbone, self.backbone_info.family, images)
        pooled = token if self.pool == "token" else patches.mean(1)
        return pooled.unflatten(0, (x.shape[0], -1)), patches.unflatten(0, (x.shape[0], -1))

    def pooled_features(self, x: Tensor) -> Tensor:
        """(B, C, S, P, P) -> (B, D): the backbone's vectors alone, on average over slices."""
        check_volume(x, self.name, self.in_chans, self.input_size)
        return super().pooled_features(x)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, C, S, P, P) -> (B, n): one vector a volume, which the head reads."""
        return self.integrator(self._placed(self.forward_slices(x)))

    def _placed(self, slices: Tensor) -> Tensor:
        """(B, S, D) -> the same, each slice with the embedding of its plane."""
        if self.planes is None:
            return slices
        return slices + self.planes.repeat_interleave(slices.shape[1] // len(self.planes), 0)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, S, P, P) float32 -> (B, out_dim) logits."""
        check_volume(x, self.name, self.in_chans, self.input_size)
        return self.head(self.dropout(self.forward_features(x)))

    def attention_maps(self, x: Tensor) -> Tensor:
        """How much each slice counts for the integrator.

        Returns:
            Probabilities: (B, 1, S) of "attention", (B, heads, queries, S) of "queries", and of "slivit"
            (B, depth, heads, 1 + S, 1 + S).

        Raises:
            ModelError: an integrator without attention.
        """
        if not isinstance(self.integrator, GatedAttention | QueryIntegrator | SlivitIntegrator):
            raise ModelError(f'{self.name}: integrator "mean" has no attention over slices')
        return self.integrator.weights(self._placed(self.forward_slices(x)))


COMMON: dict[str, Any] = {"input": "clip", "size": (28, 224, 224)}
SMALL: dict[str, Any] = {
    "slices": 3,
    "image_size": 32,
    "integrator": "slivit",
    "vit_dim": 16,
    "vit_depth": 1,
    "vit_heads": 2,
    "dim_head": 8,
    "mlp_dim": 32,
}
SMALL_VIT = {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
SMALL_SWIN = {"patch_size": 4, "window_size": 4, "embed_dim": 8, "depths": (1, 2), "num_heads": (1, 2)}


@register_model(
    **COMMON,
    source="arXiv:2010.11929; integrators arXiv:1802.04712, doi:10.1038/s41551-024-01257-9",
    licence="Apache-2.0 (definition); weights as published",
    parameters=21_666_049,
    weights=WEIGHTS.format("vit_small_patch16_224", "timm, Hugging Face, MAE, DINO, DINOv2, DINOv3, SigLIP and DeiT"),
    small=SMALL | {"backbone_args": SMALL_VIT},
)
def slice_vit(
    out_dim: int, *, over: IntegratedSlices, backbone: str = "vit_small_patch16_224", pool: Pool = "token"
) -> SliceTransformer:
    """A ViT over each slice, and an integrator: (B, 3, S, P, P) float32 -> (B, out_dim) logits.

    Args:
        out_dim: the number of outputs.
        over: settings of the slices and of the integrator.
        backbone: a ViT of timm, also with registers, rotary positions or no class token: vit_small_patch16_224,
            vit_small_patch14_reg4_dinov2, vit_small_patch16_dinov3_qkvb, eva02_small_patch14_224,
            vit_base_patch16_siglip_224 ...; or transformers' name, such as facebook/dinov2-small.
        pool: what stands for a slice: "token", the class token, or "mean", the mean of its patches without registers;
            a ViT without a class token has "mean" alone.

    Raises:
        ModelError: a value that is not allowed.
        CheckpointError: weights that cannot be had, or that do not fit.
    """
    return SliceTransformer("vit", out_dim, backbone, pool, over)


@register_model(
    **COMMON,
    source="arXiv:2103.14030; over volumes arXiv:2402.01034; integrators as slice_vit",
    licence="Apache-2.0 (definition); MIT (published Swin weights)",
    parameters=27_520_123,
    weights=WEIGHTS.format(SWINS[0], "timm, Hugging Face, Microsoft's Swin and SimMIM, and VIS-MAE"),
    small=SMALL | {"backbone_args": SMALL_SWIN},
)
def slice_swin(
    out_dim: int,
    *,
    over: IntegratedSlices,
    backbone: str = SWINS[0],
    grow: bool = False,
    windows: Windows = "swin",
) -> SliceTransformer:
    """A Swin over each slice, pooled over its patches, and an integrator: (B, 3, S, P, P) -> (B, out_dim) logits.

    Args:
        out_dim: the number of outputs.
        over: settings of the slices and of the integrator.
        backbone: a Swin of timm: swin_tiny_patch4_window7_224, swin_base_patch4_window7_224 ...
        grow: take the weights of a shallower Swin too, as VIS-MAE does, whose encoder of 2, 2, 2, 2 blocks starts one
            of 2, 2, 6, 2: blocks that the weights lack stay at random, and the log names them. Without it weights
            must be complete.
        windows: "vis_mae" shifts them in the last stage too, where one of them holds the whole grid, as VIS-MAE does.

    Raises:
        ModelError: a value that is not allowed.
        CheckpointError: weights that cannot be had, or that do not fit.

    Source: Liu et al. 2024 (VIS-MAE), section 2, classification.
    """
    return SliceTransformer("swin", out_dim, backbone, "mean", over, grow=grow, windows=windows)
