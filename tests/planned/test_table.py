"""What a table is taken for: columns, kinds of task, splits; and what is refused with the way out."""

import numpy as np
import pandas as pd
import pytest

from slivit.errors import ManifestError
from slivit.planned.table import scan_table


def write(folder, text, name="scans.csv"):
    (folder / name).write_text(text, "utf-8")
    return folder / name


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ("0 1 1 0", "binary"),
        ("no yes yes no", "multiclass"),
        ("0 1 2 2", "multiclass"),
        ("1.5 2.25 3 4", "regression"),
        (" ".join(map(str, range(20))), "regression"),
    ],
)
def test_the_kind_follows_from_the_values(tmp_path, values, kind):
    rows = "".join(f"scan{i}.nii,{v}\n" for i, v in enumerate(values.split()))
    table = scan_table(write(tmp_path, "file,label\n" + rows))
    assert (table.task.kind, table.task.targets) == (kind, ("label",))
    assert table.frame["path"].iloc[0] == str(tmp_path / "scan0.nii")


def test_usual_names_and_splits_are_known(tmp_path):
    text = "Scan,Subject ID,Set,age,outcome\na.nii,1,training,50,0\nb.nii,2,Valid,60,1\nc.nii,3,TEST,70,0\n"
    table = scan_table(write(tmp_path, text))
    assert table.frame["split"].tolist() == ["train", "val", "test"]
    assert table.frame["patient"].tolist() == ["1", "2", "3"]
    assert table.task.covariates == ("age",)
    assert any("read beside the scans: age" in sentence for sentence in table.sentences)


@pytest.mark.parametrize(
    ("named", "found"),
    [((), ("Gender",)), (("none",), ()), (("site", "geometry"), ("site", "geometry"))],
)
def test_covariates_are_guessed_by_name_and_content_or_named(tmp_path, named, found):
    rows = "".join(f"{i}.nii,{i % 2},{'FM'[i % 3 > 0]},50,{'AB'[i % 2]}\n" for i in range(12))
    csv = write(tmp_path, "path,label,Gender,age,site\n" + rows)  # all are 50 years old: that tells nothing
    assert scan_table(csv, covariates=named).task.covariates == found


def test_spellings_of_a_class_are_one_and_scans_without_an_answer_are_told(tmp_path):
    cells = ["Yes", "yes", "YES", "No", "no", "NA", "Yes", "No", "n/a"]
    csv = write(tmp_path, "path,label\n" + "".join(f"{i}.nii,{c}\n" for i, c in enumerate(cells)))
    table = scan_table(csv)
    assert sorted(table.frame["label"].unique()) == ["No", "Yes"]
    told = " ".join(table.sentences)
    assert "left out: 2 of 9 scans without" in told
    assert "Yes, yes, YES are taken for one class, Yes" in told
    grades = scan_table(write(tmp_path, "path,grade\na,None\nb,None\nc,mild\nd,mild\n"))
    assert sorted(grades.frame["grade"].unique()) == ["None", "mild"]
    binary = scan_table(write(tmp_path, "path,grade\na,None\nb,0\nc,1\nd,NA\n"))
    assert (binary.task.kind, len(binary.frame)) == ("binary", 2)


def test_columns_of_paths_become_channels_when_they_are_named(tmp_path):
    for name in ("a1", "a2", "b1", "b2"):
        (tmp_path / f"{name}.nii").write_bytes(b"")
    csv = write(tmp_path, "t1,t2,label\na1.nii,a2.nii,0\nb1.nii,b2.nii,1\n")
    with pytest.raises(ManifestError, match="--channel t1 --channel t2 takes them"):
        scan_table(csv)
    table = scan_table(csv, channels=("t1", "t2"))
    assert table.frame["path"].iloc[1] == f"{tmp_path / 'b1.nii'} | {tmp_path / 'b2.nii'}"
    assert table.task.targets == ("label",)
    with pytest.raises(ManifestError, match="two columns of paths or more"):
        scan_table(csv, channels=("t1",))


