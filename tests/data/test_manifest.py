"""The manifest: what is read, and every way in which a table is refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import pandas as pd
import pytest

from slivit.data.importers.medmnist import medmnist_manifest
from slivit.data.inspection import Columns
from slivit.data.manifest import Manifest, read_manifest
from slivit.errors import ManifestError
from slivit.targets.task import Task

BINARY = Task(kind="binary", targets=("label",))
GOOD = """path,patient,split,label,age
a.png,P1,train,0,61
b.png,P2,train,1,70
c.png,P3,val,0,45
d.png,P4,val,1,58
e.png,P5,test,0,66
f.png,P6,test,1,72
"""


@pytest.fixture
def table(tmp_path):
    """Write a CSV with scans a.png to z.png beside it, and give its path."""

    def write(text: str, encoding: str = "utf-8") -> Path:
        for letter in "abcdefghijklmnopqrstuvwxyz":
            (tmp_path / f"{letter}.png").write_bytes(b"x")
        path = tmp_path / "oct.csv"
        path.write_bytes(text.encode(encoding))
        return path

    return write


def problems(csv, task=BINARY, **options) -> str:
    with pytest.raises(ManifestError) as caught:
        read_manifest(csv, task, **options)
    return str(caught.value)


def test_good_table(table, tmp_path):
    manifest = read_manifest(table(GOOD), BINARY)
    assert len(manifest) == 6
    assert manifest.splits == ("train", "val", "test")
    assert manifest.has_split
    assert manifest.warnings == ()
    row = manifest.rows("val")[1]
    assert row == {"path": str(tmp_path / "d.png"), "patient": "P4", "split": "val", "label": 1, "age": 58}
    assert list(manifest.frame.index) == [2, 3, 4, 5, 6, 7]
    assert len(manifest.subset("test")) == 2


def test_manifest_does_not_change(table):
    manifest = read_manifest(table(GOOD), BINARY)
    copy = manifest.frame
    copy.loc[2, "patient"] = "other"
    manifest.rows()[0]["patient"] = "other"
    assert manifest.rows()[0]["patient"] == "P1"
    with pytest.raises(AttributeError):
        manifest.task = None


def test_round_trip_and_pickle(table, tmp_path):
    manifest = read_manifest(table(GOOD), BINARY)
    manifest.to_csv(tmp_path / "deep" / "again.csv")
    again = read_manifest(tmp_path / "deep" / "again.csv", BINARY)
    pd.testing.assert_frame_equal(again.frame, manifest.frame)
    pd.testing.assert_frame_equal(pickle.loads(pickle.dumps(manifest)).frame, manifest.frame)
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["again.csv"]


def test_other_column_names_semicolons_bom_and_codes(table):
    text = "\ufefffile;eye_owner;fold;label;site\na.png;007;Training;0;01\nb.png;008;valid;1;02\nc.png;9;testing;1;03\n"
    columns = Columns(path="file", patient="eye_owner", split="fold")
    text = text.replace("c.png", "d.png;006;Training;1;01\ne.png;5;dev;0;01\nf.png;4;test;0;01\nc.png")
    manifest = read_manifest(table(text), BINARY, columns=columns)
    assert manifest.frame["patient"].tolist() == ["007", "008", "006", "5", "4", "9"]
    assert manifest.frame["split"].tolist() == ["train", "val", "train", "val", "test", "test"]
    assert manifest.frame["site"].tolist()[0] == "01"


def test_rows_are_named_by_line(table):
    text = 'path,patient,note,label\n\na.png,P1,"two\nlines",0\nb.png,P2,x,7\nc.png,P3,x,1\nd.png,P4,x,1\n'
    assert "row 5: label is '7'; a binary target is 0 or 1" in problems(table(text))


def test_every_problem_in_one_error(table):
    text = (
        GOOD + "a.png,P1,test,0,1\nnowhere.png,P7,train,1,1\n,P8,train,yes,1\nh.png,,trian,0,1\n./b.png,P2,train,,1\n"
    )
    told = problems(table(text))
    for part in (
        "oct.csv: 9 problems",
        "row 8: scan",
        "is already in row 2; list every scan once",
        'row 9: scan "',
        "row 10: path is empty",
        "row 10: label is 'yes', which is not a number",
        "row 11: patient is empty",
        "row 11: the split is 'trian'; allowed are",
        'Did you mean "train"?',
        "is already in row 3",
        "row 12: label is empty; a binary task needs a value in every row",
        'row 8: patient "P1" is in train (row 2) and in test; splits must not share patients',
    ):
        assert part in told


def test_missing_columns_name_the_nearest(table):
    told = problems(table(GOOD.replace("path,patient", "paths,patient_id").replace("label", "lable")))
    assert 'column "path" is missing. Did you mean "paths"?' in told
    assert 'column "patient" is missing. Did you mean "patient_id"?' in told
    assert 'column "label" is missing. Did you mean "lable"?' in told
    assert "patient_from_path" in told


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "the file is empty"),
        (b"path,patient,label\n", "a header and no row"),
        (b"PK\x03\x04abc", "spreadsheet"),
        ("path,patient,label\nä.png,P1,0\n".encode("latin-1"), "line 2 is not UTF-8"),
        (b"path,patient,label\na.png,P1\n", "row 2 has 2 cells, the header has 3"),
        (b'path,patient,label\n"a.png,P1,0\n', "line 2 is not CSV"),
        (b"path,path,label\na.png,P1,0\n", 'names column "path" twice'),
    ],
)
def test_unreadable_tables(tmp_path, data, told):
    (tmp_path / "oct.csv").write_bytes(data)
    assert told in problems(tmp_path / "oct.csv")


def test_missing_table_names_the_nearest(table):
    csv = table(GOOD)
    assert 'there is no such file. Did you mean "oct.csv"?' in problems(csv.with_name("oct1.csv"))


def test_missing_scans_and_root(table, tmp_path):
    csv = table(GOOD.replace("a.png", "aa.png"))
    assert 'aa.png" does not exist. Did you mean "a.png"?' in problems(csv)
    told = problems(csv, root=tmp_path / "elsewhere")
    assert "Nor does its folder" in told
    assert f'relative paths start at "{tmp_path / "elsewhere"}"' in told
    assert len(read_manifest(csv, BINARY, check_files=False)) == 6


def test_fragments_are_items_of_one_file(table):
    text = "path,patient,label\n" + "".join(f"a.png#train/{i},P{i},{i % 2}\n" for i in range(6))
    manifest = read_manifest(table(text), BINARY)
    assert manifest.rows()[3]["path"].endswith("a.png#train/3")
    assert "is already in row 2" in problems(table(text + "./a.png#train/0,P9,0\n"))
    assert "does not exist" in problems(table(text + "nothing.npz#train/0,P9,0\n"))


def test_a_link_to_a_scan_is_the_same_scan(table, tmp_path):
    csv = table(GOOD + "link.png,P9,train,0,1\n")
    (tmp_path / "link.png").symlink_to(tmp_path / "c.png")
    assert f'link.png" is already in row 4 (there as "{tmp_path / "c.png"}")' in problems(csv)


def test_empty_split(table):
    text = GOOD.replace("val", "train")
    assert 'split "val" has no row (there are "train", "test")' in problems(table(text))
    assert len(read_manifest(table(text), BINARY, need_splits=())) == 6
    assert len(read_manifest(table(text), BINARY, require_targets=False)) == 6


def test_one_class_only(table):
    assert "label is 0 in all 2 rows of train; there is nothing to learn" in problems(
        table(GOOD.replace("train,1", "train,0"))
    )
    manifest = read_manifest(table(GOOD.replace("test,1", "test,0")), BINARY)
    assert manifest.warnings == ("label is 0 in all 2 rows of test; some metrics are undefined there",)


@pytest.mark.parametrize(
    ("task", "values", "told"),
    [
        (Task(kind="regression", targets=("label",)), ["high", "low"] * 3, "a regression task needs numbers"),
        (BINARY, list("012345"), '6 different values ("0", "1", "2", "3", ...); a binary target is 0 or 1'),
        (BINARY, ["yes", "no"] * 3, 'task.kind = "multiclass"'),
        (Task(kind="multiclass", targets=("label",), classes=("A", "DME")), ["A"] * 5 + ["DMEE"], 'mean "DME"?'),
        (Task(kind="multiclass", targets=("label",)), ["CNV"] * 5 + [""], "label is empty"),
        (Task(kind="regression", targets=("label",)), ["1", "2", "3", "4", "5", "inf"], "a target must be finite"),
        (Task(kind="regression", targets=("label",)), ["1", "2", "3", "4", "5", "nan"], "label is empty"),
        (Task(kind="multilabel", targets=("label",)), ["1", "0"] * 2 + ["1", "0.5"], "a multilabel target is 0 or 1"),
    ],
)  # fmt: skip
def test_wrong_targets(table, task, values, told):
    text = "path,patient,label\n" + "".join(f"{s}.png,P{s},{v}\n" for s, v in zip("abcdef", values, strict=True))
    assert told in problems(table(text), task)


def test_text_is_not_a_class(table):
    letters = "abcdefghijklmno"
    text = "path,patient,label\n" + "".join(f"{s}.png,P{s},report {s}\n" for s in letters)
    assert "15 different values in 15 rows" in problems(table(text), Task(kind="multiclass", targets=("label",)))


def test_unseen_class(table):
    text = "path,patient,split,label\na.png,1,train,CNV\nb.png,2,train,DME\nc.png,3,val,CNV\nd.png,4,test,DRUSEN\n"
    told = problems(table(text), Task(kind="multiclass", targets=("label",)))
    assert 'class "DRUSEN" has 1 rows in test and none in train' in told


def test_missing_labels_are_allowed_in_multilabel_only(table):
    task = Task(kind="multilabel", targets=("x", "y"))
    manifest = read_manifest(table("path,patient,x,y\na.png,1,1,\nb.png,2,0,NA\nc.png,3,,1\nd.png,4,1,True\n"), task)
    assert manifest.frame["y"].isna().tolist() == [True, True, False, False]
    assert task.encode(manifest.rows()[3]).tolist() == [1.0, 1.0]


def test_class_names_survive_a_trip_through_pandas(table):
    task = Task(kind="multiclass", targets=("label",), classes=("3", "None"))
    csv = table("path,patient,label\na.png,1,3.0\nb.png,2,None\nc.png,3,3\n")
    assert read_manifest(csv, task).frame["label"].tolist() == ["3", "None", "3"]
    assert "row 3: label is empty" in problems(csv, Task(kind="multiclass", targets=("label",)))


@pytest.mark.parametrize("word", ["NA", "n/a", "null", "None", "NaN", "<NA>", ""])
def test_what_stands_for_nothing_is_nothing_in_every_column(table, word):
    task = Task(kind="multiclass", targets=("label",))
    text = "path,patient,label,site,split\n" + "".join(f"{c}.png,P{c},{'xy'[c in 'ace']},s,\n" for c in "abcdef")
    told = problems(table(text.replace("a.png,Pa", f"a.png,{word}").replace("b.png,Pb,x", f"b.png,Pb,{word}")), task)
    assert "row 2: patient is empty" in told
    assert "row 3: label is empty" in told
    frame = read_manifest(table(text.replace(",s,", f",{word},", 1)), task).frame
    assert frame["site"].tolist() == ["", *"sssss"]


def test_names_that_spreadsheets_or_people_have_changed_are_problems(table):
    task = Task(kind="multiclass", targets=("label",))
    text = "path,patient,label\na.png,1.23E+12,Normal\nb.png,2,normal \nc.png,3,AMD\nd.png,4,DME\n"
    told = problems(table(text), task)
    assert "row 2: patient is '1.23E+12', a number that a spreadsheet has rounded" in told
    assert '"Normal" (1 rows) and "normal" (1 rows), which differ in letter case or spaces alone' in told


def test_what_a_table_has_before_its_header_is_passed_over(table):
    for head, mark in (("sep=;\n", ";"), ("# scans of 2024\n\n# by hand\n", ","), ('"sep=\t"\n', "\t")):
        manifest = read_manifest(table(head + GOOD.replace(",", mark)), BINARY)
        assert manifest.frame.index[0] == head.count("\n") + 2
        assert manifest.frame["age"].tolist()[:2] == [61, 70]
    assert "up to line 1 there are comments" in problems(table("# nothing\n"))


def test_backslashes_and_home_are_read(table, monkeypatch, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.png").write_bytes(b"x")
    assert read_manifest(table(GOOD.replace("a.png", "sub\\a.png")), BINARY).rows()[0]["path"].endswith("sub/a.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_manifest(table(GOOD.replace("a.png", "~/sub/a.png")), BINARY).rows()[0]["path"].endswith("sub/a.png")


def test_columns_say_how_a_scan_is_read(table, tmp_path):
    text = "path,patient,label,series,frame,axis\na.png,1,0,T1 axial,,\na.png,2,1,4.0,NA,coronal\nb.png,3,0,,2,\n"
    manifest = read_manifest(table(text), BINARY)
    names = [row["path"].removeprefix(f"{tmp_path}/") for row in manifest.rows()]
    assert names == ["a.png#series=T1%20axial", "a.png#series=4&axis=coronal", "b.png#frame=2"]
    manifest.to_csv(tmp_path / "again.csv")
    assert [r["path"] for r in read_manifest(tmp_path / "again.csv", BINARY).rows()] == [
        r["path"] for r in manifest.rows()
    ]
    told = problems(table(text.replace("coronal", "oblique").replace(",2,\n", ",two,\n")))
    assert "row 3: axis is 'oblique'; it must be" in told
    assert "row 4: frame is 'two'; it must be a whole number" in told
    assert "rename one that means something else" in told
    same = read_manifest(
        table("path,patient,axis\na.png,1,3.5\nb.png,2,4\n"), Task(kind="regression", targets=("axis",))
    )
    assert not any("#" in row["path"] for row in same.rows())


def test_where_keeps_rows(table):
    scans = [f"{c}.png,P{c},{'01'[i % 2]},{60 + i},{'CT' if i in (1, 4) else 'MR'}" for i, c in enumerate("abcdef")]
    csv = table("path,patient,label,age,modality\n" + "\n".join([*scans, "gone.png,Px,2,50,PET"]))
    kept = read_manifest(csv, BINARY, where={"modality": ["MR"]}).frame
    assert [Path(p).stem for p in kept["path"]] == ["a", "c", "d", "f"]
    assert kept.index.tolist() == [2, 4, 5, 7]
    assert read_manifest(csv, BINARY, where={"modality": ["CT", "MR"], "age": [62, 63]}).frame["age"].tolist() == [
        62,
        63,
    ]
    assert 'no row has modality "US"' in problems(csv, where={"modality": "US"})
    assert 'Did you mean "modality"' in problems(csv, where={"modalty": "CT"})


def test_without_patients(table):
    text = "path,label\na.png,0\nb.png,1\n"
    assert "without patients a split can leak" in problems(table(text))
    manifest = read_manifest(table(text), BINARY, patient_from_path=True)
    assert "each scan counts as a patient" in manifest.warnings[0]
    assert manifest.frame["patient"].nunique() == 2


def test_without_targets_for_prediction(table):
    manifest = read_manifest(table("path,patient\na.png,1\n"), BINARY, require_targets=False)
    assert "label" not in manifest.frame
    manifest = read_manifest(table("path,patient,label\na.png,1,\nb.png,2,1\n"), BINARY, require_targets=False)
    assert manifest.frame["label"].isna().tolist() == [True, False]


def test_many_problems_of_one_sort_leave_room_for_others(table):
    text = GOOD + "".join(f"no{i}.png,Q{i},train,0,1\n" for i in range(500)) + "a.png,P1,train,0,1\n"
    told = problems(table(text))
    assert "490 more scans that do not exist" in told
    assert "is already in row 2" in told


def test_column_that_is_called_like_a_core_one_is_kept(table):
    text = "path,file,patient,label\nold/1,a.png,1,0\nold/2,b.png,2,1\n"
    manifest = read_manifest(table(text), BINARY, columns=Columns(path="file"))
    assert manifest.frame["path_original"].tolist() == ["old/1", "old/2"]


def test_from_frame_speaks_of_the_index(table, tmp_path):
    csv = table(GOOD)
    frame = pd.read_csv(csv).set_index(pd.Index(list("uvwxyz")))
    manifest = Manifest.from_frame(frame, BINARY, root=tmp_path)
    pd.testing.assert_frame_equal(
        manifest.frame.reset_index(drop=True), read_manifest(csv, BINARY).frame.reset_index(drop=True)
    )
    frame.loc["w", "label"] = 3
    with pytest.raises(ManifestError, match="row w: label"):
        Manifest.from_frame(frame, BINARY, root=tmp_path)


def test_with_split(table):
    text = "path,patient,label\n" + "".join(f"a.png#{i},P{i // 2},{i // 2 % 2}\n" for i in range(80))
    manifest = read_manifest(table(text), BINARY)
    assert not manifest.has_split
    with pytest.raises(ManifestError, match="has no splits"):
        manifest.rows("train")
    split = manifest.with_split(seed=3)
    assert split.has_split
    assert split.frame.groupby("patient")["split"].nunique().max() == 1
    pd.testing.assert_frame_equal(split.frame, manifest.with_split(seed=3).frame)
    assert manifest.with_split(split.frame["split"]).frame.equals(split.frame)
    leaky = split.frame["split"].copy()
    leaky.iloc[0] = "val" if leaky.iloc[0] != "val" else "test"
    with pytest.raises(ManifestError, match="splits must not share patients"):
        manifest.with_split(leaky)


def test_train_fraction_keeps_the_other_splits(table):
    text = "path,patient,label\n" + "".join(f"a.png#{i},P{i},{i % 2}\n" for i in range(100))
    manifest = read_manifest(table(text), BINARY).with_split(fractions=(0.6, 0.2, 0.2))
    less = manifest.with_train_fraction(0.5)
    assert less.frame["split"].value_counts().to_dict() == {"train": 30, "val": 20, "test": 20}


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("medmnist/adrenalmnist3d.npz", (1188, 98, 298)),
        ("pneumoniamnist/pneumoniamnist_rebuilt.npz", (4708, 524, 624)),
    ],
)
def test_medmnist_real(real_data, tmp_path, name, counts):
    frame = medmnist_manifest(real_data / name, tmp_path / "out.csv")
    manifest = read_manifest(tmp_path / "out.csv", BINARY)
    assert manifest.frame["split"].value_counts(sort=False).tolist() == list(counts)
    assert manifest.rows("val")[0]["path"] == f"{real_data / name}#val/0"
    assert frame["label"].tolist() == manifest.frame["label"].tolist()


@pytest.mark.parametrize(("one", "other"), [("007", "7"), ("7.0", "7"), ("p6", "P6"), ("A 12", "A12"), ("P06", "P6")])
def test_patients_that_a_spreadsheet_may_have_parted_are_told(table, one, other):
    text = GOOD.replace("P1,", f"{one},").replace("P6", other)
    (told,) = read_manifest(table(text), BINARY).warnings
    assert f'patients "{one}" and "{other}": taken for different patients' in told


def test_patients_with_other_numbers_or_letters_are_not_taken_for_alike(table):
    text = GOOD.replace("P1,", "P10,").replace("P2,", "P100,").replace("P3,", "1.05,").replace("P4,", "1.5.1,")
    assert read_manifest(table(text), BINARY).warnings == ()
