"""Files that are written whole or not at all, and what is said where they cannot be written."""

import errno
import os
import resource
import stat
import sys
from contextlib import suppress

import pytest
import torch
from safetensors.torch import save_file

from slivit.errors import SlivitError, WriteError
from slivit.files import (
    _remove_abandoned,
    check_space,
    make_folder,
    read_json,
    read_mapping,
    remove_drafts,
    remove_folder,
    whole_file,
    whole_folder,
    write_json,
    write_tensors,
    write_text,
    write_torch,
)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "there"
    path.write_text("old")
    return path


@pytest.mark.parametrize("place", ["s3://bucket/run", "gs:/bucket/run", "file:///home/run"])
def test_the_address_of_a_store_is_refused_and_not_made_a_folder_here(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    for write in (make_folder, lambda path: write_text(f"{path}/told.txt", "told")):
        with pytest.raises(WriteError, match=r"Addresses of stores .* mount the store"):
            write(place)
    assert not list(tmp_path.iterdir())
    (tmp_path / "a:b").mkdir()
    assert make_folder("a:b/c").is_dir()
    assert make_folder(tmp_path / "time:" / "c").is_dir()


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


@pytest.fixture
def small_files():
    """No file may grow beyond 100 kB, which a full disk is to whoever writes one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    "write",
    [
        lambda path, tensor: write_tensors(path, {"a": tensor}),
        lambda path, tensor: write_torch(path, {"a": tensor}, tensor.nbytes),
    ],
)
def test_a_full_disk_is_told_by_what_writes_tensors(tmp_path, small_files, write):
    with pytest.raises(WriteError, match=r"big: cannot be written.*1\.2 MB are needed and .* free in"):
        write(tmp_path / "big", torch.zeros(300_000))
    assert not list(tmp_path.iterdir())


def test_space_is_asked_for_before_it_is_needed(tmp_path):
    check_space(tmp_path / "new" / "run", 1, "a run")
    with pytest.raises(WriteError, match=r"new/run: a run needs 1000000000000\.0 GB, and .* are free there"):
        check_space(tmp_path / "new" / "run", 10**21, "a run")


def test_the_rights_of_all_files_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "text", "")
        write_tensors(tmp_path / "tensors", {"a": torch.zeros(1)})
        with whole_folder(tmp_path / "folder") as partial:
            save_file({"a": torch.zeros(1)}, partial / "private")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == {"text": 0o640, "tensors": 0o640, "folder": 0o750, "private": 0o640}


def _folder(path, text):
    with whole_folder(path) as partial:
        (partial / "text").write_text(text)


def _stopped(path):
    with suppress(KeyboardInterrupt), whole_folder(path):
        raise KeyboardInterrupt


def test_a_folder_is_never_gone_while_another_replaces_it(tmp_path):
    """Killed between the two renames: the old folder lies aside, and the next replacement brings it back."""
    path = tmp_path / "result"
    _folder(path, "old")
    child = os.fork()
    if child == 0:
        renames = []
        sys.addaudithook(lambda event, _: renames.append(event) if event == "os.rename" else None)
        sys.addaudithook(lambda event, _: os._exit(9) if len(renames) == 2 else None)
        _folder(path, "new")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert [p.read_text() for p in tmp_path.glob(".result.old/text")] == ["old"]
    assert len(list(tmp_path.glob(".result.draft-*"))) == 1
    _remove_abandoned.cache_clear()
    _stopped(path)
    assert (path / "text").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["result"]
    _folder(path, "new")
    assert (path / "text").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["result"]


@pytest.mark.skipif(os.name == "nt", reason="links need a right there")
def test_a_result_behind_a_link_leaves_the_link(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "table.csv").write_text("old")
    (tmp_path / "file").symlink_to(tmp_path / "far" / "table.csv")
    (tmp_path / "folder").symlink_to(tmp_path / "far")
    write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").is_symlink()
    assert (tmp_path / "far" / "table.csv").read_text() == "new"
    for turn in "ab":
        with whole_folder(tmp_path / "folder") as partial:
            (partial / "result").write_text(turn)
        assert (tmp_path / "folder").is_symlink()
        assert [(p.name, p.read_text()) for p in (tmp_path / "far").iterdir()] == [("result", turn)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["far", "file", "folder"]


@pytest.mark.skipif(os.name == "nt", reason="there are no named pipes in folders there")
def test_a_pipe_or_a_device_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WriteError, match="pipe: is a pipe or a device"):
        write_text(tmp_path / "pipe", "x")
    with pytest.raises(WriteError, match="null: is a pipe or a device"):
        write_text("/dev/null", "x")


def test_a_name_as_long_as_names_may_be_is_written(tmp_path):
    path = tmp_path / f"{'ü' * 125}.csv"
    write_text(path, "x")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("content", "match"),
    [(b"", "it is empty"), (b'{"a": 1', "Expecting"), (b"\xff\xfe", "utf-8"), (b"[" * 100_000, ""), (b"[1]", "a list")],
)
def test_a_damaged_file_of_json_is_named(file, content, match):
    file.write_bytes(content)
    with pytest.raises(SlivitError, match=f"there: is damaged .*{match}"):
        read_mapping(file)


def test_a_file_of_json_that_is_not_there_holds_nothing(tmp_path):
    assert (read_json(tmp_path / "absent"), read_mapping(tmp_path / "absent")) == (None, {})


def test_a_folder_that_is_half_removed_is_a_draft(tmp_path, monkeypatch):
    (tmp_path / "slices").mkdir()
    write_text(tmp_path / "slices" / "a", "a")
    with monkeypatch.context() as killed:
        killed.setattr("shutil.rmtree", lambda *_, **__: None)
        remove_folder(tmp_path / "slices")
    assert not (tmp_path / "slices").exists()
    assert any(tmp_path.iterdir())
    remove_drafts(tmp_path)
    assert not any(tmp_path.iterdir())
    remove_folder(tmp_path / "slices")
