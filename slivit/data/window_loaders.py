"""fastai DataLoaders of windows: training draws them one by one, validation reads each scan once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from fastai.data.core import DataLoaders, Datasets, TfmdDL
from fastai.data.transforms import ToTensor
from fastai.torch_core import TensorBase
from fasttransform import Transform
from fasttransform.cast import explode_types
from torch import Tensor

from slivit.data.blocks import EncodeTargets, InputSpec, TensorSlices, TensorTarget, batch_transforms
from slivit.data.covariate_blocks import EncodeCovariates, TensorCovariates
from slivit.data.preprocessing import Preprocessing, load_slices, load_window
from slivit.data.sampling import OversampledDL, item_classes
from slivit.data.window_plan import ScanWindows
from slivit.data.windows import Windows
from slivit.errors import SlivitError
from slivit.parallel import batch_of, own_part
from slivit.targets.task import Task

if TYPE_CHECKING:
    from slivit.data.augmentation import Augmentation


class TensorScan(TensorBase):
    """All slices of a scan, (D, H, W) or (C, D, H, W) from 0 to 255, before it is cut into windows."""


class LoadWindow(Transform):
    """A row of a window to its preprocessed slices, not yet cropped."""

    def __init__(self, settings: Preprocessing, cache: Any = None) -> None:
        super().__init__()
        self.settings, self.cache = settings.stored, cache

    def encodes(self, window: dict) -> TensorSlices:
        start, path = window["start"], window["path"]
        if self.cache:
            stack = self.cache.load(path, self.settings)[..., start : start + self.settings.sized()[0], :, :]
        else:
            stack = load_window(path, self.settings, start, window["depth"])
        return TensorSlices(torch.from_numpy(stack))


class LoadScan(Transform):
    """A scan to all of its preprocessed slices, cropped."""

    def __init__(self, settings: Preprocessing, cache: Any = None) -> None:
        super().__init__()
        self.settings, self.cache = settings, cache

    def encodes(self, scan: ScanWindows) -> TensorScan:
        load = self.cache.load if self.cache else load_slices
        return TensorScan(torch.from_numpy(np.ascontiguousarray(load(str(scan.row["path"]), self.settings))))


class EncodeWindows(Transform):
    """A scan to the encoded targets of its windows, one row each."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    def encodes(self, scan: ScanWindows) -> TensorTarget:
        return TensorTarget(torch.as_tensor(np.stack([self.task.encode(w) for w in scan.windows])))


