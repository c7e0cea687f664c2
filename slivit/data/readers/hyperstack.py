"""What the pages of a TIFF are, where ImageJ or OME-XML tells: time points, slices and channels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from slivit.data.readers import tiff
from slivit.errors import ReadError, nearest


@dataclass(frozen=True)
class Planes:
    """The pages of a stack of several axes.

    Args:
        pages: (T, Z, C), the page of each time point, slice and channel.
        names: of the channels; empty where the file does not tell.
        sure: False for channels alone, as which many programs write slices.
    """

    pages: npt.NDArray[np.intp]
    names: tuple[str, ...] = ()
    sure: bool = True

    def chosen(self, channel: int | str | None, frame: int | None, source: str) -> tuple[list[int], tuple[str, ...]]:
        """Return the pages that are the slices of one channel and time point, and what the user should know.

        Args:
            channel: its number from 0, or its name; None where there is but one.
            frame: the number of a time point; None where there is but one, or time points of a single slice, which
                then are the slices (a clip).
            source: the file, for messages.
        """
        times, slices, channels = self.pages.shape
        if channel is None and not self.sure:
            note = (
                f"an ImageJ stack of {channels} channels without slices: they were read as slices; channel=0 reads one"
            )
            return self.pages.ravel().tolist(), (note,)
        place = self._channel(channel, source)
        if frame is None and times > 1 and slices > 1:
            raise ReadError(
                f"{source}: holds {times} time points of {slices} slices. Choose one with frame=0 to {times - 1}."
            )
        if frame is not None and not 0 <= frame < times:
            raise ReadError(f"{source}: frame={frame} is outside the series; allowed are 0 to {times - 1}.")
        part = self.pages[:, :, place] if frame is None else self.pages[frame, :, place]
        return part.ravel().tolist(), ()

    def _channel(self, channel: int | str | None, source: str) -> int:
        times, slices, channels = self.pages.shape
        named = f" ({', '.join(self.names)})" if self.names else ""
        message = f"{source}: holds {channels} channels{named} of {slices * times} images"
        if channel is None and channels > 1:
            raise ReadError(f'{message}. Choose one with channel=0 to {channels - 1}, by its name, or channel="all".')
        if isinstance(channel, str) and channel in self.names:
            return self.names.index(channel)
        if isinstance(channel, str):
            raise ReadError(f"{message}, and none is called {channel!r}.{nearest(channel, self.names)}")
        if channel is not None and not 0 <= channel < channels:
            raise ReadError(f"{message}; channel={channel} is outside. Allowed are 0 to {channels - 1}.")
        return channel or 0


def planes_of(stream: BinaryIO, pages: Sequence[tiff.Tags]) -> Planes | None:
    """Return what the pages are, or None where they are slices by all that is known.

    Raises:
        ValueError: an OME-TIFF of several images, or of axes that are neither time, slices nor channels.
    """
    text = tiff.description(pages[0])
    if text.startswith("ImageJ="):
        return _imagej(tiff.imagej(text), len(pages))
    return _ome(stream) if "<OME" in text else None


def _imagej(counts: dict[str, int], pages: int) -> Planes | None:
    channels, slices, frames = (counts.get(name, 1) for name in ("channels", "slices", "frames"))
    if channels * slices * frames != pages or sum(n > 1 for n in (channels, slices, frames)) == 0:
        return None
    grid = np.arange(pages).reshape(frames, slices, channels)  # in a file of ImageJ channels follow each other first
    return Planes(grid, sure=slices > 1 or frames > 1)


def _ome(stream: BinaryIO) -> Planes:
    import tifffile

    stream.seek(0)
    with tifffile.TiffFile(stream) as file:
        names = tuple(re.findall(r"<Channel [^>]*?Name=\"([^\"]*)\"", file.ome_metadata or ""))
        if len(file.series) > 1:
            raise ValueError(f"it holds {len(file.series)} images of their own; save each as a file")
        axes = [name for name in file.series[0].axes if name not in "YXS"]
        shape = file.series[0].shape[: len(axes)]
        numbers = [-1 if page is None else page.index for page in file.series[0].pages]
    other = [f"{n} along {name}" for name, n in zip(axes, shape, strict=True) if name not in "TZC" and n > 1]
    if other or len(numbers) != int(np.prod(shape)) or -1 in numbers:
        problem = ", ".join(other) or f"{len(numbers)} pages for {shape}"
        raise ValueError(f"only time points, slices and channels can be read, and it has {problem}")
    # The axes in the order T, Z, C, with one of each that is absent.
    grid = np.array(numbers, np.intp).reshape(*shape, *(1 for name in "TZC" if name not in axes))
    named = [*axes, *(name for name in "TZC" if name not in axes)]
    ordered = grid.transpose([*(named.index(n) for n in "TZC"), *(i for i, n in enumerate(named) if n not in "TZC")])
    times, slices, channels = ordered.shape[:3]
    return Planes(ordered.reshape(times, slices, channels), names if len(names) == channels else ())
