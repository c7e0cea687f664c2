"""Kinds of DICOM that were read wrongly elsewhere, each with the right value or the error that it must give."""

from __future__ import annotations

import shutil
import zlib
from itertools import count

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian

from slivit.data.readers import describe, read_volume
from slivit.errors import ReadError

NO_PLACE = {"ImagePositionPatient": None, "ImageOrientationPatient": None}


def _save(dataset, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True, **options)
    return path


def test_copies_count_once_and_images_that_only_share_their_name_do_not(tmp_path, dicom_series, voxels):
    folder = dicom_series(tmp_path / "a", voxels)
    shutil.copytree(folder, folder / "again")
    scan = read_volume(folder)
    np.testing.assert_array_equal(scan.array, voxels)
    assert scan.notes[0].startswith("5 identical copies of slices")
    dataset = pydicom.dcmread(folder / "002.dcm")
    dataset.PixelData = (voxels[2] + 1).tobytes()
    dataset.save_as(folder / "002_edited.dcm")
    with pytest.raises(ReadError, match=r"does not say|do not hold the same|nothing in their headers tells apart"):
        read_volume(folder)


def test_places_that_do_not_hold_the_same_images_are_an_error(tmp_path, dicom_series, rng):
    """A second echo that lacks a slice can be read by itself; a time point that lacks one cannot be told apart."""
    pixels = rng.integers(0, 99, (5, 4, 4), dtype=np.int16)
    places, echoes = [0, 0, 3, 3, 6], [5.0, 9.0, 5.0, 9.0, 5.0]
    folder = dicom_series(tmp_path / "echo", pixels, positions=places, EchoTime=echoes.__getitem__, SeriesNumber=4)
    with pytest.raises(ReadError, match=r"4\.1: CT, 3 slices.*\n.*4\.2: CT, 2 slices"):
        read_volume(folder)
    np.testing.assert_array_equal(read_volume(folder, series="4.2").array, pixels[[1, 3]])
    folder = dicom_series(tmp_path / "time", pixels, positions=places, AcquisitionTime=lambda i: f"10150{i}")
    for options in ({}, {"frame": 0}):
        with pytest.raises(
            ReadError, match="do not hold the same ones: the place at 30 mm has 2 images, the place at 36"
        ):
            read_volume(folder, **options)


def test_a_derived_image_among_the_slices_is_told_apart(tmp_path, dicom_series, voxels):
    """A projection lies at the place of a slice, or at one of its own."""
    for name, positions in (("there", [0, 2.5, 5, 7.5, 5]), ("beyond", [0, 2.5, 5, 7.5, 10])):
        types = lambda i: ["DERIVED", "SECONDARY", "MIP"] if i == 4 else ["ORIGINAL", "PRIMARY"]  # noqa: E731
        folder = dicom_series(tmp_path / name, voxels, positions=positions, SeriesNumber=7, ImageType=types)
        with pytest.raises(ReadError, match=r"7\.2: CT, 1 slice of 6 x 7, ImageType DERIVED"):
            read_volume(folder)
        np.testing.assert_array_equal(read_volume(folder, series="7.1").array, voxels[:4])


def test_places_are_found_by_distance_not_by_rounding(tmp_path, dicom_series, rng):
    """Two echoes lie 0.00004 mm apart, on both sides of half a micrometre."""
    pixels = rng.integers(0, 99, (6, 4, 4), dtype=np.int16)
    places = [0.00048, 0.00052, 3.00048, 3.00052, 6.00048, 6.00052]
    folder = dicom_series(tmp_path, pixels, positions=places, EchoTime=lambda i: [9.0, 5.0][i % 2])
    with pytest.raises(ReadError, match="each of 3 places holds 2 images"):
        read_volume(folder)
    np.testing.assert_array_equal(read_volume(folder, frame=0).array, pixels[1::2])  # the shorter echo first


def test_the_images_of_one_place_can_be_read_as_a_clip(tmp_path, dicom_series, voxels):
    order = [3, 1, 4, 0, 2]
    folder = dicom_series(
        tmp_path, voxels, positions=[7.0] * 5, TriggerTime=lambda i: 25.0 * order[i], InstanceNumber=lambda i: 5 - i
    )
    with pytest.raises(ReadError, match=r"the only place holds 5 images.*frame=0 to 4.*axis='time'"):
        read_volume(folder)
    scan = read_volume(folder, axis="time")
    np.testing.assert_array_equal(scan.array, voxels[np.argsort(order)])
    assert (scan.spacing, scan.affine) == (None, None)
    np.testing.assert_array_equal(read_volume(folder, frame=1).array, voxels[[1]])
    with pytest.raises(ReadError, match="each place holds one"):
        read_volume(dicom_series(tmp_path / "b", voxels), axis="time")


