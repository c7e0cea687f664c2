"""A scan and its mask on one grid: read, compared, resampled together, and brought back to the grid they came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from slivit.data.dicom_seg import is_dicom_seg, placed, read_dicom_seg
from slivit.data.foreground import Box, foreground_box
from slivit.data.preprocessing import Preprocessing
from slivit.data.readers import describe, read_volume
from slivit.data.readers.address import options_of, parts_of, split_address
from slivit.data.readers.base import ScanInfo
from slivit.data.readers.geometry import difference
from slivit.data.slices import intensity_range
from slivit.data.sliding import Sliding
from slivit.data.stacking import check_volume
from slivit.errors import ManifestError, ReadError
from slivit.targets.segmentation import Segmentation
from slivit.targets.task import is_missing
from slivit.volume import Volume

Image = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]
Shape = tuple[int, int, int]
Align = Literal["error", "resample"]

PLACES = 2000
"""How many voxels of each label are remembered, to draw patches from."""
_TURNED = ("nifti", "itk", "dicom")


@dataclass(frozen=True, eq=False)
class Case:
    """A scan on the grid that a network sees, with its mask.

    Args:
        image: (C, D, H, W) float16 or float32, values as `Sliding.values` says.
        labels: (D, H, W) uint8, numbers of labels; None where there is no mask.
        places: (n, 4) int32: the number of a label, and one voxel of it, for as many as are remembered.
    """

    image: npt.NDArray[Any]
    labels: Labels | None
    places: npt.NDArray[np.int32]


def sliding_of(settings: Preprocessing) -> Sliding:
    """How windows slide over a scan, the default where nothing is said."""
    return settings.sliding or Sliding()


# -- the grid ---------------------------------------------------------------------------------------------------------


def grid_shape(shape: Sequence[int], spacing: Sequence[float] | None, settings: Preprocessing) -> Shape:
    """(D, H, W) of a scan on the grid of a network, by `preprocessing.spacing` and `preprocessing.resize`.

    Args:
        shape: (D, H, W) of the scan.
        spacing: mm along each of them.
        settings: the preprocessing.

    Raises:
        ReadError: a spacing is wanted, and the scan has none.
    """
    wanted = settings.spacing or (0.0, 0.0, 0.0)
    if spacing is None and any(wanted):
        raise ReadError(
            "has no spacing in mm, so it cannot be brought to preprocessing.spacing; leave that out, or give the "
            "manifest a column `spacing`"
        )
    sides = zip(shape, spacing or wanted, wanted, strict=True)
    depth, *plane = (max(1, round(n * has / want)) if want else n for n, has, want in sides)
    height, width = settings.resize or plane
    return depth, height, width


def resampled(array: npt.NDArray[Any], shape: Sequence[int], *, nearest: bool = False) -> npt.NDArray[Any]:
    """The same extent on another number of voxels.

    Args:
        array: (..., D, H, W).
        shape: (D, H, W) wanted.
        nearest: for labels; linear otherwise.
    """
    import torch
    from torch.nn.functional import interpolate

    if array.shape[-3:] == tuple(shape):
        return array
    lead = array.shape[:-3]
    values = torch.from_numpy(np.ascontiguousarray(array)).reshape(1, -1, *array.shape[-3:])
    if nearest:
        out = interpolate(values, tuple(shape), mode="nearest-exact")
    else:
        out = interpolate(values.float(), tuple(shape), mode="trilinear", align_corners=False)
    return np.asarray(out.numpy().reshape(*lead, *shape))


# -- the scan ---------------------------------------------------------------------------------------------------------


def scaled(channel: npt.NDArray[np.generic], settings: Preprocessing) -> Image:
    """The values of one channel as `Sliding.values` says: not-a-number becomes the lowest.

    Args:
        channel: (D, H, W), as it is stored.
        settings: its `window` and `stretch` are what is brought to 0 and 1.

    Raises:
        ReadError: no finite value.
    """
    if settings.stretch or settings.window is None:
        percent = settings.stretch or (0.0, 100.0)
        low, high = intensity_range(channel, *percent, window=settings.window)
    else:
        low, high = settings.window
    values: Image = np.nan_to_num(channel.astype(np.float32), nan=low, posinf=high, neginf=low).clip(low, high)
    if sliding_of(settings).values == "zscore":
        values -= values.mean(dtype=np.float64)
        return values / np.float32(max(float(values.std()), 1e-8))
    return (values - np.float32(low)) / np.float32(max(high - low, 1e-8))


def read_scan(row: Mapping[str, Any], settings: Preprocessing, options: Mapping[str, Any] | None = None) -> Volume:
    """The scan of a row as it is stored, turned to the usual view.

    Args:
        row: with `path`, and with `spacing` ("z y x" in mm) where the header's is wrong.
        settings: whose reader options count.
        options: further ones, of this scan.

    Raises:
        ReadError: the scan cannot be read.
    """
    volume = read_volume(str(row["path"]), **{**settings.reader, **(options or {})})
    given = row.get("spacing")
    return volume if is_missing(given) else replace(volume, spacing=given_spacing(given))


def given_spacing(cell: Any) -> tuple[float, float, float]:
    """The spacing that a manifest gives, (z, y, x) in mm.

    Raises:
        ManifestError: not three numbers above 0.
    """
    try:
        z, y, x = (float(part) for part in str(cell).replace(",", " ").replace(";", " ").split())
    except ValueError:
        z = y = x = 0.0
    if min(z, y, x) <= 0:
        raise ManifestError(
            f'spacing is {cell!r}; give three lengths in mm, of slices, rows and columns: "2.5 0.8 0.8"'
        )
    return z, y, x


def seen_box(volume: Volume, settings: Preprocessing) -> Box:
    """What a network sees of a scan: the box round its foreground, or all of it without `preprocessing.foreground`."""
    if settings.foreground is None:
        depth, rows, columns = (slice(0, n) for n in volume.shape)
        return depth, rows, columns
    return foreground_box(volume.array, volume.spacing, settings.foreground)


def network_image(volume: Volume, settings: Preprocessing, box: Box) -> Image:
    """(C, D, H, W) float32: the values and the grid of a scan, or a part of it, as a network sees them.

    Args:
        volume: the whole scan.
        settings: the preprocessing.
        box: the part, from `seen_box`.

    Raises:
        ReadError: other channels than the settings name, or no spacing where one is wanted.
    """
    volume = replace(volume, array=volume.array[(..., *box)], indices=None, depth=0)
    try:
        shape = grid_shape(volume.shape, volume.spacing, settings)
        check_volume(volume, settings)
        channels = [resampled(scaled(part.array, settings), shape) for part in volume.by_channel()]
        return np.stack(channels)
    except ReadError as error:
        raise ReadError(f"{volume.source}: {error}") from error


# -- the mask ---------------------------------------------------------------------------------------------------------


def mask_options(image: ScanInfo | Volume, row: Mapping[str, Any], settings: Preprocessing) -> dict[str, Any]:
    """The reader options of a mask: those of its scan, and slices across the same axis."""
    if image.affine is None:
        options = {**settings.reader, **options_of(split_address(parts_of(str(row["path"]))[0])[1])}
        return {name: options[name] for name in ("axis",) if name in options}
    return {"axis": ("sagittal", "coronal", "axial")[int(np.abs(image.affine[:3, 0]).argmax())]}


def read_mask(
    row: Mapping[str, Any], image: ScanInfo | Volume, task: Segmentation, settings: Preprocessing, align: Align
) -> Labels:
    """The mask of a row on the grid of its scan, as numbers of labels.

    Args:
        row: of a manifest.
        image: its scan.
        task: which values are labels.
        settings: whose reader options count.
        align: "error" where the grids are not the same, or "resample" the mask by its affine.

    Returns:
        (D, H, W) uint8.

    Raises:
        ReadError: a file that cannot be read.
        ManifestError: another grid, values that are not declared, fractions, structures that overlap.
    """
    parts = task.files(task.encode(row))
    out: Labels | None = None
    for name, path in parts.items():
        if not Path(split_address(path)[0]).exists():
            raise ManifestError(f"{path}: there is no such mask")
        try:
            values = _values(path, row, image, settings, align)
            numbers = task.numbered(values) if not name else _binary(values, list(task.labels).index(name) + 1)
        except ManifestError as error:
            raise ManifestError(f"{path}: {error}") from error
        if out is None:
            out = numbers
        elif both := int(((out > 0) & (numbers > 0)).sum()):
            raise ManifestError(f"{path}: shares {both} voxels with another structure; labels exclude each other")
        else:
            out |= numbers
    if out is None:
        raise ManifestError(f"{row['path']}: has no mask")
    return out


def _values(
    path: str, row: Mapping[str, Any], image: ScanInfo | Volume, settings: Preprocessing, align: Align
) -> npt.NDArray[Any]:
    """The values of a file of a mask on the grid of its scan."""
    if is_dicom_seg(path):
        return placed(read_dicom_seg(path), image.affine, image.shape)
    axis = mask_options(image, row, settings)
    return on_grid(read_volume(path, **(axis if describe(path).format in _TURNED else {})), image, align)


def _binary(values: npt.NDArray[Any], number: int) -> Labels:
    different = np.unique(values)
    if len(different) > 2 or (len(different) == 2 and different[0] != 0) or not np.isfinite(different).all():
        raise ManifestError(f"is to hold one structure, 0 and one other value; it holds {different[:6].tolist()}")
    return np.where(values != 0, np.uint8(number), np.uint8(0))


def on_grid(mask: Volume, image: ScanInfo | Volume, align: Align) -> npt.NDArray[Any]:
    """The values of a mask on the grid of its scan.

    Raises:
        ManifestError: another grid, where `align` is "error", or where places are not known.
    """
    why = difference(mask, image)
    if not why:
        return mask.array
    if align == "error":
        raise ManifestError(f'the mask has another grid: {why}; put them on one grid, or set data.align = "resample"')
    if mask.affine is None or image.affine is None:
        raise ManifestError(
            f"the mask has another grid: {why}; it cannot be resampled, as one of them does not say where it lies"
        )
    from scipy.ndimage import affine_transform

    step = np.linalg.inv(mask.affine) @ image.affine
    return np.asarray(affine_transform(mask.array, step[:3, :3], step[:3, 3], image.shape, order=0))


# -- both -------------------------------------------------------------------------------------------------------------


def read_case(
    row: Mapping[str, Any], task: Segmentation, settings: Preprocessing, align: Align = "error", *, mask: bool = True
) -> Case:
    """A scan and its mask on the grid of a network.

    Args:
        row: of a manifest.
        task: which values are labels.
        settings: the preprocessing.
        align: see `read_mask`.
        mask: read the mask too.

    Raises:
        ReadError, ManifestError: as `read_scan` and `read_mask`.
    """
    volume = read_scan(row, settings)
    box = seen_box(volume, settings)
    image = network_image(volume, settings, box)
    if not mask:
        return Case(image, None, np.zeros((0, 4), np.int32))
    labels = resampled(read_mask(row, volume, task, settings, align)[box], image.shape[1:], nearest=True)
    return Case(image, labels, remembered(labels))


def remembered(labels: Labels) -> npt.NDArray[np.int32]:
    """Voxels of each label, evenly chosen among all of it: (n, 4) int32, the number of the label first."""
    samples = [np.zeros((0, 4), np.int32)]
    for number in (n for n in np.unique(labels) if 0 < n < 255):
        places = np.flatnonzero(labels == number)
        places = places[np.linspace(0, len(places) - 1, min(len(places), PLACES)).astype(int)]
        spots = np.stack(np.unravel_index(places, labels.shape), 1)
        samples.append(np.concatenate([np.full((len(spots), 1), number), spots], 1).astype(np.int32))
    return np.concatenate(samples)
