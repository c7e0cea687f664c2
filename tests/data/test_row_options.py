"""What a row says of how its scan is read counts wherever scans are read."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest

from slivit.data.cache import SliceCache
from slivit.data.checking.scan import examine
from slivit.data.manifest import read_manifest
from slivit.data.preprocessing import Preprocessing, load_slices
from slivit.data.scan_finding import Finder
from slivit.data.scan_reading import read_scan
from slivit.data.training_range import training_range
from slivit.data.window_plan import count_slices
from slivit.explanation.scan import see_scan
from slivit.targets.task import Task

TASK = Task(kind="binary", targets=("y",))
SETTINGS = Preprocessing(size=(3, 8, 8), stretch=None, window=(0.0, 255.0))


@pytest.fixture
def manifest(tmp_path, rng):
    """Two rows of one 4D file: volume 1 as coronal slices, and volume 2."""
    values = rng.integers(0, 255, (9, 8, 7, 3)).astype(np.int16)
    values[..., 2] //= 4
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "a.nii.gz")
    (tmp_path / "m.csv").write_text("path,patient,y,frame,axis\na.nii.gz,P1,0,1,coronal\na.nii.gz,P1,1,2,\n")
    return tmp_path / "m.csv"


def test_every_way_in_reads_what_the_row_says(manifest, tmp_path):
    rows = read_manifest(manifest, TASK, need_splits=()).rows()
    plain = str(tmp_path / "a.nii.gz")
    cache = SliceCache(tmp_path / "cache")
    refs = Finder(3, lambda: tmp_path).find([str(manifest)])
    for row, ref, options in zip(rows, refs, ({"frame": 1, "axis": "coronal"}, {"frame": 2}), strict=True):
        expected = load_slices(plain, SETTINGS.model_copy(update={"reader": options}))
        path = row["path"]
        for _ in range(2):
            np.testing.assert_array_equal(cache.load(path, SETTINGS), expected)
        np.testing.assert_array_equal(load_slices(path, SETTINGS), expected)
        np.testing.assert_array_equal(read_scan(ref, SETTINGS).stack, expected)
        depth = 8 if "axis" in options else 7
        assert examine(path).shape[0] == depth
        assert count_slices([path], {}) == {path: depth}
        assert training_range([path], SETTINGS).shape[0] == (depth, depth)
        np.testing.assert_array_equal(see_scan(path, SETTINGS).stack, expected)
        assert ref.key == path