def test_clips_of_one_series_are_each_a_choice_and_parts_of_a_concatenation_are_not(tmp_path, dicom_file, rng):
    clips = rng.integers(0, 255, (2, 4, 5, 6), dtype=np.uint8)
    for number, pixels in enumerate(clips, start=1):
        clip = dicom_file(pixels, Modality="US", SOPInstanceUID=f"1.{number}", InstanceNumber=number, SeriesNumber=1)
        _save(clip, tmp_path / "a" / f"clip{number}.dcm")
        clip.ConcatenationUID = "1.2.99"
        _save(clip, tmp_path / "b" / f"part{3 - number}.dcm")
    with pytest.raises(ReadError, match=r"1\.2: US, 4 slices of 5 x 6, from clip2\.dcm"):
        read_volume(tmp_path / "a")
    np.testing.assert_array_equal(read_volume(tmp_path / "a", series="1.2").array, clips[1])
    np.testing.assert_array_equal(read_volume(tmp_path / "b").array, clips.reshape(8, 5, 6))


def test_radiographs_of_one_series_are_no_volume(tmp_path, dicom_series, voxels):
    """Two views of a chest, or the photographs of two eyes, are each a scan."""
    dicom_series(tmp_path, voxels[:2], Modality="DX", SeriesNumber=5, **NO_PLACE)
    with pytest.raises(ReadError, match=r"5\.1: DX, 1 slice of 6 x 7, from 000.dcm(.|\n)*5\.2: DX"):
        read_volume(tmp_path)
    np.testing.assert_array_equal(read_volume(tmp_path, series="5.2").array, voxels[[1]])
    np.testing.assert_array_equal(read_volume(tmp_path / "000.dcm").array, voxels[[0]])


def test_nuclear_images_of_two_energies_are_not_joined(tmp_path, dicom_file, rng):
    pixels = rng.integers(0, 99, (6, 4, 5), dtype=np.uint16)
    one = {"EnergyWindowVector": [1] * 6, "SliceVector": [1, 2, 3, 4, 5, 6]}
    two = {"EnergyWindowVector": [1, 1, 1, 2, 2, 2], "SliceVector": [1, 2, 3, 1, 2, 3]}
    path = _save(dicom_file(pixels, Modality="NM", **one), tmp_path / "a.dcm")
    np.testing.assert_array_equal(read_volume(path).array, pixels)
    both = _save(dicom_file(pixels, Modality="NM", **two), tmp_path / "b.dcm")
    with pytest.raises(ReadError, match=r"2 DICOM series(.|\n)*3 slices(.|\n)*energy window 1(.|\n)*energy window 2"):
        read_volume(both)
    np.testing.assert_array_equal(read_volume(both, series="energy window 2").array, pixels[3:])


@pytest.mark.parametrize("stacked", ["SliceVector", "AngularViewVector", "TimeSliceVector"])
def test_nuclear_images_are_chosen_by_all_their_dimensions(tmp_path, dicom_file, rng, stacked):
    pixels = rng.integers(0, 99, (12, 4, 5), dtype=np.uint16)
    order = rng.permutation(12)  # the vectors count, not the order of the frames
    energy, detector, place = (np.indices((2, 2, 3)).reshape(3, -1) + 1)[:, order]
    vectors = {"EnergyWindowVector": energy, "DetectorVector": detector, stacked: place}
    path = _save(
        dicom_file(pixels, Modality="NM", **{name: v.tolist() for name, v in vectors.items()}), tmp_path / "nm.dcm"
    )
    for e in (1, 2):
        for d in (1, 2):
            found = read_volume(path, series=f"energy window {e}, detector {d}").array
            right = [pixels[np.flatnonzero((energy == e) & (detector == d) & (place == p))[0]] for p in (1, 2, 3)]
            np.testing.assert_array_equal(found, right)
    with pytest.raises(ReadError, match=r"fits 2 series(.|\n)*energy window 2, detector 1"):
        read_volume(path, series="energy window 2")


