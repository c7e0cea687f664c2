"""2D networks over slices: features of each slice, and what makes one vector of them.

Pooled ResNet-18 and ResNeXt-101, and LRCN (a GRU): the 2D comparisons of Ke et al. 2023 (arXiv:2304.00546), LRCN after
Donahue et al. 2015 (arXiv:1411.4389). The position-encoded slice CNN: Gupta et al. 2023 (arXiv:2303.01491).
Origin: written for this project from the papers; the 2D networks are timm's. Licence: Apache-2.0.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from slivit.errors import ModelError
from slivit.models._backbones import BackboneInfo, build_backbone, feature_map
from slivit.models._integrators import GatedAttention
from slivit.models._slices import SliceModel, Slices
from slivit.models.registry import check_volume, register_model
from slivit.settings import Count, Share

Pool = Literal["mean", "max"]
STRIDE = 32
WEIGHTS = "{} (ImageNet-1k), which timm downloads with pretrained = true; torchvision's file loads too"


TINY = {"layers": (1, 1, 1, 1), "channels": (8, 16, 32, 64)}
COMMON: dict[str, Any] = {
    "input": "clip",
    "size": (32, 224, 224),
    "licence": "Apache-2.0 (definition); BSD 3-Clause (weights)",
}
SMALL: dict[str, Any] = {"slices": 3, "image_size": 32, "backbone_args": TINY}


class ConvolutionalSlices(SliceModel):
    """A convolutional network of timm over each slice.

    Args:
        name: for messages.
        backbone: timm's name.
        over: the settings of its input.
    """

    backbone_info: BackboneInfo

    def __init__(self, name: str, backbone: str, over: Slices) -> None:
        args: dict[str, Any] = {
            "image_size": over.image_size,
            "pretrained": over.pretrained is True,
            "args": over.backbone_args,
        }
        super().__init__(name, build_backbone(backbone, stride=STRIDE, **args), over)
        self.features = self.backbone_info.channels

    def slice_tokens(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, S, H, W) -> the mean of each slice's feature map (B, S, n), and its cells (B, S, N, n)."""
        check_volume(x, self.name, self.in_chans, self.input_size)
        images = x.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        cells = feature_map(self.backbone, self.backbone_info.stage, images)
        scans = x.shape[0]  # len() would fix the size of a batch in an exported graph
        return cells.mean((2, 3)).unflatten(0, (scans, -1)), cells.flatten(2).mT.unflatten(0, (scans, -1))


class PooledSlices(ConvolutionalSlices):
    """A 2D network over each slice, pooled: (B, 3, S, P, P) float32 -> (B, out_dim) logits.

    Args:
        name: the registered name.
        backbone: timm's name.
        out_dim: the number of outputs.
        over: settings of the slices, whose sides are multiples of 32.
        pool: "mean" or "max" over slices.

    Source: Ke et al. 2023, section 3, 2D baselines.
    """

    def __init__(self, name: str, backbone: str, out_dim: int, *, over: Slices, pool: Pool = "mean") -> None:
        super().__init__(name, backbone, over)
        self.pool = pool
        self.head = nn.Linear(self.features, out_dim)

    def forward_features(self, x: Tensor) -> Tensor:
        return pool_slices(self.forward_slices(x), self.pool)


