"""Segmentation as a kind of task: labels of a mask, regions of them that may overlap, and voxels to ignore."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from slivit.errors import ManifestError, nearest
from slivit.statistics.segmentation import CASE_METRICS
from slivit.targets.task import Array, Task, is_missing
from slivit.targets.words import Measures

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from slivit.targets.loss import TaskLoss
    from slivit.targets.mask_losses import MaskLoss

Labels = npt.NDArray[np.uint8]
BACKGROUND, IGNORED = "background", 255
"""The first output where labels exclude each other, and the number of voxels that count nowhere."""
MANY = 254
"""The largest number of labels."""
ROUNDING = 1e-3
"""How far from a whole number a value of a mask may lie."""
PLACEHOLDER = "{}"
"""What stands for a label's name in the pattern of a path, where every structure has a file of its own."""


class Segmentation(Task):
    """A mask of one or several structures.

    Args:
        targets: the manifest's one column of masks: a file of labels, or a pattern of binary files with {} for the
            name of a label ("masks/case1/{}.nii.gz"), as TotalSegmentator writes them.
        labels: the value that stands for each structure in a file of labels; 0 is the background.
        regions: structures made of several values, each an output of its own, that may overlap: then these are trained
            and measured, and not the labels.
        ignore: the value of voxels that count neither in the loss nor in metrics.
        empty: masks without any structure are allowed, as healthy people have them.
        loss: "dice_ce", "dice" or "vis_mae"; see `slivit.targets.mask_losses.mask_loss`.

    Inside the package a mask holds the number of a label, from 1 in the order of `labels`, and 255 where it is ignored.

    Example:
        >>> task = slivit.Task(kind="segmentation", labels={"edema": 2, "enhancing": 4}, regions={"whole": (2, 4)})
        >>> task.outputs, task.structures
        (('whole',), ('whole',))
    """

    kind: Literal["segmentation"]
    targets: tuple[str, ...] = Field(default=("mask",), min_length=1, max_length=1)
    labels: dict[str, int] = Field(min_length=1, max_length=MANY)
    regions: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    ignore: int | None = None
    empty: bool = False
    loss: Literal["dice_ce", "dice", "vis_mae"] = "dice_ce"

    dense: ClassVar[bool] = True
    part: ClassVar[str] = "structure"
    measures: ClassVar[Measures] = Measures(
        main=("dice",),
        headlines=("dice", "hd95", "surface_dice", "absolute_volume_error_ml"),
        logged=("dice", "hd95"),
        by_group=("dice", "hd95"),
        by_output=("dice", "hd95", "surface_dice", "volume_error_ml", "absolute_volume_error_ml"),
        gap="dice",
    )

    def check(self) -> None:
        super().check()
        values = list(self.labels.values())
        if 0 in values or len(set(values)) < len(values):
            raise ValueError(f"labels have different values, and 0 is the background; got {self.labels}")
        if any(not -(2**31) <= value < 2**31 for value in values):
            raise ValueError(f"labels are numbers of 32 bits, as files hold them; got {self.labels}")
        if self.ignore is not None and self.ignore in (0, *values):
            raise ValueError(f"ignore is {self.ignore}, which is the background or one of the labels {self.labels}")
        for name, wanted in self.regions.items():
            if unknown := sorted(set(wanted) - set(values)):
                raise ValueError(f"regions.{name} has the value {unknown[0]}, which no label has; there are {values}")
            if not wanted:
                raise ValueError(f"regions.{name} is empty; give the values of labels")
        names = [*self.labels, *self.regions]
        if odd := [n for n in names if not n or not n.replace("-", "_").replace(" ", "_").isidentifier()]:
            raise ValueError(f"names of structures are letters, digits, - and _, as files are called so; got {odd[0]}")
        if BACKGROUND in names:
            raise ValueError(f'"{BACKGROUND}" is what is left, and needs no label; leave it out')

    # -- tables ------------------------------------------------------------------------------------------------------

    @property
    def structures(self) -> tuple[str, ...]:
        """What is measured: the regions, or else the labels."""
        return tuple(self.regions or self.labels)

    @property
    def parts(self) -> tuple[str, ...]:
        return self.structures

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(self.regions) if self.regions else (BACKGROUND, *self.labels)

    @property
    def prediction_columns(self) -> tuple[str, ...]:
        return tuple(f"ml_{name}" for name in self.structures)

    @property
    def measured(self) -> tuple[str, ...]:
        """The columns of a table of cases: each metric, its mean over structures first, then that of each structure."""
        return tuple(
            column for metric in CASE_METRICS for column in (metric, *(f"{metric}/{s}" for s in self.structures))
        )

    def arrays(self, table: pd.DataFrame) -> tuple[Array, Array]:
        p = table[list(self.measured)].to_numpy(float)
        return np.where(np.asarray(table["error"] == "")[:, None], np.zeros_like(p), np.nan), p

    @property
    def members(self) -> tuple[tuple[int, ...], ...]:
        """The numbers of the labels that each structure is made of."""
        numbers = {value: number for number, value in enumerate(self.labels.values(), 1)}
        if not self.regions:
            return tuple((number,) for number in numbers.values())
        return tuple(tuple(numbers[value] for value in wanted) for wanted in self.regions.values())

    def encode(self, row: Mapping[str, Any]) -> Any:
        """The path or pattern of a row's mask.

        Raises:
            ManifestError: the cell is empty.
        """
        cell = row[self.targets[0]]
        if is_missing(cell):
            raise ManifestError(f"{self.targets[0]} is empty; a segmentation needs a mask in every row")
        return str(cell)

    def files(self, cell: str) -> dict[str, str]:
        """The files of a mask by the names of labels; one under the name "" where it holds all labels."""
        if PLACEHOLDER not in cell:
            return {"": cell}
        return {name: cell.replace(PLACEHOLDER, name) for name in self.labels}

    def numbered(self, values: npt.NDArray[Any]) -> Labels:
        """A file's values as numbers of labels.

        Raises:
            ManifestError: a value that is not declared, a fraction, or no number.
        """
        levels = np.unique(values)
        known = {0: 0} | {value: number for number, value in enumerate(self.labels.values(), 1)}
        known |= {} if self.ignore is None else {self.ignore: IGNORED}
        whole = np.rint(levels) if levels.dtype.kind == "f" else levels
        with np.errstate(invalid="ignore"):  # a scale factor in a header leaves a rounding error
            fractions = levels[~(np.abs(levels - whole) <= ROUNDING)] if levels.dtype.kind == "f" else levels[:0]
        if len(fractions):
            raise ManifestError(
                f"holds {fractions[0]:.4g}, and labels are whole numbers; it was interpolated, or is no mask"
            )
        if unknown := [int(value) for value in whole if int(value) not in known]:
            shown = ", ".join(f"{name} = {value}" for name, value in self.labels.items())
            raise ManifestError(
                f"holds the value{'s' * (len(unknown) > 1)} {', '.join(map(str, unknown[:8]))}, which task.labels does "
                f"not declare; there are {shown}{nearest(str(unknown[0]), map(str, self.labels.values()))}"
            )
        out = np.zeros(values.shape, np.uint8)
        for value, number in zip(levels, (known[int(value)] for value in whole), strict=True):
            if number:
                out[values == value] = number
        return out

    def values(self, numbers: Labels) -> npt.NDArray[np.int32]:
        """Numbers of labels as the values of files again."""
        table = np.array([0, *self.labels.values()], np.int32)
        return table[numbers]

    def structure(self, numbers: Labels, place: int) -> npt.NDArray[np.bool_]:
        """Where the structure at a place of `structures` is."""
        return np.isin(numbers, self.members[place])

    def label_of_regions(self) -> dict[str, int] | None:
        """The value that each region has for itself when larger ones are painted first; None where it is not one."""
        order = sorted(self.regions, key=lambda name: -len(self.regions[name]))
        own = {}
        for place, name in enumerate(order):
            inner = {v for other in order[place + 1 :] for v in self.regions[other] if other != name}
            left = set(self.regions[name]) - inner
            if len(left) != 1:
                return None
            own[name] = left.pop()
        return own

    def tags(self, frame: pd.DataFrame) -> pd.DataFrame:
        return frame[["patient"]].assign(tag="")

    def counts(self, known: pd.Series) -> dict[str, Any]:
        return {}

    # -- torch -------------------------------------------------------------------------------------------------------

    @cached_property
    def mask_loss(self) -> MaskLoss:
        """The loss of logits against numbers of labels."""
        from slivit.targets.mask_losses import mask_loss

        ignored = None if self.ignore is None else IGNORED
        return mask_loss(self.loss, self.members if self.regions else None, ignored)

    def criterion(self, logits: Tensor, target: Tensor, given: TaskLoss) -> Tensor:
        return self.mask_loss(logits, target)

    def counted(self, target: Tensor, weights: Tensor | None) -> float:
        return float(len(target))

    def activation(self, logits: Tensor, center: Tensor, spread: Tensor) -> Tensor:
        return logits.sigmoid() if self.regions else logits.softmax(1)

    def decodes(self, predictions: Tensor) -> Tensor:
        """(B, K, ...) probabilities to numbers of labels, or to (B, K, ...) of 0 and 1 for regions."""
        return (predictions >= 0.5).byte() if self.regions else predictions.argmax(1).byte()

    def truths(self, numbers: Tensor) -> Tensor:
        """(B, ...) numbers of labels -> (B, structures, ...) bool."""
        import torch

        return torch.stack([torch.isin(numbers, numbers.new_tensor(m)) for m in self.members], 1)

    def called(self, logits: Tensor) -> Tensor:
        """(B, K, ...) logits -> (B, structures, ...) bool: what each voxel is called."""
        import torch

        if self.regions:
            return logits > 0
        best = logits.argmax(1)
        return torch.stack([best == number for number in range(1, len(self.labels) + 1)], 1)

    # -- words -------------------------------------------------------------------------------------------------------

    def describe(self, encoded: Tensor) -> str:
        return ", ".join(self.structures)

    @property
    def promise(self) -> str:
        return f"masks of {', '.join(self.structures)}"

    def completed(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {}
