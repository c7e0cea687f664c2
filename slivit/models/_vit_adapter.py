"""The ViT-Adapter over volumes: maps of four sizes from a transformer that was pre-trained with tokens of one size.

A small convolutional network keeps what a patch of 16 x 16 x 16 voxels loses. Its cells are read by the transformer's
tokens (injectors) and read them (extractors), four times, while the transformer itself may stay frozen.

Papers: Chen et al. 2023 (arXiv:2205.08534); in three dimensions Xu et al. 2025 (3DINO, arXiv:2501.11755), Methods,
segmentation. Origin: written for this project from the papers and from numbers that the released code computes.
Licence: Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from slivit.errors import ModelError
from slivit.models._deformable import DeformableAttention3d, Grid, ReferenceAxes, reference_points
from slivit.models._dino3d_vit import PATCH
from slivit.models._masks import MaskModel, PatchSettings, UNetDecoder
from slivit.models._weights import WeightRules, start_from
from slivit.settings import Count, Share

STAGES = 4
PATCHES = (PATCH,) * 3
ADAPTER_WIDTH = 32  # of which its eight heads read a quarter
LayerNorm = partial(nn.LayerNorm, eps=1e-6)


class SpatialPrior(nn.Module):
    """Convolutions that give maps at 1/2, 1/4, 1/8 and 1/16 of a volume, each (B, dim, ...).

    Args:
        in_chans: channels of the volume.
        width: of the first convolutions; the next ones have 2, 4 and 4 times as many channels.
        dim: width of a cell of the maps.

    Source: Chen et al. 2023, section 3.3, spatial prior module.
    """

    def __init__(self, in_chans: int, width: int, dim: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_conv(in_chans, width, 2), *_conv(width, width, 1), *_conv(width, width, 1))
        widths = (width, 2 * width, 4 * width, 4 * width)
        self.conv2, self.conv3, self.conv4 = (nn.Sequential(*_conv(old, new, 2)) for old, new in pairwise(widths))
        self.fc1, self.fc2, self.fc3, self.fc4 = (nn.Conv3d(channels, dim, 1) for channels in widths)

    def forward(self, volume: Tensor) -> list[Tensor]:
        c1 = self.stem(volume)
        c2 = self.conv2(c1)
        c3 = self.conv3(c2)
        return [self.fc1(c1), self.fc2(c2), self.fc3(c3), self.fc4(self.conv4(c3))]


def _conv(old: int, new: int, stride: int) -> list[nn.Module]:
    return [nn.Conv3d(old, new, 3, stride, 1, bias=False), nn.BatchNorm3d(new), nn.ReLU(inplace=True)]


class DepthwiseConv(nn.Module):
    """A 3 x 3 x 3 convolution of each channel by itself, over the cells of maps of several sizes: (B, N, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv3d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, cells: Tensor, grids: Sequence[Grid]) -> Tensor:
        parts = cells.split([i * j * k for i, j, k in grids], dim=1)
        maps = [self.dwconv(part.mT.unflatten(2, grid)) for part, grid in zip(parts, grids, strict=True)]
        return torch.cat([part.flatten(2).mT for part in maps], dim=1)