def test_nuclear_images_of_detectors_alone_are_no_volume(tmp_path, dicom_file, rng):
    pixels = rng.integers(0, 99, (2, 4, 5), dtype=np.uint16)
    path = _save(dicom_file(pixels, Modality="NM", DetectorVector=[1, 2]), tmp_path / "nm.dcm")
    with pytest.raises(ReadError, match=r"detector 1(.|\n)*detector 2"):
        read_volume(path)
    np.testing.assert_array_equal(read_volume(path, series="detector 2").array, pixels[1:])


def test_two_patients_of_one_series_are_listed(tmp_path, dicom_series, voxels):
    dicom_series(tmp_path / "a", voxels, PatientID="Ann")
    dicom_series(tmp_path / "b", voxels + 1, PatientID="", PatientName="Bo^B", SOPInstanceUID=lambda i: f"1.7.{i}")
    with pytest.raises(ReadError, match=r"2 DICOM series of 2 patients(.|\n)*patient Ann(.|\n)*patient Bo\^B"):
        read_volume(tmp_path)
    np.testing.assert_array_equal(read_volume(tmp_path, series={"patient": "ann"}).array, voxels)


@pytest.mark.parametrize("spacing", [None, "comma"])
def test_without_pixel_spacing_the_view_is_the_same_and_mm_are_unknown(tmp_path, dicom_series, voxels, spacing):
    folder = dicom_series(tmp_path / "a", voxels, orientation=(-1, 0, 0, 0, 0, -1))
    whole = read_volume(folder)
    for file in folder.iterdir():
        dataset = pydicom.dcmread(file)
        del dataset.PixelSpacing
        dataset.save_as(file)
        if spacing:  # as some workstations write it: 0,5\0,75
            element = b"\x28\0\x30\0DS\x08\x000,5\\0,75"
            at = (content := file.read_bytes()).index(b"\x28\0\0\x01US")
            file.write_bytes(content[:at] + element + content[at:])
    scan = read_volume(folder)
    np.testing.assert_array_equal(scan.array, whole.array)
    assert (scan.spacing, scan.affine) == (None, None)
    assert any("no pixel spacing" in note for note in scan.notes)


@pytest.mark.parametrize(
    ("elements", "words"),
    [
        ({"ImageOrientationPatient": None, "InstanceNumber": 1}, "no orientation; they were ordered by ImagePosition"),
        (
            {**NO_PLACE, "SliceLocation": lambda i: [9, 1, 5, 7, 3][i]},
            "no positions; they were ordered by SliceLocation",
        ),
        ({**NO_PLACE, "InstanceNumber": lambda i: [9, 1, 5, 7, 3][i]}, "ordered by InstanceNumber"),
        ({**NO_PLACE, "InstanceNumber": 1, "SliceLocation": 0}, "ordered by file name"),
    ],
)
def test_the_best_order_that_the_header_gives_is_used_and_said(tmp_path, dicom_series, voxels, elements, words):
    """Slices 9, 1, 5, 7, 3: by name they would be mixed, except where only names are left."""
    order, places = [4, 0, 2, 3, 1], [9, 1, 5, 7, 3]
    by_name = "file name" in words
    name = (lambda i: f"s{places[i]}.dcm") if by_name else "{}.dcm".format
    scan = read_volume(dicom_series(tmp_path, voxels, positions=places, name=name, **elements))
    np.testing.assert_array_equal(scan.array[order], voxels)
    assert scan.affine is None
    assert any(words in note for note in scan.notes), scan.notes
    assert scan.spacing == pytest.approx((2.0, 0.5, 0.75))


@pytest.mark.parametrize("by", ["SliceLocation", "InstanceNumber"])
def test_a_slice_without_position_is_placed_between_the_others(tmp_path, dicom_series, voxels, by):
    whole = read_volume(dicom_series(tmp_path / "whole", voxels))
    numbers = {by: lambda i: 2 * i + 1} | ({"InstanceNumber": 4} if by == "SliceLocation" else {})
    folder = dicom_series(tmp_path / "a", voxels, name=lambda i: f"{9 - i}.dcm", **numbers)
    dataset = pydicom.dcmread(folder / "7.dcm")
    del dataset.ImagePositionPatient, dataset.ImageOrientationPatient
    dataset.save_as(folder / "7.dcm")
    scan = read_volume(folder)
    np.testing.assert_array_equal(scan.array, whole.array)
    np.testing.assert_allclose(scan.affine, whole.affine, atol=1e-9)
    assert scan.notes == (f"1 slice without a position placed by {by}",)


