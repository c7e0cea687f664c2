"""Made-up brain MRI: masks on their scans, and a tumour that takes both sequences to tell."""

import nibabel
import numpy as np
import pandas as pd

from slivit.phantoms import brain, make_phantoms
from slivit.phantoms.cases import plan_cases


def test_the_mask_lies_on_its_scan_and_its_volumes_are_told(tmp_path):
    manifest = make_phantoms("brain", tmp_path, n=2, slices=12, size=48)
    for row in pd.read_csv(manifest).to_dict("records"):
        scan, mask = (nibabel.load(tmp_path / row[name]) for name in ("flair", "mask"))
        assert (scan.affine == mask.affine).all()
        values, voxel = np.asarray(mask.dataobj), np.prod(mask.header.get_zooms()) / 1000
        assert set(np.unique(values)) == {0, 1, 2}
        for value, name in ((1, "ml_oedema"), (2, "ml_core")):
            assert abs((values == value).sum() * voxel - row[name]) < 1e-3


def test_each_part_is_told_by_the_sequence_that_shows_it():
    """A threshold on FLAIR finds the tumour, none on T1 does: vessels are as bright as its core."""
    for case in plan_cases("brain", 4, 0):
        (t1, flair, mask), _ = brain.draw(case, brain.Options())
        outside = flair[mask == 0]
        assert np.median(flair[mask == 1]) > np.percentile(outside, 97)
        assert np.median(t1[mask == 1]) < np.percentile(t1[mask == 0], 90)
        assert (t1[mask == 0] > 0.85 * np.median(t1[mask == 2])).sum() > 0.2 * (mask == 2).sum()
