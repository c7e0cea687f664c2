"""UniMiSS: a pyramid of transformer stages over 3D patches (MiT), whose published weights learned from X-rays and CT.

Paper: Xie et al. 2022 (arXiv:2112.09356). Origin: written for this project from the paper and from the sizes and
parameter names of the released code, of which nothing is copied; only the 3D path is here. Licence: Apache-2.0 for this
file, MIT for the published weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slivit.errors import ModelError
from slivit.models._vit import attend
from slivit.models._weights import Grid, State, WeightRules, Weights, regrid, start_from
from slivit.models.registry import check_volume, register_model
from slivit.settings import Count

PUBLISHED = (16, 96, 96)
STEM = 32
REDUCTIONS = (6, 4, 2, 1)
EPS = 1e-6


class ConvNorm(nn.Module):
    """A convolution, instance normalisation and a leaky ReLU."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int | Grid) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, out, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.InstanceNorm3d(out, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.norm(self.conv(x)))


class PatchEmbed(nn.Module):
    """Half the size in all directions, more channels."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.proj = ConvNorm(channels, out, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class Attention(nn.Module):
    """Attention whose keys and values come from a coarser grid: `reduction` cells a side become one."""

    def __init__(self, dim: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        if reduction > 1:
            self.sr3D = nn.Conv3d(dim, dim, reduction, reduction)
            self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """(B, 1 + cells, dim) -> the same; the class token comes first."""
        coarse = tokens
        if hasattr(self, "sr3D"):
            cells = self.sr3D(tokens[:, 1:].mT.unflatten(2, grid)).flatten(2).mT
            coarse = self.norm(torch.cat([tokens[:, :1], cells], dim=1))
        query = self.q(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = self.kv(coarse).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = attend(query, key, value)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two layers with GELU, four times as wide in the middle."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(tokens)))


class Block(nn.Module):
    """Attention, then a perceptron, each after a LayerNorm and round a residual connection."""

    def __init__(self, dim: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=EPS)
        self.attn = Attention(dim, heads, reduction)
        self.norm2 = nn.LayerNorm(dim, eps=EPS)
        self.mlp = Mlp(dim)

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens), grid)
        return tokens + self.mlp(self.norm2(tokens))


class MiT(nn.Module):
    """The encoder's 3D path: (B, 1, S, H, W) -> (B, 1 + cells, dims[3]), the class token first.

    Args:
        size: (S, H, W) of the input.
        dims: widths of the four stages.
        depths: their blocks.
        heads: their attention heads.
    """

    def __init__(self, size: Grid, dims: Sequence[int], depths: Sequence[int], heads: Sequence[int]) -> None:
        super().__init__()
        self.grids = stage_grids(size)
        self.patch_embed3D0 = ConvNorm(1, STEM, 7, (1, 2, 2))
        self.cls_tokens1 = nn.Parameter(torch.zeros(1, 1, dims[0]))
        channels = [STEM, *dims]
        for i, (dim, grid) in enumerate(zip(dims, self.grids, strict=True)):
            stage = i + 1
            self.add_module(f"patch_embed3D{stage}", PatchEmbed(channels[i], dim))
            positions = torch.zeros(1, 1 + grid[0] * grid[1] * grid[2], dim)
            self.register_parameter(f"pos_embed3D{stage}", nn.Parameter(positions))
            blocks = [Block(dim, heads[i], REDUCTIONS[i]) for _ in range(depths[i])]
            self.add_module(f"block{stage}", nn.ModuleList(blocks))
            if i:
                self.add_module(f"cls_tokens{stage}", nn.Linear(dims[i - 1], dim))
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        for name, parameter in self.named_parameters():
            if name.startswith(("pos_embed3D", "cls_tokens1")):
                nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        x, token = self.patch_embed3D0(x), self.cls_tokens1.expand(x.shape[0], -1, -1)
        for i, grid in enumerate(self.grids):
            tokens = self._stage(i + 1, x, token, grid)
            if i + 1 < len(self.grids):
                token = self.get_submodule(f"cls_tokens{i + 2}")(tokens[:, :1])
                x = tokens[:, 1:].mT.unflatten(2, grid)
        return tokens

    def _stage(self, stage: int, x: Tensor, token: Tensor, grid: Grid) -> Tensor:
        """A map of the stage before and the class token -> this stage's tokens."""
        cells = self.get_submodule(f"patch_embed3D{stage}")(x).flatten(2).mT
        tokens = torch.cat([token, cells], dim=1) + self.get_parameter(f"pos_embed3D{stage}")
        for block in self.get_submodule(f"block{stage}").children():
            tokens = block(tokens, grid)
        return tokens


