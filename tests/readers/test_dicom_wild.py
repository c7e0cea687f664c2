"""DICOM as scanners and archives send it: compressed, multi-frame, enhanced, in colour; pydicom's own test files."""

from __future__ import annotations

import warnings
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from slivit.data.readers import describe, dicom_headers, dicom_pixels, read_volume
from slivit.data.readers.dicom_scan import plain_header
from slivit.data.readers.entries import file_entry
from slivit.errors import ReadError

SHIPPED = Path(pydicom.data.__file__).parent
FILES = sorted(p for p in SHIPPED.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc"))
TEST_FILES = SHIPPED / "test_files"

# Damaged on purpose, without an image, or of a kind that no decoder at hand takes: each gives a clear error.
REFUSED = {
    "JPEG-lossy.dcm": "cannot be read as DICOM",
    "MR_truncated.dcm": "cut short",
    "rtplan.dcm": "without an image (RT Plan Storage)",
    "rtstruct.dcm": "without an image (RT Structure Set Storage)",
    "waveform_ecg.dcm": "without an image",
    "DICOMDIR": "without an image (Media Storage Directory Storage)",
    "reportsi.dcm": "without an image (Basic Text SR Storage)",
    "README.txt": "no known format",
    "liver_1frame.dcm": "another kind than a scan (Segmentation Storage)",
}
READ = {
    "CT_small.dcm": ((1, 128, 128), "int16"),
    "MR_small_RLE.dcm": ((1, 64, 64), "int16"),
    "MR_small_jpeg_ls_lossless.dcm": ((1, 64, 64), "int16"),
    "MR_small_jp2klossless.dcm": ((1, 64, 64), "int16"),
    "MR_small_bigendian.dcm": ((1, 64, 64), "int16"),
    "JPGExtended.dcm": ((1, 1024, 256), "uint16"),
    "image_dfl.dcm": ((1, 512, 512), "uint8"),
    "examples_palette.dcm": ((1, 350, 800), "uint16"),
    "examples_ybr_color.dcm": ((30, 240, 320), "uint8"),
    "SC_rgb_jpeg_dcmtk.dcm": ((1, 100, 100), "uint8"),
    "SC_rgb_rle_16bit_2frame.dcm": ((2, 100, 100), "uint16"),
    "rtdose.dcm": ((15, 10, 10), "float64"),
}
if not find_spec("libjpeg"):  # the extra `jpeg`
    REFUSED |= dict.fromkeys(("JPEG-lossy.dcm", "JPGExtended.dcm"), "[jpeg]")
    del READ["JPGExtended.dcm"]


def _read(path):
    """The header and the volume, or the error that says why not."""
    try:
        return describe(path), read_volume(path)
    except ReadError as error:
        return None, error


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(SHIPPED).as_posix())
def test_every_file_that_ships_with_pydicom_reads_or_says_why_not(path, capfd):
    info, result = _read(path)
    if info is None:
        assert str(path) in str(result)
        assert REFUSED.get(path.name, "") in str(result)
        assert path.name not in READ
    else:
        assert (info.shape, info.dtype) == (result.shape, str(result.array.dtype))
        assert READ.get(path.name) in (None, (result.shape, str(result.array.dtype)))
        assert path.name not in REFUSED
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("folder", sorted({p.parent for p in FILES}), ids=lambda p: p.name)
def test_every_folder_that_ships_with_pydicom_reads_or_says_why_not(folder):
    info, result = _read(folder)
    if info is None:
        assert str(folder) in str(result)
    else:
        assert result.shape[0] == sum(1 for p in folder.rglob("*") if p.is_file() and p.suffix != ".txt")


def test_the_quick_walk_gives_the_same_headers_and_pixels_as_pydicom():
    walked = 0
    for path in FILES:
        entry = file_entry(path)
        with entry.open() as stream:
            plain = plain_header(stream, dicom_headers.TAGS)
        if plain is None or path.name == "MR_truncated.dcm":
            continue
        walked += 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = dicom_headers.read_dataset(entry, path.name, pixels=True)
        quick = list(dicom_headers.frames_of(plain.get, entry, path.name, plain))
        slow = list(dicom_headers.frames_of(dicom_headers.getter(dataset), entry, path.name, None))
        assert [replace(frame, pixels_at=None) for frame in quick] == slow
        if quick[0].pixels_at is not None:
            for one, other in zip(dicom_pixels.decode(quick, ""), dicom_pixels.decode(slow, ""), strict=True):
                assert one.dtype == other.dtype
                np.testing.assert_array_equal(one, other)
    assert walked > 80


