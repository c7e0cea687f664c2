"""A scan and its mask: one grid or an error, patches of both alike, and a cache that changes nothing."""

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch

import slivit
from slivit.data.cache import SliceCache
from slivit.data.case import given_spacing, read_case, read_scan, resampled
from slivit.data.case_cache import CaseReader
from slivit.data.case_checks import checked_masks
from slivit.data.foreground import Foreground
from slivit.data.manifest import Manifest
from slivit.data.patch_blocks import patch_dataloaders
from slivit.data.patches import Patches, bent, cut, draw_corner, drawn_place, mirrored_and_turned
from slivit.data.preprocessing import Preprocessing
from slivit.errors import ManifestError, SlivitError

TASK = slivit.Task(kind="segmentation", labels={"core": 2, "shell": 5})
SETTINGS = Preprocessing(size=(8, 16, 16), window=(0, 5), stretch=None)


def save(path, array, affine=None, dtype=np.uint8):
    image = nibabel.Nifti1Image(np.asarray(array, dtype), np.diag([1.0, 1, 2, 1]) if affine is None else affine)
    nibabel.save(image, path)
    return str(path)


def numbers(shape=(20, 18, 10), at=(8, 9, 5)):
    """A core in a shell, somewhere in a volume."""
    distance = sum((g - c) ** 2 for g, c in zip(np.indices(shape), at, strict=True))
    return np.where(distance < 5, 2, np.where(distance < 12, 5, 0))


def row_of(folder, name="a", split="train", mask=None, **more):
    mask = numbers() if mask is None else mask
    path, drawn = save(folder / f"{name}.nii.gz", numbers()), save(folder / f"{name}_mask.nii.gz", mask, **more)
    return {"path": path, "mask": drawn, "patient": name, "split": split}


def test_a_mask_on_its_scan_is_the_scans_own_labels(tmp_path):
    case = read_case(row_of(tmp_path), TASK, SETTINGS)
    assert case.image.shape == (1, 10, 18, 20)
    assert ((case.image[0] * 5).round() == np.array([0, 2, 5])[case.labels]).all()
    assert {tuple(p[1:]) for p in case.places if p[0] == 1} <= {tuple(p) for p in np.argwhere(case.labels == 1)}


@pytest.mark.parametrize(
    ("affine", "words"),
    [
        (np.diag([1.0, 1, 2.1, 1]), "voxels of"),
        (np.diag([-1.0, 1, 2, 1]), "lie up to 19 mm away"),
        (np.array([[1.0, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]]), "lie up to 0.5 mm away"),
        (
            np.array([[0.995, -0.0998, 0, 0], [0.0998, 0.995, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]]),
            "turned by 5.7",
        ),
    ],
)
def test_another_grid_is_an_error_that_says_what_differs(tmp_path, affine, words):
    with pytest.raises(ManifestError, match=words):
        read_case(row_of(tmp_path, affine=affine), TASK, SETTINGS)


def test_rotation_noise_is_no_error(tmp_path):
    noise = np.diag([1.0, 1, 2, 1])
    noise[0, 1], noise[1, 0] = 2e-5, -2e-5
    noise[:3, 3] = 4e-4
    case = read_case(row_of(tmp_path, affine=noise), TASK, SETTINGS)
    assert case.labels.any()


def test_a_shifted_mask_is_resampled_where_that_is_wished(tmp_path):
    shifted = np.diag([1.0, 1, 2, 1])
    shifted[0, 3] = 3
    mask = np.roll(numbers(), -3, axis=0)
    case = read_case(row_of(tmp_path, mask=mask, affine=shifted), TASK, SETTINGS, "resample")
    whole = read_case(row_of(tmp_path, "b"), TASK, SETTINGS)
    assert (case.labels == whole.labels).all()


def test_one_file_a_structure_is_one_mask(tmp_path):
    row = row_of(tmp_path)
    for name, value in TASK.labels.items():
        save(tmp_path / f"{name}.nii.gz", numbers() == value)
    split = row | {"mask": str(tmp_path / "{}.nii.gz")}
    assert (read_case(split, TASK, SETTINGS).labels == read_case(row, TASK, SETTINGS).labels).all()
    save(tmp_path / "shell.nii.gz", numbers() > 0)
    with pytest.raises(ManifestError, match="shares"):
        read_case(split, TASK, SETTINGS)


