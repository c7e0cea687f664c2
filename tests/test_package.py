"""What holds for the package as a whole: imports run one way, quickly, and every public name exists."""

import ast
import importlib.util
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import slivit

ROOT = Path(slivit.__file__).parent
SPEC = importlib.util.spec_from_file_location("house", ROOT.parent / "docs" / "house.py")
house = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(house)
LEVEL = house.steps()
APART = {("data", "models"), ("models", "data"), ("phantoms", "data"), ("phantoms", "models"), ("data", "phantoms"),
         ("data", "statistics"), ("models", "statistics")}  # fmt: skip
MODULES = sorted(ROOT.rglob("*.py"))


def imported(path):
    """(the slivit module imported, whether at import time) for every import of a file."""
    tree = ast.parse(path.read_text())
    checking = {
        n
        for top in ast.walk(tree)
        if isinstance(top, ast.If) and "TYPE_CHECKING" in ast.dump(top.test)
        for n in ast.walk(top)
    }
    for node in ast.walk(tree):
        if node in checking:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "slivit":
            yield from [node.module] if node.module != "slivit" else [f"slivit.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith("slivit."))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path):
    here = path.relative_to(ROOT).with_suffix("").parts[0]
    if here == "__init__":
        return
    assert here in LEVEL, f"put {here} into ORDER in docs/house.py"
    for module in imported(path):
        there = module.split(".")[1]
        if there in (here, "__version__"):
            continue
        assert LEVEL[there] <= LEVEL[here], f"{here} must not import {there}"
        assert (here, there) not in APART, f"{here} and {there} must not know each other"


def test_statistics_know_no_torch():
    for path in (ROOT / "statistics").rglob("*.py"):
        text = path.read_text()
        assert "import torch" not in text
        assert "import fastai" not in text


@pytest.mark.parametrize("code", ["import slivit", "import slivit.cli; slivit.cli.app"])
def test_importing_is_light(code):
    heavy = "[m for m in ('torch', 'fastai', 'pandas', 'pydicom', 'cv2', 'matplotlib', 'sklearn') if m in sys.modules]"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}; print({heavy})"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", slivit.__all__)
def test_public_names_exist_and_are_documented(name):
    value = getattr(slivit, name)
    if name != "__version__":
        assert (value.__doc__ or "").strip()


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        slivit.nothing  # noqa: B018


def test_every_package_and_recipe_is_in_the_wheel(monkeypatch):
    import_module("setuptools")  # first: it brings distutils where Python has none
    monkeypatch.chdir(ROOT.parent)
    named = import_module("distutils.core").run_setup("setup.py", stop_after="init").packages
    present = {".".join(p.parent.relative_to(ROOT.parent).parts) for p in ROOT.rglob("__init__.py")}
    recipes = {f"slivit.recipes.{p.parent.name}" for p in ROOT.parent.glob("*/__main__.py")} - {"slivit.recipes.slivit"}
    assert set(named) == present | recipes


def test_the_picture_of_the_house_is_todays():
    assert house.OUT.read_text("utf-8") == house.picture(), "run python docs/house.py"
