"""Crops, masks and intensities of 3DINO: shapes, ranges, ratios, and MONAI's results for the same settings."""

import numpy as np
import pytest
import torch

from slivit.errors import ReadError
from slivit.ssl import _intensity3d as intensity
from slivit.ssl._crops3d import (
    Crops,
    LoadCrops,
    collate_crops,
    foreground,
    in_plane_size,
    random_masks,
    resized_crop,
    without_nan,
)

LARGE = Crops(size=32, count=2, in_plane=(0.48, 1.0), through=(0.5, 1.0))
SMALL = Crops(size=16, count=3, in_plane=(0.16, 0.48), through=(0.2, 0.5))


@pytest.fixture
def scan(tmp_path, rng):
    import nibabel

    array = rng.normal(500, 100, (40, 36, 12)).astype(np.float32)
    array[:4], array[0, 0, 0] = -1000, np.nan
    nibabel.save(nibabel.Nifti1Image(array, np.diag([1, 1, 5, 1.0])), tmp_path / "scan.nii.gz")
    return {"path": str(tmp_path / "scan.nii.gz"), "split": "train"}


def test_crops_have_their_sizes_and_fill_the_scale(scan):
    item = LoadCrops(large=LARGE, small=SMALL)(scan)
    assert item["large"].shape == (2, 1, 32, 32, 32)
    assert item["small"].shape == (3, 1, 16, 16, 16)
    assert item["noise"].shape == (2, 8)
    for crops in (item["large"], item["small"]):
        assert crops.isfinite().all()
        assert -1 <= crops.min() < crops.max() <= 1
    batch = collate_crops([item] * 4, (0.5, 0.5), 1.0)
    assert batch["large"].shape == (8, 1, 32, 32, 32)
    assert torch.equal(batch["large"][0], item["large"][0])
    assert torch.equal(batch["large"][4], item["large"][1])  # the second crops stand behind all first ones
    assert batch["mask"].sum(1).tolist() == [4] * 8


def test_probes_and_pictures_see_a_scan_as_its_pre_training_does(tmp_path, rng):
    """By the shipped recipes: the whole scan as one crop, but for the percentiles behind the cut."""
    import nibabel

    from slivit.data.preprocessing import load_slices
    from slivit.recipe import load_recipe

    array = rng.normal(500, 100, (32, 32, 32)).astype(np.float32).clip(300, 700)
    whole = np.full((40, 48, 36), 100, np.float32)
    whole[4:36, 8:40, 2:34] = array
    nibabel.save(nibabel.Nifti1Image(whole.T, np.eye(4)), tmp_path / "scan.nii")
    path = str(tmp_path / "scan.nii")
    all_of_it = Crops(size=32, count=1, in_plane=(1.0, 1.0), through=(1.0, 1.0), ratio=(1.0, 1.0))
    none = Crops(size=16, count=0, in_plane=(1.0, 1.0), through=(1.0, 1.0))
    crop = LoadCrops(large=all_of_it, small=none)({"path": path})["large"][0, 0]
    for stage, name in (("pretrain", "dino3d"), ("pretrain", "dino3d_highres"), ("pretrain", "monai_vit")):
        settings = load_recipe(stage, name).preprocessing.model_copy(update={"size": (32, 32, 32)})
        seen = load_slices(path, settings) / 127.5 - 1
        # Air is black in pre-training; behind the cut the darkest tissue is.
        scale = np.polyfit(crop.numpy().ravel(), seen.ravel(), 1)
        np.testing.assert_allclose(np.polyval(scale, crop.numpy()), seen, atol=2e-3)


def test_slices_and_planes_are_cut_independently():
    torch.manual_seed(0)
    sizes = [in_plane_size(80, 80, LARGE) for _ in range(200)]
    areas = np.array([rows * columns / 6400 for rows, columns in sizes])
    ratios = np.array([columns / rows for rows, columns in sizes])
    assert 0.46 < areas.min() < 0.55
    assert 0.85 < areas.max() < 1.01
    assert np.all((ratios > 0.87) & (ratios < 1.15))
    steps = np.broadcast_to(np.arange(50.0)[:, None, None], (50, 80, 80))
    spans = [float(np.ptp(resized_crop(steps, LARGE, (0, 49)).numpy())) / 2 for _ in range(50)]
    assert 0.4 < min(spans) < 0.65
    assert max(spans) > 0.85


def test_long_slices_give_crops_that_are_about_square():
    """As torchvision's RandomResizedCrop: where no area fits, the largest crop of an allowed ratio."""
    full = Crops(size=16, count=1, in_plane=(0.9, 1.0), through=(1.0, 1.0))
    assert in_plane_size(40, 400, full) == (40, 44)
    assert in_plane_size(400, 40, full) == (44, 40)
    assert in_plane_size(40, 41, Crops(size=16, count=1, in_plane=(1.0, 1.0), through=(1.0, 1.0))) == (40, 41)


def test_percentiles_become_minus_one_and_one(rng):
    array = rng.normal(size=(16, 20, 20)).astype(np.float32)
    whole = Crops(size=16, count=1, in_plane=(1.0, 1.0), through=(1.0, 1.0), ratio=(1.0, 1.0))
    crop = resized_crop(np.ascontiguousarray(array[:, :16, :16]), whole, (-1.0, 2.0))[0].numpy()
    np.testing.assert_allclose(crop, np.clip((array[:, :16, :16] + 1) / 1.5 - 1, -1, 1), atol=1e-6)