def test_all_that_is_wrong_is_one_error(tmp_path):
    rows = [
        row_of(tmp_path, "good"),
        row_of(tmp_path, "undeclared", mask=numbers() * 2),
        row_of(tmp_path, "fraction", mask=numbers() / 4, dtype=np.float32),
        row_of(tmp_path, "empty", mask=numbers() * 0),
        row_of(tmp_path, "infinite", mask=np.where(numbers() > 0, np.inf, 0), dtype=np.float32),
        row_of(tmp_path, "shape", "val", mask=numbers((20, 18, 11))),
    ]
    task = slivit.Task(kind="segmentation", labels={"core": 2, "shell": 5, "absent": 7})
    manifest = Manifest.from_frame(pd.DataFrame(rows), task, need_splits=())
    with pytest.raises(ManifestError) as error:
        checked_masks(manifest, task, SETTINGS, "error")
    for words in ("does not declare", "whole numbers", "its mask is empty", "18 x 20 voxels", "absent"):
        assert words in str(error.value)
    assert "6 problems" in str(error.value)


def test_a_mask_that_is_not_there_is_told_with_its_row(tmp_path):
    rows = [row_of(tmp_path), row_of(tmp_path, "b", "val") | {"mask": "nowhere.nii"}]
    with pytest.raises(ManifestError, match=r"row 1: mask .*does not exist"):
        Manifest.from_frame(pd.DataFrame(rows), TASK, need_splits=())


def test_spacing_resamples_image_and_mask_alike(tmp_path):
    settings = SETTINGS.model_copy(update={"spacing": (1.0, 1.0, 1.0)})
    case = read_case(row_of(tmp_path), TASK, settings)
    assert case.image.shape[1:] == case.labels.shape == (20, 18, 20)
    assert set(np.unique(case.labels)) == {0, 1, 2}
    back = resampled(case.labels, (10, 18, 20), nearest=True)
    assert (back == read_case(row_of(tmp_path, "b"), TASK, SETTINGS).labels).all()


def test_the_crop_to_the_foreground_is_of_scan_and_mask_alike(tmp_path):
    settings = SETTINGS.model_copy(update={"foreground": Foreground(threshold=0.5, least=0.0, margin=2.0)})
    row = row_of(tmp_path)
    kept, whole = read_case(row, TASK, settings), read_case(row, TASK, SETTINGS)
    assert kept.image.shape[1:] == kept.labels.shape == (9, 11, 11)  # 7 x 7 x 7 voxels and 2 mm round them
    first = np.argwhere(whole.labels).min(0) - (1, 2, 2)
    box = tuple(slice(start, start + n) for start, n in zip(first, (9, 11, 11), strict=True))
    assert (kept.labels == whole.labels[box]).all()
    assert (kept.image[0] == whole.image[0][box]).all()
    assert (kept.labels[tuple(kept.places[:, 1:].T)] == kept.places[:, 0]).all()
    cache = SliceCache(tmp_path / "cache")
    shapes = [CaseReader(TASK, s, cache=cache)(row).labels.shape for s in (SETTINGS, settings, SETTINGS)]
    assert shapes == [whole.labels.shape, kept.labels.shape, whole.labels.shape]


def test_the_manifest_may_say_the_spacing(tmp_path):
    row = row_of(tmp_path) | {"spacing": "3 1 1"}
    assert read_scan(row, SETTINGS).spacing == (3, 1, 1)
    for wrong in ("3 1", "a b c", "0 1 1"):
        with pytest.raises(ManifestError, match="lengths in mm"):
            given_spacing(wrong)


