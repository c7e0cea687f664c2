"""fastai blocks: scans in, batches out in the layout that a model takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from fastai.data.block import DataBlock, TransformBlock
from fastai.data.core import DataLoaders, show_batch, show_results
from fastai.torch_core import TensorBase, TitledStr, show_image
from fastai.vision.augment import RandTransform
from fastai.vision.data import get_grid
from fasttransform import DisplayedTransform, Transform
from plum import dispatch
from torch import Tensor

from slivit.data.augmentation import Augmentation, apply_augmentation, draw_augmentation
from slivit.data.covariate_blocks import CovariateBlock
from slivit.data.layout import from_input as from_input
from slivit.data.layout import to_input as to_input
from slivit.data.preprocessing import Preprocessing, crop_slices, load_slices
from slivit.data.readers.channels import ALL
from slivit.data.sampling import OversampledDL, item_classes
from slivit.data.stacking import check_channels
from slivit.data.window_plan import ScanWindows, plan_windows
from slivit.errors import SlivitError
from slivit.parallel import batch_of, own_part
from slivit.targets.task import Task

if TYPE_CHECKING:
    from slivit.data.manifest import Manifest


class InputSpec(Protocol):
    """What the blocks need to know of a model: a `slivit.models.registry.ModelSpec` fits."""

    @property
    def input(self) -> str: ...
    @property
    def mean(self) -> tuple[float, ...]: ...
    @property
    def std(self) -> tuple[float, ...]: ...


class TensorSlices(TensorBase):
    """A stack of slices: (S, H, W), or (C, S, H, W) of several channels, with B before that in a batch; 0 is black."""

    def show(self, ctx: Any = None, max_slices: int = 12, **kwargs: Any) -> Any:
        """Draw up to `max_slices` evenly chosen slices as a contact sheet on the axes `ctx`."""
        return show_image(contact_sheet(self, max_slices), ctx=ctx, cmap="gray", vmin=0, vmax=255, **kwargs)


class TensorInput(TensorBase):
    """A batch as a model takes it, normalised."""


class TensorTarget(TensorBase):
    """Encoded targets: (k,) float32 with NaN for a missing label, or a scalar class index."""


def contact_sheet(stack: Tensor, max_slices: int = 12, gap: int = 2) -> Tensor:
    """Lay slices out in a near-square grid, from left to right and top to bottom.

    Args:
        stack: (S, H, W), or (C, S, H, W), whose channels follow each other.
        max_slices: at most this many, evenly chosen.
        gap: white pixels between slices.

    Returns:
        (rows, columns) image.
    """
    stack = stack.flatten(0, -3)
    chosen = stack[torch.linspace(0, len(stack) - 1, min(max_slices, len(stack))).round().long()]
    columns = int(len(chosen) ** 0.5 + 0.999)
    rows = -(-len(chosen) // columns)
    height, width = chosen.shape[1] + gap, chosen.shape[2] + gap
    sheet = torch.full((rows * height - gap, columns * width - gap), 255.0)
    for i, image in enumerate(chosen):
        top, left = i // columns * height, i % columns * width
        sheet[top : top + height - gap, left : left + width - gap] = image.float().cpu()
    return sheet


class LoadSlices(Transform):
    """A path to its preprocessed slices, not yet cropped."""

    def __init__(self, settings: Preprocessing, cache: Any = None) -> None:
        super().__init__()
        self.settings, self.cache = settings.stored, cache

    def encodes(self, path: str) -> TensorSlices:
        load = self.cache.load if self.cache else load_slices
        return TensorSlices(torch.from_numpy(load(path, self.settings)))


class EncodeTargets(Transform):
    """A manifest row to its encoded targets, and back to words."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    def encodes(self, row: dict) -> TensorTarget:
        return TensorTarget(torch.as_tensor(self.task.encode(row)))

    def decodes(self, y: TensorTarget) -> TitledStr:
        return TitledStr(self.task.describe(y))


class AugmentSlices(RandTransform):
    """Random changes of training batches, alike for all slices of a volume."""

    order, split_idx = 10, 0

    def __init__(self, settings: Augmentation) -> None:
        super().__init__(p=1.0)
        self.settings = settings

    def encodes(self, x: TensorSlices) -> TensorSlices:
        slices, height, width = x.shape[-3:]
        draw = draw_augmentation(self.settings, len(x), slices, size=(height, width))
        return TensorSlices(apply_augmentation(x.as_subclass(Tensor), draw))


class CropSlices(RandTransform):
    """The model's rows and columns out of larger slices: anywhere in training, the middle otherwise.

    Args:
        size: (H, W).
    """

    order, split_idx = 9, None

    def __init__(self, size: Sequence[int]) -> None:
        super().__init__(p=1.0)
        self.size, self.trains = tuple(size), True

    def before_call(self, b: Any, split_idx: int | None) -> None:
        super().before_call(b, split_idx)
        self.trains = not split_idx

    def encodes(self, x: TensorSlices) -> TensorSlices:
        stacks = x.as_subclass(Tensor)
        if not self.trains:
            return TensorSlices(crop_slices(stacks, self.size))
        height, width = self.size
        tops = torch.randint(0, stacks.shape[-2] - height + 1, (len(stacks),)).tolist()
        lefts = torch.randint(0, stacks.shape[-1] - width + 1, (len(stacks),)).tolist()
        parts = [s[..., t : t + height, q : q + width] for s, t, q in zip(stacks, tops, lefts, strict=True)]
        return TensorSlices(torch.stack(parts))


