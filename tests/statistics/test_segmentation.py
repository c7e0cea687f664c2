"""Scores of masks: a brute force over voxels, empty masks, and what a mean over cases says of them."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest

from slivit.statistics import MaskScores, Plan, StatisticsError, score_mask, summarise_masks

SPACING = (2.5, 0.7, 1.1)


def random_mask(rng, shape):
    """Nothing, noise, boxes, or nearly everything."""
    kind, mask = rng.integers(5), np.zeros(shape, bool)
    if kind == 1:
        mask = rng.random(shape) < rng.uniform(0.02, 0.5)
    for _ in range(rng.integers(1, 4) if kind > 1 else 0):
        low = [rng.integers(0, n) for n in shape]
        mask[tuple(slice(start, start + rng.integers(1, n + 1)) for start, n in zip(low, shape, strict=True))] = True
    return mask


def surface_voxels(mask):
    """Voxels with a neighbour through a face that is outside the mask; axes of one voxel have no neighbours."""
    found = []
    for place in np.argwhere(mask):
        for axis, step in itertools.product(range(3), (-1, 1)):
            beside = place.copy()
            beside[axis] += step
            inside = 0 <= beside[axis] < mask.shape[axis]
            if mask.shape[axis] > 1 and not (inside and mask[tuple(beside)]):
                found.append(place)
                break
    return np.array(found) * SPACING


def brute_force(a, b, tolerance):
    """Dice, HD95, surface Dice and lesions by their definitions, voxel by voxel."""
    if not a.any() and not b.any():
        return None, None, None
    if not a.any() or not b.any():
        return 0.0, math.inf, 0.0
    ends = surface_voxels(a), surface_voxels(b)
    between = np.sqrt(((ends[0][:, None] - ends[1][None]) ** 2).sum(-1))
    nearest = between.min(1), between.min(0)
    near = sum(int((d <= tolerance).sum()) for d in nearest) / (len(nearest[0]) + len(nearest[1]))
    dice = 2 * sum(1 for x, y in zip(a.flat, b.flat, strict=True) if x and y) / (a.sum() + b.sum())
    return dice, max(np.percentile(d, 95) for d in nearest), near


def lesions(mask):
    """Parts connected through faces, edges and corners, as sets of voxels."""
    left, parts = {tuple(p) for p in np.argwhere(mask).tolist()}, []
    while left:
        part, rim = set(), [left.pop()]
        while rim:
            z, y, x = rim.pop()
            part.add((z, y, x))
            around = {(z + i, y + j, x + k) for i, j, k in itertools.product((-1, 0, 1), repeat=3)} & left
            left -= around
            rim += around
        parts.append(part)
    return parts


def test_300_random_pairs_equal_brute_force():
    rng = np.random.default_rng(3)
    kinds = set()
    for _ in range(300):
        shape = (int(rng.integers(2, 7)), *(int(n) for n in rng.integers(1, 7, 2)))
        a, b = random_mask(rng, shape), random_mask(rng, shape)
        got = score_mask(a, b, SPACING, tolerance_mm=1.2)
        assert (got.dice, got.hd95, got.surface_dice) == pytest.approx(brute_force(a, b, 1.2))
        true, found = lesions(a), lesions(b)
        assert got.lesions == len(true)
        assert got.lesions_found == sum(any(b[voxel] for voxel in part) for part in true)
        assert got.predicted_lesions == len(found)
        assert got.false_lesions == sum(not any(a[voxel] for voxel in part) for part in found)
        kinds.add((bool(a.any()), bool(b.any())))
    assert len(kinds) == 4, "pairs with empty masks must be among them"


@pytest.mark.slow
def test_distances_are_those_of_monai():
    pytest.importorskip("monai", reason="MONAI is not installed (the extra baselines)")
    import torch
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    rng = np.random.default_rng(1)
    for _ in range(5):
        a, b = (np.pad(rng.random((6, 9, 8)) < 0.3, 2) for _ in range(2))
        got = score_mask(a, b, SPACING, tolerance_mm=1.5)
        masks = [torch.from_numpy(m)[None, None].float() for m in (b, a)]
        hd95 = compute_hausdorff_distance(*masks, include_background=True, percentile=95, spacing=list(SPACING))
        near = compute_surface_dice(*masks, [1.5], include_background=True, spacing=list(SPACING))
        assert (got.hd95, got.surface_dice) == pytest.approx((hd95.item(), near.item()), rel=1e-5)


def test_volumes_are_in_millilitres():
    a, b = np.zeros((2, 10, 20, 30), bool)
    a[2:4], b[3:6] = True, True
    got = score_mask(a, b, (5, 1, 0.5))
    voxel = 2.5 / 1000
    assert (got.true_ml, got.predicted_ml) == pytest.approx((1200 * voxel, 1800 * voxel))
    assert (got.false_positive_ml, got.false_negative_ml) == pytest.approx((1200 * voxel, 600 * voxel))
    assert got.volume_error_ml == pytest.approx(600 * voxel)
    assert got.hd95 == pytest.approx(10)


def test_without_a_spacing_there_are_no_distances_and_volumes():
    a, b = np.zeros((2, 4, 6, 6), bool)
    a[:, :3], b[:, :2] = True, True
    got = score_mask(a, b, None)
    assert (got.dice, got.lesions, got.lesions_found) == (pytest.approx(0.8), 1, 1)
    assert {got.hd95, got.surface_dice, got.true_ml, got.volume_error_ml, got.false_negative_ml} == {None}
    means = summarise_masks([got, score_mask(a, b, (1, 1, 1))], plan=Plan(draws=0))
    assert means["dice"].value == pytest.approx(0.8)
    assert means["hd95"].value == 1
    assert "1 of 2 cases are left out: their spacing in mm is not known" in means["hd95"].why
    assert summarise_masks([got], plan=Plan(draws=0))["volume_error_ml"].value is None


def test_ignored_voxels_count_for_neither():
    a, b = np.zeros((2, 4, 6, 6), bool)
    a[:, :3], b[:, :3] = True, True
    b[3] = True
    assert score_mask(a, b, (1, 1, 1)).dice < 1
    perfect = score_mask(a, b, (1, 1, 1), ignore=np.arange(4)[:, None, None] == np.full((4, 6, 6), 3))
    assert (perfect.dice, perfect.hd95, perfect.surface_dice, perfect.false_positive_ml) == (1, 0, 1, 0)


def test_one_slice_is_measured_in_its_plane():
    a, b = np.zeros((2, 1, 9, 9), bool)
    a[0, 1:8, 1:8], b[0, 1:8, 1:8] = True, True
    b[0, 4, 4] = False  # a hole inside
    assert score_mask(a, b, (9, 1, 1)).hd95 == pytest.approx(brute_force_plane(a[0], b[0]))


def brute_force_plane(a, b):
    ends = [np.argwhere(m & ~inner(m)) for m in (a, b)]
    between = np.sqrt(((ends[0][:, None] - ends[1][None]) ** 2).sum(-1))
    return max(np.percentile(between.min(axis), 95) for axis in (0, 1))


def inner(mask):
    padded = np.pad(mask, 1)
    return padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]


@pytest.mark.parametrize(
    ("truth", "predicted", "spacing", "message"),
    [
        (np.zeros((2, 2, 2)), np.zeros((2, 2, 3)), SPACING, "one shape"),
        (np.full((2, 2, 2), 2), np.zeros((2, 2, 2)), SPACING, "one structure"),
        (np.zeros((2, 2)), np.zeros((2, 2)), SPACING, "S, H, W"),
        (np.zeros((2, 2, 2)), np.zeros((2, 2, 2)), (1, 0, 1), "above 0"),
    ],
)
def test_what_cannot_be_measured_is_told(truth, predicted, spacing, message):
    with pytest.raises(StatisticsError, match=message):
        score_mask(truth, predicted, spacing)


def scored() -> list[MaskScores]:
    """Three ordinary cases, one missed, one empty in both."""
    a = np.zeros((5, 8, 8), bool)
    a[1:4, 1:5, 1:5] = True
    nothing = np.zeros_like(a)
    pairs = [(a, np.roll(a, shift, 2)) for shift in range(3)] + [(a, nothing), (nothing, nothing)]
    return [score_mask(true, found, (1, 1, 1)) for true, found in pairs]


def test_a_mean_says_what_is_missed_and_what_is_empty():
    scores = scored()
    got = summarise_masks(scores, plan=Plan(draws=200, groups=["a", "a", "b", "c", "d"]))
    assert got["dice"].value == pytest.approx((1 + 0.75 + 0.5 + 0) / 4)
    assert got["dice"].n == 4
    assert got["dice"].patients == 4
    assert "1 of 5" in got["dice"].why
    assert got["hd95"].value == pytest.approx((0 + 1 + 2) / 3)
    assert "infinite" in got["hd95"].why
    assert "left out" in got["hd95"].why
    assert got["lesion_sensitivity"].value == 3 / 4
    assert got["lesion_precision"].value == 1
    assert got["volume_error_ml"].value == pytest.approx(-0.048 / 5)
    punished = summarise_masks(scores, penalty_mm=50.0)
    assert punished["hd95"].value == pytest.approx((0 + 1 + 2 + 50) / 4)
    assert "counted as 50 mm" in punished["hd95"].why
    json.dumps([s.to_dict() for s in scores], allow_nan=False)


def test_nothing_to_find_has_no_mean():
    got = summarise_masks(scored()[4:] * 3)
    assert got["dice"].value is None
    assert "3 of 3" in got["dice"].why
    assert got["lesion_sensitivity"].value is None
    assert got["volume_error_ml"].value == 0
