"""Files that are written whole or not at all, and what is said where they cannot be written."""

import errno
import os

import pytest

from slivit.errors import SlivitError, WriteError
from slivit.files import make_folder, whole_file, whole_folder, write_json, write_text


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "there"
    path.write_text("old")
    return path


@pytest.mark.parametrize("deeper", ["x", "x/y"])
def test_a_path_within_a_file_is_told(file, deeper):
    for write in (make_folder, lambda p: write_json(p / "a.json", {}), lambda p: whole_folder(p / "b").__enter__()):
        with pytest.raises(WriteError, match=r"there.*is or lies in a file"):
            write(file / deeper)
    assert file.read_text() == "old"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_full_disk_and_a_missing_right_are_told_and_leave_the_old_file(file, number):
    with pytest.raises(SlivitError, match="there: cannot be written"), whole_file(file) as partial:
        raise OSError(number, os.strerror(number), str(partial))
    assert file.read_text() == "old"
    assert [p.name for p in file.parent.iterdir()] == ["there"]


def test_other_errors_stay_what_they_are(file, tmp_path):
    with pytest.raises(FileNotFoundError), whole_file(file):
        (tmp_path / "missing").read_text()
    elsewhere = PermissionError(errno.EACCES, "denied", "/elsewhere/scan")
    with pytest.raises(PermissionError) as found, whole_file(file):
        raise elsewhere
    assert found.value is elsewhere


def test_a_file_is_replaced(file):
    write_text(file, "new")
    assert file.read_text() == "new"