@pytest.mark.parametrize(
    "name", ["MR_small_RLE", "MR_small_jpeg_ls_lossless", "MR_small_jp2klossless", "MR_small_bigendian"]
)
def test_lossless_compression_and_byte_order_change_nothing(name):
    plain = read_volume(TEST_FILES / "MR_small.dcm")
    other = read_volume(TEST_FILES / f"{name}.dcm")
    np.testing.assert_array_equal(other.array, plain.array)
    np.testing.assert_array_equal(other.affine, plain.affine)


def test_colour_ultrasound_is_read_by_luminance_whichever_way_it_is_stored():
    scan = read_volume(TEST_FILES / "examples_ybr_color.dcm", select=lambda depth: [29, 0])
    rgb = pydicom.dcmread(TEST_FILES / "examples_ybr_color.dcm").pixel_array[[29, 0]]
    np.testing.assert_allclose(scan.array, rgb @ [0.299, 0.587, 0.114], atol=1)
    assert any("luminance" in note for note in scan.notes)


def _functional_groups(places, slopes):
    """Shared orientation and spacing; per frame position and scaling."""
    shared, frames = Dataset(), []
    orientation, measures = Dataset(), Dataset()
    orientation.ImageOrientationPatient = [1.0, 0, 0, 0, 1, 0]
    measures.PixelSpacing, measures.SliceThickness = [0.5, 0.75], 9.0
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = Sequence([orientation]), Sequence([measures])
    for place, slope in zip(places, slopes, strict=True):
        frame, position, scaling = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [-1.0, -2.0, float(place)]
        scaling.RescaleSlope, scaling.RescaleIntercept, scaling.RescaleType = slope, -10, "US"
        frame.PlanePositionSequence = Sequence([position])
        frame.PixelValueTransformationSequence = Sequence([scaling])
        frames.append(frame)
    return {"SharedFunctionalGroupsSequence": Sequence([shared]), "PerFrameFunctionalGroupsSequence": Sequence(frames)}


def test_enhanced_frames_have_their_own_place_and_scaling(tmp_path, dicom_file, rng):
    pixels = rng.integers(0, 100, (4, 5, 6), dtype=np.int16)
    groups = _functional_groups([30, 10, 40, 20], [1, 2, 3, 4])
    dicom_file(pixels, **groups).save_as(tmp_path / "a.dcm", enforce_file_format=True)
    scan = read_volume(tmp_path / "a.dcm")
    order, slopes = [1, 3, 0, 2], np.array([2, 4, 1, 3])[:, None, None]
    np.testing.assert_array_equal(scan.array, pixels[order] * slopes - 10)
    assert scan.spacing == pytest.approx((10, 0.5, 0.75))
    np.testing.assert_allclose(scan.affine[:3, 3], [1, 2, 10])
    part = read_volume(tmp_path / "a.dcm", select=lambda depth: [3, 0])
    np.testing.assert_array_equal(part.array, scan.array[[3, 0]])


def test_enhanced_frames_without_a_place_each_are_refused(tmp_path, dicom_file, rng):
    groups = _functional_groups([30, 10, 40], [1, 2, 3])
    dicom_file(rng.integers(0, 9, (4, 5, 6), dtype=np.int16), **groups).save_as(tmp_path / "a.dcm")
    with pytest.raises(ReadError, match=r"a\.dcm: has 4 frames and tells the places of 3"):
        read_volume(tmp_path / "a.dcm")


def test_multi_frame_without_places_keeps_its_order(tmp_path, dicom_file, rng):
    pixels = rng.integers(0, 255, (7, 5, 6), dtype=np.uint8)
    dicom_file(pixels, Modality="US").save_as(tmp_path / "a.dcm", enforce_file_format=True)
    scan = read_volume(tmp_path / "a.dcm")
    np.testing.assert_array_equal(scan.array, pixels)
    assert (scan.affine, scan.notes) == (None, ())
    part = read_volume(tmp_path / "a.dcm", select=lambda depth: [6, 6, 1])
    np.testing.assert_array_equal(part.array, pixels[[6, 6, 1]])


