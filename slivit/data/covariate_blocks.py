"""A fastai block of covariates: the second input of a model that reads them."""

from __future__ import annotations

import torch
from fastai.data.block import TransformBlock
from fastai.torch_core import TensorBase, TitledStr
from fasttransform import Transform

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
