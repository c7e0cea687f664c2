"""Masks on the scan's own voxels: whatever its orientation, spacing and format, and whatever the network's grid."""

import itertools

import nibabel
import numpy as np
import pytest
import torch
from torch import nn

import slivit
from slivit.checkpoint import Checkpoint
from slivit.data.case import read_mask
from slivit.data.preprocessing import Preprocessing
from slivit.data.sliding import Sliding
from slivit.evaluate.masks import score_case
from slivit.predict.engine import Engine
from slivit.predict.masks import case_names, cleaned, label_map, segment, stored_image, write_masks
from slivit.predict.sliding import windows_of
from slivit.statistics import score_mask
from slivit.volume import Volume

TASK = slivit.Task(kind="segmentation", labels={"core": 2, "shell": 5})
VALUES = (0.0, 0.4, 1.0)  # of background, core and shell in scans from 0 to 5, brought to 0 to 1


class Perfect(nn.Module):
    """Calls each voxel by its value: (B, 1, S, H, W) -> (B, 3, S, H, W)."""

    def __init__(self, layout):
        super().__init__()
        size = (1, 16, 16) if layout == "tiled" else (8, 16, 16)
        self.backbone, self.head, self.spec = nn.Identity(), nn.Identity(), slivit.ModelSpec(
            "perfect", layout, size, mean=(0.0,), std=(1.0,), output="mask"
        )  # fmt: skip

    def forward(self, x):
        return torch.cat([-100 * (x - value).square() for value in VALUES], 1)


def engine_of(layout="volume", task=TASK, **settings):
    model = Perfect(layout)
    settings = Preprocessing(**{"size": model.spec.size, "window": (0, 5), "stretch": None} | settings)
    return Engine(Checkpoint(model, task, settings), "cpu")


def numbers(shape=(20, 18, 10), at=(8, 9, 5)):
    distance = sum((g - c) ** 2 for g, c in zip(np.indices(shape), at, strict=True))
    return np.where(distance < 5, 2, np.where(distance < 12, 5, 0)).astype(np.uint8)


def affine_of(order, signs):
    affine = np.zeros((4, 4))
    for axis, (to, sign, step) in enumerate(zip(order, signs, (0.9, 1.1, 2.0), strict=True)):
        affine[to, axis] = sign * step
    affine[:3, 3], affine[3, 3] = (-20, 11, 7), 1
    return affine


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1), (1, -1, 1)])
def test_a_perfect_network_gives_the_stored_mask_back_whatever_the_orientation(tmp_path, order, signs):
    stored = numbers()
    image = nibabel.Nifti1Image(stored, affine_of(order, signs))
    image.set_sform(image.affine, 2)
    image.set_qform(image.affine, 1)
    nibabel.save(image, path := tmp_path / "scan.nii.gz")
    found = segment(engine_of(), {"path": str(path)})
    (file,) = write_masks(tmp_path / "masks", "scan", found, TASK, str(path))
    written = nibabel.load(file)
    assert written.get_data_dtype() == np.uint8
    assert (np.asarray(written.dataobj) == stored).all()
    for form in ("sform", "qform"):
        (theirs, code), (ours, own) = (getattr(i.header, f"get_{form}")(coded=True) for i in (image, written))
        assert int(code) == int(own)
        assert np.allclose(theirs, ours, atol=1e-5)
    voxel = 0.9 * 1.1 * 2 / 1000
    assert found.millilitres() == pytest.approx([(stored == value).sum() * voxel for value in (2, 5)])


OBLIQUE = np.linalg.qr(np.array([[0.9, 0.3, -0.2], [-0.25, 0.8, 0.4], [0.3, -0.3, 0.9]]))[0]
TILTED = np.array([[1.0, 0, 0], [0, 1, 0.3], [0, 0, 0.95]])  # of a CT whose gantry is tilted