def test_ultrasound_regions_give_the_spacing(tmp_path, dicom_file):
    region = Dataset()
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
    region.PhysicalDeltaX, region.PhysicalDeltaY = 0.02, 0.03
    elements = {"SequenceOfUltrasoundRegions": Sequence([region]), "SliceThickness": 1.0}
    dicom_file(np.zeros((4, 5), np.uint8), **elements).save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert read_volume(tmp_path / "a.dcm").spacing == pytest.approx((1.0, 0.3, 0.2))


def test_unused_bits_are_ignored(tmp_path, dicom_file):
    pixels = np.array([[0x0123, 0xF456], [0x0FFF, 0x1000]], np.uint16)
    dicom_file(pixels, BitsStored=12, HighBit=11).save_as(tmp_path / "a.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.dcm").array[0], pixels & 0x0FFF)


def test_modality_lookup_table_is_applied(tmp_path, dicom_file):
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType, table.LUTData = (
        [4, 0, 16],
        "US",
        np.array([5, 500, 50, 5000], "<u2").tobytes(),
    )
    lut = {"ModalityLUTSequence": Sequence([table])}
    pixels, wanted = np.array([[0, 1], [2, 3]], np.uint16), np.array([[5, 500], [50, 5000]])
    dicom_file(pixels, **lut).save_as(tmp_path / "a.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.dcm").array[0], wanted)
    white = {"PhotometricInterpretation": "MONOCHROME1", "Modality": "CR"}
    dicom_file(pixels, **lut, **white).save_as(tmp_path / "b.dcm", enforce_file_format=True)
    scan = read_volume(tmp_path / "b.dcm")
    np.testing.assert_array_equal(scan.array[0], 65535 - wanted)
    assert any("inverted" in note for note in scan.notes)


@pytest.mark.parametrize(
    ("odd", "note"),
    [
        ({"RescaleSlope": 0, "RescaleIntercept": 0}, "RescaleSlope is 0"),
        ({"PixelSpacing": lambda i: [1.0 + i // 2, 1.0]}, "pixel spacing differs between slices, 1 to 3 mm"),
        ({"PhotometricInterpretation": lambda i: f"MONOCHROME{i % 2 + 1}", "Modality": "MR"}, "only 3 of 5 slices"),
    ],
)
def test_what_is_odd_about_a_header_is_said_and_erases_nothing(tmp_path, dicom_series, voxels, odd, note):
    scan = read_volume(dicom_series(tmp_path / "s", voxels, **odd))
    assert any(note in told for told in scan.notes), scan.notes
    plain = voxels[1::2] if "PhotometricInterpretation" in odd else voxels
    np.testing.assert_array_equal(scan.array[1::2] if len(plain) < 5 else scan.array, plain)


def test_text_in_other_alphabets_names_the_series(tmp_path, dicom_series, voxels):
    words = {"SpecificCharacterSet": "ISO_IR 192", "SeriesDescription": "Schädel nativ"}
    dicom_series(tmp_path / "1", voxels, uid="1.2.3.5", **words)
    dicom_series(tmp_path / "2", voxels, uid="1.2.3.6", SeriesDescription="other")
    assert read_volume(tmp_path, series="schädel nativ").shape == voxels.shape


def test_a_tilted_gantry_is_said(tmp_path, dicom_series, voxels):
    tilted = dicom_series(tmp_path, voxels, ImagePositionPatient=lambda i: [0.0, 1.0 * i, 2.5 * i])
    scan = read_volume(tmp_path)
    assert any("shifted sideways" in note for note in scan.notes)
    np.testing.assert_allclose(scan.affine[:3, 0], [0, -1.0, 2.5], atol=1e-9)
    assert tilted == tmp_path


def test_jitter_of_the_orientation_does_not_split_a_series(tmp_path, dicom_series, voxels):
    jitter = lambda i: [0.995 + 1e-5 * i, 0.0998, 0, -0.0998, 0.995, 0]  # noqa: E731
    dicom_series(tmp_path, voxels, ImageOrientationPatient=jitter)
    assert read_volume(tmp_path).shape == voxels.shape
