"""OpenMind's encoders: nnU-Net's ResEnc-L, and Primus-M, a transformer over small cubes, under their published names.

Papers: Wald et al. 2024, OpenMind (arXiv:2412.17041); Isensee et al. 2024 (ResEnc-L, arXiv:2404.09556);
Wald et al. 2025 (Primus, arXiv:2503.01835).
Origin: written for this project from the papers and the names and shapes of the public definitions
(dynamic-network-architectures, Apache-2.0). Licence: Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from timm.models.eva import EvaBlock
from torch import Tensor, nn
from torch.nn import functional

from slivit.errors import ModelError
from slivit.models._volume import VolumeModel
from slivit.models._weights import WeightRules, Weights
from slivit.models.registry import register_model
from slivit.settings import Count

WIDTHS, BLOCKS = (32, 64, 128, 256, 320, 320), (1, 3, 4, 6, 6, 6)
PATCH, TEMPERATURE = 8, 10_000.0
PARTS = ("network_weights",)
"""Where nnU-Net's checkpoints, and those of its pre-training, keep the weights."""


class ConvNorm(nn.Module):
    """A convolution, instance norm, and leaky ReLU where `active`; named as published."""

    def __init__(
        self, old: int, new: int, kernel: int, stride: int = 1, *, bias: bool = True, active: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv3d(old, new, kernel, stride, kernel // 2, bias=bias)
        self.norm = nn.InstanceNorm3d(new, eps=1e-5, affine=True)
        self.active = active

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return functional.leaky_relu(x) if self.active else x


class ResidualBlock(nn.Module):
    """Two 3 x 3 x 3 convolutions round a shortcut, which averages where it strides, and projects where it widens."""

    def __init__(self, old: int, new: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = ConvNorm(old, new, 3, stride), ConvNorm(new, new, 3, active=False)
        pool = [nn.AvgPool3d(stride)] if stride > 1 else []
        project = [ConvNorm(old, new, 1, bias=False, active=False)] if old != new else []
        self.skip = nn.Sequential(*pool, *project)

    def forward(self, x: Tensor) -> Tensor:
        return functional.leaky_relu(self.conv2(self.conv1(x)) + self.skip(x))


class Stem(nn.Module):
    """The first convolution: (B, 1, S, H, W) -> (B, width, S, H, W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(ConvNorm(1, width, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.convs(x)


class Stage(nn.Module):
    """Residual blocks, of which the first may stride and widen."""

    def __init__(self, old: int, new: int, depth: int, stride: int) -> None:
        super().__init__()
        rest = (ResidualBlock(new, new, 1) for _ in range(depth - 1))
        self.blocks = nn.Sequential(ResidualBlock(old, new, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class ResidualEncoder(nn.Module):
    """(B, 1, S, H, W) -> (B, widths[-1], S / 32, H / 32, W / 32) with six stages.

    Args:
        widths: channels of the stages; each but the first halves all sides.
        blocks: residual blocks of the stages.
    """

    def __init__(self, widths: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__()
        self.stem = Stem(widths[0])
        sizes = zip(pairwise((widths[0], *widths)), blocks, strict=True)
        self.stages = nn.Sequential(
            *(Stage(old, new, depth, 2 if i else 1) for i, ((old, new), depth) in enumerate(sizes))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(self.stem(standardised(x)))


class PatchEmbed(nn.Module):
    """(B, 1, S, H, W) -> (B, dim, S / 8, H / 8, W / 8), a cube of 8 x 8 x 8 voxels each."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(1, dim, PATCH, PATCH)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class Eva(nn.Module):
    """Blocks of EVA-02 over the tokens of a grid: (B, N, dim) -> (B, N, dim).

    Each block has SwiGLU, norms within attention and perceptron, and a scale after both; positions are learned, and
    rotate queries and keys along the three axes.

    Args:
        grid: tokens along the three axes, in the order of the tokens.
        dim: of a token.
        depth: blocks.
        heads: of the attention; `dim / heads` is a multiple of 6.
    """

    rotations: Tensor

    def __init__(self, grid: Sequence[int], dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.grid = tuple(grid)
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, self.grid[0] * self.grid[1] * self.grid[2], dim))
        options: dict[str, Any] = {"qkv_fused": False, "mlp_ratio": 8 / 3, "swiglu_mlp": True, "scale_mlp": True}
        options |= {"scale_attn_inner": True, "init_values": 0.1, "num_prefix_tokens": 0}
        self.blocks = nn.ModuleList(EvaBlock(dim, heads, **options) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.register_buffer("rotations", rotations(self.grid, dim // heads), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pos_embed
        for block in self.blocks:
            x = block(x, rope=self.rotations)
        return self.norm(x)


class Primus(nn.Module):
    """(B, 1, S, H, W) -> (B, dim, S / 8, H / 8, W / 8).

    The published networks were trained with the first two axes of the grid swapped in the order of the tokens, which
    their learned positions keep: see github.com/MIC-DKFZ/dynamic-network-architectures/pull/13.

    Args:
        size: (S, H, W), multiples of 8.
        dim: of a token.
        depth: blocks.
        heads: of the attention.
    """

    def __init__(self, size: Sequence[int], dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.down_projection = PatchEmbed(dim)
        slices, rows, columns = (side // PATCH for side in size)
        self.eva = Eva((rows, slices, columns), dim, depth, heads)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down_projection(standardised(x)).transpose(2, 3)
        return self.eva(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, x.shape[2:]).transpose(2, 3)


def standardised(x: Tensor) -> Tensor:
    """Each scan with mean 0 and standard deviation 1, as both networks saw theirs."""
    axes = (1, 2, 3, 4)
    return (x - x.mean(axes, keepdim=True)) / x.std(axes, keepdim=True, correction=0).clamp(min=1e-8)


def rotations(grid: Sequence[int], head: int) -> Tensor:
    """By how much positions turn queries and keys: (N, 2 * head), sines and then cosines.

    A third of a head's channels belongs to each axis; pairs of them turn with frequencies from 1 to 1 / 10,000.

    Args:
        grid: tokens along the three axes.
        head: channels of an attention head, a multiple of 6.
    """
    bands = TEMPERATURE ** -(torch.arange(head // 6) / (head // 6))
    places = torch.meshgrid(*(torch.arange(side, dtype=torch.float32) for side in grid), indexing="ij")
    angles = (torch.stack(places, -1).unsqueeze(-1) * bands).flatten(3).flatten(0, 2).repeat_interleave(2, -1)
    return torch.cat([angles.sin(), angles.cos()], -1)


def fit_positions(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Positions of a cube of tokens, interpolated to another cube's."""
    key = "eva.pos_embed"
    state = dict(state)
    if key not in state or state[key].shape == wanted[key].shape:
        return state
    old, new = (round(t.shape[1] ** (1 / 3)) for t in (state[key], wanted[key]))
    if old**3 != state[key].shape[1] or new**3 != wanted[key].shape[1]:
        raise ModelError(
            f"the weights' positions are of {state[key].shape[1]} tokens and the network's of {wanted[key].shape[1]}; "
            "they fit other sides where the network takes a cube: slices = image_size"
        )
    cube = state[key].transpose(1, 2).unflatten(2, (old, old, old))
    resized = functional.interpolate(cube.float(), (new, new, new), mode="trilinear", align_corners=False)
    return state | {key: resized.flatten(2).transpose(1, 2)}


@register_model(
    input="volume",
    size=(160, 160, 160),
    mean=(0.0,),
    std=(1.0,),
    parameters=90_296_897,
    source="arXiv:2404.09556, arXiv:2412.17041",
    licence="Apache-2.0 (definition); CC BY 4.0 (weights)",
    weights="openmind-resenc-l: checkpoint_final.pth of MIC-DKFZ/ResEncL-OpenMind-MAE on Hugging Face's hub",
    small={"slices": 32, "image_size": 64, "widths": (2, 2, 4, 4, 4, 4), "blocks": (1, 1, 1, 1, 1, 1)},
)
def resenc_l(
    out_dim: int,
    *,
    slices: Count = 160,
    image_size: Count = 160,
    widths: tuple[Count, Count, Count, Count, Count, Count] = WIDTHS,
    blocks: tuple[Count, Count, Count, Count, Count, Count] = BLOCKS,
    pretrained: bool | Weights = False,
) -> VolumeModel:
    """nnU-Net's residual encoder L: (B, 1, S, P, P) float32 -> (B, out_dim) logits.

    OpenMind's was trained on brain MR of 1 mm, each scan standardised; weights by the name "openmind-resenc-l" set the
    spacing.

    Args:
        out_dim: the number of outputs.
        slices: S, a multiple of 32.
        image_size: P, rows and columns in pixels, a multiple of 32.
        widths: channels of the stages; 32 to 320 in the published network.
        blocks: residual blocks of the stages.
        pretrained: "openmind-resenc-l", or a file of nnU-Net's or nnssl's, of which the decoder is left out.

    Source: Isensee et al. 2024, section 3; Wald et al. 2024, section 3.
    """
    _check_sides("resenc_l", 32, slices, image_size)
    drop = (r"\.all_modules\.", r"^decoder\.")
    rules = WeightRules(
        architecture="resenc_l", prefixes=("encoder.",), drop=drop, parts=PARTS, default="openmind-resenc-l"
    )
    size = (slices, image_size, image_size)
    return VolumeModel(ResidualEncoder(widths, blocks), rules, out_dim, widths[-1], size, pretrained=pretrained)


@register_model(
    input="volume",
    size=(160, 160, 160),
    mean=(0.0,),
    std=(1.0,),
    parameters=150_998_401,
    source="arXiv:2503.01835, arXiv:2412.17041",
    licence="Apache-2.0 (definition); CC BY 4.0 (weights)",
    weights="openmind-primus-m: checkpoint_final.pth of MIC-DKFZ/PrimusM-OpenMind-MAE on Hugging Face's hub",
    small={"slices": 16, "image_size": 16, "dim": 24, "depth": 2, "heads": 2},
)
def primus_m(
    out_dim: int,
    *,
    slices: Count = 160,
    image_size: Count = 160,
    dim: Count = 864,
    depth: Count = 16,
    heads: Count = 12,
    pretrained: bool | Weights = False,
) -> VolumeModel:
    """Primus-M, a transformer over cubes of 8 voxels: (B, 1, S, P, P) float32 -> (B, out_dim) logits.

    OpenMind's was trained on brain MR of 1 mm, each scan standardised; weights by the name "openmind-primus-m" set the
    spacing.

    Args:
        out_dim: the number of outputs.
        slices: S, a multiple of 8.
        image_size: P, rows and columns in pixels, a multiple of 8.
        dim: of a token; 864 in the published network.
        depth: blocks; 16 in the published network.
        heads: of the attention; 12 in the published network. `dim / heads` is a multiple of 6.
        pretrained: "openmind-primus-m", or a file of nnssl's, of which the decoder is left out; positions are
            interpolated from cube to cube.

    Source: Wald et al. 2025, section 4.
    """
    _check_sides("primus_m", PATCH, slices, image_size)
    if dim % heads or dim // heads % 6:
        raise ModelError(f"primus_m: dim / heads must be a multiple of 6, for three axes; got {dim} / {heads}")
    drop = (r"^up_projection\.", r"^mask_token$", r"^decoder\.")
    rules = WeightRules(
        architecture="primus_m", drop=drop, parts=PARTS, adapt=fit_positions, default="openmind-primus-m"
    )
    size = (slices, image_size, image_size)
    return VolumeModel(Primus(size, dim, depth, heads), rules, out_dim, dim, size, pretrained=pretrained)


def _check_sides(name: str, step: int, *sides: int) -> None:
    if wrong := [side for side in sides if side % step]:
        raise ModelError(f"{name}: slices and image_size must be multiples of {step}; got {wrong[0]}")
