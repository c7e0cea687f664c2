"""A model with all that a prediction takes: the outputs of stacks of slices, and the evidence behind them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from slivit.checkpoint import Checkpoint, load_checkpoint
from slivit.data.layout import to_input
from slivit.data.preprocessing import Preprocessing
from slivit.errors import SlivitError, nearest, one_of
from slivit.models.registry import spec_of
from slivit.predict.engine import choose_device, mirror_axes
from slivit.targets.decision import Decision
from slivit.targets.loss import TaskLoss
from slivit.targets.task import Task


class ExplainError(SlivitError):
    """A wish for an explanation that a model or a scan does not allow."""


@dataclass(frozen=True)
class ScanModel:
    """A trained model and how scans are brought into it.

    Args:
        model: in evaluation mode, on `device`.
        task: what it predicts.
        settings: how scans become slices.
        decision: how probabilities become calls, where that was fixed.
        device: where it computes.
    """

    model: nn.Module
    task: Task
    settings: Preprocessing
    decision: Decision | None
    device: torch.device

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of what can be explained: targets, or the classes of a multiclass task."""
        return self.task.classes if self.task.kind == "multiclass" else self.task.targets

    def number_of(self, target: str) -> int:
        """The place of an output.

        Raises:
            ExplainError: no such output.
        """
        if target not in self.outputs:
            raise ExplainError(
                f'"{target}" is not predicted by this model.{nearest(target, self.outputs)} '
                f"It predicts {one_of(self.outputs)}."
            )
        return self.outputs.index(target)

    def input_of(self, stacks: Tensor) -> Tensor:
        """(B, S, H, W) grey slices, 0 to 255 -> the model's input, on its device."""
        spec = spec_of(self.model)
        return to_input(stacks.to(self.device), spec.input, spec.mean, spec.std)

    def evidence(self, logits: Tensor) -> Tensor:
        """What speaks for each output: log-odds of a class or label, or the value in the target's unit.

        Args:
            logits: (B, out_dim).

        Returns:
            (B, out_dim) float64. Unlike probabilities, log-odds do not stop changing where a model is sure.
        """
        if self.task.kind == "regression":
            return TaskLoss(self.task).activation(logits).double()
        z = logits.double()
        if self.task.kind != "multiclass":
            return z
        own = torch.eye(z.shape[1], dtype=torch.bool, device=z.device)
        others = z[:, None].expand(-1, z.shape[1], -1).masked_fill(own, -torch.inf)
        return z - others.logsumexp(-1)

    def views(self) -> list[tuple[int, ...]]:
        """The axes of (B, S, H, W) to flip for each view that a prediction averages, none of them first."""
        return mirror_axes(self.settings.flips)

    @torch.inference_mode()
    def run(self, stacks: Tensor) -> tuple[Tensor, Tensor]:
        """Predictions as `slivit.predict.engine` makes them, and the evidence behind them.

        Args:
            stacks: (B, S, H, W), 0 to 255.

        Returns:
            (B, out_dim) float32 probabilities or values, and (B, out_dim) float64 evidence; both are means of the
            mirrored views.
        """
        loss = TaskLoss(self.task)
        logits = [self.model(self.input_of(stacks.flip(axes))) for axes in self.views()]
        predicted = torch.stack([loss.activation(z) for z in logits]).mean(0)
        return predicted.cpu(), torch.stack([self.evidence(z) for z in logits]).mean(0).cpu()

    def run_all(self, stacks: Iterator[Tensor], batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """As `run`, for any number of (S, H, W) stacks, `batch_size` at a time."""
        batch: list[Tensor] = []
        for stack in stacks:
            batch.append(stack)
            if len(batch) == batch_size:
                yield self.run(torch.stack(batch))
                batch = []
        if batch:
            yield self.run(torch.stack(batch))

    def table(self, predicted: Tensor) -> pd.DataFrame:
        """(n, out_dim) predictions as a table, under the checkpoint's decision: scaled, and with calls."""
        table = pd.DataFrame(predicted.double().numpy(), columns=list(self.task.prediction_columns))
        return self.decision.apply(table, self.task) if self.decision else table

    def target_or(self, target: str | None, row: Mapping[str, Any]) -> str:
        """The output to explain: the one asked for, or else the one that the model finds most likely, or the first."""
        if target is not None:
            return self.outputs[self.number_of(target)]
        if self.task.kind == "regression":
            return self.outputs[0]
        return max(self.outputs, key=lambda name: float(row[f"prob_{name}"]))


def scan_model(
    checkpoint: str | Path | Checkpoint | nn.Module,
    *,
    task: Task | None = None,
    preprocessing: Preprocessing | None = None,
    device: str = "auto",
) -> ScanModel:
    """Bring a checkpoint, or a model with its task and preprocessing, to the device.

    Args:
        checkpoint: a run or checkpoint folder, what `load_checkpoint` returned, or a model made by `create_model`.
        task: the fitted task of a model; a checkpoint has its own.
        preprocessing: that of a model, with its size set; a checkpoint has its own.
        device: "auto", "cpu", "cuda", ...

    Raises:
        CheckpointError: no checkpoint there, or a damaged one.
        ExplainError: a model without its task or preprocessing.
    """
    where = choose_device(device)
    if isinstance(checkpoint, nn.Module):
        if task is None or preprocessing is None or preprocessing.size is None:
            raise ExplainError("a model alone says too little: give task= and preprocessing= with its size set, too")
        return ScanModel(checkpoint.to(where).eval(), task, preprocessing, None, where)
    loaded = checkpoint if isinstance(checkpoint, Checkpoint) else load_checkpoint(checkpoint)
    model = loaded.model.to(where).eval()
    decision = loaded.operating_point if loaded.task.kind != "regression" else None
    return ScanModel(model, loaded.task, loaded.preprocessing, decision, where)