@pytest.mark.parametrize("turn", [OBLIQUE, OBLIQUE[:, [2, 0, 1]], -OBLIQUE, TILTED])
@pytest.mark.parametrize("foreground", [None, {"threshold": 0.5, "margin": 1.5, "least": 0.0}])
def test_of_an_oblique_scan_with_16_bit_labels_of_one_voxel_all_comes_back(tmp_path, turn, foreground):
    task = slivit.Task(kind="segmentation", labels={"core": 300, "shell": 65535})
    stored = np.zeros((20, 18, 30), np.uint16)
    stored[19, 17, 29], stored[3:6, 2, 4] = 300, 65535
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * (0.7, 1.3, 4.0), (-40, 12, 5)
    for name, values in (("scan", np.array([0, 2, 5])[np.searchsorted([0, 300, 65535], stored)]), ("mask", stored)):
        nibabel.save(nibabel.Nifti1Image(values.astype(np.uint16), affine), tmp_path / f"{name}.nii.gz")
    row = {"path": str(tmp_path / "scan.nii.gz"), "mask": str(tmp_path / "mask.nii.gz")}
    engine = engine_of(task=task, foreground=foreground)
    found = segment(engine, row)
    (file,) = write_masks(tmp_path / "masks", "scan", found, task, row["path"])
    written = nibabel.load(file)
    assert (np.asarray(written.dataobj) == stored).all()
    assert np.allclose(written.affine, affine, atol=1e-4)
    truth = read_mask(row, found.volume, task, engine.settings, "error")
    scores = score_case(found, truth, task, 1.0)
    assert [(s.dice, s.hd95, s.surface_dice, s.lesions) for s in scores.values()] == [(1, 0, 1, 1)] * 2
    voxel = abs(np.linalg.det(affine[:3, :3])) / 1000
    sides = np.prod(np.linalg.norm(affine[:3, :3], axis=0)) / 1000  # what a voxel is taken for: slices upright
    assert scores["core"].true_ml == pytest.approx(sides)
    assert turn is TILTED or sides == pytest.approx(voxel)


@pytest.mark.parametrize("layout", ["volume", "tiled"])
def test_a_tall_scan_is_segmented_by_windows_of_any_shape(tmp_path, layout):
    stored = numbers((7, 90, 11), (3, 44, 5))
    nibabel.save(nibabel.Nifti1Image(stored, np.diag([1, 1, 3, 1.0])), path := tmp_path / "scan.nii")
    found = segment(engine_of(layout), {"path": str(path)})
    assert (label_map(found.masks, TASK) == found.volume.array).all()


@pytest.mark.parametrize(
    "options", [{"spacing": (2.0, 1.0, 1.0)}, {"resize": (24, 24)}, {"flips": ("slices", "horizontal")}]
)
@pytest.mark.parametrize("layout", ["volume", "tiled"])
def test_other_grids_and_mirrored_views_come_back_to_the_scans_voxels(tmp_path, options, layout):
    places = np.indices((24, 26, 12)) - np.array([10, 12, 6])[:, None, None, None]
    stored = np.where((places**2).sum(0) < 36, 5, 0).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(stored, np.diag([0.8, 0.8, 2, 1])), path := tmp_path / "scan.nii")
    found = segment(engine_of(layout, **options), {"path": str(path)})
    assert found.masks.shape[1:] == found.volume.shape
    if "flips" in options:
        assert (label_map(found.masks, TASK) == found.volume.array).all()
    # Between 0 and 5 an interpolated scan has values of the core too: both together are the ball, but for its rim.
    assert score_mask(found.volume.array == 5, found.masks.any(0), (2, 0.8, 0.8)).dice > 0.85


def test_the_scores_of_a_perfect_case_are_perfect(tmp_path):
    nibabel.save(nibabel.Nifti1Image(numbers(), np.eye(4)), path := tmp_path / "scan.nii")
    found = segment(engine_of(), {"path": str(path)})
    scores = score_case(found, TASK.numbered(found.volume.array), TASK, 1.0)
    assert [(s.dice, s.hd95, s.surface_dice, s.volume_error_ml) for s in scores.values()] == [(1, 0, 1, 0)] * 2


