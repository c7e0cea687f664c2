"""Linear probes: all heads of a grid of features and learning rates, trained in one computation.

Papers: Oquab et al. 2023 (arXiv:2304.07193), section 7.1 and appendix B.3; Xu et al. 2025 (arXiv:2501.11755).
Origin: written for this project from the papers. Licence: Apache-2.0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slivit.errors import ModelError, one_of

LEARNING_RATES = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
ITERATIONS, MOMENTUM = 12_500, 0.9
START = 0.01  # standard deviation of the weights at the start
BIAS = ""  # the name of the part that is 1 for every scan
ROUNDING = 1e-6  # features that differ less than this, relative to their size, differ by rounding alone

Loss = Callable[[Tensor, Tensor], Tensor]
"""(N, k) logits and (N, ...) targets -> the scalar mean of what each row costs by itself."""


@dataclass(frozen=True)
class Scaler:
    """What standardises features: subtract `mean`, divide by `spread`, both (d,)."""

    mean: Tensor
    spread: Tensor

    @classmethod
    def fitted(cls, x: Tensor) -> Scaler:
        """The scaler that gives each feature of (n, d) training scans mean 0 and standard deviation 1.

        A feature that is the same for all scans, but for rounding, becomes 0 throughout.
        """
        wide = x.double()
        mean, spread = wide.mean(0), wide.std(0, correction=0)
        constant = spread <= ROUNDING * mean.abs().clamp(min=ROUNDING)
        return cls(mean.float(), torch.where(constant, math.inf, spread).float())

    @classmethod
    def plain(cls, x: Tensor) -> Scaler:
        """The scaler that changes nothing."""
        return cls(torch.zeros_like(x[0]), torch.ones_like(x[0]))

    def __call__(self, x: Tensor) -> Tensor:
        """(n, d) -> (n, d)."""
        return (x - self.mean) / self.spread


@dataclass(frozen=True)
class HeadGrid:
    """Trained heads: for each set of features, one a learning rate.

    Args:
        sets: by name of the set, the names of the parts that its heads read, one behind the other.
        rates: R learning rates.
        weights: by name of the set, (R, k, d).
        biases: by name of the set, (R, k).
    """

    sets: Mapping[str, tuple[str, ...]]
    rates: tuple[float, ...]
    weights: Mapping[str, Tensor]
    biases: Mapping[str, Tensor]

    def logits(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """By name of the set: (R, n, k), what each rate's head says of the (n, d) features of each part."""
        return {
            name: torch.einsum("nd,rkd->rnk", join(parts, names), self.weights[name]) + self.biases[name][:, None]
            for name, names in self.sets.items()
        }

    def head(self, name: str, rate: float, scaler: Scaler | None = None) -> nn.Linear:
        """One head as a layer on the CPU; with its set's scaler, for features as they were before standardising."""
        index = self.rates.index(rate)
        weight, bias = self.weights[name][index].cpu(), self.biases[name][index].cpu()
        if scaler:
            weight = weight / scaler.spread.cpu()
            bias = bias - weight @ scaler.mean.cpu()
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight, "bias": bias})
        return layer


