"""Labels of slices: read from a column or a table, and checked against the scans."""

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slivit.data.manifest import Manifest, read_manifest
from slivit.data.preprocessing import Preprocessing
from slivit.data.slice_labels import LabelledSlices, SliceLabels, parse_slices, read_slice_labels
from slivit.data.window_plan import count_slices, plan_windows, summary
from slivit.errors import ManifestError, ReadError
from slivit.targets.task import Task

TASK = Task(kind="binary", targets=("pe",))
DEPTH = 30


def manifest(tmp_path, cells=("3-8 12", ""), answers=(1, 0), task=TASK):
    rows = [
        {"path": f"{i}.nii", "patient": f"P{i}", "split": "train", "pe": answer, "where": cell}
        for i, (cell, answer) in enumerate(zip(cells, answers, strict=True))
    ]
    return Manifest.from_frame(pd.DataFrame(rows), task, root=tmp_path, check_files=False, need_splits=())


def read(tmp_path, table=None, depth=DEPTH, first=0, **options):
    found = manifest(tmp_path, **options)
    source = {"column": "where"}
    if table is not None:
        (tmp_path / "slices.csv").write_text(table)
        source = {"csv": str(tmp_path / "slices.csv")}
    depths = {row["path"]: depth for row in found.rows()}
    labels = read_slice_labels(SliceLabels(first=first, **source), found, depths)
    return [sorted(labels.positive[row["path"]]) for row in found.rows()]


@given(st.sets(st.integers(0, 300), max_size=40))
def test_what_is_written_is_read_back(slices):
    assert parse_slices(" ".join(map(str, sorted(slices)))) == slices
    assert parse_slices(", ".join(f"{s}-{s}" for s in slices)) == slices


def test_ranges_include_both_ends():
    assert parse_slices("2-4;7  9-9") == {2, 3, 4, 7, 9}


@pytest.mark.parametrize(("text", "told"), [("4-2", "ends before it begins"), ("a", "no slice"), ("1.5", "no slice")])
def test_what_is_no_slice_is_told(text, told):
    with pytest.raises(ValueError, match=told):
        parse_slices(text)


def test_a_column_of_the_manifest(tmp_path):
    assert read(tmp_path) == [[3, 4, 5, 6, 7, 8, 12], []]
    assert read(tmp_path, first=1) == [[2, 3, 4, 5, 6, 7, 11], []]
    assert read(tmp_path, cells=("5", "")) == [[5], []]  # a column of numbers, with an empty cell


@pytest.mark.parametrize(
    "table",
    ["path,slice\n0.nii,3-8\n0.nii,12\n", "path,slice,pe\n0.nii,3-8,1\n0.nii,12,True\n0.nii,9,0\n1.nii,2,0\n"],
)
def test_a_table_of_slices(tmp_path, table):
    assert read(tmp_path, table) == [[3, 4, 5, 6, 7, 8, 12], []]


def test_scans_of_another_split_or_manifest_are_passed_over(tmp_path):
    assert read(tmp_path, "path,slice\n0.nii,3\nelsewhere.nii,900\n") == [[3], []]


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("path,slise\n0.nii,3\n", 'column "slice" is missing. Did you mean "slise"'),
        ("path,slice,pe\n0.nii,3,2\n", "row 2: pe is '2'; a slice is 0 or 1"),
        ("path,slice\n0.nii,x\n", 'row 2: "x" is no slice'),
        ("path,slice,pe\n0.nii,3-5,1\n0.nii,4,0\n", "row 3: slice 4 is 0 here and 1 in row 2"),
        (
            "path,slice\n0.nii,30\n",
            "slice 30 of .*0.nii is labelled, but it has 30 slices, 0 to 29; if the labels",
        ),
        ("path,slice\n1.nii,3\n0.nii,3\n", "pe of .*1.nii is 0, but 1 of its slices are labelled positive"),
        ("path,slice,pe\n0.nii,3,0\n", "pe of .*0.nii is 1, but none of its slices is labelled positive"),
        ("path,slice,uid\n0.nii,3,1.2\n", "drop the other column"),
        ("path,slice\nzero.nii,3\n", "no path in it is one of the manifest's"),
    ],
)
def test_a_table_that_cannot_be_right_is_told(tmp_path, table, told):
    with pytest.raises(ManifestError, match=told):
        read(tmp_path, table)


def test_slices_without_uids_are_told(tmp_path, blob_scans):
    table = pd.read_csv(blob_scans).head(2).assign(split="train", pe=[1, 0])
    found = Manifest.from_frame(table, TASK, root=blob_scans.parent, need_splits=())
    (tmp_path / "slices.csv").write_text(f"path,uid\n{found.rows()[0]['path']},1.2.3\n")
    with pytest.raises(ManifestError, match="its slices have no UIDs"):
        read_slice_labels(SliceLabels(csv=str(tmp_path / "slices.csv")), found, {found.rows()[0]["path"]: 6})