class ConvFFN(nn.Module):
    """A perceptron over cells with a convolution in its middle: (B, N, dim) -> (B, N, dim).

    Source: Chen et al. 2023, section 3.5.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.dwconv, self.fc2 = nn.Linear(dim, hidden), DepthwiseConv(hidden), nn.Linear(hidden, dim)

    def forward(self, cells: Tensor, grids: Sequence[Grid]) -> Tensor:
        return self.fc2(F.gelu(self.dwconv(self.fc1(cells), grids)))


class Injector(nn.Module):
    """The transformer's tokens read the cells of the three finer maps, at first without effect (gamma 1e-6).

    Source: Chen et al. 2023, section 3.4.
    """

    def __init__(self, dim: int, attention: dict[str, Any]) -> None:
        super().__init__()
        self.query_norm, self.feat_norm = LayerNorm(dim), LayerNorm(dim)
        self.attn = DeformableAttention3d(dim, 3, **attention)
        self.gamma = nn.Parameter(torch.full((dim,), 1e-6))

    def forward(self, tokens: Tensor, cells: Tensor, grids: Sequence[Grid]) -> Tensor:
        """Add what is read to the tokens of every channel.

        Args:
            tokens: (B * C, P, dim), the channels of a scan one behind the other; on average they are the query.
            cells: (B, N, dim) of three maps.
            grids: the sides of the maps; the last is the tokens'.
        """
        channels = len(tokens) // len(cells)
        query = self.query_norm(channel_mean(tokens, channels))
        reference = reference_points(grids[-1:], self.attn.order, tokens.device)
        read = self.gamma * self.attn(query, reference, self.feat_norm(cells), grids)
        return tokens + read.repeat_interleave(channels, dim=0)


class Extractor(nn.Module):
    """The cells of the three finer maps read the transformer's tokens, and go through a ConvFFN.

    Source: Chen et al. 2023, section 3.5.
    """

    def __init__(self, dim: int, attention: dict[str, Any], drop_path: float) -> None:
        super().__init__()
        self.query_norm, self.feat_norm, self.ffn_norm = LayerNorm(dim), LayerNorm(dim), LayerNorm(dim)
        self.attn = DeformableAttention3d(dim, 1, **attention)
        self.ffn = ConvFFN(dim, int(dim * 0.25))
        self.drop_path = DropPath(drop_path)

    def forward(self, cells: Tensor, tokens: Tensor, grids: Sequence[Grid]) -> Tensor:
        """As `Injector`, the other way: (B, N, dim) -> (B, N, dim)."""
        feature = self.feat_norm(channel_mean(tokens, len(tokens) // len(cells)))
        reference = reference_points(grids, self.attn.order, cells.device)
        cells = cells + self.attn(self.query_norm(cells), reference, feature, grids[-1:])
        return cells + self.drop_path(self.ffn(self.ffn_norm(cells), grids))


def channel_mean(tokens: Tensor, channels: int) -> Tensor:
    """(B * C, P, dim) -> (B, P, dim): the mean over the channels of a scan."""
    return tokens.unflatten(0, (-1, channels)).mean(1)


class Interaction(nn.Module):
    """An injector, the transformer's own blocks, and an extractor; two more extractors in the last one."""

    def __init__(self, dim: int, attention: dict[str, Any], drop_path: float, extra: int) -> None:
        super().__init__()
        self.injector = Injector(dim, attention)
        self.extractor = Extractor(dim, attention, drop_path)
        self.extra_extractors = (
            nn.Sequential(*(Extractor(dim, attention, drop_path) for _ in range(extra))) if extra else None
        )

    def forward(
        self, tokens: Tensor, cells: Tensor, blocks: Sequence[nn.Module], grids: Sequence[Grid], prefix: int
    ) -> tuple[Tensor, Tensor]:
        """The tokens and the cells of the next stage.

        Args:
            tokens: (B * C, prefix + P, dim).
            cells: (B, N, dim).
            blocks: of the transformer.
            grids: the sides of the three maps.
            prefix: tokens that stand before those of the patches, and are left alone here.
        """
        patches = self.injector(tokens[:, prefix:], cells, grids)
        tokens = torch.cat([tokens[:, :prefix], patches], dim=1)
        for block in blocks:
            # The gradients of a frozen transformer's activations are needed too: they are computed again, not kept.
            tokens = checkpoint(block, tokens, use_reentrant=False) if torch.is_grad_enabled() else block(tokens)
        for extractor in (self.extractor, *(self.extra_extractors or ())):
            cells = extractor(cells, tokens[:, prefix:], grids)
        return tokens, cells


@dataclass(frozen=True, kw_only=True)
class AdapterSettings:
    """What a ViT-Adapter with a U-Net's decoder is made of.

    Args:
        drop_path: share of the scans that skip a perceptron of the adapter in training.
        prior_width: channels of the adapter's first convolutions.
        decoder_width: channels of the decoder at full size.
        reference_axes: "aligned", or "published": the order of axes in which the released code places where a token
            looks first (a token at slice i, row j, column k looks round (j, k, i)).
        merge_gelu: a GELU behind the merged channels, as the paper of 3DINO says; the released code has none.
    """

    drop_path: Share = 0.2
    prior_width: Count = 32
    decoder_width: Count = 32
    reference_axes: ReferenceAxes = "aligned"
    merge_gelu: bool = False


