"""The examples of docstrings, and the code of the README and of the pages, are run on small scans."""

from __future__ import annotations

import doctest
import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import slivit

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
MORE = [pytest.param(f"slivit.data.monai.{n}", marks=pytest.mark.slow) for n in ("to_monai", "MonaiTransform")]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


@pytest.fixture(scope="module")
def workplace(blob_scans, tmp_path_factory):
    """A folder with scans.csv, scan0.nii, ... and a finished run in runs/mine."""
    import os
    import shutil

    folder = tmp_path_factory.mktemp("workplace") / "work"
    shutil.copytree(blob_scans.parent, folder)
    task = slivit.Task(kind="binary", targets=("bright",))
    model = slivit.create_model("slivit", 1, backbone="resnet10t", slices=4, image_size=32, stride=16, vit_depth=1)
    run = folder / "runs" / "mine"
    slivit.save_checkpoint(run / "checkpoint", model, task, slivit.Preprocessing(size=model.spec.size))
    (run / "recipe.toml").write_text('out = "runs/mine"\n')
    (run / "history.csv").write_text("epoch,train_loss,valid_loss\n0,0.7,0.7\n")
    (run / "predictions.csv").write_text("path,split,prob_bright\nscan39.nii,test,0.5\n")
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.fixture(autouse=True)
def _only_our_models(monkeypatch):
    """What an example registers is gone after it."""
    from slivit.models import registry

    registry.list_models()  # all of ours are registered now
    monkeypatch.setattr(registry, "_FACTORIES", dict(registry._FACTORIES))


@pytest.mark.parametrize("name", [*(f"slivit.{n}" for n in slivit.__all__ if n != "__version__"), *MORE])
def test_every_public_name_has_an_example_that_works(name, workplace):
    import torch

    module, _, attribute = name.rpartition(".")
    if "monai" in name:
        pytest.importorskip("monai")
    value = getattr(import_module(module), attribute)
    names = {"slivit": slivit, "np": np, "torch": torch, attribute: value}
    found = doctest.DocTestFinder(recurse=False).find(value, name, globs=names)
    examples = [e for test in found for e in test.examples]
    assert examples, f"{name} has no example in its docstring"
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    for test in found:
        told: list[str] = []
        runner.run(test, out=told.append)
        assert not runner.failures, "".join(told)


def code_of(page):
    return "\n".join(re.findall(r"```python\n(.*?)```", (ROOT / page).read_text("utf-8"), re.DOTALL))


@pytest.mark.parametrize("page", ["docs/python.md", pytest.param("docs/monai.md", marks=pytest.mark.slow)])
def test_the_code_of_a_page_runs_from_its_first_line_to_its_last(page, workplace):
    import matplotlib

    matplotlib.use("Agg")
    if "monai" in page:
        pytest.importorskip("monai")
    names: dict = {"__name__": "page"}
    exec(compile(code_of(page), page, "exec"), names)
    if "monai" in page:
        batch = next(iter(names["loader"]))
        assert tuple(batch["image"].shape) == (4, 1, 32, 32, 8)
        names["learn"].validate()
        assert names["logits"].shape == (1, 1)
        assert slivit.create_model("efficient_3d", 2)(names["torch"].zeros(1, 1, 32, 64, 64)).shape == (1, 2)


@pytest.mark.parametrize(
    "page", sorted(p.relative_to(ROOT).as_posix() for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
)
def test_code_of_a_page_is_python_and_its_links_lead_somewhere(page):
    text = (ROOT / page).read_text("utf-8")
    compile(code_of(page), page, "exec")
    links = [link for link in LINK.findall(text) if not link.startswith(("http", "mailto:"))]
    made = ROOT / "docs" / "reference"
    lost = [link for link in links if not (path := (ROOT / page).parent / link).exists() and made not in path.parents]
    assert not lost


@pytest.mark.parametrize("page", ["README.md", "docs/sweeps.md", "docs/tracking.md", "docs/coming-from-slivit.md"])
def test_the_commands_and_overrides_of_a_page_exist(page):
    """Every `slivit COMMAND` is there, and every recipe that a page names is shipped."""
    from typer.main import get_command

    from slivit.cli import app
    from slivit.recipe import shipped_recipes

    commands = get_command(app).commands
    for command, first in re.findall(
        r"^(?:\| )?`?slivit ([a-z]+)(?: ([\w./-]+))?", (ROOT / page).read_text("utf-8"), re.MULTILINE
    ):
        assert command in commands, command
        if command in ("pretrain", "finetune", "sweep") and first and first.islower() and "/" not in first:
            assert first in shipped_recipes(command), f"{command} {first}"


def test_the_keys_of_the_released_code_s_options_are_keys_here():
    """docs/coming-from-slivit.md names keys of recipes; each is one."""
    from slivit.train.recipe import FinetuneRecipe

    table = (ROOT / "docs" / "coming-from-slivit.md").read_text("utf-8").partition("## The options")[2]
    sections = {name: field.annotation for name, field in FinetuneRecipe.model_fields.items()}
    named = re.findall(r"`(data|task|fit|preprocessing|logging|testing)\.(\w+)", table)
    assert len(named) > 15
    for section, key in named:
        assert key in sections[section].model_fields, f"{section}.{key}"


def test_type_checkers_know_every_public_name():
    text = (ROOT / "slivit" / "__init__.pyi").read_text("utf-8")
    named = set(re.findall(r"^from [\w.]+ import (\w+) as \1$", text, re.MULTILINE))
    assert named == set(slivit.__all__) - {"__version__"}
    assert set(dir(slivit)) >= set(slivit.__all__)
