"""OCT volumes: frames in natural order, and drusen where the answers say so."""

from __future__ import annotations

import numpy as np
import tifffile
from scipy.ndimage import gaussian_filter
from scipy.stats import mannwhitneyu

from slivit.phantoms import make_phantoms
from slivit.phantoms.cases import plan_cases
from slivit.phantoms.oct import Options, draw, draw_drusen
from slivit.phantoms.retina import Grid


def test_frames_are_tiff_in_natural_order(tmp_path):
    folder = make_phantoms("oct", tmp_path, n=1, slices=11, height=64, width=72).parent / "scans" / "scan_0001"
    volume, _ = draw(plan_cases("oct", 1, 0)[0], Options(slices=11, height=64, width=72))
    assert {p.name for p in folder.iterdir()} == {f"frame_{i}.tif" for i in range(1, 12)}
    for number, frame in enumerate(volume, start=1):
        np.testing.assert_array_equal(tifffile.imread(folder / f"frame_{number}.tif"), frame)
    assert volume.dtype == np.uint8


def elevation(volume, place) -> float:
    """By how many rows the brightest line lies higher at a place than at the same slice's sides."""
    slice_, col = place
    frame = gaussian_filter(volume[slice_].astype(float), (1, 1.5))
    half = volume.shape[1] // 2
    # Below the middle of the frame lies the pigment epithelium in every phantom; above it, the inner layers may shine.
    line = half * 0.7 + frame[int(half * 0.7) :].argmax(0)
    sides = np.median(np.r_[line[max(col - 16, 0) : max(col - 9, 1)], line[col + 10 : col + 17]])
    return float(sides - line[col])


def test_drusen_raise_the_pigment_epithelium(drawn):
    scans = drawn("oct", 200)
    rng = np.random.default_rng(0)
    found: dict[int, list[float]] = {0: [], 1: []}
    for _, volume, truth in scans:
        anywhere = (rng.integers(len(volume)), rng.integers(10, 50))
        place = (truth["lesion_slice"], truth["lesion_col"]) if truth["drusen"] else anywhere
        found[truth["drusen"]].append(elevation(volume, place))
    sick, healthy = found[1], found[0]
    assert mannwhitneyu(sick, healthy).statistic / (len(sick) * len(healthy)) > 0.9


def test_answers_point_at_a_druse_or_nowhere(drawn):
    for _, volume, truth in drawn("oct", 200):
        place = [truth[name] for name in ("lesion_slice", "lesion_row", "lesion_col")]
        if truth["drusen"]:
            assert all(0 <= at < size for at, size in zip(place, volume.shape, strict=True))
        else:
            assert place == [None, None, None]


def test_a_druse_spans_three_slices_and_several_rows(rng):
    grid = Grid(12, 64, 64)
    for _ in range(50):
        druse = next(draw_drusen(rng, grid))
        assert druse.max() * 64 > 3
        assert (druse.max(1) > 0.4 * druse.max()).sum() >= 3


def test_eyes_of_a_patient_are_named(drawn):
    assert [truth["eye"] for _, _, truth in drawn("oct", 200)[:3]] == ["OD", "OS", "OD"]
