"""What holds for every kind of made-up scan: the manifest, the same scan from the same seed, and the folder."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from slivit.errors import SlivitError
from slivit.phantoms import KINDS, PhantomError, kind_module, make_phantoms

COLUMNS = {
    "oct": ["path", "patient", "eye", "drusen", "lesion_slice", "lesion_row", "lesion_col"],
    "oct2d": ["path", "patient", "label", "split"],
    "echo": ["path", "patient", "ef", "ef_below_50", "frame_ed", "frame_es", "frames"],
    "liver": ["path", "patient", "pdff"],
    "brain": ["path", "patient", "t1", "flair", "mask", "ml_oedema", "ml_core"],
    "ct": ["path", "patient", "nodule", "lesion_slice", "lesion_row", "lesion_col", "diameter_mm", "nodule_slices"],
}


def files(folder: Path) -> dict[str, str]:
    found = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


def test_every_kind_is_described_and_made_here(small):
    assert set(KINDS) == set(small) == set(COLUMNS)
    assert all(KINDS.values())


def test_manifest_names_every_scan(kind, small, tmp_path):
    manifest = make_phantoms(kind, tmp_path / "out", n=4, **small[kind])
    table = pd.read_csv(manifest)
    assert manifest == tmp_path / "out" / "manifest.csv"
    assert list(table.columns) == COLUMNS[kind]
    assert table.path.is_unique
    assert all((manifest.parent / path).exists() for path in table.path)
    assert list(table.patient) == ["P0001", "P0001", "P0002", "P0003"]
    assert not list(manifest.parent.rglob(".*"))


def test_a_scan_depends_on_seed_and_number_alone(kind, small, tmp_path):
    few = make_phantoms(kind, tmp_path / "few", n=2, seed=3, **small[kind]).parent
    more = make_phantoms(kind, tmp_path / "more", n=4, seed=3, **small[kind]).parent
    other = make_phantoms(kind, tmp_path / "other", n=2, seed=4, **small[kind]).parent
    scans = {name: digest for name, digest in files(few).items() if name not in ("manifest.csv", "phantoms.json")}
    assert scans.items() <= files(more).items()
    assert not set(scans.values()) & set(files(other).values())
    assert (few / "manifest.csv").read_text() in (more / "manifest.csv").read_text()
    assert json.loads((few / "phantoms.json").read_text())["seed"] == 3


@pytest.mark.parametrize("kind", ["oct", "ct"])
def test_answers_are_balanced_and_shared_by_a_patient(kind, drawn):
    rows = [(case.patient, truth) for case, _, truth in drawn(kind, 48)]
    answers = [truth["drusen" if kind == "oct" else "nodule"] for _, truth in rows]
    assert 0.4 <= sum(answers) / len(answers) <= 0.6
    by_patient = pd.Series(answers).groupby([patient for patient, _ in rows]).nunique()
    assert (by_patient == 1).all()
    assert len(by_patient) == 32


def test_second_scan_of_a_patient_is_alike_but_not_the_same(kind, drawn):
    (first, one, _), (second, two, _) = drawn(kind, 2)
    assert first.patient == second.patient
    assert one.shape != two.shape or (one != two).any()


def test_progress_wraps_the_scans(small, tmp_path):
    seen = []

    def progress(items):
        for item in items:
            seen.append(item)
            yield item

    make_phantoms("oct2d", tmp_path, n=3, progress=progress, **small["oct2d"])
    assert [case.index for case in seen] == [0, 1, 2]


def test_a_new_run_replaces_what_the_last_one_made_and_nothing_else(small, tmp_path):
    make_phantoms("oct2d", tmp_path, n=6, **small["oct2d"])
    note = tmp_path / "train" / "notes.txt"
    note.write_text("mine")
    make_phantoms("oct2d", tmp_path, n=2, seed=1, **small["oct2d"])
    assert len(list(tmp_path.rglob("*.jpeg"))) == 2
    assert note.read_text() == "mine"


def test_foreign_folder_is_refused_until_overwrite(small, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(PhantomError, match=r"not empty.*overwrite"):
        make_phantoms("oct", tmp_path, n=1, **small["oct"])
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    make_phantoms("oct", tmp_path, n=1, overwrite=True, **small["oct"])
    assert (tmp_path / "thesis.txt").read_text() == "mine"
    assert (tmp_path / "manifest.csv").is_file()


def test_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(PhantomError, match="is a file"):
        make_phantoms("oct", tmp_path / "out", n=1)


@pytest.mark.parametrize("scans", ['["../thesis.txt"]', '["/", "."]'])
def test_a_mark_cannot_reach_out_of_its_folder(scans, small, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "thesis.txt").write_text("mine")
    (out / "phantoms.json").write_text(f'{{"scans": {scans}}}')
    make_phantoms("oct2d", out, n=1, **small["oct2d"])
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_broken_mark_is_told(tmp_path):
    (tmp_path / "phantoms.json").write_text("[]")
    with pytest.raises(PhantomError, match="not a mark"):
        make_phantoms("oct", tmp_path, n=1)


def test_a_failing_write_leaves_no_half_scan_and_no_manifest(kind, small, tmp_path, monkeypatch):
    def fail(scan, path, case, options):
        (path / "half" if path.is_dir() else path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(kind_module(kind), "save", fail)
    with pytest.raises(OSError, match="disk full"):
        make_phantoms(kind, tmp_path, n=1, **small[kind])
    assert set(files(tmp_path)) == {"phantoms.json"}


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("octt", {}, r'no kind "octt".*Did you mean "oct"'),
        ("oct", {"slice": 9}, r'no option "slice".*Did you mean "slices"'),
        ("oct", {"slices": 2}, r'"slices" must be a whole number between 5 and 256\. Got 2'),
        ("oct", {"slices": 9.5}, r'"slices" must be a whole number.*Got 9\.5'),
        ("oct2d", {"white_corners": 2}, r'"white_corners" must be a number between 0 and 1'),
        ("liver", {"tilt": "10"}, r'"tilt" must be a number'),
        ("ct", {"n": 0}, r'"n" must be a whole number of at least 1\. Got 0'),
        ("ct", {"n": True}, '"n" must be'),
        ("ct", {"seed": -1}, '"seed" must be a whole number of at least 0'),
    ],
)
def test_wrong_wishes(kind, options, message, tmp_path):
    with pytest.raises(SlivitError, match=message):
        make_phantoms(kind, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_import_is_light():
    heavy = "{'torch', 'fastai', 'cv2', 'scipy', 'pydicom', 'nibabel', 'tifffile', 'PIL', 'pandas'}"
    code = f"import sys, slivit.phantoms; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