class ToInput(DisplayedTransform):
    """Slices to the layout and normalisation of a model, on the device."""

    order = 99

    def __init__(self, input: str, mean: Sequence[float], std: Sequence[float], slices: int) -> None:
        super().__init__()
        self.input, self.mean, self.std, self.slices = input, tuple(mean), tuple(std), slices

    def encodes(self, x: TensorSlices) -> TensorInput:
        return TensorInput(to_input(x.as_subclass(Tensor), self.input, self.mean, self.std))

    def decodes(self, x: TensorInput) -> TensorSlices:
        return TensorSlices(from_input(x.as_subclass(Tensor), self.slices, self.mean, self.std))


def _scan_block(
    input: str,
    settings: Preprocessing,
    mean: Sequence[float],
    std: Sequence[float],
    augmentation: Augmentation | None,
    cache: Any,
) -> TransformBlock:
    return TransformBlock(
        type_tfms=[LoadSlices(settings, cache)],
        batch_tfms=batch_transforms(input, settings, mean, std, augmentation),
    )


def batch_transforms(
    input: str,
    settings: Preprocessing,
    mean: Sequence[float],
    std: Sequence[float],
    augmentation: Augmentation | None = None,
) -> list[Transform]:
    """What happens to a batch of slices before it enters a model: crop, random changes, layout and normalisation."""
    if settings.size is None:
        raise SlivitError("preprocessing.size is not set; give (slices, height, width)")
    if settings.reader.get("channel") != ALL:  # how many these are, the scans tell
        check_channels(len(mean), len(settings.channels))
    crop = [CropSlices(settings.size[1:])] if settings.resize else []
    changes = [AugmentSlices(augmentation)] if augmentation and augmentation.active else []
    return [*crop, *changes, ToInput(input, mean, std, settings.size[0])]


def TiledBlock(
    settings: Preprocessing,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    augmentation: Augmentation | None = None,
    cache: Any = None,
) -> TransformBlock:
    """A fastai block for models that take one elongated image: batches of (B, C, S*H, W).

    Args:
        settings: the preprocessing, with its size set.
        mean: per channel, of values in [0, 1].
        std: per channel.
        augmentation: random changes of training items.
        cache: where preprocessed slices are kept; read anew each time without one.

    Example:
        >>> from fastai.data.block import DataBlock
        >>> settings = slivit.Preprocessing(size=(4, 32, 32))
        >>> block = slivit.TiledBlock(settings, mean=(0.5,) * 3, std=(0.25,) * 3)
        >>> dls = DataBlock(blocks=(block,)).dataloaders(["scan0.nii", "scan1.nii"] * 4, bs=2, num_workers=0)
        >>> dls.one_batch()[0].shape
        torch.Size([2, 3, 128, 32])
    """
    return _scan_block("tiled", settings, mean, std, augmentation, cache)


def VolumeBlock(settings: Preprocessing, **options: Any) -> TransformBlock:
    """A fastai block for 3D models: batches of (B, C, S, H, W). Takes what `TiledBlock` takes.

    Example:
        >>> block = slivit.VolumeBlock(slivit.Preprocessing(size=(4, 32, 32)), mean=(0.0,), std=(1.0,))
    """
    return _scan_block("volume", settings, **{"augmentation": None, "cache": None} | options)


def ClipBlock(settings: Preprocessing, **options: Any) -> TransformBlock:
    """A fastai block for video models: batches of (B, 3, S, H, W). Takes what `TiledBlock` takes.

    Example:
        >>> block = slivit.ClipBlock(slivit.Preprocessing(size=(4, 32, 32)), mean=(0.45,) * 3, std=(0.225,) * 3)
    """
    return _scan_block("clip", settings, **{"augmentation": None, "cache": None} | options)


BLOCKS = {"tiled": TiledBlock, "volume": VolumeBlock, "clip": ClipBlock}


def TargetBlock(task: Task) -> TransformBlock:
    """A fastai block for the targets of a task.

    Example:
        >>> block = slivit.TargetBlock(slivit.Task(kind="binary", targets=("bright",)))
    """
    return TransformBlock(type_tfms=[EncodeTargets(task)])


def scan_path(row: dict) -> str:
    """The path of a manifest row. (fastai looks at the annotations here: plain classes only.)"""
    return str(row["path"])


def scan_row(row: dict) -> dict:
    """The manifest row itself, from which the targets are encoded."""
    return dict(row)


def _rows(manifest: Manifest) -> list[dict[str, Any]]:
    return [dict(r) for split in ("train", "val") for r in manifest.rows(split)]


