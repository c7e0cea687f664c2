"""What the cache finds, and what it takes for changed."""

import ast
import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile

from slivit.data import cache as cache_module
from slivit.data import cache_entry, content
from slivit.data.cache import CacheError, SliceCache, open_cache
from slivit.data.foreground import Foreground
from slivit.data.preprocessing import Preprocessing, load_slices
from slivit.data.windows import Windows
from slivit.errors import ReadError, SlivitError

SETTINGS = Preprocessing(size=(4, 16, 12))


def entries(cache):
    return sorted((cache.folder / "stacks").rglob("[!.]*.npy"))


def test_the_first_load_prepares_and_the_second_reads_the_same(cache, scan, reads):
    expected = load_slices(scan, SETTINGS)
    for _ in range(2):
        np.testing.assert_array_equal(cache.load(scan, SETTINGS), expected)
    assert reads == [scan]
    assert cache.load(scan, SETTINGS).dtype == np.uint8


def test_what_is_loaded_may_be_written_to_and_the_entry_stays(cache, scan):
    expected = cache.load(scan, SETTINGS).copy()
    cache.load(scan, SETTINGS)[:] = 0
    np.testing.assert_array_equal(cache.load(scan, SETTINGS), expected)


def test_an_entry_is_a_npy_file(cache, scan):
    expected = cache.load(scan, SETTINGS)
    np.testing.assert_array_equal(np.load(entries(cache)[0], mmap_mode="r"), expected)