def test_paths_are_known_by_what_lies_there(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.nii").write_bytes(b"")
    table = scan_table(write(tmp_path, "where,grade\na.nii,1\nb.nii,0\n"))
    assert [p.rpartition("/")[2] for p in table.frame["path"]] == ["a.nii", "b.nii"]


def test_several_targets_are_labels_or_quantities(tmp_path):
    csv = write(tmp_path, "path,a,b,c\n1.nii,0,1,2.5\n2.nii,1,0,3.5\n3.nii,,1,4.5\n")
    assert scan_table(csv, target=("a", "b")).task.kind == "multilabel"
    assert scan_table(csv, target="c").task.kind == "regression"
    assert len(scan_table(csv, target="a").frame) == 2  # without an answer, no row


def test_labels_beside_a_folder(tmp_path):
    scans = tmp_path / "scans"
    scans.mkdir()
    for name in ("p1.nii.gz", "p2.nii.gz"):
        (scans / name).write_bytes(b"")
    labels = write(tmp_path, "name,ef\np2,51.5\np1,60.5\np9,1.5\n", "labels.csv")
    table = scan_table(scans, labels=labels, target="ef")
    frame = table.frame
    assert any("1 of 3 rows of the labels name no scan" in sentence for sentence in table.sentences)
    assert dict(zip(frame["name"], frame["path"], strict=True))["p1"].endswith("p1.nii.gz")
    assert len(frame) == 2


def test_a_table_in_memory():
    frame = pd.DataFrame({"path": ["/a", "/b"], "y": np.array([1.25, 2.5])})
    assert scan_table(frame).task.kind == "regression"


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("path,a,b\nx,1,0\n", {}, r"--target.*\"a\", \"b\""),
        ("path,label\nx,1\n", {"target": "labl"}, r"no column \"labl\".*label"),
        ("foo,label\nx,1\n", {}, "call it path"),
        ("path,label\nx,abc\n", {"kind": "regression"}, "no number"),
        ("path,label\nx,\n", {}, "no row has a value"),
        ("path,label,split\nx,1,train\ny,0,tset\n", {}, "row 3: the split is 'tset'"),
        ("path,label\nx,1\ny,0\n", {"covariates": ("agee",)}, 'no column "agee"'),
        ("path,label\nx,1\ny,1\n", {}, "is 1.0 for all of 2 scans, so there is nothing to tell apart"),
        (
            "path,ml\n" + "".join(f"s{i},{i}.5\n" for i in range(20)) + "z,see note\n",
            {"target": "ml"},
            "a number for 20 scans and 'see note' for another .1 in all.: correct them or leave them empty",
        ),
        (
            "path,note\n" + "".join(f"s{i},text {i}\n" for i in range(20)),
            {},
            "20 different values for 20 scans",
        ),
    ],
)
def test_what_cannot_be_guessed_is_asked_for(tmp_path, text, options, message):
    with pytest.raises(ManifestError, match=f"(?s){message}"):
        scan_table(write(tmp_path, text), **options)


def test_what_is_not_there(tmp_path):
    with pytest.raises(ManifestError, match="no such file or folder"):
        scan_table(tmp_path / "nothing")
    with pytest.raises(ManifestError, match="no importer"):
        scan_table(tmp_path, importer="nobody")


def test_patients_are_known_by_the_names_of_scans_where_no_column_has_them(tmp_path):
    rows = "".join(f"P{i // 3:02d}_{i % 3}.nii,{i % 2}\n" for i in range(36))
    table = scan_table(write(tmp_path, "path,label\n" + rows))
    assert table.frame["patient"].nunique() == 12
    assert table.frame.groupby("patient").size().eq(3).all()
    assert any("patients by the names of scans, such as P" in sentence for sentence in table.sentences)
    official = "".join(f"P{i // 3:02d}_{i % 3}.nii,{i % 2},{i % 5}\n" for i in range(36))
    assert "patient" not in scan_table(write(tmp_path, "path,label,fold\n" + official)).frame


def test_folders_of_patients_are_no_classes(tmp_path):
    for number in range(12):
        (tmp_path / "study" / f"patient {number}").mkdir(parents=True)
        (tmp_path / "study" / f"patient {number}" / "scan.nii.gz").write_bytes(b"")
    with pytest.raises(ManifestError, match=r"12 folders .* look like patients, not like classes.*--labels"):
        scan_table(tmp_path / "study")


def test_labels_name_scans_that_lie_deeper_and_their_patients(tmp_path):
    for number in range(6):
        for visit in "ab":
            file = tmp_path / "scans" / f"site{number % 2}" / f"S{number}" / f"visit_{visit}.nii.gz"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"")
    labels = write(tmp_path, "Code,ef\n" + "".join(f"S{n},{n}.5\n" for n in range(6)), "labels.csv")
    table = scan_table(tmp_path / "scans", labels=labels, target="ef")
    frame = table.frame
    assert len(frame) == 12
    assert any("6 rows of the labels stand for several scans each" in sentence for sentence in table.sentences)
    assert frame.groupby("patient")["path"].count().to_dict() == {f"S{n}": 2 for n in range(6)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": "x.csv"}, "is a table, which is read without labels and importer"),
        ({"importer": "folders"}, "is a table, which is read without labels and importer"),
    ],
)
def test_a_table_takes_no_importer(tmp_path, options, message):
    with pytest.raises(ManifestError, match=message):
        scan_table(write(tmp_path, "path,label\na.nii,0\nb.nii,1\n"), **options)


def test_a_column_that_names_the_folders_of_classes_is_not_taken_for_that_of_scans(tmp_path):
    for number in range(12):
        file = tmp_path / "scans" / ("benign" if number % 2 else "malignant") / f"S{number}.nii.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    rows = "".join(f"S{n},{'benign' if n % 2 else 'malignant'}\n" for n in range(12))
    labels = write(tmp_path, "code,diagnosis\n" + rows, "labels.csv")
    frame = scan_table(tmp_path / "scans", labels=labels).frame
    assert frame["path"].nunique() == len(frame) == 12
    assert all(f"/{row.diagnosis}/{row.code}.nii.gz" in row.path for row in frame.itertuples())