def test_masks_slides_and_dose_are_no_scans(tmp_path, dicom_series, dicom_file, voxels):
    """Passed over beside images, with a note; refused when named."""
    folder = dicom_series(tmp_path, voxels)
    for name, uid in (("seg", "66.4"), ("slide", "77.1.6"), ("spectrum", "4.2")):
        other = dicom_file(np.ones((3, 6, 7), np.uint8), SeriesInstanceUID="1.9", SOPInstanceUID=f"1.9.{len(name)}")
        other.SOPClassUID = f"1.2.840.10008.5.1.4.1.1.{uid}"
        with pytest.raises(ReadError, match=f"{name}.dcm: is a DICOM file of another kind than a scan"):
            read_volume(_save(other, folder / f"{name}.dcm"))
    dose = dicom_file(voxels, SeriesInstanceUID="1.8", SOPClassUID="1.2.840.10008.5.1.4.1.1.481.2", Modality="RTDOSE")
    _save(dose, folder / "dose.dcm")
    scan = read_volume(folder)
    np.testing.assert_array_equal(scan.array, voxels)
    assert "Segmentation Storage" in scan.notes[0]
    assert "1 file of radiotherapy" in scan.notes[1]


@pytest.mark.parametrize("kind", ["plain", "signed", "big endian"])
def test_left_aligned_bits_are_read_from_where_they_stand(tmp_path, dicom_file, kind):
    wanted = np.array([[0, 1, 2047], [100, 1500, 4095]], np.uint16)
    if kind == "signed":
        wanted = wanted.astype(np.int16) - 2048
    dataset = dicom_file((wanted << 4) + np.array(7, wanted.dtype), BitsStored=12, HighBit=15)
    if kind == "big endian":
        dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        dataset.PixelData = (
            dataset.pixel_array.byteswap().tobytes() if False else ((wanted << 4) + 7).astype(">u2").tobytes()
        )
    path = _save(dataset, tmp_path / "a.dcm")
    scan = read_volume(path)
    np.testing.assert_array_equal(scan.array[0], wanted)
    assert "bits 4 to 15 were read" in scan.notes[0]


def test_headers_with_gaps_are_read_with_a_note(tmp_path, dicom_file):
    """As files of one toolkit have them: an empty lookup table, no PhotometricInterpretation."""
    pixels = np.arange(12, dtype=np.uint16).reshape(3, 4)
    empty = dicom_file(pixels, ModalityLUTSequence=Sequence([Dataset()]), PhotometricInterpretation="")
    del empty.PhotometricInterpretation
    scan = read_volume(_save(empty, tmp_path / "a.dcm"))
    np.testing.assert_array_equal(scan.array[0], pixels)
    assert any("no PhotometricInterpretation" in note for note in scan.notes)
    assert any("empty Modality LUT" in note for note in scan.notes)


@pytest.mark.parametrize(("syntax", "way"), [("4.106", "video file"), ("4.93", "gdcmconv"), ("4.204", "gdcmconv")])
def test_a_compression_without_a_decoder_is_called_that_and_not_damage(tmp_path, dicom_file, syntax, way):
    dataset = dicom_file(np.zeros((4, 4), np.uint8))
    dataset.file_meta.TransferSyntaxUID = f"1.2.840.10008.1.2.{syntax}"
    dataset.PixelData = pydicom.encaps.encapsulate([b"\0" * 8])
    dataset["PixelData"].VR = "OB"
    with pytest.raises(ReadError, match=rf"a\.dcm: its compression is not supported.*{way}"):
        describe(_save(dataset, tmp_path / "a.dcm"))


def test_a_deflated_file_that_unpacks_to_gigabytes_is_refused_before_it_does(tmp_path, dicom_file, monkeypatch):
    small = dicom_file(np.arange(12, dtype=np.uint16).reshape(3, 4))
    small.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    path = _save(small, tmp_path / "a.dcm")
    assert read_volume(path).array.max() == 11
    head = path.read_bytes()[: 132 + 12 + pydicom.dcmread(path).file_meta.FileMetaInformationGroupLength]
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    content = packer.compress(b"\x08\0\x08\0OB\0\0\0\0\0\x7f" + bytes(1 << 25))
    path.write_bytes(head + content + packer.flush())
    monkeypatch.setenv("SLIVIT_MAX_SCAN_GB", "0.02")
    with pytest.raises(ReadError, match=r"a\.dcm: is a deflated DICOM file.*more than 0\.02 GB.*SLIVIT_MAX_SCAN_GB"):
        read_volume(path)