def join(parts: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """Put the (n, d) features of some parts one behind the other."""
    return torch.cat([parts[name] for name in names], 1) if len(names) > 1 else parts[names[0]]


def train_heads(
    parts: Mapping[str, Tensor],
    y: Tensor,
    loss: Loss,
    outputs: int,
    *,
    sets: Mapping[str, Sequence[str]] | None = None,
    rates: Sequence[float] = LEARNING_RATES,
    iterations: int = ITERATIONS,
    batch_size: int = 128,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> HeadGrid:
    """Train a linear head for every set of features and every learning rate, all at once.

    Each head sees the same batches and takes the steps that `torch.optim.SGD` with momentum 0.9 under a cosine
    schedule to 0 would take with it alone: features are multiplied with the weights of all heads that read them
    together, and what one head costs changes no other. A head whose rate is too high may end in NaN, and alone does so.

    Args:
        parts: (n, d) float32 features of the training scans by name; d may differ.
        y: (n, ...) targets as `loss` takes them.
        loss: of (N, k) logits against (N, ...) targets, the mean over rows. Rows must not touch each other's gradient.
        outputs: k.
        sets: by name, the parts that a head reads one behind the other; each part by itself where None.
        rates: learning rates at the start of the schedule.
        iterations: steps.
        batch_size: scans a step, at most all of them; every scan comes once before any comes again.
        seed: of the weights at the start and of the batches.
        progress: called with the number of each step.

    Raises:
        ModelError: no features or scans, parts of different scans, or numbers that are not allowed.

    Source: Oquab et al. 2023, appendix B.3 (rates, 12,500 iterations, SGD); Xu et al. 2025, Methods.
    """
    chosen = {name: tuple(names) for name, names in (sets or {part: (part,) for part in parts}).items()}
    _check(parts, chosen, y, outputs, rates, iterations, batch_size)
    generator = torch.Generator().manual_seed(seed)
    training = _Training(parts, chosen, outputs, tuple(rates), generator)
    batches = draw_batches(len(y), min(batch_size, len(y)), generator)
    for step in range(iterations):
        rows = next(batches).to(y.device)
        training.step(rows, y[rows], loss, (1 + math.cos(math.pi * step / iterations)) / 2)
        if progress:
            progress(step)
    return training.finished()


def draw_batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless batches of row numbers in random order: each row comes once before any comes again."""
    rest = torch.empty(0, dtype=torch.int64)
    while True:
        while len(rest) < size:
            rest = torch.cat([rest, torch.randperm(count, generator=generator)])
        yield rest[:size]
        rest = rest[size:]


@dataclass(frozen=True)
class _Block:
    """Parts that the same sets read, so that one product serves the heads of all these sets.

    Args:
        parts: their names.
        readers: the names of the sets.
        x: (n, d) the parts' features one behind the other.
        rows: (m,) the outputs of the readers' heads among those of all heads.
        weight: (m, d).
        push: (m, d) what momentum adds up, times each head's learning rate.
    """

    parts: tuple[str, ...]
    readers: tuple[str, ...]
    x: Tensor
    rows: Tensor
    weight: Tensor
    push: Tensor


class _Training:
    """All heads while they are trained; their outputs are in the order of sets, then rates, then outputs of a head."""

    def __init__(
        self,
        parts: Mapping[str, Tensor],
        sets: Mapping[str, tuple[str, ...]],
        outputs: int,
        rates: tuple[float, ...],
        generator: torch.Generator,
    ) -> None:
        self.sets, self.outputs, self.rates = sets, outputs, rates
        like = next(iter(parts.values()))
        self.parts = {**parts, BIAS: torch.ones_like(like[:, :1])}
        self.speeds = like.new_tensor(rates).repeat_interleave(outputs).repeat(len(sets))[:, None]
        starts = {name: self._start(names, generator) for name, names in sets.items()}
        alike: dict[tuple[str, ...], list[str]] = {}
        for part in self.parts:
            alike.setdefault(tuple(name for name, start in starts.items() if part in start), []).append(part)
        self.blocks = [self._block(tuple(p), readers, starts) for readers, p in alike.items() if readers]

    def _start(self, names: Sequence[str], generator: torch.Generator) -> dict[str, Tensor]:
        """By part: the (k, d) weights of a set's heads at the start, the same for all rates."""
        shapes = {name: (self.outputs, self.parts[name].shape[1]) for name in names}
        drawn = {name: START * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        return {**drawn, BIAS: torch.zeros(self.outputs, 1)}

    def _block(
        self, parts: tuple[str, ...], readers: tuple[str, ...], starts: Mapping[str, Mapping[str, Tensor]]
    ) -> _Block:
        x = join(self.parts, parts).contiguous()
        width = len(self.rates) * self.outputs
        places = [index * width for index, name in enumerate(self.sets) if name in readers]
        rows = torch.cat([torch.arange(place, place + width, device=x.device) for place in places])
        weight = torch.cat([join(starts[name], parts).repeat(len(self.rates), 1) for name in readers]).to(x)
        return _Block(parts, readers, x, rows, weight, torch.zeros_like(weight))

    def step(self, rows: Tensor, y: Tensor, loss: Loss, schedule: float) -> None:
        """One step of SGD for all heads, at the rates times `schedule`, on the scans `rows` with the targets `y`."""
        inputs = [block.x.index_select(0, rows) for block in self.blocks]
        logits = self.speeds.new_zeros(len(self.speeds), len(rows))
        for block, x in zip(self.blocks, inputs, strict=True):
            logits.index_add_(0, block.rows, block.weight @ x.T)
        pushes = self._gradient(logits, y, loss) * self.speeds
        for block, x in zip(self.blocks, inputs, strict=True):
            # A head's own rate never changes, and the schedule is common to all: the rate may enter before momentum.
            block.push.addmm_(pushes.index_select(0, block.rows), x, beta=MOMENTUM)
            block.weight.add_(block.push, alpha=-schedule)

    def _gradient(self, logits: Tensor, y: Tensor, loss: Loss) -> Tensor:
        """(outputs, B) logits -> (outputs, B), of each head's own mean loss over the batch."""
        each = logits.T.reshape(-1, self.outputs).requires_grad_()
        heads = len(logits) // self.outputs
        # The mean over all rows and heads, times the heads, is the sum of every head's mean.
        (gradient,) = torch.autograd.grad(heads * loss(each, y.repeat_interleave(heads, 0)), each)
        return gradient.view(len(y), -1).T

    def finished(self) -> HeadGrid:
        """The heads as they are now, by set."""
        trained = {name: self._trained(name) for name in self.sets}
        weights = {name: torch.cat([trained[name][part] for part in names], -1) for name, names in self.sets.items()}
        return HeadGrid(self.sets, self.rates, weights, {name: parts[BIAS][..., 0] for name, parts in trained.items()})

    def _trained(self, name: str) -> dict[str, Tensor]:
        """By part: the (R, k, d) weights of a set's heads."""
        weights: dict[str, Tensor] = {}
        for block in self.blocks:
            if name in block.readers:
                heads = block.weight.unflatten(0, (len(block.readers), len(self.rates), self.outputs))
                widths = [self.parts[part].shape[1] for part in block.parts]
                split = heads[block.readers.index(name)].split(widths, -1)
                weights |= dict(zip(block.parts, split, strict=True))
        return weights


def _check(
    parts: Mapping[str, Tensor],
    sets: Mapping[str, tuple[str, ...]],
    y: Tensor,
    outputs: int,
    rates: Sequence[float],
    iterations: int,
    batch_size: int,
) -> None:
    shapes = {name: tuple(x.shape) for name, x in parts.items()}
    if not parts or len(y) == 0 or any(x.ndim != 2 or len(x) != len(y) for x in parts.values()):
        raise ModelError(f"a linear probe takes (n, d) features of each part and n targets; got {shapes} and {len(y)}")
    if unknown := {part for names in sets.values() for part in names} - set(parts):
        raise ModelError(f"a linear probe has no features {one_of(sorted(unknown))}; there are {one_of(parts)}")
    if not rates or min(rates) <= 0 or min(outputs, iterations, batch_size) < 1:
        raise ModelError(
            "a linear probe needs rates above 0, and outputs, iterations and batch_size of at least 1; got "
            f"{list(rates)}, {outputs}, {iterations} and {batch_size}"
        )