def test_a_column_that_cannot_be_right_is_told(tmp_path):
    with pytest.raises(ManifestError, match=r'where of .*0.nii: "x" is no slice'):
        read(tmp_path, cells=("x", ""))
    with pytest.raises(ManifestError, match=r"slice 31 of .* is labelled, but it has 30 slices, 1 to 30$"):
        read(tmp_path, cells=("31", ""), first=1)


@pytest.mark.parametrize("options", [{}, {"column": "a", "csv": "b"}])
def test_there_is_one_source_of_labels(options):
    with pytest.raises(ValueError, match="name one source of slice labels"):
        SliceLabels(**options)


def test_dicom_slices_by_their_uid(tmp_path):
    from slivit.data.readers import open_scan
    from slivit.phantoms import make_phantoms

    make_phantoms("liver", tmp_path, n=2, slices=6, size=64)
    table = pd.read_csv(tmp_path / "manifest.csv").assign(pe=[1, 0], split="train")
    found = Manifest.from_frame(table, TASK, root=tmp_path, need_splits=())
    first = found.rows()[0]["path"]
    names = open_scan(first).names
    assert len(set(names)) == 6
    lines = [f"{table['path'][0]},{uid}" for uid in (names[4], names[2])]
    (tmp_path / "slices.csv").write_text("\n".join(["path,uid", *lines]))
    for number in (0, 1):
        source = SliceLabels(csv=str(tmp_path / "slices.csv"), first=number)
        labels = read_slice_labels(source, found, count_slices([r["path"] for r in found.rows()]))
        assert sorted(labels.positive[first]) == [2, 4]
    (tmp_path / "slices.csv").write_text(f"path,uid\n{table['path'][0]},1.2.3.4\n")
    with pytest.raises(ManifestError, match=r'row 2: the scan has no slice with the UID "1\.2\.3\.4"'):
        read_slice_labels(SliceLabels(csv=str(tmp_path / "slices.csv")), found, count_slices([first]))


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_window_is_positive_from_so_many_positive_slices_on(data):
    depth, minimum = data.draw(st.integers(8, 40)), data.draw(st.integers(1, 5))
    positive = data.draw(st.sets(st.integers(0, depth - 1), min_size=1))
    found = manifest("/", cells=("", ""))
    paths = [row["path"] for row in found.rows()]
    labels = LabelledSlices({paths[0]: frozenset(positive), paths[1]: frozenset()}, minimum)
    cut = Preprocessing(size=(8, 4, 4), windows={"stride": 3})
    starts = cut.windows.starts(depth, 8)
    if not any(len(positive & set(range(s, s + 8))) >= minimum for s in starts):
        with pytest.raises(ManifestError, match="windows of the training scans are negative"):
            plan_windows(found, cut, dict.fromkeys(paths, depth), labels)
        return
    plan = plan_windows(found, cut, dict.fromkeys(paths, depth), labels)
    for scan in plan:
        slices = labels.positive[scan.row["path"]]
        for window in scan.windows:
            expected = len(slices & set(range(window["start"], window["start"] + 8))) >= minimum
            assert window["pe"] == int(expected)
        assert scan.row["pe"] == found.rows()[paths.index(scan.row["path"])]["pe"]
    counts = [row["positive"] for row in summary(plan, "pe")]
    assert counts == [sum(w["pe"] for w in scan.windows) for scan in plan]


def test_scans_that_cannot_be_read_are_all_told(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.nii").write_bytes(b"no scan")
    with pytest.raises(ReadError, match=r"2 problems\n.*a.nii.*\n.*b.nii"):
        count_slices([str(tmp_path / "a.nii"), str(tmp_path / "b.nii")], workers=2)


def test_counts_are_those_of_the_scans(blob_scans):
    paths = [str(blob_scans.parent / f"scan{i}.nii") for i in range(3)]
    assert count_slices(paths) == dict.fromkeys(paths, 6)


def test_labels_find_a_scan_that_is_one_of_a_file(tmp_path):
    (tmp_path / "a").touch()
    (tmp_path / "b").touch()
    (tmp_path / "m.csv").write_text("path,patient,split,pe,frame\na,1,train,1,2\nb,2,train,0,\n")
    found = read_manifest(tmp_path / "m.csv", TASK, need_splits=())
    (tmp_path / "slices.csv").write_text("path,slice\na,3-5\n")
    address = f"{tmp_path / 'a'}#frame=2"
    read = read_slice_labels(SliceLabels(csv=str(tmp_path / "slices.csv")), found, {address: 9, str(tmp_path / "b"): 9})
    assert read.positive[address] == {3, 4, 5}
