"""Echocardiograms: videos whose ejection fraction follows from the ventricle's border."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from slivit.phantoms import make_phantoms
from slivit.phantoms.cases import plan_cases
from slivit.phantoms.heart import area_length_volume, contour, contraction, draw_heart


def test_videos_hold_the_frames_that_the_manifest_counts(small, tmp_path):
    table = pd.read_csv(make_phantoms("echo", tmp_path, n=3, **small["echo"]))
    for row in table.itertuples():
        video = cv2.VideoCapture(str(tmp_path / row.path))
        frames = []
        while (read := video.read())[0]:
            frames.append(read[1])
        assert len(frames) == row.frames
        assert frames[0].shape == (64, 64, 3)


def test_video_keeps_the_picture(small, tmp_path, drawn):
    make_phantoms("echo", tmp_path, n=1, **small["echo"])
    frame = cv2.VideoCapture(str(tmp_path / "scans" / "scan_0001.avi")).read()[1][..., 0]
    expected = drawn("echo", 32)[0][1][0]
    assert np.abs(frame.astype(float) - expected).mean() < 6


def test_ejection_fraction_follows_from_the_contours(drawn):
    for case, video, truth in drawn("echo", 32):
        heart = draw_heart(case)
        volumes = [area_length_volume(contour(heart, t)) for t in range(len(video))]
        end_diastole, end_systole = volumes[truth["frame_ed"]], volumes[truth["frame_es"]]
        assert truth["ef"] == pytest.approx(100 * (1 - end_systole / end_diastole), abs=0.01)
        # The frames may miss the moment of the smallest ventricle, and by no more than a fraction of a frame.
        assert 0 <= 100 * heart.ef - truth["ef"] + 0.01 < 5
        assert truth["ef_below_50"] == (truth["ef"] < 50)


def test_area_length_of_half_an_ellipsoid():
    angle = np.linspace(-np.pi / 2, np.pi / 2, 2001)
    border = np.stack([2 * np.sin(angle), 5 * np.cos(angle)], axis=1)
    # 8 A^2 / (3 pi L) is exact for half an ellipsoid of revolution: 2/3 pi a^2 L.
    assert area_length_volume(border) == pytest.approx(2 / 3 * np.pi * 4 * 5, rel=1e-4)


def test_volume_falls_by_the_fraction_aimed_at():
    heart = replace(draw_heart(plan_cases("echo", 1, 0)[0]), ef=0.6, beat=20.0, phase=0.0)
    assert (contraction(heart, 0), contraction(heart, 8)) == (0, 1)
    volumes = [area_length_volume(contour(heart, t)) for t in (0, 8, 20)]
    assert volumes[1] / volumes[0] == pytest.approx(0.4, abs=1e-4)
    assert volumes[2] == pytest.approx(volumes[0])


def test_fractions_span_the_clinical_range(drawn):
    ef = [truth["ef"] for _, _, truth in drawn("echo", 32)]
    assert 10 < min(ef) < 25
    assert 65 < max(ef) < 80


def test_the_dark_cavity_shrinks_by_the_fraction(drawn):
    fractions, darkening = [], []
    for case, video, truth in drawn("echo", 32):
        heart = draw_heart(case)
        border = contour(heart, truth["frame_ed"]) * video.shape[1]
        inside = cv2.fillPoly(np.zeros(video.shape[1:], np.uint8), [np.round(border).astype(np.int32)], 1) > 0
        # Muscle moves into what was cavity in diastole.
        ratio = video[truth["frame_es"]][inside].mean() / video[truth["frame_ed"]][inside].mean()
        fractions.append(truth["ef"])
        darkening.append(ratio)
    assert spearmanr(fractions, darkening).statistic > 0.7
