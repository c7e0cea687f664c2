"""What the networks that segment share: a checked input of any fitting size, and the decoder of UNETR and its kin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from torch import Tensor, nn

from slivit.errors import ModelError, install_command
from slivit.models._weights import WeightRules, Weights
from slivit.models.registry import check_volume
from slivit.settings import Count


@dataclass(frozen=True, kw_only=True)
class PatchSettings:
    """What a network of patches of a volume takes, and what it starts from.

    Args:
        slices: S of a patch.
        image_size: P, rows and columns of a patch in pixels.
        in_chans: C.
        pretrained: weights of the backbone: a path, or True where some are known by name (see `load_backbone`).
    """

    slices: Count = 96
    image_size: Count = 96
    in_chans: Count = 1
    pretrained: bool | Weights = False

    @property
    def size(self) -> tuple[int, int, int]:
        """(S, P, P)."""
        return self.slices, self.image_size, self.image_size


class MaskModel(nn.Module):
    """A network that gives logits of every voxel: (B, C, S, H, W) -> (B, K, S, H, W).

    It takes patches of other sizes than its own too, as a sliding window at a volume's border may need.

    Args:
        backbone: what published weights are for.
        rules: how they become its own.
        patches: their size and channels.
        multiple: what S, H and W must be multiples of.
        fixed: no other size than that of `patches` is taken.

    Raises:
        ModelError: a size that is none.
    """

    backbone: Any

    def __init__(
        self,
        backbone: nn.Module,
        rules: WeightRules,
        patches: PatchSettings,
        multiple: tuple[int, int, int],
        *,
        fixed: bool = False,
    ) -> None:
        super().__init__()
        self.name, self.multiple, self.fixed = rules.architecture, multiple, fixed
        self.input_size, self.in_chans = patches.size, patches.in_chans
        if any(side % by for side, by in zip(patches.size, multiple, strict=True)):
            raise ModelError(
                f"{self.name}: slices and image_size must be multiples of {_sides(multiple)}; got {patches.size}"
            )
        self.backbone, self.backbone_info = backbone, rules

    def check(self, x: Tensor) -> None:
        """Raise ModelError where `x` is not of a shape that this model takes."""
        if self.fixed:
            check_volume(x, self.name, self.in_chans, self.input_size)
        sides = zip(x.shape[2:], self.multiple, strict=False)
        if x.ndim != 5 or x.shape[1] != self.in_chans or any(n == 0 or n % by for n, by in sides):
            raise ModelError(
                f"{self.name} takes (B, {self.in_chans}, S, H, W): channels, slices, rows and columns, the last three "
                f"multiples of {_sides(self.multiple)}; got {tuple(x.shape)}"
            )


def _sides(multiple: tuple[int, int, int]) -> str:
    return str(multiple[0]) if len(set(multiple)) == 1 else " x ".join(map(str, multiple))


def monai(name: str, module: str = "blocks") -> Any:
    """A module of MONAI's networks.

    Args:
        name: of the model that needs it, for the message.
        module: such as "nets.vit".

    Raises:
        ModelError: MONAI is not installed.
    """
    try:
        import einops  # noqa: F401 (MONAI asks for it only when a network is made)

        return import_module(f"monai.networks.{module}")
    except ImportError as error:
        raise ModelError(f"{name} needs the packages monai and einops: {install_command('baselines')}") from error


def encode(name: str, old: int, new: int) -> nn.Module:
    """MONAI's residual block of two convolutions of 3 voxels: (B, old, ...) -> (B, new, ...)."""
    return monai(name).UnetrBasicBlock(3, old, new, 3, 1, "instance", res_block=True)


def decode(name: str, old: int, new: int) -> nn.Module:
    """MONAI's block that doubles the sides of a coarse map and joins it with a finer one of `new` channels."""
    return monai(name).UnetrUpBlock(3, old, new, 3, 2, "instance", res_block=True)


class UNetDecoder(nn.Module):
    """The volume and maps at 1/2, 1/4, 1/8 and 1/16 -> (B, width, ...) of the volume's size.

    Args:
        name: of the model, for messages.
        in_chans: channels of the volume.
        dim: channels of the maps.
        width: channels at full size; each of the three coarser sizes doubles it.

    Source: Xu et al. 2025, Methods, segmentation; the blocks of Hatamizadeh et al. 2022 (UNETR), section 3.1.
    """

    def __init__(self, name: str, in_chans: int, dim: int, width: int) -> None:
        super().__init__()
        first, second, third, fourth = width, 2 * width, 4 * width, 8 * width
        self.encoder1, self.encoder2 = encode(name, in_chans, first), encode(name, dim, first)
        self.encoder3, self.encoder4 = encode(name, dim, second), encode(name, dim, third)
        self.encoder5 = encode(name, dim, fourth)
        self.decoder4, self.decoder3 = decode(name, fourth, third), decode(name, third, second)
        self.decoder2, self.decoder1 = decode(name, second, first), decode(name, first, first)

    def forward(self, volume: Tensor, maps: Sequence[Tensor]) -> Tensor:
        half, quarter, eighth, sixteenth = maps
        x = self.decoder4(self.encoder5(sixteenth), self.encoder4(eighth))
        x = self.decoder3(x, self.encoder3(quarter))
        x = self.decoder2(x, self.encoder2(half))
        return self.decoder1(x, self.encoder1(volume))


class UnetrDecoder(nn.Module):
    """The volume and four maps at 1/16 -> (B, width, ...) of the volume's size.

    Args:
        name: of the model, for messages.
        in_chans: channels of the volume.
        dim: channels of the maps.
        width: channels at full size; each of the three coarser sizes doubles it.

    Source: Hatamizadeh et al. 2022 (arXiv:2103.10504), section 3.1.
    """

    def __init__(self, name: str, in_chans: int, dim: int, width: int) -> None:
        super().__init__()
        first, second, third, fourth = width, 2 * width, 4 * width, 8 * width
        grow = monai(name).UnetrPrUpBlock
        self.encoder1 = encode(name, in_chans, first)
        self.encoder2, self.encoder3, self.encoder4 = (
            grow(3, dim, channels, layers, 3, 1, 2, "instance", conv_block=True, res_block=True)
            for channels, layers in ((second, 2), (third, 1), (fourth, 0))
        )
        self.decoder5, self.decoder4 = decode(name, dim, fourth), decode(name, fourth, third)
        self.decoder3, self.decoder2 = decode(name, third, second), decode(name, second, first)

    def forward(self, volume: Tensor, maps: Sequence[Tensor]) -> Tensor:
        x = self.decoder5(maps[3], self.encoder4(maps[2]))
        x = self.decoder4(x, self.encoder3(maps[1]))
        x = self.decoder3(x, self.encoder2(maps[0]))
        return self.decoder2(x, self.encoder1(volume))
