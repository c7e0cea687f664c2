"""An explanation as files: a table, a picture, overlays in the scan's space, and the facts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from slivit import __version__
from slivit.data.physical import taken_back
from slivit.data.readers.address import files_in
from slivit.data.slices import BLANK
from slivit.explanation.predicting import ExplainError
from slivit.files import whole_folder, write_json

if TYPE_CHECKING:
    import nibabel

    from slivit.explanation.result import Explanation
    from slivit.explanation.scan import SeenScan

SHEET, TABLE, FACTS = "sheet.png", "slices.csv", "explanation.json"


def save_explanation(explanation: Explanation, out: str | Path, *, overwrite: bool = False) -> Path:
    """Write an explanation's folder, whole or not at all.

    Args:
        explanation: the explanation.
        out: the folder: `slices.csv`, `sheet.png`, `explanation.json`, and `METHOD.nii.gz` for each method.
        overwrite: replace an explanation that lies there.

    Returns:
        The folder.

    Raises:
        ExplainError: the folder holds something already, or something else than an explanation.
    """
    from slivit.explanation.sheet import png_bytes

    out = Path(out)
    check_folder(out, overwrite)
    with whole_folder(out) as partial:
        explanation.table().to_csv(partial / TABLE, index=False)
        (partial / SHEET).write_bytes(png_bytes(explanation.figure()))
        for method in explanation.attributions:
            overlay(explanation, method).to_filename(partial / f"{method}.nii.gz")
        write_json(partial / FACTS, facts(explanation))
    return out


def check_folder(out: Path, overwrite: bool) -> None:
    """Refuse a folder in which something would be lost."""
    if out.is_file():
        raise ExplainError(f"{out}: is a file; an explanation is a folder. Choose another with --out")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not (out / FACTS).is_file():
        raise ExplainError(f"{out}: holds other things than an explanation; choose another folder with --out")
    if not overwrite:
        raise ExplainError(f"{out}: holds an explanation; replace it with --overwrite, or choose another with --out")


def facts(explanation: Explanation) -> dict[str, Any]:
    """What was explained and how, as plain values for JSON."""
    return {
        "scan": explanation.scan.source,
        "task": {"kind": explanation.task.kind, "unit": explanation.task.unit},
        "target": explanation.target,
        "predictions": {key: _plain(value) for key, value in explanation.predictions.items()},
        "methods": {method: {"top_slice": int(explanation.ranking(method)[0])} for method in explanation.attributions},
        "skipped": dict(explanation.skipped),
        "occlusion_fill": explanation.fill,
        "slices_of_scan": explanation.scan.shape[0],
        "slices_seen": len(explanation.scan.sampled),
        "notes": list(explanation.scan.notes),
        "slivit": __version__,
    }


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def scores_by_slice(explanation: Explanation, method: str) -> npt.NDArray[np.float32]:
    """(D,) scores over the whole scan; slices that the model did not see are 0."""
    scores = np.zeros(explanation.scan.shape[0], np.float32)
    scores[explanation.scan.sampled] = explanation.attributions[method].scores
    return scores


def overlay_array(explanation: Explanation, method: str) -> npt.NDArray[np.float32]:
    """What a method says of every voxel of the scan.

    Returns:
        (D, H, W) float32: the method's map, or the slice's score throughout where it judges whole slices; 0 in slices
        that the model did not see.
    """
    scan, maps = explanation.scan, explanation.attributions[method].maps
    volume = np.zeros(scan.shape, np.float32)
    if maps is None:
        volume += scores_by_slice(explanation, method)[:, None, None]
        return volume
    for number in scan.sampled:
        volume[number] = _on_the_scan(scan, maps, int(number))
    return volume


def _on_the_scan(scan: SeenScan, maps: npt.NDArray[np.float32], number: int) -> npt.NDArray[np.float32]:
    """The map over one slice of the scan, at the scan's rows and columns; 0 where the model did not see it."""
    import cv2

    if scan.grid is None:
        return slice_map(scan, maps, number, scan.shape[1:])
    height, width = scan.stack.shape[-2:]
    seen = taken_back(slice_map(scan, maps, number, (height, width)), scan.grid)
    return np.asarray(cv2.resize(seen, scan.shape[:0:-1], interpolation=cv2.INTER_LINEAR), np.float32)


def slice_map(
    scan: SeenScan, maps: npt.NDArray[np.float32], number: int, size: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """The map over one slice of the scan, at a size (H, W) in pixels; the mean where the model saw the slice often."""
    import cv2

    cells = maps[(scan.slices == number) & (scan.slices != BLANK)].mean(axis=0)
    return np.asarray(cv2.resize(cells, size[::-1], interpolation=cv2.INTER_LINEAR), np.float32)


def overlay(explanation: Explanation, method: str) -> nibabel.Nifti1Image:
    """A method's overlay as NIfTI in the scan's own space.

    For a scan that is NIfTI itself it has the file's own grid; for others, columns, rows and slices run as axes 0, 1
    and 2. Where the place of a scan is not known, spacing alone is kept, and the codes say so.
    """
    import nibabel

    array, affine = overlay_array(explanation, method), explanation.scan.affine
    if affine is None:
        spacing = explanation.scan.spacing or (1.0, 1.0, 1.0)
        image = nibabel.Nifti1Image(array.transpose(2, 1, 0), np.diag([*spacing[::-1], 1.0]))
        image.set_sform(image.affine, code="unknown")
        image.set_qform(image.affine, code="unknown")
    else:
        image = nibabel.Nifti1Image(*_on_file_grid(array, affine, explanation.scan.source))
        image.set_sform(image.affine, code="scanner")
        image.set_qform(image.affine, code="scanner")
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = f"slivit {method} {explanation.column}"[:79].encode("ascii", "replace")
    return image


def _on_file_grid(
    array: npt.NDArray[np.float32], affine: npt.NDArray[np.float64], source: str
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """Turn (D, H, W) to the axes of the NIfTI file that it was read from, or to columns, rows, slices."""
    from nibabel.orientations import apply_orientation, io_orientation, ornt_transform

    own = _file_affine(source)
    if own is None:
        return array.transpose(2, 1, 0), affine[:, [2, 1, 0, 3]]
    turn = ornt_transform(io_orientation(affine), io_orientation(own))
    return np.ascontiguousarray(apply_orientation(array, turn)), own


def _file_affine(source: str) -> npt.NDArray[np.float64] | None:
    """The affine in the header of a NIfTI file; None for every other scan."""
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    first = files_in(source)[0]  # the other channels lie on its grid
    if not first.lower().endswith((".nii", ".nii.gz")):
        return None
    try:
        return np.asarray(nibabel.load(first).affine, np.float64)  # type: ignore[attr-defined]
    except (ImageFileError, OSError):
        return None
