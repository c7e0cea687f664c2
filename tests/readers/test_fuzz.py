"""Flipped and cut bytes in files of every format: each gives a result or a SlivitError, never a crash or a hang."""

from __future__ import annotations

import os
import selectors
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import nibabel
import numpy as np
import pydicom.data
import pytest
import tifffile
from PIL import Image

WORKER = Path(__file__).with_name("fuzz_worker.py")
PATIENCE = 60  # seconds without a word from the worker before it counts as hung
PER_SEED = 24
COMPRESSED = [
    "MR_small_RLE",
    "MR_small_jpeg_ls_lossless",
    "MR_small_jp2klossless",
    "SC_rgb_jpeg_dcmtk",
    "JPGExtended",
    "rtdose",
]


def _image_seeds(folder: Path, rng: np.random.Generator) -> None:
    picture = cv2.resize(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8), (40, 30))
    for suffix in ("png", "jpg", "bmp", "tif"):
        Image.fromarray(picture).save(folder / f"colour.{suffix}")
    deep = rng.integers(0, 60000, (3, 20, 30), dtype=np.uint16)
    tifffile.imwrite(folder / "deep.tif", deep, photometric="minisblack")
    tifffile.imwrite(folder / "signed.tif", deep.astype(np.int16), photometric="minisblack")
    pages = [Image.fromarray(page) for page in (deep // 256).astype(np.uint8)]
    pages[0].save(folder / "lzw.tif", save_all=True, append_images=pages[1:], compression="tiff_lzw")
    cv2.imwrite(str(folder / "deep.png"), rng.integers(0, 60000, (20, 30, 3), dtype=np.uint16))


def _video_seeds(folder: Path, rng: np.random.Generator) -> None:
    for name, codec in {"clip.avi": "MJPG", "clip.mp4": "mp4v", "clip.mkv": "mp4v"}.items():
        writer = cv2.VideoWriter(str(folder / name), cv2.VideoWriter_fourcc(*codec), 25, (48, 32))
        for _ in range(6):
            writer.write(cv2.resize(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8), (48, 32)))
        writer.release()


def _volume_seeds(folder: Path, rng: np.random.Generator) -> None:
    voxels = rng.integers(0, 99, (5, 6, 7), dtype=np.int16)
    for name in ("a.nii", "a.nii.gz"):
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), folder / name)
    nibabel.save(nibabel.Nifti2Image(voxels, np.eye(4)), folder / "b.nii")
    np.savez_compressed(folder / "items.npz", train_images=voxels.astype(np.uint8))
    np.save(folder / "scan.npy", voxels)
    shipped = Path(pydicom.data.__file__).parent / "test_files"
    for name in ("MR_small", "MR_small_implicit", "CT_small", *COMPRESSED):
        shutil.copy(shipped / f"{name}.dcm", folder)
    with zipfile.ZipFile(folder / "series.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(shipped / "MR_small.dcm", "a.dcm")
        archive.write(shipped / "MR_small_RLE.dcm", "b.dcm")


def _optional_seeds(folder: Path, rng: np.random.Generator, vol: bytes, e2e: bytes) -> None:
    try:
        import SimpleITK
    except ImportError:
        return
    image = SimpleITK.GetImageFromArray(rng.integers(0, 99, (5, 6, 7), dtype=np.int16))
    for name in ("a.mha", "a.nrrd"):
        SimpleITK.WriteImage(image, str(folder / name))
        SimpleITK.WriteImage(image, str(folder / f"packed_{name}"), useCompression=True)
    (folder / "a.vol").write_bytes(vol)
    (folder / "a.e2e").write_bytes(e2e)


def _mutant(content: bytes, rng: np.random.Generator) -> bytes:
    """Damage a file: cut it, drop or repeat a piece, or flip bytes, more often near its start, where headers are."""
    damaged = bytearray(content)
    kind, size = rng.integers(6), len(content)
    at = int(rng.integers(min(size, 600))) if rng.random() < 0.7 else int(rng.integers(size))
    if kind == 0:
        return content[: int(rng.integers(size))]
    if kind == 1:
        del damaged[at : at + int(rng.integers(1, 40))]
    elif kind == 2:
        damaged[at:at] = damaged[at : at + int(rng.integers(1, 40))]
    elif kind == 3:
        damaged[at : at + 4] = [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80"][rng.integers(4)]
    else:
        for place in rng.integers(min(size, 600) if kind == 4 else size, size=rng.integers(1, 9)):
            damaged[place] = rng.integers(256)
    return bytes(damaged)


def _mutants(seeds: Path, out: Path, rng: np.random.Generator, count: int) -> list[str]:
    paths = []
    for seed in sorted(seeds.iterdir()):
        content = seed.read_bytes()
        for number in range(count):
            path = out / f"{number:04d}_{seed.name}"
            path.write_bytes(_mutant(content, rng))
            paths.append(f"{path}#train/0" if seed.suffix == ".npz" else str(path))
    return paths


def read_all(paths: list[str]) -> dict[str, str]:
    """Return how each path went: read, refused, or what went wrong, in workers that may die."""
    outcomes: dict[str, str] = {}
    while left := [path for path in paths if path not in outcomes]:
        _run_worker(left, outcomes)
    return outcomes


def _run_worker(paths: list[str], outcomes: dict[str, str]) -> None:
    """Feed one worker until all are read, or it dies or hangs over one."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, str(WORKER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    ) as worker:
        selector = selectors.DefaultSelector()
        selector.register(worker.stdout, selectors.EVENT_READ)
        for path in paths:
            worker.stdin.write(f"{path}\n".encode())
            worker.stdin.flush()
            outcomes[path] = _answer(worker, selector)
            if outcomes[path].startswith(("hung", "crashed")):
                return


def _answer(worker: subprocess.Popen, selector: selectors.BaseSelector) -> str:
    """Return what the worker says of one file."""
    if not selector.select(timeout=PATIENCE):
        worker.kill()
        return "hung"
    return worker.stdout.readline().decode().strip() or f"crashed with status {worker.wait()}"


@pytest.fixture
def seeds(tmp_path, rng, vol_file, e2e_file) -> Path:
    folder = tmp_path / "seeds"
    folder.mkdir()
    _image_seeds(folder, rng)
    _video_seeds(folder, rng)
    _volume_seeds(folder, rng)
    scans = np.exp2(-rng.integers(0, 11, (3, 4, 5)).astype(np.float32))
    _optional_seeds(folder, rng, vol_file(scans), e2e_file({1: scans}))
    return folder


@pytest.mark.slow
def test_damaged_files_of_every_format_give_a_result_or_an_error(tmp_path, seeds, rng):
    (tmp_path / "mutants").mkdir()
    whole = read_all([f"{p}#train/0" if p.suffix == ".npz" else str(p) for p in seeds.iterdir()])
    assert {path: outcome for path, outcome in whole.items() if outcome != "read"} == {}
    paths = _mutants(seeds, tmp_path / "mutants", rng, PER_SEED)
    assert len(paths) >= 500
    outcomes = read_all(paths)
    wrong = {Path(path).name: outcome for path, outcome in outcomes.items() if outcome not in ("read", "refused")}
    assert wrong == {}
    assert sum(outcome == "refused" for outcome in outcomes.values()) > 100
