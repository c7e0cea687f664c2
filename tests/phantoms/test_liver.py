"""Liver MRI: a DICOM series with consistent places, and a fat fraction to be seen against the spleen."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from scipy.stats import spearmanr

from slivit.phantoms import make_phantoms
from slivit.phantoms.abdomen import FAT, draw_abdomen, draw_build
from slivit.phantoms.cases import plan_cases
from slivit.phantoms.liver import EXTENT, FIELD, Options, add_fat, draw
from slivit.phantoms.solids import Space


@pytest.fixture(params=[0.0, 20.0], ids=["axial", "tilted"])
def series(request, tmp_path) -> list[pydicom.FileDataset]:
    folder = make_phantoms("liver", tmp_path, n=1, slices=9, size=64, tilt=request.param).parent / "scans/scan_0001"
    return [pydicom.dcmread(path) for path in sorted(folder.iterdir())]


def place(dataset) -> float:
    row, column = np.array(dataset.ImageOrientationPatient, float).reshape(2, 3)
    return float(np.cross(row, column) @ np.array(dataset.ImagePositionPatient, float))


def test_places_are_evenly_spaced_along_the_normal(series):
    places = sorted(map(place, series))
    np.testing.assert_allclose(np.diff(places), EXTENT / 9, atol=1e-4)
    assert float(series[0].SpacingBetweenSlices) == pytest.approx(EXTENT / 9, abs=1e-5)
    assert {tuple(map(float, d.PixelSpacing)) for d in series} == {(FIELD / 64, FIELD / 64)}


def test_middle_of_the_volume_is_the_origin(series):
    first, last = (f(series, key=place) for f in (min, max))
    row, column = np.array(first.ImageOrientationPatient, float).reshape(2, 3)
    far = np.array(last.ImagePositionPatient, float) + 63 * FIELD / 64 * (row + column)
    np.testing.assert_allclose(np.array(first.ImagePositionPatient, float) + far, 0, atol=1e-4)


def test_order_of_names_is_not_that_of_slices(series):
    places = list(map(place, series))
    assert places != sorted(places)
    assert places != sorted(places, reverse=True)
    by_number = sorted(series, key=lambda d: d.InstanceNumber)
    assert list(map(place, by_number)) == sorted(places)


def test_pixels_are_the_volume(series):
    volume, _ = draw(plan_cases("liver", 1, 0)[0], Options(slices=9, size=64))
    np.testing.assert_array_equal([d.pixel_array for d in sorted(series, key=place)], volume)


def test_identifiers(series):
    assert all(d.SOPClassUID == pydicom.uid.MRImageStorage and d.SOPInstanceUID.is_valid for d in series)
    assert all(d.file_meta.MediaStorageSOPInstanceUID == d.SOPInstanceUID for d in series)
    assert len({d.SOPInstanceUID for d in series}) == 9
    assert len({(d.SeriesInstanceUID, d.StudyInstanceUID, d.FrameOfReferenceUID, d.PatientID) for d in series}) == 1


def test_series_of_a_patient_have_their_own_identifiers(small, tmp_path):
    make_phantoms("liver", tmp_path, n=2, **small["liver"])
    one, two = (pydicom.dcmread(next((tmp_path / "scans" / s).iterdir())) for s in ("scan_0001", "scan_0002"))
    assert one.PatientID == two.PatientID
    assert one.SeriesInstanceUID != two.SeriesInstanceUID


def organs(case, size: int = 64, slices: int = 6):
    rng = case.patient_rng()
    abdomen = draw_abdomen(Space(slices, size, FIELD, EXTENT), draw_build(rng), rng)
    return abdomen.liver > 0.99, abdomen.spleen > 0.99


def test_fat_fraction_shows_against_the_spleen(drawn):
    ratios, fractions = [], []
    for case, volume, truth in drawn("liver", 100)[::3]:
        liver, spleen = organs(case)
        ratios.append(np.median(volume[liver]) / np.median(volume[spleen]))
        fractions.append(truth["pdff"])
    assert spearmanr(ratios, fractions).statistic < -0.9


def test_fat_fraction_is_the_mean_over_the_liver(rng):
    space = Space(6, 64, FIELD, EXTENT)
    abdomen = draw_abdomen(space, draw_build(rng), rng)
    water, fat = abdomen.water.sum(), abdomen.fat.sum()
    add_fat(abdomen, 0.25, rng)
    assert (water - abdomen.water.sum()) / abdomen.liver.sum() == pytest.approx(0.25, abs=1e-3)
    assert (abdomen.fat.sum() - fat) / abdomen.liver.sum() == pytest.approx(0.25 * FAT, abs=1e-3)


def test_fractions_span_the_clinical_range(drawn):
    pdff = [truth["pdff"] for _, _, truth in drawn("liver", 100)]
    assert 0 < min(pdff) < 2
    assert 30 < max(pdff) <= 40


def test_liver_is_large_and_lies_on_the_right():
    liver, spleen = organs(plan_cases("liver", 1, 0)[0], size=64, slices=12)
    volume = liver.sum() * (FIELD / 64) ** 2 * EXTENT / 12 / 1e6
    # Litres; an adult's liver holds about 1.5. Columns run to the patient's left.
    assert 1.0 < volume < 3.0
    assert np.argwhere(liver)[:, 2].mean() < 32 < np.argwhere(spleen)[:, 2].mean()
