"""From a folder as it comes off an archive to a table of scans: `slivit manifest dicom`."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from slivit.cli import app
from slivit.data.importers import make_manifest
from slivit.data.importers.dicom_where import Condition, meets, parse_conditions
from slivit.data.manifest import read_manifest
from slivit.data.readers import describe, read_volume
from slivit.errors import ManifestError
from slivit.planned.table import scan_table
from slivit.targets.task import Task


@pytest.fixture(scope="module")
def archive(tmp_path_factory, dicom_series):
    """Four patients with a localizer, a T1 and a T2 series; one with two series in one folder, one of them 4D."""
    root = tmp_path_factory.mktemp("archive")
    rng = np.random.default_rng(0)

    def series(folder, uid, patient, number, description, depth=6, **elements):
        elements = {"Modality": "MR", "ImageType": ["ORIGINAL", "PRIMARY", "M"], "StudyDate": "20200102", **elements}
        elements |= {"PatientID": patient, "SeriesNumber": number, "SeriesDescription": description}
        voxels = rng.integers(0, 500, (depth, 6, 7), dtype=np.int16)
        dicom_series(root / folder, voxels, uid=uid, AccessionNumber=f"A{patient[1:]}", **elements)

    for p in range(4):
        series(f"p{p}/1", f"1.2.{p}.1", f"P{p}", 1, "localizer", depth=3)
        series(f"p{p}/2", f"1.2.{p}.2", f"P{p}", 2, "T1 axial", depth=6 + p)
        series(f"p{p}/3", f"1.2.{p}.3", f"P{p}", 3, "T2 axial", StudyDate="20210102")
    series("flat", "1.2.9.1", "P9", 1, "T1 MIP", name="a{}.dcm".format, ImageType=["DERIVED", "SECONDARY", "MIP"])
    series("flat", "1.2.9.2", "P9", 2, "dynamic", name="b{}.dcm".format, positions=[0, 0, 2, 2, 4, 4])
    (root / "notes.txt").write_text("no scan")
    return root


def _labels(folder, text):
    (folder / "labels.csv").write_text(text)
    return str(folder / "labels.csv")


def test_the_inventory_has_a_row_for_every_series_and_says_what_would_not_be_read(archive, tmp_path):
    made = make_manifest("dicom", archive, tmp_path / "all.csv", workers=0)
    table = pd.read_csv(tmp_path / "all.csv", dtype=str, keep_default_na=False)
    assert len(table) == 14
    assert made.task is None
    row = table[table["path"].str.endswith("p2/2")].iloc[0]
    told = {"patient": "P2", "series": "", "study_date": "2020-01-02", "accession": "A2", "modality": "MR",
            "description": "T1 axial", "kind": "original", "slices": "8", "spacing": "2.5 x 0.5 x 0.75",
            "orientation": "axial", "size": "6 x 7", "problem": ""}  # fmt: skip
    assert row[list(told)].to_dict() == told
    assert table["kind"].value_counts().to_dict() == {"original": 9, "localizer": 4, "derived": 1}
    flat = table[table["path"].str.endswith("flat")].set_index("series")
    assert "each of 3 places holds 2 images" in flat.loc["1.2.9.2", "problem"]
    assert any("1 series would not be read" in note for note in made.notes)


def test_every_row_reads_as_the_table_says(archive):
    table = make_manifest("dicom", archive, workers=0, where="problem=").frame
    assert len(table) == 13
    for row in table.to_dict("records"):
        info = describe(row["path"], series=row["series"] or None)
        assert (row["slices"], *map(int, row["size"].split(" x "))) == info.shape
        assert row["spacing"] == " x ".join(f"{s:.4g}" for s in info.spacing)


def test_a_frame_makes_series_of_several_images_a_place_readable(archive):
    table = make_manifest("dicom", archive, frame=1, workers=0).frame.set_index("series")
    row = table.loc["1.2.9.2"]
    assert (row["frame"], row["slices"], row["problem"], row["spacing"]) == ("1", 3, "", "2 x 0.5 x 0.75")
    assert (table["frame"] == "1").sum() == 1
    assert read_volume(row["path"], series="1.2.9.2", frame=1).shape == (3, 6, 7)


def test_labels_and_a_filter_give_a_table_to_train_on(archive, tmp_path):
    labels = _labels(tmp_path, "Patient ID,drusen,split\nP0,0,train\nP1,1,train\nP2,0,val\nP3,1,test\nP7,1,test\n")
    options = {"labels": labels, "workers": 0}
    with pytest.raises(ManifestError, match=r"(?s)4 problems.*patient P0: 2 MR \"T1 axial\".*3 MR \"T2 axial\""):
        make_manifest("dicom", archive, **options)
    made = make_manifest("dicom", archive, tmp_path / "t1.csv", where=("description~t1",), **options)
    assert (made.task.kind, made.task.targets) == ("binary", ("drusen",))
    assert len(read_manifest(tmp_path / "t1.csv", made.task)) == 4
    assert sorted(made.frame["path"].str[-4:]) == ["p0/2", "p1/2", "p2/2", "p3/2"]
    for words in ("1 derived series left out", "9 of 14 series do not meet where", "such as patient P7"):
        assert any(words in note for note in made.notes), made.notes
    with pytest.raises(ManifestError, match='not one patient of the labels is in the archive; the labels have "X1"'):
        make_manifest("dicom", archive, labels=_labels(tmp_path, "patient,y\nX1,0\n"), workers=0)


@pytest.mark.parametrize(
    ("choose", "numbers"), [("most_slices", "3222"), ("first", "2222"), ("latest", "3333"), ("all", "22223333")]
)
def test_one_series_a_patient_by_a_rule(archive, tmp_path, choose, numbers):
    """T1 has 6, 7, 8 and 9 slices and is older; T2 has 6, so the first patient's is decided by the date."""
    labels = _labels(tmp_path, "accession,age\nA0,51\nA1,62.5\nA2,\nA3,70\n")
    made = make_manifest("dicom", archive, labels=labels, choose=choose, workers=0)
    assert (made.task.kind, made.task.targets) == ("regression", ("age",))
    assert sorted(made.frame["number"]) == sorted(n for n, p in zip(numbers, "01230123", strict=False) if p != "2")