def test_a_series_is_named_by_any_part_of_what_is_known_of_it(tmp_path, dicom_series, voxels):
    rows = [("MR", 2, "T1 axial fs"), ("MR", 3, "T2 axial"), ("CT", 12, "Thorax")]
    for offset, (modality, number, description) in enumerate(rows):
        elements = {"Modality": modality, "SeriesNumber": number, "SeriesDescription": description}
        dicom_series(tmp_path / str(number), voxels + offset, uid=f"1.2.{number}", **elements)
    for wanted, offset in {"t1": 0, "2": 0, "T2 axial": 1, "thor": 2, "1.2.12": 2}.items():
        np.testing.assert_array_equal(read_volume(tmp_path, series=wanted).array, voxels + offset)
    for wanted, offset in (({"modality": "CT"}, 2), ({"modality": "mr", "description": "t2"}, 1), ({"number": 2}, 0)):
        np.testing.assert_array_equal(read_volume(tmp_path, series=wanted).array, voxels + offset)
    with pytest.raises(ReadError, match=r"series='axial' fits 2 series(.|\n)*2: MR(.|\n)*3: MR"):
        read_volume(tmp_path, series="axial")
    with pytest.raises(ReadError, match=r'series has no "modalty".*Did you mean "modality"'):
        read_volume(tmp_path, series={"modalty": "CT"})


def test_echoes_of_an_enhanced_file_are_chosen_by_their_time(tmp_path, dicom_file, rng):
    pixels = rng.integers(0, 99, (6, 4, 5), dtype=np.int16)
    shared, frames, number = Dataset(), [], count()
    orientation, measures = Dataset(), Dataset()
    orientation.ImageOrientationPatient, measures.PixelSpacing = [1.0, 0, 0, 0, 1, 0], [1.0, 1.0]
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = Sequence([orientation]), Sequence([measures])
    for echo in (9.2, 4.6):
        for place in (0.0, 2.0, 4.0):
            own, position, mark, content = Dataset(), Dataset(), Dataset(), Dataset()
            position.ImagePositionPatient, mark.EffectiveEchoTime = [0.0, 0.0, place], echo
            content.FrameAcquisitionDateTime = f"2020010210000{next(number)}"
            own.PlanePositionSequence, own.MREchoSequence = Sequence([position]), Sequence([mark])
            own.FrameContentSequence = Sequence([content])
            frames.append(own)
    groups = {
        "SharedFunctionalGroupsSequence": Sequence([shared]),
        "PerFrameFunctionalGroupsSequence": Sequence(frames),
    }
    path = _save(dicom_file(pixels, Modality="MR", **groups), tmp_path / "a.dcm")
    with pytest.raises(ReadError, match=r"each of 3 places holds 2 images(.|\n)*frame=0: EchoTime 4\.6"):
        read_volume(path)
    np.testing.assert_array_equal(read_volume(path, frame=0).array, pixels[3:])
    np.testing.assert_array_equal(read_volume(path, frame=1).array, pixels[:3])


@pytest.mark.parametrize(
    ("group", "creator", "element", "kind", "values"),
    [
        (0x0019, "SIEMENS MR HEADER", 0x0C, "IS", ["0", "800"]),
        (0x0043, "GEMS_PARM_01", 0x39, "IS", [["1000000000", "8", "0", "0"], ["1000000800", "8", "0", "0"]]),
        (0x2001, "Philips Imaging DD 001", 0x03, "FL", [0.0, 800.0]),
        (0x0065, "Image Private Header", 0x09, "FD", [0.0, 800.0]),
    ],
)
def test_b_values_of_every_maker_tell_images_apart(tmp_path, dicom_file, group, creator, element, kind, values):
    for index in range(4):
        place = {"ImagePositionPatient": [0.0, 0, 3.0 * (index // 2)], "ImageOrientationPatient": [1.0, 0, 0, 0, 1, 0]}
        names = {"SOPInstanceUID": f"1.{index}", "InstanceNumber": 9 - index, "PixelSpacing": [1.0, 1.0]}
        dataset = dicom_file(np.full((3, 4), index, np.uint16), Modality="MR", **place, **names)
        dataset.private_block(group, creator, create=True).add_new(element, kind, values[index % 2])
        _save(dataset, tmp_path / f"{index}.dcm")
    with pytest.raises(ReadError, match=r"frame=0: b-value 0(.|\n)*frame=1: b-value 800"):
        read_volume(tmp_path)
    assert read_volume(tmp_path, frame=1).array[:, 0, 0].tolist() == [1, 3]
