"""Notes of reviewers: whole lines, several people, doubts that can be taken back, a manifest without them."""

import multiprocessing

import pandas as pd
import pytest
from typer.testing import CliRunner

from slivit.cli import app
from slivit.data.checking.check import check_manifest
from slivit.data.importers import make_manifest
from slivit.data.reviews import COLUMNS, Review, append_review, doubted, in_words, read_reviews
from slivit.errors import ManifestError


def write_many(file, who):
    for number in range(40):
        append_review(file, Review(who, f"scan{number}.nii", "wrong label", f"line one\nline two, {who}"))


def test_several_people_write_whole_lines_at_once(tmp_path):
    file = tmp_path / "reviews.csv"
    writers = [multiprocessing.get_context("spawn").Process(target=write_many, args=(file, w)) for w in ("A", "B")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    lines = file.read_text().splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert len(lines) == 81
    found = read_reviews(file)
    assert len(found) == 80
    assert {f.comment for f in found} == {"line one line two, A", "line one line two, B"}


def test_a_line_that_was_left_half_written_costs_itself_alone(tmp_path):
    file = tmp_path / "reviews.csv"
    append_review(file, Review("A", "1.nii", "accept"))
    with file.open("a") as stream:
        stream.write("A,2.nii,wrong")
    append_review(file, Review("A", "3.nii", "bad scan", '=1+1, "quoted"'))
    assert [r.path for r in read_reviews(file)] == ["1.nii", "3.nii"]
    assert read_reviews(file)[1].comment == '=1+1, "quoted"'
    assert "'=1+1" in file.read_text()  # no spreadsheet computes it


def test_a_quote_that_was_left_open_costs_its_note_alone(tmp_path):
    file = tmp_path / "reviews.csv"
    append_review(file, Review("A", "1.nii", "accept"))
    with file.open("a") as stream:
        stream.write('B,"2, b.nii')
    append_review(file, Review("A", "3, c.nii", "bad scan"))
    with file.open("a") as stream:
        stream.write(",9.nii,comment,,,,\nA,9.nii,comment,,,,\n\0,,,\n")  # nobody, nothing said, no note at all
    append_review(file, Review("A", "new\nline.nii", "wrong label"))
    assert [r.path for r in read_reviews(file)] == ["1.nii", "3, c.nii", "new\nline.nii"]


def test_the_last_verdict_of_each_person_counts():
    a, b = "A", "B"
    given = [
        (a, "1", "wrong label"),
        (b, "1", "accept"),
        (a, "2", "bad scan"),
        (a, "2", "accept"),
        (b, "3", "wrong label"),
    ]
    notes = [*(Review(*note) for note in given), Review(b, "3", "comment", "look again")]
    assert doubted(notes) == {"1": "wrong label", "3": "wrong label"}
    assert in_words(notes) == "2 labels are doubted"
    assert in_words([*notes, Review(a, "4", "bad scan")]) == "2 labels are doubted and 1 scan is called bad"
    assert in_words(notes, {"3"}) == "1 label is doubted"
    assert in_words([]) == ""


@pytest.mark.parametrize(
    ("given", "told"),
    [(("A", "1", "maybe"), "allowed are"), ((" ", "1", "accept"), "reviewer"), (("A", "1", "comment"), "words")],
)
def test_what_is_no_note_is_refused(given, told):
    with pytest.raises(ManifestError, match=told):
        Review(*given)


def test_check_tells_doubts_and_one_command_leaves_them_out(blob_scans, tmp_path):
    table = pd.read_csv(blob_scans)
    table["path"] = [str(blob_scans.parent / p) for p in table["path"]]
    csv = tmp_path / "split.csv"
    table.head(6).to_csv(csv, index=False)
    with pytest.raises(ManifestError, match="no notes"):
        make_manifest("reviewed", tmp_path)
    for number, verdict in ((1, "wrong label"), (3, "bad scan"), (4, "comment")):
        append_review(tmp_path / "reviews.csv", Review("A", table["path"][number], verdict, "why"))
    finding = next(f for f in check_manifest(csv, workers=0).findings if "review" in f.title)
    assert "1 label is doubted and 1 scan is called bad" in finding.text
    assert len(finding.rows) == 2
    done = CliRunner().invoke(app, ["manifest", "reviewed", str(tmp_path), str(tmp_path / "clean.csv")])
    assert done.exit_code == 0, done.output
    assert "2 of 6 scans are left out" in done.output
    kept = pd.read_csv(tmp_path / "clean.csv")
    assert kept["path"].tolist() == [table["path"][i] for i in (0, 2, 4, 5)]
    assert kept["bright"].tolist() == [table["bright"][i] for i in (0, 2, 4, 5)]
