"""Seeing features: a frozen network and a scan in; patch tokens as colours and attention, over the scan, out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from slivit.checkpoint import Checkpoint
from slivit.files import whole_file
from slivit.folder import open_results
from slivit.models.registry import spec_of
from slivit.volume import Volume

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)
PICTURE, COLOURS, ATTENTION = "features.png", "pca.nii.gz", "attention.nii.gz"
Array = npt.NDArray[Any]
Affine = npt.NDArray[np.float64]


def run(
    network: Checkpoint,
    scan: str,
    out: Path,
    *,
    head: int | None = None,
    size: Sequence[int] = (),
    mask: bool = True,
    device: str = "auto",
    overwrite: bool = False,
) -> Path:
    """Draw the features of a scan.

    Args:
        network: whose features are tokens in places, such as 3DINO's.
        scan: anything that `read_volume` takes.
        out: the folder.
        head: of the last block's attention, from 0; the mean of all heads where None.
        size: (S, H, W) to which the scan is sampled; what the network was made for where empty. A larger size has
            more and smaller patches.
        mask: leave the background black.
        device: "auto", "cpu", "cuda", ...
        overwrite: replace what is in the folder.

    Returns:
        The folder with `features.png`, `pca.nii.gz` (RGB) and, where the network has a class token,
        `attention.nii.gz` (probability of a patch), both on the grid of the scan.

    Raises:
        ModelError: a network without tokens in places, a head that it has not, or a size that it does not take.
        ReadError: a scan that cannot be read.
    """
    from slivit.data.readers import read_volume
    from slivit.probing.seeing import see

    settings = network.preprocessing
    if size:
        settings = settings.model_copy(update={"size": tuple(size)})
    volume = read_volume(scan, **settings.reader)
    seen = see(network.model, volume, settings, mask=mask, head=head, device=device)
    colours, heads = seen.on_scan(volume.shape)
    attention = None if heads is None else heads.mean(0)
    folder, affine = open_results(out, overwrite=overwrite), affine_of(volume)
    if volume.affine is None:
        log.info("%s: knows no orientation; the planes are those of its array", volume.source)
    save_nifti(folder / COLOURS, np.rint(255 * colours).astype(np.uint8), affine)
    if attention is not None:
        save_nifti(folder / ATTENTION, attention.astype(np.float32), affine)
    which = "the mean of its heads" if head is None else f"head {head}"
    title = f"{spec_of(network.model).name}" + ("" if heads is None else f": attention of the last block, {which}")
    with whole_file(folder / PICTURE) as partial:
        picture(volume, colours, attention, title).savefig(partial, dpi=130, metadata={"Software": None})
    return folder


def picture(volume: Volume, colours: Array, attention: Array | None, title: str) -> Figure:
    """Three planes through the middle of the foreground, as radiologists view them.

    Args:
        volume: the scan.
        colours: (D, H, W, 3) from 0 to 1; black is background.
        attention: (D, H, W) or None.
        title: of the figure.
    """
    from slivit.report.planes import planes_figure

    affine = affine_of(volume)
    shown = volume.by_channel()[0].array
    turned = [None if part is None else turned_to_ras(part, affine)[0] for part in (shown, colours, attention)]
    space = turned_to_ras(shown, affine)[1]
    kept = turned[1].any(axis=-1)  # type: ignore[union-attr]
    at = [round(float(places.mean())) for places in np.nonzero(kept)] if kept.any() else [n // 2 for n in kept.shape]
    spacing = np.linalg.norm(space[:3, :3], axis=0)
    options: dict[str, Any] = {"spacing": spacing, "at": at, "title": title, "oriented": volume.affine is not None}
    return planes_figure(*turned, **options)  # type: ignore[arg-type]


def affine_of(volume: Volume) -> Affine:
    """From the voxel index (d, h, w, 1) to mm.

    A format that knows no orientation gets one under which the top of a slice is in front and its left is the
    patient's right, as in axial views, with the first slice on top; without spacing, voxels are 1 mm wide.
    """
    if volume.affine is not None:
        return volume.affine
    depth, height, width = volume.spacing or (1.0, 1.0, 1.0)
    affine = np.eye(4)
    affine[:3, :3] = [[0, 0, -width], [0, -height, 0], [-depth, 0, 0]]
    return affine


def turned_to_ras(array: npt.NDArray[Any], affine: Affine) -> tuple[npt.NDArray[Any], Affine]:
    """Turn a volume by flips and swaps of axes alone, to the nearest axes of the patient.

    Args:
        array: (D, H, W, ...).
        affine: (4, 4) from (d, h, w, 1) to RAS mm.

    Returns:
        (X, Y, Z, ...), whose axes run to the right, to the front and to the top, and the affine from (x, y, z, 1).
    """
    from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

    orientation = io_orientation(affine)
    return apply_orientation(array, orientation), affine @ inv_ornt_aff(orientation, array.shape[:3])


def save_nifti(path: Path, array: npt.NDArray[Any], affine: Affine) -> None:
    """Write values, or colours, on the grid of a scan, whole or not at all.

    Args:
        path: ends with .nii or .nii.gz.
        array: (D, H, W) float32, or (D, H, W, 3) uint8, which becomes NIfTI's RGB.
        affine: (4, 4) from (d, h, w, 1) to RAS mm.
    """
    import nibabel

    turned, space = turned_to_ras(array, affine)
    if array.ndim == 4:
        turned = np.ascontiguousarray(turned).view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    image = nibabel.Nifti1Image(turned, space)
    image.header.set_xyzt_units("mm")
    # A temporary name keeps the last suffix alone, and nibabel tells by ".nii.gz" how to write.
    with whole_file(path) as partial:
        content = image.to_bytes()
        partial.write_bytes(_gzipped(content) if path.suffix == ".gz" else content)


def _gzipped(content: bytes) -> bytes:
    import gzip

    return gzip.compress(content, 6, mtime=0)
