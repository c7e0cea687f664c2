"""Rows on disk: appended whole, read back whole."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slivit.data.scan_reading import ScanRef
from slivit.errors import SlivitError
from slivit.predict.journal import Journal, journal_of

BY = {"checkpoint": "abc", "preprocessing": {"size": (1, 2, 3)}}


def ref(i, state="s"):
    return ScanRef(f"scan {i}", f"/scans/{i}", state=state)


def row(i, error=""):
    return {"prob_x": None if error else i / 10, "warnings": "", "notes": 'ä, "ö"\n', "error": error}


def fill(path, count):
    with Journal(path, BY, resume=False) as journal:
        for i in range(count):
            journal.add(ref(i), row(i, error="broken" if i == 1 else ""))


@settings(max_examples=40, deadline=None)
@given(cut=st.floats(0, 1))
def test_wherever_it_is_cut_off_whole_rows_stay(cut, tmp_path_factory):
    path = tmp_path_factory.mktemp("journal") / "rows.part"
    fill(path, 5)
    data = path.read_bytes()
    path.write_bytes(data[: int(cut * len(data))])
    with Journal(path, BY, resume=True) as journal:
        kept = len(journal.rows)
        assert [journal.rows[ref(i).key]["prob_x"] for i in range(kept)] == [
            row(i, "b" * (i == 1))["prob_x"] for i in range(kept)
        ]
        for i in range(kept, 5):
            journal.add(ref(i), row(i))
    assert len(Journal(path, BY, resume=True).rows) == 5


def test_failed_and_changed_scans_are_done_again(tmp_path):
    fill(tmp_path / "rows", 3)
    journal = Journal(tmp_path / "rows", BY, resume=True)
    assert [journal.done(ref(i)) for i in range(4)] == [True, False, True, False]
    assert not journal.done(ref(0, state="changed"))
    assert not Journal(tmp_path / "rows", BY, resume=False).rows


def test_another_checkpoint_and_other_files_are_refused(tmp_path):
    fill(tmp_path / "rows", 3)
    with pytest.raises(SlivitError, match="another checkpoint"):
        Journal(tmp_path / "rows", {**BY, "checkpoint": "other"}, resume=True)
    (tmp_path / "x").write_text("path,prob\n1,2\n")
    with pytest.raises(SlivitError, match="not the rows"):
        Journal(tmp_path / "x", BY, resume=True)


def test_in_memory_and_names(tmp_path):
    with Journal(None, BY, resume=False) as journal:
        journal.add(ref(0), row(0))
    journal.remove()
    assert journal.done(ref(0))
    assert journal_of("a/b.csv").name == "b.csv.part"