def test_the_written_mask_lies_on_the_scans_voxels_for_simpleitk(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    scan = sitk.GetImageFromArray(numbers((12, 18, 20), (6, 9, 10)))
    scan.SetSpacing((0.7, 0.8, 2.5))
    scan.SetOrigin((-3.0, 12.0, 40.0))
    scan.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
    sitk.WriteImage(scan, str(path := tmp_path / "scan.nii.gz"))
    found = segment(engine_of(), {"path": str(path)})
    (file,) = write_masks(tmp_path, "mask", found, TASK, str(path))
    mask = sitk.ReadImage(str(file))
    assert mask.GetSize() == scan.GetSize()
    for what in ("Spacing", "Origin", "Direction"):
        assert np.allclose(getattr(mask, f"Get{what}")(), getattr(scan, f"Get{what}")(), atol=1e-5)
    assert (sitk.GetArrayFromImage(mask) == sitk.GetArrayFromImage(scan)).all()


def test_other_formats_get_a_mask_at_their_places(tmp_path):

    affine = np.array([[0, 0, -0.7, 30], [0, -0.8, 0, 20], [2.5, 0, 0, -40], [0, 0, 0, 1]])
    volume = Volume(numbers((10, 18, 20)), (2.5, 0.8, 0.7), "series", affine)

    image = stored_image(volume.array.astype(np.int32), volume, "series")
    assert image.shape == (20, 18, 10)
    for at in ((0, 0, 0), (3, 4, 5)):
        assert np.allclose(image.affine @ [at[2], at[1], at[0], 1], affine @ [*at, 1])
        assert image.dataobj[at[2], at[1], at[0]] == volume.array[at]


def test_a_scan_without_a_place_gets_a_mask_that_is_read_back_on_its_voxels(tmp_path):
    volume = Volume(numbers((10, 18, 20)), None, "pictures", None)
    nibabel.save(stored_image(volume.array.astype(np.int32), volume, "pictures"), file := tmp_path / "mask.nii.gz")
    assert (slivit.read_volume(str(file)).array == volume.array).all()


def test_the_number_of_windows_is_monais():
    assert windows_of((155, 240, 240), (112, 112, 112), 0.75) == 3 * 6 * 6
    assert windows_of((10, 10, 10), (8, 16, 16), 0.0) == 2


def test_parts_holes_and_small_parts_go_where_that_is_wished():
    mask = np.zeros((10, 20, 20), bool)
    mask[2:8, 2:10, 2:10], mask[4:6, 5:7, 5:7] = True, False  # a block with a hole
    mask[1:3, 15:18, 15:18] = True  # a smaller part
    assert cleaned(mask, (1, 1, 1), Sliding(largest=True)).sum() == 6 * 64 - 8
    assert cleaned(mask, (1, 1, 1), Sliding(fill_holes=True)).sum() == 6 * 64 + 18
    assert cleaned(mask, (1, 1, 1), Sliding(smallest_ml=0.1)).sum() == 6 * 64 - 8
    assert not cleaned(mask & False, (1, 1, 1), Sliding(largest=True)).any()


def test_overlapping_regions_are_one_map_where_labels_can_tell_them(tmp_path):
    labels = {"necrosis": 1, "edema": 2, "enhancing": 4}
    nested = slivit.Task(kind="segmentation", labels=labels, regions={"WT": (1, 2, 4), "ET": (4,), "TC": (1, 4)})
    drawn = np.array([[[0, 1, 2, 4]]])
    masks = np.stack([nested.structure(nested.numbered(drawn), place) for place in range(3)])
    assert (label_map(masks, nested) == drawn).all()
    apart = slivit.Task(kind="segmentation", labels=labels, regions={"a": (1, 2), "b": (2, 4)})
    assert label_map(masks[:2], apart) is None


def test_names_of_cases_are_their_own():
    assert case_names(["x/a.nii.gz", "x/b.nii"]) == ["a", "b"]
    assert case_names(["p1/scan.nii.gz", "p2/scan.nii.gz"]) == ["p1_scan", "p2_scan"]
    assert case_names(["s#series=1", "s#series=2"]) == ["series-1", "series-2"]
