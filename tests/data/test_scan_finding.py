"""What counts as a scan in folders, archives and manifests."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from slivit.data.readers import read_volume
from slivit.data.scan_finding import Finder
from slivit.errors import ManifestError, ReadError
from slivit.phantoms import make_phantoms


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    return make_phantoms("oct", folder / "oct", n=6, seed=0).parent


@pytest.fixture
def find(tmp_path_factory):
    def found(*given, slices=4):
        return Finder(slices, lambda: tmp_path_factory.mktemp("scratch")).find([str(g) for g in given])

    return found


def nifti(path, seed=0):
    import nibabel

    array = np.random.default_rng(seed).integers(0, 99, (8, 8, 5)).astype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)
    return path


def dicom(folder, uid, number, patient="P", frames=1):
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{uid[-1]}_{number}.dcm"
    ds = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    values = {"SOPClassUID": CTImageStorage, "SOPInstanceUID": meta.MediaStorageSOPInstanceUID, "PatientID": patient,
              "SeriesInstanceUID": uid, "SeriesNumber": uid[-1], "InstanceNumber": int(str(number).strip("AB")),
              "Modality": "CT", "Rows": 4,
              "Columns": 4, "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0,
              "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"}  # fmt: skip
    for name, value in values.items():
        setattr(ds, name, value)
    if frames > 1:
        ds.NumberOfFrames = frames
    value = int(str(number).strip("AB")) + {"A": 65, "B": 165}.get(str(number)[0], 0)
    ds.PixelData = bytes([value] * 16 * frames)
    ds.save_as(path, enforce_file_format=True)
    return path


def test_a_folder_of_scans_of_many_formats(phantoms, find):
    refs = find(phantoms / "scans")
    assert len(refs) == 6
    assert all(read_volume(ref.path, **ref.options).shape[0] > 1 for ref in refs)
    assert [ref.name for ref in refs] == sorted(ref.name for ref in refs)


def test_an_archive_holds_the_same_scans_under_its_own_name(phantoms, find, tmp_path):
    packed = Path(shutil.make_archive(str(tmp_path / "sent"), "zip", phantoms / "scans"))
    refs = find(packed)
    assert [r.name.removeprefix(f"{packed}/") for r in refs] == [Path(r.name).name for r in find(phantoms / "scans")]
    assert not any(ref.path.startswith(str(packed)) for ref in refs)
    assert len({ref.state for ref in refs}) == 1  # they change with the archive
    with zipfile.ZipFile(tmp_path / "one.zip", "w") as target:
        target.write(nifti(tmp_path / "a" / "x.nii"), "deep/inside/x.nii")
    assert [ref.name for ref in find(tmp_path / "one.zip")] == [str(tmp_path / "one.zip")]


def test_dicom_series_are_told_apart(find, tmp_path):
    for number in range(3):
        dicom(tmp_path / "mixed", "1.2.1", number)
        dicom(tmp_path / "mixed", "1.2.2", number)
        dicom(tmp_path / "alone", "1.2.3", number)
        dicom(tmp_path / "spread" / str(number), "1.2.4", number)
    dicom(tmp_path / "clips", "1.2.5", 1, frames=3)
    dicom(tmp_path / "clips", "1.2.5", 2, frames=3)
    found = {ref.key.removeprefix(f"{tmp_path}/"): ref for ref in find(tmp_path)}
    assert set(found) == {
        "mixed#series=1.2.1",
        "mixed#series=1.2.2",
        "alone",
        "spread",
        "clips/5_1.dcm",
        "clips/5_2.dcm",
    }
    assert {k: read_volume(r.path, **r.options).shape for k, r in found.items()} == dict.fromkeys(found, (3, 4, 4))


def test_two_patients_of_one_series_are_two_scans(find, tmp_path):
    """As a careless anonymiser leaves them, whether their files lie in one folder or in two."""
    for number in range(3):
        for patient in ("A", "B"):
            dicom(tmp_path / "one", "1.2.1", f"{patient}{number}", patient)
            dicom(tmp_path / "two" / patient, "1.2.2", number, patient)
    found = {ref.key.removeprefix(f"{tmp_path}/"): ref for ref in find(tmp_path)}
    assert set(found) == {"one#series=1.2.1.1", "one#series=1.2.1.2", "two/A", "two/B"}
    patients = [read_volume(r.path, **r.options).array.tolist() for k, r in found.items() if k.startswith("one")]
    assert sorted(patients) == [[[[n] * 4] * 4 for n in own] for own in ((65, 66, 67), (165, 166, 167))]


def test_images_are_frames_or_scans_by_what_the_model_takes(find, tmp_path):
    from PIL import Image

    for i in range(3):
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(tmp_path / f"{i}.png")
    assert [ref.path for ref in find(tmp_path)] == [str(tmp_path)]
    assert len(find(tmp_path, slices=1)) == 3
    nifti(tmp_path / "scan.nii")
    (tmp_path / "notes.txt").write_text("no scan")
    assert [Path(ref.path).name for ref in find(tmp_path)] == ["scan.nii"]  # pictures beside scans are no scans


def test_a_scan_is_found_once_and_rows_stay_rows(find, tmp_path):
    nifti(tmp_path / "s" / "a.nii")
    nifti(tmp_path / "s" / "b.nii")
    (tmp_path / "m.csv").write_text("path,patient,series\ns/a.nii,P1,\ns/a.nii,P1,\nmissing.nii,P2,3\n")
    assert len(find(tmp_path / "s", tmp_path / "s" / "a.nii")) == 2
    rows = find(tmp_path / "m.csv")
    assert [dict(ref.columns) for ref in rows] == [{"patient": "P1"}, {"patient": "P1"}, {"patient": "P2"}]
    assert rows[2].path.endswith("missing.nii#series=3")
    assert rows[2].state == ""


def test_items_of_a_medmnist_file(find, tmp_path):
    np.savez(
        tmp_path / "x.npz", train_images=np.zeros((2, 4, 4, 4), np.uint8), test_images=np.zeros((1, 4, 4, 4), np.uint8)
    )
    assert [ref.name.partition("#")[2] for ref in find(tmp_path / "x.npz")] == ["train/0", "train/1", "test/0"]


def test_nothing_found_is_told(find, tmp_path):
    with pytest.raises(ReadError, match="it is empty"):
        find(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ReadError, match="none of the 1 files"):
        find(tmp_path)
    (tmp_path / "m.csv").write_text("file\nx\n")
    with pytest.raises(ManifestError, match='column "path" is missing'):
        find(tmp_path / "m.csv")


def test_images_of_several_kinds_in_a_bids_data_set_are_told_of(find, tmp_path, caplog):
    for suffix in ("T1w", "FLAIR"):
        nifti(tmp_path / "sub-1" / "anat" / f"sub-1_{suffix}.nii.gz")
    assert len(find(tmp_path)) == 2
    assert 'holds images of "FLAIR", "T1w", all of which are taken' in caplog.text
    caplog.clear()
    assert len(find(tmp_path / "sub-1" / "anat" / "sub-1_T1w.nii.gz")) == 1
    assert not caplog.text
