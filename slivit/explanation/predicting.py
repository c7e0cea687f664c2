"""The evidence behind a prediction: what is explained of a model, and how much speaks for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slivit.checkpoint import Checkpoint, load_checkpoint
from slivit.data.preprocessing import Preprocessing
from slivit.errors import SlivitError, nearest, one_of
from slivit.predict.engine import Engine
from slivit.targets.task import Task


class ExplainError(SlivitError):
    """A wish for an explanation that a model or a scan does not allow."""


def number_of(task: Task, target: str) -> int:
    """The place of an output.

    Raises:
        ExplainError: no such output.
    """
    outputs = task.outputs
    if target not in outputs:
        raise ExplainError(
            f'"{target}" is not predicted by this model.{nearest(target, outputs)} It predicts {one_of(outputs)}.'
        )
    return outputs.index(target)


def target_or(task: Task, target: str | None, row: Mapping[str, Any]) -> str:
    """The output to explain: the one asked for, or else the one that the model finds most likely, or the first."""
    outputs = task.outputs
    if target is not None:
        return outputs[number_of(task, target)]
    if not task.makes_calls:
        return outputs[0]
    return max(outputs, key=lambda name: float(row[f"prob_{name}"]))


def predict_with_evidence(engine: Engine, stacks: Tensor) -> tuple[Tensor, Tensor]:
    """Predictions, and the evidence behind them.

    Args:
        engine: of the model.
        stacks: (B, S, H, W), 0 to 255.

    Returns:
        (B, out_dim) float32 probabilities or values, and (B, out_dim) float64 evidence; both are means of the
        mirrored views.
    """
    logits = engine.logits(stacks)
    evidence = engine.task.evidence(logits).mean(0).cpu()
    return engine.loss.activation(logits).mean(0).cpu(), evidence


def predict_all(engine: Engine, stacks: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """As `predict_with_evidence`, for any number of (S, H, W) stacks, a batch at a time."""
    batch: list[Tensor] = []
    for stack in stacks:
        batch.append(stack)
        if len(batch) == engine.at_once:
            yield predict_with_evidence(engine, torch.stack(batch))
            batch = []
    if batch:
        yield predict_with_evidence(engine, torch.stack(batch))


def engine_of(
    checkpoint: str | Path | Checkpoint | nn.Module,
    *,
    task: Task | None = None,
    preprocessing: Preprocessing | None = None,
    device: str = "auto",
    batch_size: int = 8,
) -> Engine:
    """Bring a checkpoint, or a model with its task and preprocessing, to the device.

    It computes in float32: what one slice changes of a prediction is often less than half precision rounds off.

    Args:
        checkpoint: a run or checkpoint folder, what `load_checkpoint` returned, or a model made by `create_model`.
        task: the fitted task of a model; a checkpoint has its own.
        preprocessing: that of a model, with its size set; a checkpoint has its own.
        device: "auto", "cpu", "cuda", ...
        batch_size: scans a batch.

    Raises:
        CheckpointError: no checkpoint there, or a damaged one.
        ExplainError: a model without its task or preprocessing.
    """
    if isinstance(checkpoint, nn.Module):
        if task is None or preprocessing is None or preprocessing.size is None:
            raise ExplainError("a model alone says too little: give task= and preprocessing= with its size set, too")
        checkpoint = Checkpoint(checkpoint, task, preprocessing)
    loaded = checkpoint if isinstance(checkpoint, Checkpoint) else load_checkpoint(checkpoint)
    return Engine(loaded, device, batch_size=batch_size)
