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
    assert set(shipped_recipes("study")) - {"demo"} == {name for stage, name in NAMED if stage == "study"}


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


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(shipped_recipes("study")))
def test_every_network_of_a_shipped_study_can_be_made(name: str) -> None:
    grid = Grid(load_recipe("study", name))
    check_networks([*grid.before.values(), *grid.jobs])
