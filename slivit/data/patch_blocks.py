"""fastai blocks of scans and masks: patches of training scans, whole validation scans, and their pictures."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from fastai.data.block import DataBlock, TransformBlock
from fastai.data.core import DataLoaders, TfmdDL, show_batch, show_results
from fastai.torch_core import TensorBase
from fasttransform import DisplayedTransform, ItemTransform, Transform
from plum import dispatch
from torch import Tensor

from slivit.data.blocks import InputSpec, scan_row
from slivit.data.case import Align, sliding_of
from slivit.data.case_cache import CaseReader
from slivit.data.layout import normalised
from slivit.data.patches import (
    Patches,
    bent,
    changed_values,
    cut,
    draw_corner,
    drawn_place,
    mirrored_and_turned,
)
from slivit.data.preprocessing import Preprocessing
from slivit.errors import SlivitError
from slivit.targets.segmentation import IGNORED, Segmentation

if TYPE_CHECKING:
    from slivit.data.manifest import Manifest


class TensorScan(TensorBase):
    """A scan or a patch of it: (C, D, H, W), or (B, C, D, H, W) in a batch."""


class TensorPatch(TensorBase):
    """A batch as a network that segments takes it, normalised."""


class TensorMask(TensorBase):
    """Numbers of labels: (D, H, W), or (B, D, H, W) in a batch."""


class LoadCase(Transform):
    """A manifest row to its scan, or to its mask."""

    def __init__(self, reader: CaseReader, what: str) -> None:
        super().__init__()
        self.reader, self.what = reader, what

    def encodes(self, row: dict) -> TensorBase:
        case = self.reader(row)
        if self.what == "image":
            return TensorScan(torch.from_numpy(case.image))
        return TensorMask(torch.from_numpy(case.labels))


class CutPatch(ItemTransform):
    """A patch of a training scan and the same of its mask; validation scans stay whole."""

    split_idx = 0

    def __init__(self, reader: CaseReader, size: Sequence[int], settings: Patches) -> None:
        super().__init__()
        self.reader, self.size, self.settings = reader, tuple(size), settings

    def encodes(self, pair: Any) -> Any:
        scan, mask = pair
        places = self.reader.last.places  # of the case that both have just come from
        corner = draw_corner(mask.shape, self.size, drawn_place(places, self.settings.foreground))
        image = cut(scan.as_subclass(Tensor), corner, self.size, float(scan.min()))
        return TensorScan(image.float()), TensorMask(cut(mask.as_subclass(Tensor), corner, self.size, 0))


class ChangePatches(ItemTransform):
    """Random changes of training patches: places alike for scan and mask, values of the scan alone."""

    order, split_idx = 10, 0

    def __init__(self, settings: Patches, unit: bool) -> None:
        super().__init__()
        self.settings, self.unit = settings, unit

    def encodes(self, pair: Any) -> Any:
        images, masks = (part.as_subclass(Tensor) for part in pair)
        changed = [self._one(image, mask) for image, mask in zip(images, masks, strict=True)]
        images, masks = (torch.stack(parts) for parts in zip(*changed, strict=True))
        return TensorScan(images), TensorMask(masks)

    def _one(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        image, mask = mirrored_and_turned(image, mask, self.settings)
        image, mask = bent(image, mask, self.settings)
        return changed_values(image, self.settings, unit=self.unit), mask


class ToPatchInput(DisplayedTransform):
    """Patches to the normalisation of a model, on the device."""

    order = 99

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.mean, self.std = tuple(mean), tuple(std)

    def encodes(self, x: TensorScan) -> TensorPatch:
        return TensorPatch(normalised(x.as_subclass(Tensor), self.mean, self.std))

    def decodes(self, x: TensorPatch) -> TensorScan:
        return TensorScan(x.as_subclass(Tensor)[:, :1] * self.std[0] + self.mean[0])


# -- blocks -----------------------------------------------------------------------------------------------------------


def PatchBlock(
    reader: CaseReader,
    size: Sequence[int],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    patches: Patches | None = None,
) -> TransformBlock:
    """A fastai block of scans for networks that segment: patches of training scans, whole validation scans.

    Args:
        reader: of the cases of manifest rows.
        size: (S, H, W) of a patch.
        mean: per channel of the model.
        std: per channel.
        patches: which patches, and how they are changed; those of `MaskBlock` are the same.

    Example:
        >>> from slivit.data.case_cache import CaseReader
        >>> task = slivit.Task(kind="segmentation", labels={"blob": 1})
        >>> reader = CaseReader(task, slivit.Preprocessing())
        >>> block = slivit.PatchBlock(reader, (4, 16, 16), mean=(0.0,), std=(1.0,))
    """
    patches = patches or Patches()
    unit = sliding_of(reader.settings).values == "range"
    return TransformBlock(
        type_tfms=[LoadCase(reader, "image")],
        item_tfms=[CutPatch(reader, size, patches)],
        batch_tfms=[ChangePatches(patches, unit), ToPatchInput(mean, std)],
    )


def MaskBlock(reader: CaseReader) -> TransformBlock:
    """A fastai block of the masks of cases; see `PatchBlock`.

    Example:
        >>> from slivit.data.case_cache import CaseReader
        >>> reader = CaseReader(slivit.Task(kind="segmentation", labels={"blob": 1}), slivit.Preprocessing())
        >>> block = slivit.MaskBlock(reader)
    """
    return TransformBlock(type_tfms=[LoadCase(reader, "labels")])


class PatchDL(TfmdDL):
    """Batches of patches: several of a scan behind each other, and as many batches an epoch as are wanted.

    Args:
        per_scan: patches of a scan; 0 takes every scan once, whole.
        steps: batches an epoch; 0 for as many as the scans give.
    """

    def __init__(self, *args: Any, per_scan: int = 0, steps: int = 0, **kwargs: Any) -> None:
        self.per_scan, self.steps = per_scan, steps
        super().__init__(*args, **kwargs)
        if per_scan:
            self.n = steps * self.bs if steps else len(self.dataset) * per_scan
            self.drop_last = self.n >= self.bs

    def get_idxs(self) -> list[int]:
        """The numbers of the scans, in the order in which patches are drawn of them."""
        if not self.per_scan:
            return list(range(len(self.dataset)))
        return [number for number in self._scans() for _ in range(self.per_scan)][: self.n]

    def _scans(self) -> Iterator[int]:
        for _ in range(-(-self.n // (len(self.dataset) * self.per_scan))):
            yield from random.Random(self.rng.randint(0, 2**32 - 1)).sample(range(len(self.dataset)), len(self.dataset))

    def new(self, *args: Any, **kwargs: Any) -> Any:
        """Another loader of the same kind."""
        return super().new(*args, **{"per_scan": self.per_scan, "steps": self.steps} | kwargs)


def _rows(manifest: Manifest) -> list[dict[str, Any]]:
    return [dict(r) for split in ("train", "val") for r in manifest.rows(split)]


def _split(rows: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[int]]:
    places = {split: [i for i, row in enumerate(rows) if row["split"] == split] for split in ("train", "val")}
    return places["train"], places["val"]


def patch_dataloaders(
    manifest: Manifest,
    spec: InputSpec,
    settings: Preprocessing,
    *,
    task: Segmentation | None = None,
    patches: Patches | None = None,
    align: Align = "error",
    batch_size: int = 8,
    workers: int = 0,
    cache: Any = None,
    device: str | torch.device | None = None,
) -> DataLoaders:
    """fastai DataLoaders of a segmentation: batches of training patches, and validation scans one by one.

    Args:
        manifest: checked rows with a mask.
        spec: the model's `.spec`.
        settings: the preprocessing, with its size, a patch's, set.
        task: the manifest's by default.
        patches: which patches, and how they are changed.
        align: see `slivit.data.case.read_mask`.
        batch_size: patches a batch.
        workers: processes that read and cut.
        cache: a `SliceCache` in whose folder cases are kept.
        device: fastai's default device where None.

    Raises:
        SlivitError: no size is set, or the task is none of masks.

    Example:
        >>> task = slivit.Task(kind="segmentation", labels={"blob": 1})
        >>> manifest = slivit.read_manifest("masks.csv", task)
        >>> spec, settings = slivit.model_spec("unet"), slivit.Preprocessing(size=(4, 16, 16))
        >>> x, y = slivit.patch_dataloaders(manifest, spec, settings, batch_size=2).one_batch()
        >>> x.shape, y.shape
        (torch.Size([2, 1, 4, 16, 16]), torch.Size([2, 4, 16, 16]))
    """
    task = task or manifest.task  # type: ignore[assignment]
    if not isinstance(task, Segmentation) or settings.size is None:
        raise SlivitError("patches are for a segmentation, with preprocessing.size set")
    patches = patches or Patches()
    reader = CaseReader(task, settings, align, cache)
    block = DataBlock(
        blocks=(
            PatchBlock(reader, settings.size, mean=spec.mean, std=spec.std, patches=patches),
            MaskBlock(reader),
        ),
        get_items=_rows,
        get_x=scan_row,
        get_y=scan_row,
        splitter=_split,
    )
    loader = {"per_scan": patches.per_scan, "steps": patches.steps}
    options: dict[str, Any] = {"dl_type": PatchDL, "dl_kwargs": [loader, {"per_scan": 0}], "val_bs": 1}
    return block.dataloaders(manifest, bs=batch_size, num_workers=workers, device=device, **options)


# -- pictures ---------------------------------------------------------------------------------------------------------


def shown_slice(mask: Tensor) -> int:
    """The slice with most of a mask, the middle one of an empty mask."""
    sizes = ((mask > 0) & (mask != IGNORED)).flatten(1).sum(1)
    return int(sizes.argmax()) if int(sizes.max()) else len(mask) // 2


def draw_overlay(axis: Any, image: Tensor, mask: Tensor, title: str = "") -> Any:
    """A grey slice with the labels of a mask in colour.

    Args:
        axis: to draw on.
        image: (H, W).
        mask: (H, W) numbers of labels.
        title: above it.
    """
    import numpy as np

    labels = np.ma.masked_where(mask.cpu().numpy() == 0, mask.cpu().numpy())
    axis.imshow(image.float().cpu(), cmap="gray")
    axis.imshow(labels, cmap="tab10", vmin=1, vmax=10, alpha=0.5, interpolation="nearest")
    axis.set_title(title)
    axis.axis("off")
    return axis


@dispatch  # type: ignore[no-redef]
def show_batch(  # noqa: F811 (one more case of fastai's function)
    x: TensorScan, y: Any, samples: Any, ctxs: Any = None, max_n: int = 9, figsize: Any = None, **kwargs: Any
) -> Any:
    """Draw of each patch the slice with most of its mask, with the mask over it."""
    from slivit.data.blocks import _grid

    ctxs = _grid(ctxs, min(len(samples), max_n), figsize)
    for axis, (scan, mask) in zip(ctxs, samples, strict=False):
        place = shown_slice(mask.as_subclass(Tensor))
        draw_overlay(axis, scan.as_subclass(Tensor)[0, place], mask.as_subclass(Tensor)[place])
    return ctxs


@dispatch  # type: ignore[no-redef]
def show_results(  # noqa: F811 (one more case of fastai's function)
    x: TensorScan,
    y: Any,
    samples: Any,
    outs: Any,
    ctxs: Any = None,
    max_n: int = 9,
    figsize: Any = None,
    **kwargs: Any,
) -> Any:
    """Draw the slice with most of each mask twice: with the true mask, and with the predicted one."""
    from matplotlib import pyplot

    _, axes = pyplot.subplots(min(len(samples), max_n), 2, squeeze=False, figsize=figsize)
    for (left, right), (scan, mask), (predicted, *_) in zip(axes, samples, outs, strict=False):
        place = shown_slice(mask.as_subclass(Tensor))
        image = scan.as_subclass(Tensor)[0, place]
        draw_overlay(left, image, mask.as_subclass(Tensor)[place], "true")
        draw_overlay(right, image, torch.as_tensor(predicted)[place], "predicted")
    return axes
