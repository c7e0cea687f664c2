"""BIDS: subjects, sessions, suffixes and the tables beside them."""

import pytest

from slivit.data.importers import make_manifest
from slivit.data.recipe import Data
from slivit.data.sources import named_source
from slivit.errors import ManifestError
from slivit.planned.table import scan_table


def images(subject, *suffixes, session=""):
    folder = f"sub-{subject}/{f'ses-{session}/' if session else ''}anat"
    return [f"{folder}/sub-{subject}_{f'ses-{session}_' if session else ''}{s}.nii.gz" for s in suffixes]


@pytest.fixture
def study(tree):
    """Four subjects; a localiser, a derivative and a subject without a row beside them."""
    both = [*images("01", "T1w", "FLAIR"), *images("03", "T1w", "FLAIR")]
    odd = ["derivatives/x/sub-01/anat/sub-01_T1w.nii.gz", "sub-02/anat/odd name.nii.gz"]
    root = tree(*both, *images("02", "T1w"), *images("04", "T1w"), *odd)
    text = "participant_id\tage\tdiagnosis\nsub-01\t60\tAD\n02\t61\tCN\nsub-03\t63\tAD\n"
    (root / "participants.tsv").write_text(text)
    return root


def test_the_suffix_that_most_subjects_have_with_what_participants_tells(study):
    made = make_manifest("bids", study)
    assert made.frame["path"].str.endswith("_T1w.nii.gz").all()
    assert made.frame["patient"].tolist() == ["sub-01", "sub-02", "sub-03"]
    assert made.frame["diagnosis"].tolist() == ["AD", "CN", "AD"]
    assert "session" not in made.frame
    told = " ".join(made.notes)
    assert "T1w (4 subjects), FLAIR (2 subjects): T1w was taken" in told
    assert "1 scans of whom the table says nothing" in told
    assert "1 images whose names" in told


def test_several_suffixes_are_channels(study):
    made = make_manifest("bids", study, suffix="T1w,FLAIR")
    assert made.frame["patient"].tolist() == ["sub-01", "sub-03"]
    assert made.frame["path"][0] == f"{made.frame['T1w'][0]} | {made.frame['FLAIR'][0]}"
    assert "2 sessions without exactly one image of T1w and FLAIR" in " ".join(made.notes)
    table = scan_table(study, importer_options={"suffix": "T1w,FLAIR"}, target="age")
    assert table.channels == ("T1w", "FLAIR")


def test_sessions_have_tables_of_their_own(tree):
    root = tree(*images("1", "T1w", session="a"), *images("1", "T1w", session="b"), *images("2", "T1w", session="a"))
    (root / "participants.tsv").write_text("participant_id\tsex\nsub-1\tF\nsub-2\tM\n")
    (root / "sub-1" / "sub-1_sessions.tsv").write_text("session_id\tmmse\nses-a\t29\nses-b\t25\n")
    (root / "sub-2" / "sub-2_sessions.tsv").write_text("session_id\tmmse\na\t30\n")
    frame = make_manifest("bids", root).frame
    assert frame[["patient", "session", "mmse"]].to_numpy().tolist() == [
        ["sub-1", "ses-a", "29"], ["sub-1", "ses-b", "25"], ["sub-2", "ses-a", "30"]
    ]  # fmt: skip
    assert make_manifest("bids", root, session="b").frame["mmse"].tolist() == ["25"]


def test_labels_may_lie_elsewhere_and_auto_knows_the_layout(study, tmp_path):
    (tmp_path / "grades.csv").write_text("participant_id,grade\nsub-01,1\nsub-04,0\n")
    table = scan_table(study, labels=tmp_path / "grades.csv")
    assert table.frame["patient"].tolist() == ["sub-01", "sub-04"]
    assert (table.task.kind, table.task.targets) == ("binary", ("grade",))
    assert any("T1w was taken" in sentence for sentence in table.sentences)
    assert named_source(Data(manifest=str(study)))[1] == "bids"


def test_a_run_of_a_session_more_than_once_is_listed_and_said(tree):
    root = tree("sub-1/anat/sub-1_run-1_T1w.nii", "sub-1/anat/sub-1_run-2_T1w.nii", "dataset_description.json")
    made = make_manifest("bids", root)
    assert len(made.frame) == 2
    assert "1 scans are further ones of a subject and session" in made.notes[0]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("participant\nsub-1\n", {"suffix": "T1w"}, 'no column "participant_id".*participant'),
        ("participant_id\tx\nsub-1\t1\nsub-1\t2\n", {"suffix": "T1w"}, "sub-1 has two rows"),
        ("participant_id\tx\nsub-1\t1\n", {"suffix": "T2w"}, 'no image is of "T2w"; there are "FLAIR", "T1w"'),
        ("participant_id\tx\nsub-1\t1\n", {}, "name one, suffix="),
        ("participant_id\tx\nsub-1\t1\n", {"session": "9"}, "no image of ses-9"),
        ("participant_id\tx\nsub-7\t1\n", {"suffix": "T1w"}, "no scan was found"),
    ],
)
def test_what_is_wrong_is_said(tree, text, options, message):
    root = tree(*images("1", "T1w", "FLAIR"))
    (root / "participants.tsv").write_text(text)
    with pytest.raises(ManifestError, match=message):
        make_manifest("bids", root, **options)
