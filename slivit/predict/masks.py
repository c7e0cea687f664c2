"""Masks of scans: predicted on a network's grid, brought back to the scan's own, and written to files."""

from __future__ import annotations

import gzip
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from slivit.data.case import network_image, read_scan, seen_box, sliding_of
from slivit.data.readers.address import files_in, parts_of
from slivit.data.sliding import Sliding
from slivit.device import out_of_memory
from slivit.errors import CheckpointError, ReadError, SlivitError
from slivit.files import make_folder, whole_file
from slivit.predict.sliding import scan_logits, windows_of
from slivit.targets.segmentation import Segmentation
from slivit.volume import Volume

if TYPE_CHECKING:
    from slivit.data.scan_reading import ScanRef
    from slivit.predict.engine import Engine

log = logging.getLogger(__name__)
Mask = npt.NDArray[np.bool_]
MM3_PER_ML = 1000.0
MANY_WINDOWS = 50
"""From which the cost of a scan is said before it is predicted."""
_NIFTI = (".nii", ".nii.gz")


@dataclass(frozen=True, eq=False)
class Segmented:
    """A scan with its predicted masks.

    Args:
        volume: the scan as it is stored.
        masks: (structures, D, H, W) bool, on the scan's own voxels.
    """

    volume: Volume
    masks: Mask

    def millilitres(self) -> list[float]:
        """The volume of each structure; NaN where the scan has no spacing."""
        spacing = self.volume.spacing
        voxel = float(np.prod(spacing)) / MM3_PER_ML if spacing else float("nan")
        return [float(mask.sum()) * voxel for mask in self.masks]


def task_of(engine: Engine) -> Segmentation:
    """The task of a model that segments.

    Raises:
        CheckpointError: it predicts something else.
    """
    if not isinstance(engine.task, Segmentation):
        raise CheckpointError(f"the model predicts {', '.join(engine.task.targets)}, and no masks")
    return engine.task


def segment(engine: Engine, row: Mapping[str, Any], options: Mapping[str, Any] | None = None) -> Segmented:
    """Predict the masks of a scan.

    Args:
        engine: with a model that gives masks.
        row: with `path`, and perhaps `spacing`.
        options: of its reader, beside those of the preprocessing.

    Raises:
        ReadError: the scan cannot be read.
    """
    task, settings = task_of(engine), engine.settings
    volume = read_scan(row, settings, options)
    box = seen_box(volume, settings)
    image = torch.from_numpy(network_image(volume, settings, box))
    sliding = sliding_of(settings)
    windows = windows_of(image.shape[1:], engine.spec.size, sliding.overlap) * len(engine.views)
    log.log(logging.INFO if windows >= MANY_WINDOWS else logging.DEBUG, "%s: %d windows", volume.source, windows)
    logits = scan_logits(engine, image, sliding)
    masks = np.zeros((len(task.structures), *volume.shape), bool)
    inside = (slice(None), *box)
    masks[inside] = structures_of(logits, masks[inside].shape[1:], task)
    return Segmented(volume, np.stack([cleaned(mask, volume.spacing, sliding) for mask in masks]))


def structures_of(logits: Tensor, shape: Sequence[int], task: Segmentation) -> list[Mask]:
    """The masks of all structures on a scan's own grid, from logits on the network's.

    Args:
        logits: (K, d, h, w).
        shape: (D, H, W) of what the network saw of the scan.
        task: whether outputs exclude each other.
    """
    # One output at a time, so that no more than three volumes of the scan's size are in memory.
    if task.regions:
        return [(_resampled(part, shape) > 0).numpy() for part in logits]
    best = _resampled(logits[0], shape)
    winner = torch.zeros(tuple(shape), dtype=torch.uint8)
    for number, part in enumerate(logits[1:], 1):
        value = _resampled(part, shape)
        above = value > best
        best, winner = torch.where(above, value, best), winner.masked_fill_(above, number)
    return [(winner == number).numpy() for number in range(1, len(logits))]


def _resampled(part: Tensor, shape: Sequence[int]) -> Tensor:
    from torch.nn.functional import interpolate

    if part.shape == tuple(shape):
        return part
    return interpolate(part[None, None], tuple(shape), mode="trilinear", align_corners=False)[0, 0]


