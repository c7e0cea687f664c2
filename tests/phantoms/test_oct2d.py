"""2D OCT images: class folders, names, and a split that shares no patient."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
from PIL import Image

from slivit.phantoms import make_phantoms
from slivit.phantoms.cases import plan_cases
from slivit.phantoms.oct2d import LABELS, draw, scan_path


def test_images_are_grey_jpeg_in_class_folders(small, tmp_path):
    table = pd.read_csv(make_phantoms("oct2d", tmp_path, n=24, **small["oct2d"]))
    for row in table.itertuples():
        split, label, name = row.path.split("/")
        assert (split, label) == (row.split, row.label)
        assert re.fullmatch(rf"{label}-\d{{7}}-[12]\.jpeg", name)
        with Image.open(tmp_path / row.path) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "L", (80, 64))


def test_both_splits_hold_every_class_and_share_no_patient():
    cases = plan_cases("oct2d", 300, seed=2)
    parts = [scan_path(case).split("/") for case in cases]
    assert {(split, label) for split, label, _ in parts} == {(s, c) for s in ("train", "test") for c in LABELS}
    codes = {split: {name.split("-")[1] for s, _, name in parts if s == split} for split in ("train", "test")}
    assert not codes["train"] & codes["test"]
    assert len(codes["train"] | codes["test"]) == 200
    assert 0.15 < len(codes["test"]) / 200 < 0.25


def test_white_corners_by_option(small):
    from slivit.phantoms.oct2d import Options

    for part, expected in ((0.0, 0), (1.0, 20)):
        options = Options(**small["oct2d"] | {"white_corners": part})
        images = [draw(case, options)[0] for case in plan_cases("oct2d", 20, 0)]
        corners = [image[np.ix_([0, -1], [0, -1])].max() == 255 for image in images]
        assert sum(corners) == expected
