"""One label of several graders: majority, ties, where they differ, kappa."""

from __future__ import annotations

import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score

from slivit.data.importers import make_manifest
from slivit.errors import ManifestError

GRADES = pd.DataFrame(
    {"a": ["1", "0", "1.0", "1", "", "0"], "b": ["1", "1", "0", "0", "", "0"], "c": ["0", "1", "", "", "", "0"]}
)


@pytest.fixture
def scans(tmp_path):
    names = [f"{i}.png" for i in range(len(GRADES))]
    for name in names:
        (tmp_path / name).touch()
    GRADES.assign(path=names, patient=names).to_csv(tmp_path / "grades.csv", index=False)
    return tmp_path


@pytest.mark.parametrize(
    ("ties", "labels"),
    [("leave_out", "110"), ("lowest", "11000"), ("highest", "11110"), ("first", "11110")],
)
def test_the_majority_and_what_becomes_of_ties(scans, ties, labels):
    made = make_manifest("consensus", scans / "grades.csv", target="drusen", readers="a,b,c", ties=ties)
    assert "".join(made.frame["drusen"]) == labels
    assert made.task.targets == ("drusen",)
    assert made.task.kind == "binary"
    assert made.frame["discordant"].iloc[-1] == 0
    assert "graders differ on 4 of 5 scans" in made.notes[0]
    kappa = cohen_kappa_score(list("10110"), list("11000"))
    assert f"a and b {kappa:.3f} (5 scans)" in made.notes[1]
    assert ("that none graded: left out" in " ".join(made.notes)) is True


def test_tables_of_graders_are_joined_by_their_paths(scans, tmp_path):
    folder = tmp_path / "graders"
    folder.mkdir()
    for name, rows in {"x": [("0.png", "CNV"), ("1.png", "DME")], "y": [("1.png", "DME"), ("2.png", "NORMAL")]}.items():
        table = pd.DataFrame(rows, columns=["path", "stage"]).assign(path=lambda t: "../" + t["path"])
        table.to_csv(folder / f"{name}.csv", index=False)
    made = make_manifest("consensus", folder, target="stage")
    assert made.task.classes == ("CNV", "DME", "NORMAL")
    assert made.frame["graders"].tolist() == [1, 2, 1]


def test_what_cannot_be_voted_on_is_told(scans):
    with pytest.raises(ManifestError, match="two graders' columns at least"):
        make_manifest("consensus", scans / "grades.csv", readers="a")
    with pytest.raises(ManifestError, match='column "d" is missing'):
        make_manifest("consensus", scans / "grades.csv", readers="a,d")
    with pytest.raises(ManifestError, match="has a column"):
        make_manifest("consensus", scans / "grades.csv", target="patient", readers="a,b")