@register_model(
    "lrcn",
    **COMMON,
    source="arXiv:1411.4389; arXiv:2304.00546",
    weights=WEIGHTS.format("resnext101_32x8d.tv_in1k"),
    parameters=88_415_297,
    small=SMALL | {"backbone": "resnet18", "hidden": 8},
)
class LRCN(ConvolutionalSlices):
    """Long-term recurrent CNN: slice features through a GRU: (B, 3, S, P, P) float32 -> (B, out_dim) logits.

    Args:
        backbone: a convolutional network of timm.
        hidden: units of the GRU, in each direction.
        layers: of the GRU.
        bidirectional: whether it reads the slices both ways.
        dropout: probability, before the head.
        pool: "mean" or "max" of its outputs over slices.
        out_dim, over: see `PooledSlices`.

    Source: Donahue et al. 2015, section 4; Ke et al. 2023, section 3 (GRU).
    """

    def __init__(
        self,
        out_dim: int,
        *,
        over: Slices,
        backbone: str = "resnext101_32x8d.tv_in1k",
        hidden: Count = 128,
        layers: Count = 1,
        bidirectional: bool = True,
        dropout: Share = 0.0,
        pool: Pool = "mean",
    ) -> None:
        super().__init__("lrcn", backbone, over)
        self.pool, self.dropout = pool, nn.Dropout(dropout)
        self.gru = nn.GRU(self.features, hidden, layers, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(hidden * (1 + bidirectional), out_dim)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.dropout(pool_slices(self.gru(self.forward_slices(x))[0], self.pool))


@register_model(
    "position_encoded_slices",
    **COMMON,
    source="arXiv:2303.01491",
    weights=WEIGHTS.format("resnet18.tv_in1k"),
    parameters=11_201_441,
    small=SMALL | {"dim": 8, "heads": 2, "hidden": 8},
)
class PositionEncodedSlices(ConvolutionalSlices):
    """The slice CNN of Gupta et al.: (B, 3, S, P, P) float32 -> (B, out_dim) logits.

    Args:
        backbone: a convolutional network of timm.
        dim: width of a slice's embedding, a multiple of `heads`.
        heads: of the attention over slices.
        hidden: units of the layer before the head, and of the gated network.
        pool: "attention" of a learned query, "gated" attention (Ilse et al. 2018), or the "mean" or "max" over slices.
        out_dim, over: see `PooledSlices`.

    Source: Gupta et al. 2023, section 2 (ResNet-18, positions); Gupta et al. 2021 (arXiv:2102.04438), attention.
    """

    def __init__(
        self,
        out_dim: int,
        *,
        over: Slices,
        backbone: str = "resnet18.tv_in1k",
        dim: Count = 32,
        heads: Count = 1,
        hidden: Count = 64,
        pool: Literal["attention", "gated", "mean", "max"] = "attention",
    ) -> None:
        if dim % heads:
            raise ModelError(f"position_encoded_slices: dim must be a multiple of heads, got {dim} and {heads}")
        super().__init__("position_encoded_slices", backbone, over)
        self.pool = pool
        self.embed = nn.Linear(self.features, dim)
        self.positions = nn.Parameter(torch.randn(over.slices, dim) / over.slices**0.5)
        self.position_norm = nn.LayerNorm((over.slices, dim))
        self.attention: QueryAttention | GatedAttention | None = None
        if pool in ("attention", "gated"):
            self.attention = QueryAttention(dim, heads) if pool == "attention" else GatedAttention(dim, hidden)
        self.project = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU())
        self.head = nn.Linear(hidden, out_dim)

    def embed_slices(self, x: Tensor) -> Tensor:
        """(B, C, S, H, W) -> (B, S, dim): slice features with their positions, normalised together."""
        return self.position_norm(self.embed(self.forward_slices(x)) + self.positions)

    def forward_features(self, x: Tensor) -> Tensor:
        slices = self.embed_slices(x)
        return self.project(self.attention(slices) if self.attention else pool_slices(slices, self.pool))

    def attention_maps(self, x: Tensor) -> Tensor:
        """How much each slice counts: (B, heads, S) probabilities.

        Raises:
            ModelError: a model that pools without attention.
        """
        if self.attention is None:
            raise ModelError(
                f'position_encoded_slices: pool is "{self.pool}", only "attention" and "gated" weigh the slices'
            )
        return self.attention.weights(self.embed_slices(x))


class QueryAttention(nn.Module):
    """Attention pooling: one learned query looks at all slices, (B, S, dim) -> (B, dim)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(nn.init.xavier_uniform_(torch.empty(1, dim)))
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.out = nn.Linear(dim, dim)

    def _split(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., heads, dim / heads)."""
        return x.unflatten(-1, (self.heads, -1))

    def weights(self, slices: Tensor) -> Tensor:
        """(B, S, dim) -> (B, heads, S) probabilities."""
        scores = torch.einsum("hd,bshd->bhs", self._split(self.query[0]), self._split(self.key(slices)))
        return (scores / (slices.shape[-1] / self.heads) ** 0.5).softmax(dim=-1)

    def forward(self, slices: Tensor) -> Tensor:
        mixed = torch.einsum("bhs,bshd->bhd", self.weights(slices), self._split(self.value(slices)))
        return self.out(self.norm(mixed.flatten(1)))


def pool_slices(features: Tensor, pool: str) -> Tensor:
    """(B, S, n) -> (B, n): the mean or the maximum over slices."""
    return features.mean(1) if pool == "mean" else features.amax(1)


for _name, _backbone, _parameters in (
    ("resnet18_2d", "resnet18.tv_in1k", 11_177_025),
    ("resnext101_2d", "resnext101_32x8d.tv_in1k", 86_744_385),
):
    register_model(
        _name,
        **COMMON,
        parameters=_parameters,
        source="arXiv:2304.00546",
        weights=WEIGHTS.format(_backbone),
        small=SMALL if "18" in _name else SMALL | {"backbone_args": TINY | {"cardinality": 2}},
    )(partial(PooledSlices, _name, _backbone))
