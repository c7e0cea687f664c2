"""docs/papers.md: each command that it names has a recipe; each run of a shipped study has one that is right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from slivit.experiments.study import check_networks
from slivit.experiments.study_grid import Grid
from slivit.experiments.study_tasks import studies_of
from slivit.recipe import load_recipe, shipped_recipes

PAGE = Path(__file__).parents[1] / "docs" / "papers.md"
COMMAND = re.compile(r"`slivit (pretrain|finetune|study) (\S+?)[ `]")
NAMED = sorted(set(COMMAND.findall(PAGE.read_text("utf-8"))))


def test_the_page_names_recipes_of_every_stage() -> None:
    assert {stage for stage, _ in NAMED} == {"pretrain", "finetune", "study"}
    assert set(shipped_recipes("study")) - {"demo", "covariates"} == {name for stage, name in NAMED if stage == "study"}


def test_every_study_is_described() -> None:
    text = (PAGE.parent / "studies.md").read_text("utf-8")
    assert [name for name in shipped_recipes("study") if f"| `{name}` |" not in text] == []


@pytest.mark.parametrize(("stage", "name"), NAMED)
def test_every_command_has_a_recipe(stage: str, name: str) -> None:
    assert name in shipped_recipes(stage)  # type: ignore[arg-type]
    load_recipe(stage, name)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(shipped_recipes("study")))
def test_every_run_of_a_shipped_study_has_a_recipe(name: str) -> None:
    for part in studies_of(load_recipe("study", name)).values():
        grid = Grid(part)
        assert len({job.folder for job in (*grid.before.values(), *grid.jobs, *grid.beside)}) >= len(grid.jobs)
        for job in grid.before.values():
            job.recipe.check()


def test_the_study_of_domains_takes_other_sets() -> None:
    """The command for OCT in study/krones.toml."""
    data = "set.data={manifest='OCT2017',importer='kermany',importer_options={}}"
    task = "set.task={kind='multiclass',targets=['label']}"
    grid = Grid(load_recipe("study", "krones", ["tests={}", data, task]))
    assert not grid.tests
    for job in grid.jobs:
        job.recipe.check()
        assert (job.recipe.data.importer, job.recipe.task.kind) == ("kermany", "multiclass")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(shipped_recipes("study")))
def test_every_network_of_a_shipped_study_can_be_made(name: str) -> None:
    grid = Grid(load_recipe("study", name))
    check_networks([*grid.before.values(), *grid.jobs])


SECTIONS = {
    "Model specifications", "Pre-training", "Per-task fine-tuning", "Feature similarity analysis",
    "Statistical analyses", "Benchmark specifications",
}  # fmt: skip
CITED = re.compile(r"Avram et al\.[^;.]*? 2024, Methods,((?:[\s#]*(?:,|and)?[\s#]*\"[^\"]+\")+)")


def test_sources_name_sections_that_the_paper_has() -> None:
    root = PAGE.parents[1]
    files = [f for part in ("slivit", "pretrain", "finetune", "study") for f in (root / part).rglob("*")]
    texts = {f: f.read_text("utf-8") for f in files if f.suffix in (".py", ".toml")}
    named = [
        (f, name) for f, text in texts.items() for part in CITED.findall(text) for name in re.findall('"([^"]+)"', part)
    ]
    assert len(named) > 20
    assert [(f, name) for f, name in named if name not in SECTIONS] == []
