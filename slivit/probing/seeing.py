"""What a frozen network makes of one scan: its patch tokens as colours, and where its class token looks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slivit.checkpoint import Checkpoint
from slivit.data.foreground import foreground_box
from slivit.data.preprocessing import Preprocessing, preprocess
from slivit.errors import ModelError, one_of
from slivit.models.registry import spec_of
from slivit.predict.engine import Engine
from slivit.probing.cells import Array, Box, seen_box
from slivit.probing.pca import foreground, pca_colours
from slivit.volume import Volume

TOKEN_FAMILIES = ("dino3d_vit_*", "swin_transfer", "swin_random", "monai_vit", "unimiss_*")


@dataclass(frozen=True, eq=False)
class Seen:
    """What a network makes of a scan, patch by patch.

    Args:
        box: the part of the scan that the network saw.
        colours: (s, h, w, 3) from 0 to 1; background is black.
        kept: (s, h, w) bool, the foreground.
        attention: (n, s, h, w) probabilities by head: how much the class token looks at each patch in the last block;
            None for a network without a class token.
    """

    box: Box
    colours: Array
    kept: Array
    attention: Array | None

    def on_scan(self, shape: Sequence[int]) -> tuple[Array, Array | None]:
        """Colours (D, H, W, 3) from 0 to 1, and attention (n, D, H, W), on the grid of a scan of this shape."""
        kept = self.box.onto(self.kept, shape, nearest=True) > 0
        colours = self.box.onto(self.colours, shape, nearest=True) * kept[..., None]
        if self.attention is None:
            return colours, None
        return colours, np.stack([self.box.onto(head, shape) for head in self.attention])


def see(
    model: nn.Module,
    volume: Volume,
    settings: Preprocessing,
    *,
    mask: bool = True,
    head: int | None = None,
    device: str = "auto",
) -> Seen:
    """Run a network over a scan, and keep what can be looked at.

    Args:
        model: with `patch_map(x)`, its tokens in places: (B, d, s, h, w); and, where it has a class token,
            `attention_maps(x)`: (B, heads, s, h, w).
        volume: the whole scan.
        settings: the preprocessing, whose size may be another than the model's own where the model takes it.
        mask: leave the background black.
        head: keep the attention of this head alone, from 0; None keeps all.
        device: "auto", "cpu", "cuda", ...

    Raises:
        ModelError: a model without tokens in places, a head that it has not, or a size that it does not take.
    """
    places = _tokens_in_places(model)
    engine = Engine(Checkpoint(model, None, settings), device)
    box = _box(volume, settings)
    stack = torch.from_numpy(preprocess(volume, settings))[None]
    tokens = engine.call(places, stack)[0].float().cpu()
    attention = engine.call(lambda x: _attention(model, x, head), stack)
    grid = (tokens.shape[1], tokens.shape[2], tokens.shape[3])
    grey = stack.float() if stack.ndim == 4 else stack.float().mean(1)
    brightness = F.adaptive_avg_pool3d(grey, grid).flatten()
    flat = tokens.flatten(1).T
    kept = foreground(flat, brightness) if mask else torch.ones(len(flat), dtype=torch.bool)
    colours = pca_colours(flat, kept)
    return Seen(
        box,
        colours.reshape(*grid, 3).numpy(),
        kept.reshape(grid).double().numpy(),
        None if attention is None else attention.double().numpy(),
    )


def _box(volume: Volume, settings: Preprocessing) -> Box:
    """The part of a scan that the network sees, which is cropped to its foreground where the settings say so."""
    if not settings.foreground:
        return seen_box(volume.shape, settings)
    kept = foreground_box(volume.array, volume.spacing, settings.foreground)
    inner = seen_box([side.stop - side.start for side in kept], settings)
    first, row, column = (start + side.start for start, side in zip(inner.start, kept, strict=True))
    return Box((first, row, column), inner.length)


def _tokens_in_places(model: nn.Module) -> Callable[[Tensor], Tensor]:
    places: Callable[[Tensor], Tensor] | None = getattr(model, "patch_map", None)
    if places is None:
        raise ModelError(
            f"{spec_of(model).name} has no patch tokens in places (no patch_map), so there is nothing to look at; "
            f"those with tokens are {one_of(TOKEN_FAMILIES)}"
        )
    return places


def _attention(model: nn.Module, x: Tensor, head: int | None) -> Tensor | None:
    """(n, s, h, w) of the first scan; None where the class token has none in places."""
    maps: Any = getattr(model, "attention_maps", None)
    if maps is None:
        if head is not None:
            raise ModelError(f"{spec_of(model).name} has no class token, so there is no attention of head {head}")
        return None
    heads: Tensor = maps(x)[0].float().cpu()
    if head is None:
        return heads
    if not 0 <= head < len(heads):
        raise ModelError(f"{spec_of(model).name} has {len(heads)} heads, 0 to {len(heads) - 1}; got head {head}")
    return heads[head : head + 1]