class ViTAdapter(nn.Module):
    """Maps at 1/2, 1/4, 1/8 and 1/16 of a volume, from a transformer's blocks, which it is given and does not own.

    Args:
        dim: width of a token.
        in_chans: C; each channel goes through the transformer by itself.
        settings: of its parts.

    Source: Chen et al. 2023, section 3; Xu et al. 2025, Methods, segmentation.
    """

    def __init__(self, dim: int, in_chans: int, settings: AdapterSettings) -> None:
        super().__init__()
        self.activation = nn.GELU() if settings.merge_gelu else nn.Identity()
        attention = {"heads": 8, "points": 4, "ratio": 0.25, "order": settings.reference_axes}
        self.level_embed = nn.Parameter(torch.randn(3, dim))
        self.spm = SpatialPrior(in_chans, settings.prior_width, dim)
        last = STAGES - 1
        self.interactions = nn.ModuleList(
            Interaction(dim, attention, settings.drop_path, extra=2 if stage == last else 0) for stage in range(STAGES)
        )
        self.up = nn.ConvTranspose3d(dim, dim, 2, 2)
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.BatchNorm3d(dim) for _ in range(STAGES))
        merges = [nn.Conv3d(in_chans * dim, dim, 1) for _ in range(STAGES)]
        self.channel_merge1, self.channel_merge2, self.channel_merge3, self.channel_merge4 = merges

    def forward(self, volume: Tensor, tokens: Tensor, blocks: Sequence[nn.Module], prefix: int) -> list[Tensor]:
        """Four maps, the finest first.

        Args:
            volume: (B, C, X, Y, Z) in the order of axes in which the tokens are numbered, sides multiples of 16.
            tokens: (B * C, prefix + P, dim), as they enter the first block.
            blocks: of the transformer, a multiple of 4.
            prefix: tokens that stand before those of the patches.

        Returns:
            (B, dim, X / 2, Y / 2, Z / 2), and so on to a sixteenth.
        """
        finest, *maps = self.spm(volume)
        grids = [(m.shape[2], m.shape[3], m.shape[4]) for m in maps]
        cells = torch.cat([m.flatten(2).mT + self.level_embed[i] for i, m in enumerate(maps)], dim=1)
        stages, each = [], len(blocks) // STAGES
        for index, interaction in enumerate(self.interactions):
            part = blocks[index * each : (index + 1) * each]
            tokens, cells = interaction(tokens, cells, part, grids, prefix)
            stages.append(tokens[:, prefix:].mT.unflatten(2, grids[-1]).unflatten(0, (len(volume), -1)).flatten(1, 2))
        parts = cells.split([i * j * k for i, j, k in grids], dim=1)
        maps = [part.mT.unflatten(2, grid) for part, grid in zip(parts, grids, strict=True)]
        return self._joined([self.up(maps[0]) + finest, *maps], stages)

    def _joined(self, maps: list[Tensor], stages: list[Tensor]) -> list[Tensor]:
        """Add to each map what the transformer has after the stage of that map."""
        joined = []
        for number, (cells, tokens) in enumerate(zip(maps, stages, strict=True), start=1):
            merged = self.activation(getattr(self, f"channel_merge{number}")(tokens))
            wide = F.interpolate(merged, size=cells.shape[2:], mode="trilinear")
            joined.append(getattr(self, f"norm{number}")(cells + wide))
        return joined


class AdapterUNet(MaskModel):
    """A transformer, the adapter that makes maps of four sizes of its blocks, and a U-Net's decoder.

    Inside, the axes of a volume run columns, rows, slices, as the transformers number their tokens.

    Args:
        backbone: with `embed_patches`, `blocks` and `prefix`; each channel goes through it by itself.
        rules: how published weights become the backbone's.
        out_dim: K.
        dim: width of a token.
        patches: their size and channels, and what the backbone starts from.
        settings: of adapter and decoder.
        fixed: the network takes patches of its own size alone.
    """

    def __init__(
        self,
        backbone: nn.Module,
        rules: WeightRules,
        out_dim: int,
        dim: int,
        patches: PatchSettings,
        settings: AdapterSettings,
        *,
        fixed: bool = False,
    ) -> None:
        super().__init__(backbone, rules, patches, PATCHES, fixed=fixed)
        if dim % ADAPTER_WIDTH:
            raise ModelError(f"{self.name}: dim must be a multiple of {ADAPTER_WIDTH}, as the adapter's; got {dim}")
        self.adapter = ViTAdapter(dim, self.in_chans, settings)
        self.decoder = UNetDecoder(self.name, self.in_chans, dim, settings.decoder_width)
        self.head = nn.Conv3d(settings.decoder_width, out_dim, 1)
        start_from(self, patches.pretrained)

    def forward_maps(self, x: Tensor) -> list[Tensor]:
        """(B, C, S, H, W) -> the adapter's four maps (B, dim, W / 2, H / 2, S / 2) and so on, columns first."""
        tokens = self.backbone.embed_patches(x.flatten(0, 1)[:, None])
        return self.adapter(x.transpose(2, 4), tokens, list(self.backbone.blocks), self.backbone.prefix)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, S, H, W) float32 -> (B, K, S, H, W) logits."""
        self.check(x)
        return self.head(self.decoder(x.transpose(2, 4), self.forward_maps(x))).transpose(2, 4)
