"""The channels of scans and of models: whether they fit, before and while scans are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from slivit.data.readers.base import counted
from slivit.data.readers.channels import ALL
from slivit.errors import ReadError, SlivitError

if TYPE_CHECKING:
    from slivit.data.preprocessing import Preprocessing
    from slivit.volume import Volume


def settings_for(settings: Preprocessing, spec: Any, channels: Sequence[str] = ()) -> Preprocessing:
    """The settings with what a model takes filled in: its size, and the names of the channels.

    Args:
        settings: a recipe's preprocessing.
        spec: the model's `.spec`.
        channels: the columns that a manifest has for channels; where the reader takes all channels of a file, they are
            as many as the model takes, and called by their numbers.

    Raises:
        SlivitError: a model of other channels than the scans have.
    """
    takes = len(spec.mean)
    if settings.reader.get("channel") == ALL and not channels:
        names = tuple(str(number) for number in range(takes))
    else:
        names = tuple(channels)
        check_channels(takes, len(names))
    return settings.model_copy(update={"size": tuple(spec.size), "channels": names})


def check_channels(model: int, scans: int = 0) -> None:
    """Raise where a model takes other channels than scans have.

    Of grey scans, three stand for the colours of pictures, which grey has in equal parts; two or four stand for
    sequences of their own, and copies of one of them would be a model that never sees the others.

    Args:
        model: channels of its input.
        scans: channels of the scans; 0 for grey ones.

    Raises:
        SlivitError: with the way out.
    """
    if not scans and model not in (1, 3):
        raise SlivitError(
            f"the model takes {model} channels, and scans have one: each would be a copy of it. Leave in_chans out, or "
            "set it to 1; data.channels names the columns of scans that have several."
        )
    if scans and model != scans:
        raise SlivitError(
            f"the model takes {counted(model, 'channel')}, and the scans have {scans}. Set model.in_chans to {scans}, "
            "where the model has it (dino3d_vit_*, swin_*, monai_vit, resnet3d_18, the U-Nets), or name other columns "
            "in data.channels."
        )


def check_volume(volume: Volume, settings: Preprocessing) -> None:
    """Raise where a scan has other channels than those that the settings name.

    Raises:
        ReadError: more channels, or fewer.
    """
    wanted = len(settings.channels)
    if wanted and volume.channels != wanted:
        raise ReadError(
            f"{volume.source}: has {counted(volume.channels, 'channel')}, and {wanted} are taken: "
            f"{', '.join(settings.channels)}. Give a table with a column of paths for each, or their paths with ' | ' "
            "between them."
        )