def test_no_warning_of_torch_about_what_is_loaded(cache, scan):
    import torch

    cache.load(scan, SETTINGS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.from_numpy(cache.load(scan, SETTINGS))


CHANGES = [
    {"size": (4, 16, 16)},
    {"sampling": "middle"},
    {"short": "pad"},
    {"window": (0.0, 900.0)},
    {"stretch": None},
    {"stretch": (1.0, 99.0)},
    {"reader": {"frame": 0}},
    {"resize": (20, 18)},
    {"windows": Windows()},
    {"spacing": (0.0, 1.0, 1.0)},
    {"fit": "pad"},
    {"channels": ("one",)},
    {"interpolation": "bilinear"},
    {"wrap": True},
    {"shuffle_slices": 1},
    {"planes": ("coronal",)},
    {"foreground": Foreground()},
    {"rounded": False},
]


def test_every_setting_is_part_of_the_key():
    assert {next(iter(change)) for change in CHANGES} == set(Preprocessing.model_fields) - cache_module._LATER


def test_what_happens_to_slices_later_is_no_part_of_the_key(cache, scan, reads):
    for flips in ((), ("horizontal",)):
        cache.load(scan, SETTINGS.model_copy(update={"flips": flips}))
    assert len(reads) == 1


def test_one_entry_serves_every_crop_and_every_cut_into_windows(cache, scan, reads):
    whole = SETTINGS.model_copy(update={"size": (4, 20, 18), "windows": Windows()})
    stack = cache.load(scan, whole)
    for windows in (Windows(stride=1), Windows(stride=2, score="mean")):
        change = {"size": (4, 10, 12), "resize": (20, 18), "windows": windows}
        cropped = cache.load(scan, SETTINGS.model_copy(update=change))
        np.testing.assert_array_equal(cropped, stack[:, 5:15, 3:15])
    assert len(reads) == 1


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_another_setting_is_another_entry(cache, tmp_path, rng, change):
    import nibabel

    path = str(tmp_path / "scan.nii")
    nibabel.save(nibabel.Nifti1Image(rng.integers(0, 4000, (18, 20, 6)).astype(np.int16), np.eye(4)), path)
    cache.load(path, SETTINGS)
    changed = SETTINGS.model_copy(update=change)
    np.testing.assert_array_equal(cache.load(path, changed), load_slices(path, changed))
    assert len(entries(cache)) == 2


def test_the_settings_are_written_down(cache, scan):
    cache.load(scan, SETTINGS)
    told = json.loads(next(cache.folder.rglob("settings.json")).read_text())
    assert Preprocessing(**told["settings"]) == SETTINGS


def test_other_code_finds_nothing_of_before(cache, scan, reads, monkeypatch):
    cache.load(scan, SETTINGS)
    monkeypatch.setattr(cache_module, "code_version", lambda: "another release")
    cache.load(scan, SETTINGS)
    assert len(reads) == 2
    assert [g.current for g in cache.info().groups] == [True, False]


def test_all_code_that_makes_slices_is_part_of_the_key():
    """Whatever those files import of slivit, at the top or inside a function, must be among them too."""
    counted = set(cache_module.code_files())
    assert all(file.is_file() for file in counted)
    root = Path(cache_module.__file__).parents[2]
    # Words, notes and pictures of what was read, whether a file is the official one, who reads, and what comes later.
    names = (
        "errors",
        "display",
        "settings",
        "plugins",
        "install",
        "data.medmnist_files",
        "data.notes",
        "data.workers",
        "data.sliding",
    )
    harmless = {f"slivit.{name}" for name in names}
    for file in counted:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("slivit."):
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
                modules = {root / f"{name.replace('.', '/')}.py" for name in names if name not in harmless}
                assert {m for m in modules if m.is_file()} <= counted, f"{file} imports {node.module}"


def test_a_changed_file_is_read_anew(cache, scan, reads, make_scan):
    cache.load(scan, SETTINGS)
    make_scan(scan)
    np.testing.assert_array_equal(cache.load(scan, SETTINGS), load_slices(scan, SETTINGS))
    assert len(reads) == 2


def test_a_change_that_keeps_size_and_date_is_seen(cache, scan, reads, age):
    age(scan)
    cache.load(scan, SETTINGS)
    before = Path(scan).stat()
    data = bytearray(Path(scan).read_bytes())
    data[-1] ^= 0x0F
    Path(scan).write_bytes(data)
    os.utime(scan, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert Path(scan).stat().st_mtime_ns == before.st_mtime_ns
    cache.load(scan, SETTINGS)
    assert len(reads) == 2


def test_a_young_file_is_hashed_until_its_times_can_be_trusted(tmp_path, scan):
    cache = SliceCache(tmp_path / "young")
    cache.load(scan, SETTINGS)
    assert not list((cache.folder / "contents").rglob("*.json"))


def test_the_content_is_not_hashed_again_while_the_file_looks_the_same(cache, scan, monkeypatch):
    cache.load(scan, SETTINGS)
    hashed = []
    monkeypatch.setattr(content, "_file_digest", lambda path, block: hashed.append(path) or b"other")
    cache.load(scan, SETTINGS)
    assert not hashed
    cache.verify = True
    cache.load(scan, SETTINGS)
    assert hashed == [scan]


def test_a_moved_or_copied_scan_is_not_prepared_again(cache, scan, reads, tmp_path):
    cache.load(scan, SETTINGS)
    moved = tmp_path / "moved" / "other.tif"
    moved.parent.mkdir()
    Path(scan).rename(moved)
    cache.load(str(moved), SETTINGS)
    assert len(reads) == 1
    assert len(entries(cache)) == 1


def test_one_slice_of_a_folder_changes(cache, tmp_path, rng, reads):
    folder = tmp_path / "frames"
    folder.mkdir()
    for i in range(5):
        tifffile.imwrite(folder / f"{i}.tif", rng.integers(0, 255, (20, 18)).astype(np.uint8))
    cache.load(str(folder), SETTINGS)
    cache.load(str(folder), SETTINGS)
    (folder / ".DS_Store").write_bytes(b"clutter that readers pass over")
    cache.load(str(folder), SETTINGS)
    assert len(reads) == 1
    tifffile.imwrite(folder / "3.tif", rng.integers(0, 255, (20, 18)).astype(np.uint8))
    cache.load(str(folder), SETTINGS)
    assert len(reads) == 2
    (folder / "3.tif").rename(folder / "9.tif")
    cache.load(str(folder), SETTINGS)
    assert len(reads) == 3


def test_items_of_one_file_are_entries_of_their_own(cache, tmp_path, rng, monkeypatch):
    path = tmp_path / "made.npz"
    np.savez(path, train_images=rng.integers(0, 255, (3, 8, 8, 8)).astype(np.uint8))
    hashed = []
    digest = content._file_digest
    monkeypatch.setattr(content, "_file_digest", lambda p, block: hashed.append(p) or digest(p, block))
    for i in range(3):
        item = f"{path}#train/{i}"
        np.testing.assert_array_equal(cache.load(item, SETTINGS), load_slices(item, SETTINGS))
    assert len(entries(cache)) == 3
    assert len(hashed) == 1


def test_the_values_beside_a_header_are_part_of_the_content(tmp_path):
    cases = {
        "a.hdr": ("a.img", b"an Analyze header"),
        "b.mhd": ("b.raw", b"NDims = 3\nElementDataFile = b.raw\n"),
        "c.nhdr": ("values.bin", b"NRRD0004\ntype: uchar\ndata file: values.bin\n"),
        "d.mhd": ("d_00.raw", b"ElementDataFile = LIST\nd_00.raw\n"),
    }
    for header, (values, text) in cases.items():
        folder = tmp_path / header
        folder.mkdir()
        (folder / header).write_bytes(text)
        digests = []
        for data in (b"one", b"two"):
            (folder / values).write_bytes(data)
            digests.append(content.digest_of(content.files_of(str(folder / header))))
        assert digests[0] != digests[1]


def test_a_detached_header_does_not_read_its_neighbours(tmp_path):
    (tmp_path / "b.mhd").write_bytes(b"NDims = 3\r\nElementDataFile = b.raw\r\n")
    for name in ("b.raw", "another.raw"):
        (tmp_path / name).write_bytes(b"values")
    assert [name for name, _ in content.files_of(str(tmp_path / "b.mhd")).paths] == ["b.mhd", "b.raw"]


def test_what_was_noticed_is_told_each_time(cache, make_scan):
    short = make_scan("short.tif", depth=2)
    for _ in range(3):
        with pytest.warns(UserWarning, match="has 2 slices, 4 are used"):
            cache.load(short, SETTINGS)


def test_a_scan_that_cannot_be_read_says_what_reading_says(cache, tmp_path):
    (tmp_path / "broken.tif").write_bytes(b"II*\0 and nothing else")
    for path in (str(tmp_path / "broken.tif"), str(tmp_path / "missing.tif")):
        with pytest.raises(ReadError) as direct:
            load_slices(path, SETTINGS)
        with pytest.raises(ReadError) as cached:
            cache.load(path, SETTINGS)
        assert str(cached.value) == str(direct.value)
    assert not entries(cache)


@pytest.mark.parametrize("cut", [0, 1, 30, 200, -1, -9])
def test_an_entry_cut_short_is_prepared_anew(cache, scan, reads, caplog, cut):
    expected = cache.load(scan, SETTINGS).copy()
    entry = entries(cache)[0]
    entry.write_bytes(entry.read_bytes()[:cut])
    np.testing.assert_array_equal(cache.load(scan, SETTINGS), expected)
    assert "prepared anew" in caplog.text
    cache.load(scan, SETTINGS)
    assert len(reads) == 2


def test_a_flipped_bit_anywhere_in_an_entry_is_seen(cache, scan, rng):
    cache.load(scan, SETTINGS)
    entry = entries(cache)[0]
    good = entry.read_bytes()
    for place in [*rng.integers(0, len(good), 60).tolist(), len(good) - 1, len(good) - 12, len(good) - 20]:
        bad = bytearray(good)
        bad[place] ^= 1 << int(rng.integers(8))
        entry.write_bytes(bad)
        with pytest.raises(cache_entry.Damaged):
            cache_entry.read_stack(entry)


def test_files_that_change_while_they_are_read_are_not_kept(cache, scan, monkeypatch, caplog, make_scan):
    def meddled(path, settings):
        stack = load_slices(path, settings)
        make_scan(path)
        return stack

    monkeypatch.setattr(cache_module, "load_slices", meddled)
    cache.load(scan, SETTINGS)
    assert not entries(cache)
    assert "changed while they were read" in caplog.text
    with pytest.raises(CacheError, match="changed while"):
        cache.build(scan, SETTINGS)


def test_info_and_clear(cache, make_scan, age):
    paths = [make_scan(f"{i}.tif") for i in range(3)]
    other = SETTINGS.model_copy(update={"sampling": "middle"})
    for path in paths:
        cache.load(path, SETTINGS)
    cache.load(paths[0], other)
    info = open_cache(cache.folder).info()
    assert sorted((g.settings["sampling"], g.scans) for g in info.groups) == [("even", 3), ("middle", 1)]
    assert info.scans == 4
    assert info.bytes == sum(e.stat().st_size for e in entries(cache))
    for entry in entries(cache)[:2]:
        age(entry, 3 * 86400)
    assert cache.clear(unused_days=2) > 0
    assert cache.info().scans == 2
    assert cache.clear() > 0
    assert cache.info().bytes == 0
    np.testing.assert_array_equal(cache.load(paths[0], SETTINGS), load_slices(paths[0], SETTINGS))


def test_a_folder_that_holds_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.doc").write_text("precious")
    with pytest.raises(CacheError, match=r"holds other things \(thesis.doc\)"):
        SliceCache(tmp_path)
    with pytest.raises(CacheError, match=r"there is no CACHEDIR.TAG"):
        open_cache(tmp_path)
    with pytest.raises(CacheError, match="cannot be made into a cache"):
        SliceCache(tmp_path / "thesis.doc" / "cache")
    with pytest.raises(CacheError, match="at least 1 byte"):
        SliceCache(tmp_path / "new", max_bytes=0)
    assert issubclass(CacheError, SlivitError)
