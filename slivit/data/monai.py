"""Scans to MONAI and back: volumes as MetaTensors, manifests as its lists of items, its transforms in fastai."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from fasttransform import Transform
from torch import Tensor

from slivit.data.blocks import TensorSlices
from slivit.errors import SlivitError, install_command
from slivit.volume import Volume

if TYPE_CHECKING:
    from slivit.data.manifest import Manifest


def need_monai() -> Any:
    """Import MONAI.

    Raises:
        SlivitError: it is not installed.
    """
    try:
        import monai.data
    except ImportError as error:
        raise SlivitError(f"this needs an extra: {install_command('baselines')}") from error
    return monai


def to_monai(volume: Volume) -> Any:
    """A scan as a MONAI `MetaTensor`, so that every MONAI transform that knows of geometry works on it.

    Args:
        volume: from `slivit.read_volume`.

    Returns:
        (1, D, H, W) float32, or (C, D, H, W) of several channels, with the affine from (d, h, w) to RAS millimetres;
        where the scan does not say how it lies in the patient, its spacing alone, and 1 mm where it does not say that.

    Example:
        >>> from slivit.data.monai import to_monai
        >>> tensor = to_monai(slivit.read_volume("scan0.nii"))
        >>> tensor.shape, tensor.pixdim.tolist()
        (torch.Size([1, 6, 24, 24]), [3.0, 1.0, 1.0])
    """
    affine = volume.affine if volume.affine is not None else np.diag([*(volume.spacing or (1.0, 1.0, 1.0)), 1.0])
    channels = np.stack([part.array for part in volume.by_channel()])
    array = torch.from_numpy(np.ascontiguousarray(channels, np.float32))
    meta = {"filename_or_obj": volume.source}
    return need_monai().data.MetaTensor(array, affine=torch.from_numpy(np.asarray(affine, np.float64)), meta=meta)


def from_monai(tensor: Any, *, axis: int = -1, source: str = "") -> Volume:
    """A volume of MONAI's as a scan of this package, for `slivit.preprocess` and all that follows.

    Args:
        tensor: (C, X, Y, Z) `MetaTensor`, as `monai.transforms.LoadImage` and what follows give it.
        axis: which of X, Y, Z counts slices: -1 for scans as MONAI loads them, 0 for what `to_monai` gave.
        source: a name; the file's where empty.

    Returns:
        A volume whose slices run along that axis, with the geometry kept.

    Raises:
        SlivitError: not three dimensions behind one of channels.
    """
    if tensor.ndim != 4:
        raise SlivitError(f"from_monai needs (C, X, Y, Z), channels first, got shape {tuple(tensor.shape)}")
    first = axis % 3
    order = [first, *(a for a in range(3) if a != first)]
    affine = np.asarray(tensor.affine, np.float64)[:, [*order, 3]]
    spacing = tuple(float(s) for s in np.linalg.norm(affine[:3, :3], axis=0))
    name = source or str(tensor.meta.get("filename_or_obj", "MONAI"))
    array = tensor.as_tensor().permute(0, *(a + 1 for a in order)).cpu().numpy()
    return Volume(array[0] if len(array) == 1 else array, spacing, name, affine=affine)  # type: ignore[arg-type]


def monai_items(manifest: Manifest, split: str | None = None) -> list[dict[str, Any]]:
    """A manifest as the list of dictionaries that MONAI's datasets take.

    Args:
        manifest: with a fitted task.
        split: one split, or all.

    Returns:
        One dictionary a scan: "image" (the path), "label" (the encoded target: a class index, or an array of numbers),
        "patient" and "split".
    """
    rows = manifest.rows(split)
    kept = ("patient", "split")
    return [{"image": r["path"], "label": manifest.task.encode(r), **{k: r[k] for k in kept}} for r in rows]


class MonaiTransform(Transform):
    """A MONAI transform of arrays as a fastai item transform: for training items, on slices as they enter a batch.

    Args:
        transform: takes and gives a (1, S, H, W) float32 tensor with values from 0 to 255, such as
            `monai.transforms.RandGaussianNoise(prob=0.5, std=5.0)`.
        split_idx: 0 for training items alone, None for all.

    Example:
        >>> from monai.transforms import RandGaussianNoise
        >>> from slivit.data.monai import MonaiTransform
        >>> noisy = MonaiTransform(RandGaussianNoise(prob=1.0, std=5.0))
    """

    order = 5

    def __init__(self, transform: Callable[[Tensor], Any], split_idx: int | None = 0) -> None:
        super().__init__()
        self.transform, self.split_idx = transform, split_idx

    def encodes(self, x: TensorSlices) -> TensorSlices:
        changed = torch.as_tensor(self.transform(x.as_subclass(Tensor).float()[None]))[0]
        return TensorSlices(changed.clamp(0, 255).as_subclass(Tensor))