def test_a_cached_case_is_the_case(tmp_path):
    rows = [row_of(tmp_path), row_of(tmp_path, "b")]
    cache = SliceCache(tmp_path / "cache")
    for _ in range(2):  # made, then found
        reader = CaseReader(TASK, SETTINGS, cache=cache)
        for row in rows:
            kept, fresh = reader(row), read_case(row, TASK, SETTINGS)
            assert np.allclose(kept.image, fresh.image, atol=1e-3)
            assert (kept.labels == fresh.labels).all()
            assert (kept.places == fresh.places).all()
    files = list((tmp_path / "cache").rglob("*.safetensors"))
    assert len(files) == 1  # both scans have the same content
    files[0].write_bytes(files[0].read_bytes()[:-7])  # a damaged one is made anew
    assert all((CaseReader(TASK, SETTINGS, cache=cache)(row).labels == 1).any() for row in rows)
    save(tmp_path / "a_mask.nii.gz", np.where(numbers() == 2, 5, 0))  # another mask is another entry
    assert not (CaseReader(TASK, SETTINGS, cache=cache)(rows[0]).labels == 1).any()


def test_patches_of_image_and_mask_are_of_one_place(tmp_path):
    rows = [row_of(tmp_path, n, s) for n, s in (("a", "train"), ("b", "train"), ("c", "val"))]
    manifest = Manifest.from_frame(pd.DataFrame(rows), TASK, need_splits=())
    patches = Patches(per_scan=3, mirror=0.5, turn=0.5, foreground=0.5)
    spec = slivit.ModelSpec("x", "volume", (8, 16, 16), mean=(0.0,), std=(1.0,))
    dls = patch_dataloaders(manifest, spec, SETTINGS, patches=patches, batch_size=2)
    batches = list(dls.train)
    assert len(batches) == 3
    for x, y in batches:
        assert x.shape == (2, 1, 8, 16, 16)
        assert ((x[:, 0] * 5).round() == torch.tensor([0.0, 2, 5])[y.long()]).all()
    x, y = dls.valid.one_batch()
    assert x.shape[2:] == y.shape[1:] == (10, 18, 20)
    with pytest.raises(SlivitError, match="size set"):
        patch_dataloaders(manifest, spec, SETTINGS.model_copy(update={"size": None}))


def test_steps_are_the_length_of_an_epoch(tmp_path):
    rows = [row_of(tmp_path, n, s) for n, s in (("a", "train"), ("b", "train"), ("c", "val"))]
    manifest = Manifest.from_frame(pd.DataFrame(rows), TASK, need_splits=())
    spec = slivit.ModelSpec("x", "volume", (8, 16, 16), mean=(0.0,), std=(1.0,))
    for steps in (1, 7):
        dls = patch_dataloaders(manifest, spec, SETTINGS, patches=Patches(per_scan=2, steps=steps), batch_size=2)
        assert len(dls.train) == len(list(dls.train)) == steps


def test_the_stated_share_of_patches_holds_foreground():
    torch.manual_seed(0)
    places = np.array([[1, 0, 0, 0], [2, 30, 30, 30]], np.int32)
    drawn = [drawn_place(places, 0.25) for _ in range(2000)]
    found = [tuple(d) for d in drawn if d is not None]
    assert 0.2 < len(found) / len(drawn) < 0.3
    assert 0.4 < found.count((0, 0, 0)) / len(found) < 0.6
    for shape in ((40, 40, 40), (6, 40, 12)):
        corner = draw_corner(shape, (8, 8, 8), (5, 30, 7))
        patch = cut(torch.ones(shape), corner, (8, 8, 8), -1.0)
        assert patch.shape == (8, 8, 8)
        assert all(c <= at < c + 8 for c, at in zip(corner, (5, 30, 7), strict=True))
        assert int((patch == 1).sum()) == min(shape[0], 8) * 64


def test_changes_of_places_are_alike():
    torch.manual_seed(1)
    mask = torch.zeros(6, 20, 20, dtype=torch.uint8)
    mask[2:4, 5:12, 6:10] = 1
    image = mask[None].float()
    for _ in range(10):
        turned, numbers_ = mirrored_and_turned(image, mask, Patches(mirror=0.5, turn=0.7))
        assert (turned[0] == numbers_).all()
        turned, numbers_ = bent(image, mask, Patches(rotate=30, zoom=0.2, bend=1.0))
        assert ((turned[0] > 0.5) == (numbers_ == 1)).float().mean() > 0.98