def test_the_foreground_is_the_smallest_box_above_the_margin():
    array = np.zeros((6, 8, 10))
    array[2:4, 3:7, 1:9] = 5
    assert foreground(array, 0).shape == (2, 4, 8)
    assert foreground(np.zeros((3, 3, 3)), 0).shape == (3, 3, 3)


def test_missing_values_become_the_mean_and_nothing_else_is_refused():
    array = np.array([[[1.0, np.nan, 3.0]]])
    assert without_nan(array, "scan").tolist() == [[[1.0, 2.0, 3.0]]]
    with pytest.raises(ReadError, match="no finite value"):
        without_nan(np.full((1, 2, 2), np.inf), "scan")


@pytest.mark.parametrize(("ratio", "share"), [((0.1, 0.5), 1.0), ((0.2, 0.75), 0.5)])
def test_masks_keep_their_ratios(ratio, share):
    mask = random_masks(torch.rand(40, 216), ratio, share)
    parts = mask.float().mean(1)
    assert (parts > 0).sum() == 40 * share
    used = parts[parts > 0]
    assert ratio[0] - 0.01 <= used.min() < used.max() <= ratio[1]
    assert abs(used.mean() - sum(ratio) / 2) < 0.02
    assert mask.float().mean(0).std() < 0.2


@pytest.mark.parametrize("name", ["contrast", "histogram", "gibbs", "blur", "sharpen"])
def test_intensities_are_monai_s(name):
    transforms = pytest.importorskip("monai.transforms", reason="MONAI is an optional dependency")
    volumes = torch.rand(3, 1, 12, 10, 14) * 2 - 1
    if name == "contrast":
        ours = intensity.contrast(volumes, torch.tensor([0.5, 1.0, 2.0]))
        theirs = [transforms.AdjustContrast(g)(v) for g, v in zip((0.5, 1.0, 2.0), volumes, strict=True)]
    elif name == "gibbs":
        ours = intensity.gibbs(volumes, torch.tensor([0.0, 0.4, 0.9]))
        theirs = [transforms.GibbsNoise(a)(v) for a, v in zip((0.0, 0.4, 0.9), volumes, strict=True)]
    elif name in ("blur", "sharpen"):
        widths = torch.tensor([[0.3, 1.4, 0.6], [0.5, 0.5, 0.5], [1.0, 0.25, 0.8]])
        if name == "blur":
            ours = intensity.blur(volumes, widths)
            theirs = [transforms.GaussianSmooth(w.tolist())(v) for w, v in zip(widths, volumes, strict=True)]
        else:
            ours = intensity.sharpen(volumes, widths, torch.tensor([10.0, 20.0, 30.0]))
            theirs = [
                transforms.GaussianSharpen(w.tolist(), 0.5, alpha)(v)
                for w, alpha, v in zip(widths, (10.0, 20.0, 30.0), volumes, strict=True)
            ]
    else:
        made = transforms.RandHistogramShift(10, prob=1.0)
        made.set_random_state(3)
        theirs, points = [], []
        for volume in volumes:
            theirs.append(made(volume))
            points.append(torch.as_tensor(made.floating_control_points))
        ours = intensity.histogram_shift(volumes, torch.stack(points).float())
    torch.testing.assert_close(ours, torch.stack([torch.as_tensor(t) for t in theirs]), rtol=1e-4, atol=1e-4)


def test_a_batch_is_changed_here_and_there_and_never_in_place():
    volumes = torch.rand(64, 1, 6, 6, 6)
    kept = volumes.clone()
    changed = intensity.change_batch(volumes, intensity.Intensities(flip=0.0, gibbs=0.0, change=0.5))
    assert torch.equal(volumes, kept)
    same = (changed == volumes).flatten(1).all(1)
    assert 16 < same.sum() < 48
    mirrored = intensity.flip(volumes.clone(), 1.0)
    assert torch.equal(mirrored, volumes.flip(2, 3, 4))
    points = intensity.control_points(50, 10)
    assert (points.diff(dim=1) >= 0).all()


def test_slices_are_turned_by_quarters_where_that_is_asked_for():
    volumes = torch.rand(40, 1, 4, 4, 4)
    settings = intensity.Intensities(change=0.0, gibbs=0.0, flip=0.0, turn=1.0)
    turned = intensity.change_batch(volumes, settings)
    ways = [torch.rot90(volumes, k, (3, 4)) for k in range(4)]
    which = torch.stack([(turned == way).flatten(1).all(1) for way in ways])
    assert which.sum(1).min() == which[0].sum() == 0
    assert which.any(0).all()


def test_noise_of_each_crop_has_its_own_width_as_monai_draws_it():
    torch.manual_seed(0)
    volumes = torch.zeros(200, 1, 8, 8, 8)
    widths = intensity.with_noise(volumes, 0.5).flatten(1).std(1)
    assert widths.min() < 0.05
    assert 0.45 < widths.max() < 0.55
    assert abs(widths.mean() - 0.25) < 0.04


def test_monai_changes_follow_the_seed():
    pytest.importorskip("monai", reason="MONAI is an optional dependency")
    change = intensity.MonaiChanges(intensity.Intensities(change=1.0, gibbs=1.0, smooth=1.0, sharpen=1.0, turn=1.0))
    crop = torch.rand(1, 8, 8, 8)
    results = []
    for _ in range(2):
        torch.manual_seed(5)
        results.append(change(crop))
    assert torch.equal(*results)
    assert not torch.equal(results[0], crop)