def test_a_table_without_labels_takes_one_series_a_patient_too(archive):
    frame = make_manifest("dicom", archive, choose="latest", keep="derived", workers=0).frame
    assert frame["patient"].tolist() == ["P9", "P0", "P1", "P2", "P3"]
    assert "problem" not in frame
    with pytest.raises(ManifestError, match='there is no kind "derivd"'):
        make_manifest("dicom", archive, choose="latest", keep="derivd", workers=0)


def test_patients_with_different_labels_are_listed(archive, tmp_path):
    labels = _labels(tmp_path, "patient,y\nP0,0\nP0,1\nP1,1\nP1,1\n")
    with pytest.raises(ManifestError, match=r'1 problem\n  - patient "P0" has several rows that differ'):
        make_manifest("dicom", archive, labels=labels, workers=0)


def test_damaged_files_and_the_same_series_twice(tmp_path, dicom_series, voxels):
    dicom_series(tmp_path / "a", voxels, PatientID="A")
    dicom_series(tmp_path / "copy", voxels, PatientID="A")
    broken = dicom_series(tmp_path / "b", voxels, uid="1.2.5", PatientID="B")
    (broken / "002.dcm").write_bytes((broken / "002.dcm").read_bytes()[:300])
    table = make_manifest("dicom", tmp_path, workers=0).frame
    assert table["path"].map(lambda p: p.removeprefix(f"{tmp_path}/")).tolist() == ["a", "b", "b/002.dcm"]
    assert all("002.dcm" in problem for problem in table["problem"][1:])


def test_conditions_compare_text_and_numbers():
    frame = pd.DataFrame(
        {"modality": ["MR", "CT", "mr"], "slices": [9, 20, 100], "spacing": ["3 x 1 x 1", "", "5 x 1 x 1"]}
    )
    for text, kept in {
        "modality=mr slices>9": [2],
        "modality=CT|XA": [1],
        "modality!=CT, slices<=20": [0],
        "spacing<4": [0],
        "spacing=": [1],
        "modality~r": [0, 2],
        "modality!~r": [1],
    }.items():
        assert frame.index[meets(frame, parse_conditions([text]))].tolist() == kept, text
    assert parse_conditions(["description~T1 axial fast slices>=20"])[0] == Condition(
        "description", "~", "T1 axial fast"
    )
    for wrong, words in {
        "slices": "is no condition",
        "slices>many": "needs a number",
        "x y=3": "is no condition",
    }.items():
        with pytest.raises(ManifestError, match=words):
            parse_conditions([wrong])
    with pytest.raises(ManifestError, match='Did you mean "slices"'):
        meets(frame, parse_conditions(["slice>3"]))


