"""The wheel: one top-level package, with every recipe and template, and usable away from the clone."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    wanted = (
        "slivit",
        "pretrain",
        "finetune",
        "evaluate",
        "sweep",
        "study",
        "setup.cfg",
        "setup.py",
        "MANIFEST.in",
        "pyproject.toml",
        "README.md",
        "LICENSE",
    )
    for name in wanted:
        source, target = ROOT / name, folder / "source" / name
        target.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(folder), "."]
    subprocess.run(command, cwd=folder / "source", check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_slivit_is_the_only_top_level_package(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {n.split("/")[0] for n in names if not n.split("/")[0].endswith(".dist-info")}
    assert tops == {"slivit"}


@pytest.mark.slow
def test_everything_travels(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for stage in ("pretrain", "finetune", "evaluate", "sweep", "study"):
        for recipe in (ROOT / stage).glob("*.toml"):
            assert f"slivit/recipes/{stage}/{recipe.name}" in names
    for path in (ROOT / "slivit").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert str(path.relative_to(ROOT)) in names


@pytest.mark.slow
def test_an_installed_wheel_finds_its_recipes(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import slivit.recipe as r; print(sorted(r.shipped_recipes('finetune')), r.load_recipe('finetune', 'demo').out)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert "slivit_oct" in done.stdout, done.stderr
    assert "demo/finetuned" in done.stdout
