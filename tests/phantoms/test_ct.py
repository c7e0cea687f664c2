"""Chest CT: NIfTI in HU with a true affine, and nodules where the answers say so."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from slivit.phantoms import make_phantoms
from slivit.phantoms.cases import plan_cases
from slivit.phantoms.ct import EXTENT, FIELD, Options, draw


def test_nifti_holds_the_volume_and_its_geometry(small, tmp_path):
    make_phantoms("ct", tmp_path, n=1, **small["ct"])
    image = nib.load(tmp_path / "scans" / "scan_0001.nii.gz")
    volume, _ = draw(plan_cases("ct", 1, 0)[0], Options(**small["ct"]))
    assert image.get_data_dtype() == np.int16
    assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
    assert image.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(image.header.get_zooms(), (FIELD / 64, FIELD / 64, EXTENT / 12), rtol=1e-6)
    np.testing.assert_allclose(image.affine @ [31.5, 31.5, 5.5, 1], [0, 0, 0, 1], atol=1e-4)
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), volume.transpose(2, 1, 0))


def test_densities_are_those_of_a_chest(drawn):
    for _, volume, _ in drawn("ct", 48)[::6]:
        assert volume.min() >= -1024
        assert np.median(volume[:, :3, :3]) == pytest.approx(-1000, abs=30)
        middle = volume[5:10, 20:45]
        lung = middle[(middle > -950) & (middle < -750)]
        assert lung.size > 0.1 * middle.size
        assert np.percentile(volume, 99.8) > 250


def test_a_nodule_is_soft_tissue_in_the_lung(drawn):
    for _, volume, truth in drawn("ct", 48):
        place = tuple(truth[name] for name in ("lesion_slice", "lesion_row", "lesion_col"))
        if not truth["nodule"]:
            assert place == (None, None, None)
            assert truth["diameter_mm"] is None
            assert truth["nodule_slices"] is None
            continue
        smooth = gaussian_filter(volume.astype(float), (0, 0.5, 0.5))
        assert smooth[place] > -500
        around = volume[place[0], place[1] - 6 : place[1] + 7, place[2] - 6 : place[2] + 7]
        assert ((around > -950) & (around < -700)).mean() > 0.15
        assert 10 < truth["diameter_mm"] < 25
        first, last = map(int, truth["nodule_slices"].split("-"))
        assert first <= place[0] <= last


def test_a_nodule_ends_where_a_vessel_goes_on(drawn):
    """The local feature that tells: bright in its slice, and dark two slices (28 mm) on either side."""
    contrast = []
    for _, volume, truth in drawn("ct", 48):
        if truth["nodule"]:
            z, y, x = (truth[name] for name in ("lesion_slice", "lesion_row", "lesion_col"))
            contrast.append(int(volume[z, y, x]) - max(volume[z - 2, y, x], volume[z + 2, y, x]))
    assert len(contrast) > 15
    assert np.median(contrast) > 250