def _split(rows: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[int]]:
    train = [i for i, row in enumerate(rows) if row["split"] == "train"]
    return train, list(own_part([i for i, row in enumerate(rows) if row["split"] == "val"]))


def volume_dataloaders(
    manifest: Manifest,
    spec: InputSpec,
    settings: Preprocessing,
    *,
    task: Task | None = None,
    augmentation: Augmentation | None = None,
    batch_size: int = 16,
    workers: int = 0,
    cache: Any = None,
    device: str | torch.device | None = None,
    oversample: bool = False,
    plan: Sequence[ScanWindows] | None = None,
) -> DataLoaders:
    """fastai DataLoaders over the training and validation rows of a manifest.

    A last training batch that is not full is left out of the epoch (the order is shuffled anew in each); validation
    and test items are never left out.

    Args:
        manifest: checked rows; see `slivit.data.manifest.read_manifest`.
        spec: the model's `.spec`: its layout and normalisation.
        settings: the preprocessing, with its size set.
        task: the task, fitted on the training rows; the manifest's by default.
        augmentation: random changes of training items.
        batch_size: scans a batch of each process; lowered to the number of training scans where there are fewer.
        workers: processes that read scans; 0 reads in this one.
        cache: where preprocessed slices are kept.
        device: fastai's default device where None.
        oversample: repeat the training items of rarer classes, until all classes are drawn equally often.
        plan: where the settings cut scans into windows: which, from `slivit.data.window_plan.plan_windows`; by default
            every window has the targets of its scan. Batches are of windows then; see `window_dataloaders`.

    Example:
        >>> manifest = slivit.read_manifest("scans.csv", slivit.Task(kind="binary", targets=("bright",)))
        >>> model = slivit.create_model("slivit", 1, backbone="resnet10t", slices=4, image_size=32, stride=16)
        >>> settings = slivit.Preprocessing(size=model.spec.size)
        >>> dls = slivit.volume_dataloaders(manifest, model.spec, settings, batch_size=8)
        >>> x, y = dls.one_batch()
        >>> x.shape, y.shape
        (torch.Size([8, 3, 128, 32]), torch.Size([8, 1]))
    """
    task = task or manifest.task
    if settings.windows:
        from slivit.data.window_loaders import window_dataloaders

        return window_dataloaders(
            plan or plan_windows(manifest, settings, workers=workers),
            spec,
            settings,
            task,
            augmentation=augmentation,
            batch_size=batch_size,
            workers=workers,
            cache=cache,
            device=device,
            oversample=oversample,
        )
    options = {"mean": spec.mean, "std": spec.std, "augmentation": augmentation, "cache": cache}
    reads = getattr(task, "inputs", ())
    inputs = [BLOCKS[spec.input](settings, **options), *([CovariateBlock(task)] if reads else [])]
    block = DataBlock(
        blocks=(*inputs, TargetBlock(task)),
        n_inp=len(inputs),
        get_items=_rows,
        get_x=[scan_path, scan_row] if reads else scan_path,
        get_y=scan_row,
        splitter=_split,
    )
    train = manifest.rows("train")
    loader = {"classes": item_classes(train, task)} if oversample else {}
    batch_size = batch_of(batch_size, len(train))
    return block.dataloaders(
        manifest, bs=batch_size, num_workers=workers, device=device, dl_type=OversampledDL, dl_kwargs=[loader, {}]
    )


def _grid(ctxs: Any, count: int, figsize: Any) -> Any:
    """The axes to draw on: those given, or a new grid of up to three columns."""
    if ctxs is not None:
        return ctxs
    return get_grid(count, figsize=figsize or (4 * min(count, 3), 4 * -(-count // 3)), ncols=min(count, 3))


@dispatch  # type: ignore[no-redef]
def show_batch(  # noqa: F811 (one more case of fastai's function)
    x: TensorSlices, y: Any, samples: Any, ctxs: Any = None, max_n: int = 9, figsize: Any = None, **kwargs: Any
) -> Any:
    """Draw a contact sheet of the slices of each volume, titled by its targets."""
    ctxs = _grid(ctxs, min(len(samples), max_n), figsize)
    for axis, sample in zip(ctxs, samples, strict=False):
        for part in sample:
            axis = part.show(ctx=axis, **kwargs)
    return ctxs


@dispatch  # type: ignore[no-redef]
def show_results(  # noqa: F811 (one more case of fastai's function)
    x: TensorSlices,
    y: Any,
    samples: Any,
    outs: Any,
    ctxs: Any = None,
    max_n: int = 9,
    figsize: Any = None,
    **kwargs: Any,
) -> Any:
    """Draw a contact sheet of each volume, titled by what is known and, below it, what is predicted."""
    ctxs = _grid(ctxs, min(len(samples), max_n), figsize)
    for axis, (stack, known), (predicted, *_) in zip(ctxs, samples, outs, strict=False):
        stack.show(ctx=axis, **kwargs)
        axis.set_title(
            f"{known}\npredicted: {predicted}", color="black" if str(known) == str(predicted) else "firebrick"
        )
    return ctxs