@pytest.mark.slow
def test_the_command_takes_conditions_in_one_go(archive, tmp_path):
    labels = _labels(tmp_path, "patient,y\nP0,0\nP1,1\nP2,0\nP3,1\n")
    command = [sys.executable, "-m", "slivit", "manifest", "dicom", archive, tmp_path / "out.csv"]
    words = ["--where", "modality=MR", "description~T1", "slices>=7", "--labels", labels]
    done = subprocess.run([*map(str, command), *words], capture_output=True, text=True, check=False)
    assert (done.returncode, "3 scans of 3 patients" in done.stdout) == (0, True), done.stderr
    assert read_volume(pd.read_csv(tmp_path / "out.csv")["path"][0]).shape[0] == 7


def test_series_of_a_study_become_the_channels_of_one_scan(archive, tmp_path):
    labels = _labels(tmp_path, "patient,ill\nP0,0\nP1,1\nP2,0\nP3,1\n")
    command = ["manifest", "dicom", str(archive), str(tmp_path / "both.csv"), "--where", "patient!=P9"]
    done = CliRunner().invoke(
        app, [*command, "--channels", "t1=T1 axial", "--channels", "t2=T2 modality=MR", "--labels", labels]
    )
    assert done.exit_code == 0, done.output
    task = Task(kind="binary", targets=("ill",))
    manifest = read_manifest(tmp_path / "both.csv", task, channels=("t1", "t2"), need_splits=())
    assert manifest.frame["patient"].tolist() == ["P0", "P1", "P2", "P3"]
    row = manifest.rows()[2]
    assert (row["t1"], row["t2"]) == (str(archive / "p2/2"), str(archive / "p2/3"))
    assert row["description"] == "T1 axial | T2 axial"


def test_studies_without_a_channel_are_counted_and_two_series_for_one_are_an_error(archive, tmp_path):
    two = {"channels": ("t1=T1", "t2=T2"), "workers": 0}
    made = make_manifest("dicom", archive, tmp_path / "all.csv", **two, where=("patient!=P9",))
    assert len(made.frame) == 4
    with pytest.raises(ManifestError, match=r"patient P0, study 2020-01-02: any is .*T1 axial.*T2 axial"):
        make_manifest("dicom", archive, channels=("any=axial", "t2=T2"), workers=0)
    with pytest.raises(ManifestError, match="none of 4 studies has all channels: 4 have no t3"):
        make_manifest("dicom", archive, channels=("t1=T1", "t3=T3"), workers=0, where=("patient!=P9",))
    with pytest.raises(ManifestError, match="one channel is no more than a series"):
        make_manifest("dicom", archive, channels=("t1=T1",), workers=0)
    with pytest.raises(ManifestError, match="write NAME=PART"):
        make_manifest("dicom", archive, channels=("patient=T1", "t2=T2"), workers=0)


def test_a_planned_run_joins_labels_with_an_archive_by_whatever_column_names_its_patients(archive, tmp_path):
    labels = _labels(tmp_path, "who,drusen,age\nP0,no,51\nP1,yes,60\nP2,no,70\nP3,yes,54\nP8,no,33\n")
    with pytest.raises(ManifestError, match=r"several series of one patient.*where=description~T1"):
        scan_table(archive, labels=labels, target="drusen")
    table = scan_table(archive, labels=labels, target="drusen", importer_options={"where": "description~T1 axial"})
    assert table.frame["patient"].tolist() == ["P0", "P1", "P2", "P3"]
    assert [path[-4:] for path in table.frame["path"]] == ["p0/2", "p1/2", "p2/2", "p3/2"]
    assert table.task.covariates == ("age",)
    by_number = _labels(tmp_path, "code,grade\nA1,0\nA2,1\nA3,1\n")
    latest = scan_table(archive, labels=by_number, target="grade", importer_options={"choose": "latest"})
    assert [path[-4:] for path in latest.frame["path"]] == ["p1/3", "p2/3", "p3/3"]
    assert any("1 series of whom the labels say nothing" in sentence for sentence in latest.sentences)
    with pytest.raises(ManifestError, match="no column of the labels names patients or accession"):
        scan_table(archive, labels=_labels(tmp_path, "code,grade\nX,0\nY,1\n"), importer="dicom",
                   importer_options={"choose": "latest"})  # fmt: skip


def test_folders_of_patients_that_hold_several_series_are_an_archive_too(archive, tmp_path):
    labels = _labels(tmp_path, "folder,drusen\np0,0\np1,1\np2,0\np3,1\n")
    with pytest.raises(ManifestError, match="several series of one patient"):
        scan_table(archive, labels=labels)