class UniMiSS(nn.Module):
    """UniMiSS's MiT: (B, 1, S, P, P) float32 volumes -> (B, out_dim) logits.

    The published weights saw CT divided by 1,024 HU: set `preprocessing.window` to -1024 ... 1024 for them.

    Args:
        name: "unimiss_tiny" or "unimiss_small".
        out_dim: the number of outputs.
        slices: S, a multiple of 16; positions of the published weights (16) are interpolated.
        image_size: P, a multiple of 32; positions of the published weights (96) are interpolated.
        dims: widths of the four stages.
        depths: their blocks.
        num_heads: their attention heads, which divide the widths.
        pretrained: the path of a checkpoint, of which the student is taken, as in the released fine-tuning; see
            `load_backbone`.

    Raises:
        ModelError: a value that is not allowed.
        CheckpointError: weights that cannot be had, or that do not fit.

    Source: Xie et al. 2022, section 3.1 and Table 1.
    """

    def __init__(
        self,
        name: str,
        out_dim: int,
        *,
        slices: Count = 16,
        image_size: Count = 96,
        dims: Sequence[Count] = (48, 128, 256, 512),
        depths: Sequence[Count] = (2, 3, 4, 3),
        num_heads: Sequence[Count] = (1, 2, 4, 8),
        pretrained: bool | Weights = False,
    ) -> None:
        size = (slices, image_size, image_size)
        stages = {"dims": tuple(dims), "depths": tuple(depths), "num_heads": tuple(num_heads)}
        if {len(stage) for stage in stages.values()} != {4} or any(d % n for d, n in zip(dims, num_heads, strict=True)):
            raise ModelError(
                f"{name}: dims, depths and num_heads have four numbers, and heads divide dims; got {stages}"
            )
        if slices % 16 or image_size % 32 or (slices, image_size) == (16, 32):
            raise ModelError(
                f"{name}: slices must be a multiple of 16 and image_size one of 32, and 16 x 32 x 32 is too small; "
                f"got {slices} and {image_size}"
            )
        super().__init__()
        self.name, self.input_size = name, size
        self.backbone = MiT(size, dims, depths, num_heads)
        self.backbone_info = WeightRules(
            architecture=name,
            drop=(r"^patch_embed2D", r"^pos_embed2D", r"\.attn\.sr2D\."),
            adapt=partial(resize_positions, size),
            parts=("student",),
            prefixes=("backbone.transformer.", "transformer."),
        )
        self.norm = nn.LayerNorm(dims[3], eps=EPS)
        self.head = nn.Linear(dims[3], out_dim)
        start_from(self, pretrained)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, 1, S, H, W) -> (B, dim). A linear head of this average is the average of both heads of the paper."""
        check_volume(x, self.name, 1, self.input_size)
        tokens = self.norm(self.backbone(x))
        return (tokens[:, 0] + tokens[:, 1:].mean(1)) / 2

    def layer_features(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 1, S, H, W) -> the backbone's class token and the mean of its other tokens, (B, dim) each."""
        check_volume(x, self.name, 1, self.input_size)
        tokens = self.backbone(x)
        return {"class": tokens[:, 0], "patches": tokens[:, 1:].mean(1)}

    def feature_sets(self) -> dict[str, tuple[str, ...]]:
        """What a probe's heads read, see `slivit.predict.features`."""
        return {"class": ("class",), "class+patches": ("class", "patches")}

    def patch_map(self, x: Tensor) -> Tensor:
        """(B, 1, S, H, W) -> the backbone's tokens in their places (B, dim, S / 16, H / 32, W / 32)."""
        check_volume(x, self.name, 1, self.input_size)
        return self.backbone(x)[:, 1:].mT.unflatten(2, stage_grids(self.input_size)[-1])

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, S, H, W) float32 -> (B, out_dim) logits."""
        return self.head(self.forward_features(x))


def stage_grids(size: Grid) -> list[Grid]:
    """Cells along slices, rows and columns of each stage: the stem halves rows and columns, each stage all three."""
    return [(size[0] >> i, size[1] >> i + 1, size[2] >> i + 1) for i in range(1, 5)]


def resize_positions(size: Grid, state: State, wanted: State) -> State:
    """Interpolate the positions of published weights, of 16 x 96 x 96 voxels, to those of a model of another size."""
    state = dict(state)
    for i, (old, new) in enumerate(zip(stage_grids(PUBLISHED), stage_grids(size), strict=True)):
        name = f"pos_embed3D{i + 1}"
        if name in state and old != new and state[name].shape[1] == 1 + old[0] * old[1] * old[2]:
            state[name] = regrid(state[name], old, new)
    return state


REPOSITORY = "https://github.com/YtongXie/UniMiSS-code"
for _name, _parameters, _depths in (
    ("unimiss_tiny", 11_375_841, (1, 1, 1, 1)),
    ("unimiss_small", 24_645_601, (2, 3, 4, 3)),
):
    register_model(
        _name,
        parameters=_parameters,
        input="volume",
        size=PUBLISHED,
        mean=(0.5,),
        std=(0.5,),
        source="arXiv:2112.09356",
        licence="Apache-2.0 (definition); MIT (weights)",
        weights=f"{_name.replace('unimiss', 'UniMiss')}, linked in UniMiSS/README.md of {REPOSITORY}",
        small={
            "slices": 16,
            "image_size": 64,
            "dims": (8, 8, 16, 16),
            "depths": (1, 1, 1, 1),
            "num_heads": (1, 1, 2, 2),
        },
    )(partial(UniMiSS, _name, depths=_depths))
