"""The files around the code: they agree with each other, and name no address that the project does not have."""

import configparser
import runpy
import shutil
from pathlib import Path

import pytest
import yaml

import slivit

ROOT = Path(__file__).parents[1]
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")


def test_versions_and_pythons_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == slivit.__version__
    assert citation["license"] == SETUP["metadata"]["license"]
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text("utf-8"))
    named = [c.rpartition(" ")[2] for c in SETUP["metadata"]["classifiers"].splitlines() if ":: 3." in c]
    assert workflow["jobs"]["tests"]["strategy"]["matrix"]["python"] == named
    first, last = named[0], f"3.{int(named[-1].partition('.')[2]) + 1}"
    assert SETUP["options"]["python_requires"] == f">={first},<{last}"
    packages = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))["dependencies"]
    assert packages[0] == f"python >={first},<{last}"


def test_every_requirement_has_a_floor():
    needed = SETUP["options"]["install_requires"].split("\n")[1:]
    assert [line for line in needed if ">=" not in line] == []


def test_every_room_with_recipes_is_in_the_container():
    kept = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert {f"!{p.parent.name}" for p in ROOT.glob("*/__main__.py")} <= set(kept)


@pytest.mark.parametrize("address", ["https://example.org/team/slivit", "https://example.org/others/name"])
def test_the_address_is_written_once(tmp_path, address):
    for name in ("setup.cfg", "CITATION.cff", "README.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns("*.pt*", "runs"))
    write = runpy.run_path(str(ROOT / ".ci" / "address.py"))["write_address"]
    for given in ("https://example.org/first/one", address):
        write(tmp_path, given)
    assert f"url = {address}" in (tmp_path / "setup.cfg").read_text("utf-8")
    assert yaml.safe_load((tmp_path / "CITATION.cff").read_text("utf-8"))["repository-code"] == address
    books = list((tmp_path / "notebooks").glob("*.ipynb"))
    told = "".join(p.read_text("utf-8") for p in (tmp_path / "README.md", tmp_path / "setup.cfg", *books))
    assert "first/one" not in told
    assert told.count(f"slivit @ git+{address}") == len(books)
