"""Archives from strangers: nothing leaves the folder, nothing fills the disk."""

import stat
import zipfile

import pytest

from slivit.data import archive as module
from slivit.data.archive import unpack
from slivit.errors import ReadError


def make(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in members:
            target.writestr(name, content)
    return path


def test_files_come_out_as_they_went_in(tmp_path):
    (tmp_path / "out").mkdir()
    unpack(make(tmp_path / "a.zip", [("a/b.txt", b"one"), ("c.txt", b"two"), ("d/", b"")]), tmp_path / "out")
    assert (tmp_path / "out" / "a" / "b.txt").read_bytes() == b"one"
    assert (tmp_path / "out" / "c.txt").read_bytes() == b"two"


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "..\\evil", "C:\\evil", "C:evil"])
def test_names_that_lead_out_are_refused(tmp_path, name):
    (tmp_path / "in" / "out").mkdir(parents=True)
    with pytest.raises(ReadError, match="leads out of the folder"):
        unpack(make(tmp_path / "a.zip", [("good", b""), (name, b"x")]), tmp_path / "in" / "out")
    assert {p.name for p in tmp_path.rglob("*")} == {"a.zip", "in", "out"}


def test_links_doubles_bombs_and_damage_are_refused(tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(ReadError, match="links"):
        unpack(make(tmp_path / "l.zip", [(link, b"/etc/passwd")]), out)
    with pytest.warns(UserWarning, match="Duplicate"), pytest.raises(ReadError, match="'a' twice"):
        unpack(make(tmp_path / "d.zip", [("a", b"1"), ("a", b"2")]), out)
    with pytest.raises(ReadError, match="empty"):
        unpack(make(tmp_path / "e.zip", []), out)
    (tmp_path / "f.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ReadError, match="damaged"):
        unpack(tmp_path / "f.zip", out)
    monkeypatch.setattr(module, "_LARGE", 1000)
    with pytest.raises(ReadError, match="too much to be scans"):
        unpack(make(tmp_path / "b.zip", [("bomb", b"\0" * 10_000_000)]), out)
    monkeypatch.setenv("SLIVIT_MAX_FILES", "2")
    with pytest.raises(ReadError, match="more than 2"):
        unpack(make(tmp_path / "m.zip", [(str(i), b"") for i in range(3)]), out)
    assert not any(out.iterdir())


def test_a_full_disk_is_told_before_it_is_full(tmp_path, monkeypatch):
    from types import SimpleNamespace

    (tmp_path / "out").mkdir()
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(ReadError, match="TMPDIR"):
        unpack(make(tmp_path / "a.zip", [("a", b"x" * 100)]), tmp_path / "out")