def cleaned(mask: Mask, spacing: Sequence[float] | None, sliding: Sliding) -> Mask:
    """The largest part alone, without holes, without small parts, as far as that is wished.

    Args:
        mask: (D, H, W).
        spacing: mm; without it no part is small.
        sliding: what is wished.
    """
    from scipy.ndimage import binary_fill_holes, label

    if not mask.any():
        return mask
    if sliding.largest or sliding.smallest_ml:
        parts, _ = label(mask, structure=np.ones((3, 3, 3)))
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        voxel = float(np.prod(spacing)) / MM3_PER_ML if spacing else np.inf
        kept = sizes * voxel >= sliding.smallest_ml
        kept[0] = False
        if sliding.largest:
            kept &= np.arange(len(sizes)) == sizes.argmax()
        mask = kept[parts]
    return np.asarray(binary_fill_holes(mask)) if sliding.fill_holes else mask


def mask_rows(
    engine: Engine, refs: Sequence[ScanRef], names: Sequence[str], folder: Path
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Segment the scans of a collaborator, and write their masks; one that cannot be has its error in its row.

    Args:
        engine: with a model that gives masks.
        refs: the scans to segment.
        names: of their files, see `case_names`.
        folder: where the masks go.

    Yields:
        The number of a scan and its row: the volume of each structure in mL, `warnings`, `notes` and `error`.
    """
    task = task_of(engine)
    for number, ref in enumerate(refs):
        values: list[float | None] = [None] * len(task.structures)
        notes, error = "", ""
        try:
            segmented = segment(engine, {**ref.columns, "path": ref.path}, ref.options)
            write_masks(folder, names[number], segmented, task, ref.path)
            values = [volume if math.isfinite(volume) else None for volume in segmented.millilitres()]
            notes = "; ".join(note.replace(ref.path, ref.name) for note in segmented.volume.notes)
        except SlivitError as problem:
            error = str(problem).replace(ref.path, ref.name)
        except (MemoryError, RuntimeError) as problem:
            if not isinstance(problem, MemoryError) and not out_of_memory(problem):
                raise
            error = f"{ref.name}: there is not enough memory to segment it"
        columns = dict(zip(task.prediction_columns, values, strict=True))
        yield number, {**columns, "warnings": "", "notes": notes, "error": error}


# -- files ------------------------------------------------------------------------------------------------------------


def case_names(paths: Sequence[str]) -> list[str]:
    """A name of its own for each scan, for files: that of its file, with folders before it where two share one.

    Args:
        paths: of the scans.
    """
    parts = [_parts(path) for path in paths]
    for count in range(1, max((len(p) for p in parts), default=1) + 1):
        names = ["_".join(p[-count:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{'_'.join(p)}_{number}" for number, p in enumerate(parts)]


def _parts(path: str) -> list[str]:
    plain = parts_of(path)[0].replace("\\", "/").replace("#", "/")
    *folders, last = [p for p in plain.split("/") if p]
    for suffix in (".gz", ".nii", ".nrrd", ".mha", ".zip"):
        last = last.removesuffix(suffix)
    return ["".join(c if c.isalnum() or c in "-_." else "-" for c in p) for p in (*folders, last)]


def label_map(masks: Mask, task: Segmentation) -> npt.NDArray[np.int32] | None:
    """The masks of structures as one map of values, as files hold them; None for regions that cannot be written so."""
    out = np.zeros(masks.shape[1:], np.int32)
    if not task.regions:
        for mask, value in zip(masks, task.labels.values(), strict=True):
            out[mask] = value
        return out
    own = task.label_of_regions()
    if own is None:
        return None
    for name, value in own.items():  # from the largest region to the smallest
        out[masks[task.structures.index(name)]] = value
    return out


def write_masks(folder: Path, name: str, segmented: Segmented, task: Segmentation, path: str) -> list[Path]:
    """Write the predicted masks of a scan as NIfTI on the scan's own voxels.

    Args:
        folder: where to.
        name: of the file, without suffix.
        segmented: the masks.
        task: the values of labels.
        path: of the scan, whose header is taken where it is NIfTI.

    Returns:
        One file of all labels; one a region where regions overlap in a way that no labels can tell.
    """
    whole = label_map(segmented.masks, task)
    if whole is not None:
        return [_write(folder / f"{name}.nii.gz", whole, segmented.volume, path)]
    parts = zip(task.structures, segmented.masks, strict=True)
    return [_write(folder / f"{name}_{s}.nii.gz", m.astype(np.int32), segmented.volume, path) for s, m in parts]


def _write(file: Path, values: npt.NDArray[np.int32], volume: Volume, path: str) -> Path:
    image = stored_image(values, volume, path)
    make_folder(file.parent)
    with whole_file(file) as partial:
        # The bytes, as nibabel tells by a file's name whether it is compressed; without the time, they are always same.
        partial.write_bytes(gzip.compress(image.to_bytes(), mtime=0))
    return file


def stored_image(values: npt.NDArray[np.int32], volume: Volume, path: str) -> Any:
    """A map of labels as a NIfTI image on a scan's stored grid: its own axes and header where it is NIfTI itself.

    Args:
        values: (D, H, W), as `volume` is turned.
        volume: the scan.
        path: where it was read from.
    """
    import nibabel

    kind = np.uint8 if values.max(initial=0) < 256 and values.min(initial=0) >= 0 else np.int32
    file = files_in(path)[0]  # the other channels lie on its grid
    if file.casefold().endswith(_NIFTI) and volume.affine is not None:
        scan: Any = nibabel.load(file)
        data = onto_axes(values, volume.affine, _in_mm(scan), scan.shape[:3])
        image = nibabel.Nifti1Image(data.astype(kind), scan.affine)
        for form in ("sform", "qform"):
            matrix, code = getattr(scan.header, f"get_{form}")(coded=True)
            getattr(image, f"set_{form}")(scan.affine if matrix is None else matrix, code)
        image.header.set_xyzt_units(*scan.header.get_xyzt_units())
    else:
        image = nifti_of(values.astype(kind), volume)
    image.header.set_slope_inter(1, 0)
    return image


def nifti_of(values: npt.NDArray[Any], volume: Volume) -> Any:
    """Values on a scan's voxels as a NIfTI image: columns, rows and slices, at the scan's place and spacing.

    Args:
        values: (D, H, W), as `volume` is turned.
        volume: the scan; 1 mm where it has no spacing.
    """
    import nibabel

    spacing = volume.spacing or (1.0, 1.0, 1.0)
    affine = _usual_view(spacing) if volume.affine is None else volume.affine.copy()
    affine[:3, :3] *= np.array(spacing) / np.linalg.norm(affine[:3, :3], axis=0)
    image = nibabel.Nifti1Image(np.ascontiguousarray(values.T), affine[:, [2, 1, 0, 3]])
    image.set_sform(image.affine, 1)
    image.set_qform(image.affine, 1)
    return image


def _usual_view(spacing: Sequence[float]) -> npt.NDArray[np.float64]:
    """An affine for a scan that has none, under which readers give its slices back as they are."""
    z, y, x = spacing
    return np.array([[0, 0, -x, 0], [0, -y, 0, 0], [z, 0, 0, 0], [0, 0, 0, 1]], np.float64)


def _in_mm(scan: Any) -> npt.NDArray[np.float64]:
    """The affine of a NIfTI image in mm, as the reader has it."""
    affine = np.array(scan.affine, dtype=np.float64)
    affine[:3] *= {"meter": 1000.0, "micron": 0.001}.get(scan.header.get_xyzt_units()[0], 1.0)
    return affine


def onto_axes(
    values: npt.NDArray[Any], affine: npt.NDArray[np.float64], stored: npt.NDArray[np.float64], shape: Sequence[int]
) -> npt.NDArray[Any]:
    """Voxels of one array on the axes of another of the same grid: by flips and swaps alone.

    Args:
        values: any order of axes.
        affine: from its voxels to mm.
        stored: from the voxels wanted to mm.
        shape: wanted, three sizes or two of a plane.

    Raises:
        ReadError: the two are not of one grid.
    """
    from nibabel.orientations import apply_orientation, io_orientation, ornt_transform

    turned = apply_orientation(values, ornt_transform(io_orientation(affine), io_orientation(stored)))
    wanted = tuple(shape) + (1,) * (3 - len(shape))
    if turned.shape != wanted:
        raise ReadError(f"the masks have {turned.shape} voxels, and the stored scan {wanted}")
    return np.asarray(turned)