class EncodeScan(Transform):
    """A scan to its encoded covariates."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.encode = EncodeCovariates(task).encodes

    def encodes(self, scan: ScanWindows) -> TensorCovariates:
        return self.encode(dict(scan.row))


class ScanDL(TfmdDL):
    """A DataLoader that reads each scan once and gives its windows in batches.

    A batch holds windows of one scan; `scan` is that scan's place in the dataset, and `targets` gives the scan's own
    encoded targets by it.

    Args:
        dataset: items are (`TensorScan`, the targets of its windows).
        windows: how to cut.
        length: slices of a window.
        at_once: the most windows of a batch.
        counts: the number of windows of each scan.
        targets: the encoded targets of each scan.
        **options: of `TfmdDL`.
    """

    def __init__(
        self,
        dataset: Any = None,
        *,
        windows: Windows,
        length: int,
        at_once: int,
        counts: Sequence[int],
        targets: Sequence[Any],
        **options: Any,
    ) -> None:
        self.windows, self.length, self.at_once = windows, length, at_once
        self.counts, self.targets, self.scan = list(counts), list(targets), -1
        super().__init__(dataset, **options | {"bs": 1, "shuffle": False, "drop_last": False})

    def new(self, dataset: Any = None, cls: Any = None, **options: Any) -> Any:
        """Another loader of the same kind."""
        own = {name: getattr(self, name) for name in ("windows", "length", "at_once", "counts", "targets")}
        return super().new(dataset, cls, **own | options)

    def get_idxs(self) -> list[int]:
        """One number a window, because fastai puts predictions in order by them."""
        return list(range(sum(self.counts)))

    def sample(self) -> Iterator[int]:
        """The scans that this process reads."""
        return iter(range(self.offs, len(self.counts), self.num_workers))

    def __len__(self) -> int:
        return sum(-(-count // self.at_once) for count in self.counts)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for scan, (x, *known, y) in enumerate(super().__iter__()):
            self.scan = scan
            stacks = self.windows.cut(x[0].as_subclass(Tensor), self.length, self.at_once)
            for stack, part in zip(stacks, y[0].split(self.at_once), strict=True):
                own = [z.expand(len(part), -1) for z in known]
                yield self.after_batch((TensorSlices(stack), *own, part.as_subclass(TensorTarget)))

    def _one_pass(self) -> None:
        """Find what a batch consists of, which fastai reads off an item that is not yet cut into windows."""
        batch = self.one_batch()
        self._n_inp, self._types = len(batch) - 1, explode_types(batch)


def window_dataloaders(
    plan: Sequence[ScanWindows],
    spec: InputSpec,
    settings: Preprocessing,
    task: Task,
    *,
    augmentation: Augmentation | None = None,
    batch_size: int = 16,
    workers: int = 0,
    cache: Any = None,
    device: str | torch.device | None = None,
    oversample: bool = False,
) -> DataLoaders:
    """fastai DataLoaders over the windows of training and validation scans.

    Training shuffles the windows of all scans, and reads of each no more than it has to. Validation reads each scan
    once and takes its windows in order; see `ScanDL`.

    Args:
        plan: from `slivit.data.window_plan.plan_windows`.
        spec: the model's `.spec`: its layout and normalisation.
        settings: the preprocessing, with its size and its windows set.
        task: fitted on the training rows.
        augmentation: random changes of training windows.
        batch_size: windows a batch.
        workers: processes that read scans; 0 reads in this one.
        cache: where preprocessed slices are kept.
        device: fastai's default device where None.
        oversample: repeat the windows of rarer classes, until all classes are drawn equally often.
    """
    if settings.windows is None:
        raise SlivitError("preprocessing.windows is not set, so scans are not cut into windows")
    windows = [dict(w) for scan in plan if scan.row["split"] == "train" for w in scan.windows]
    scans = own_part([scan for scan in plan if scan.row["split"] == "val"])
    common = {"num_workers": workers, "device": device, "after_item": [ToTensor()]}
    own = [EncodeCovariates(task)] if task.inputs else []
    train = OversampledDL(
        _datasets(windows, [LoadWindow(settings, cache), *own, EncodeTargets(task)], 0),
        classes=item_classes(windows, task) if oversample else None,
        bs=batch_of(batch_size, len(windows)),
        shuffle=True,
        drop_last=True,
        after_batch=batch_transforms(spec.input, settings, spec.mean, spec.std, augmentation),
        **common,
    )
    valid = ScanDL(
        _datasets(scans, [LoadScan(settings, cache), *[EncodeScan(task)] * len(own), EncodeWindows(task)], 1),
        windows=settings.windows,
        length=settings.sized()[0],
        at_once=batch_size,
        counts=[len(scan.windows) for scan in scans],
        targets=[task.encode(scan.row) for scan in scans],
        after_batch=batch_transforms(spec.input, settings, spec.mean, spec.std),
        **common,
    )
    return DataLoaders(train, valid, device=device)


def _datasets(items: Sequence[Any], transforms: Sequence[Transform], subset: int) -> Datasets:
    """Items under transforms, the last one the target's, as training (0) or validation (1) of a fastai data set."""
    every, pipes = list(range(len(items))), [[transform] for transform in transforms]
    return Datasets(list(items), pipes, n_inp=len(pipes) - 1, splits=[every, every]).subset(subset)
