"""A fastai block of covariates: the second input of a model that reads them."""

from __future__ import annotations

from typing import Any

import torch
from fastai.data.block import TransformBlock
from fastai.data.core import show_batch, show_results
from fastai.torch_core import TensorBase, TitledStr
from fasttransform import Transform
from plum import dispatch

from slivit.targets.covariates import encoded
from slivit.targets.task import Task


class TensorCovariates(TensorBase):
    """(k,) float32: what a model reads beside the slices."""


class EncodeCovariates(Transform):
    """A manifest row to its encoded covariates, and back to words."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.inputs = task.inputs

    def encodes(self, row: dict) -> TensorCovariates:
        return TensorCovariates(torch.from_numpy(encoded(self.inputs, row)))

    def decodes(self, z: TensorCovariates) -> TitledStr:
        return TitledStr(", ".join(f"{value:.2g}" for value in z.flatten().tolist()))


def CovariateBlock(task: Task) -> TransformBlock:
    """A fastai block for the covariates of a task: the second input of a model that reads them."""
    return TransformBlock(type_tfms=[EncodeCovariates(task)])


@dispatch  # type: ignore[no-redef]
def show_batch(x: tuple, y: Any, samples: Any, **kwargs: Any) -> Any:  # noqa: F811 (one more case of fastai's function)
    """Draw the slices of each scan; its covariates have no picture."""
    return show_batch(x[0], y, pictured(samples), **kwargs)


@dispatch  # type: ignore[no-redef]
def show_results(x: tuple, y: Any, samples: Any, outs: Any, **kwargs: Any) -> Any:  # noqa: F811 (as above)
    """Draw the slices of each scan with what is known and predicted."""
    return show_results(x[0], y, pictured(samples), outs, **kwargs)


def pictured(samples: Any) -> list[tuple[Any, Any]]:
    """Samples of slices, covariates and targets without the covariates."""
    return [(sample[0], sample[-1]) for sample in samples]
