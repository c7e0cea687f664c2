"""What a self-supervised method is made of, and the callback that turns images into its views."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from fastai.callback.core import Callback
from torch import Tensor, nn

Views = Callable[[Tensor], tuple[Any, Any]]


@dataclass(frozen=True, kw_only=True)
class Pretext:
    """A self-supervised task: views, model and loss, run by an ordinary Learner.

    Args:
        name: of the method.
        model: what is trained; `forward(inputs) -> outputs`. An EMA teacher is a part of it without gradients, so
            that it is saved and resumed with the rest.
        views: a batch on the device -> (inputs, targets). Batches are (B, 1, H, W) uint8 for methods in 2D, and slices
            may be larger than the model takes; see `slivit.data.images.for_crops`.
        loss: (outputs, targets) -> scalar. It may keep named parts of itself in `parts`.
        encoder: the registered model inside `model` whose backbone is kept in the end.
        features: (B, S, H, W) uint8 stacks as the encoder's preprocessing makes them -> (B, D) features of the encoder,
            for probes; without gradients.
        load: an item -> tensors, in the reading process; the item is a row with "path". None loads one slice.
        collate: a list of what `load` gave -> a batch; fastai's default where None.
        callbacks: of the method: momentum of a teacher, temperatures, frozen layers.
        pictures: a batch -> named (B, H, W) images from 0 to 1, drawn beside each other (original, masked, rebuilt).
        parts: named scalars of the last step, logged as means over an epoch.
        extra: further modules to keep in files of their own, such as a decoder for segmentation.
        undecayed: parts of the names of parameters that have no weight decay, beside biases, norms and other vectors.
        divides: each row of the model's inputs gives a row of every output by itself, so that a batch that is too large
            for memory can go through in parts. (The loss may compare all rows.)
        networks: those whose gradients are clipped each by itself; all together where empty.
        depth_of: the name of a parameter -> its layer, 0 for the embedding, for layer-wise rates; None where the
            method has no layers.

    Example:
        >>> model = slivit.create_model("image_classifier", 1, backbone="resnet10t", image_size=32, stride=16)
        >>> isinstance(slivit.create_pretext("simclr", model), slivit.Pretext)
        True
    """

    name: str
    model: nn.Module
    views: Views
    loss: Callable[[Any, Any], Tensor]
    encoder: nn.Module
    features: Callable[[Tensor], Tensor]
    load: Callable[[Mapping[str, Any]], Any] | None = None
    collate: Callable[[Sequence[Any]], Any] | None = None
    callbacks: Sequence[Callback] = ()
    pictures: Callable[[Tensor], dict[str, Tensor]] | None = None
    parts: dict[str, float] = field(default_factory=dict)
    extra: Mapping[str, nn.Module] = field(default_factory=dict)
    undecayed: Sequence[str] = ()
    divides: bool = False
    networks: Sequence[nn.Module] = ()
    depth_of: Callable[[str], int] | None = None


class MakeViews(Callback):
    """Turn every batch into a method's inputs and targets, on the device.

    In validation the random numbers start from the same state each time, so that its losses can be compared.
    """

    order = -15  # before anything looks at the batch

    def __init__(self, views: Views) -> None:
        self.views = views
        self._state: Tensor | None = None

    def before_batch(self) -> None:
        inputs, targets = self.views(_plain(self.xb[0] if len(self.xb) == 1 else self.xb))
        self.learn.xb, self.learn.yb = (inputs,), (targets,)

    def before_validate(self) -> None:
        self._state = torch.get_rng_state()
        torch.manual_seed(0)

    def after_validate(self) -> None:
        if self._state is not None:
            torch.set_rng_state(self._state)
            self._state = None


def _plain(batch: Any) -> Any:
    """fastai's tensor classes to torch's: their bookkeeping costs time at every operation."""
    if isinstance(batch, Tensor):
        return batch.as_subclass(Tensor)
    if isinstance(batch, Mapping):
        return {key: _plain(value) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        return type(batch)(_plain(value) for value in batch)
    return batch
