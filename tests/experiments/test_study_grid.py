"""The grid of a study: its runs, what each is made of, and what does not fit together."""

import pytest

from slivit.errors import RecipeError
from slivit.experiments import study
from slivit.experiments.study_grid import Grid, chosen, layered
from slivit.recipe import load_recipe, shipped_recipes


def test_the_grid_is_every_combination_but_those_left_out(make_study):
    grid = Grid(make_study())
    assert len(grid.jobs) == (2 * 2 - 1) * 2 * 2
    assert len({job.folder for job in grid.jobs}) == len(grid.jobs)
    assert {(e["model"], e["start"], e["why"]) for e in grid.excluded} == {("resnet3d_18", "video", "no such weights")}
    assert [job.seed for job in grid.jobs] == sorted(job.seed for job in grid.jobs), "the first seed comes first"
    assert {(j.recipe.seed, j.recipe.data.train_fraction) for j in grid.jobs} == {
        (s, f) for s in (0, 1) for f in (1, 0.25)
    }


def test_a_model_has_its_own_arguments_and_the_start_alone_gives_weights(make_study, study_base):
    jobs = {(j.model, j.start): j.recipe for j in Grid(make_study()).jobs}
    assert jobs["slivit", "random"].model.weights == ""
    assert jobs["slivit", "video"].model.weights == "video.pth"
    assert jobs["slivit", "random"].model.args == load_recipe("finetune", study_base).model.args
    assert jobs["resnet3d_18", "random"].model.args == {"slices": 4, "image_size": 32, "width": 8}
    assert jobs["resnet3d_18", "random"].fit.batch_size == 2
    assert jobs["slivit", "random"].fit.batch_size != 2


def test_without_starts_a_model_starts_as_the_recipe_says(make_study):
    jobs = {j.model: j for j in Grid(make_study(starts={}, exclude=[], reference={"model": "slivit"})).jobs}
    assert jobs["slivit"].recipe.model.weights == "some.pth"
    assert jobs["resnet3d_18"].recipe.model.weights == ""


def test_sections_are_merged_and_what_stands_in_them_is_replaced():
    found = layered({"a": {"x": {"deep": 1}, "y": 2}, "b": 1}, {"a": {"x": {"other": 3}}, "b": 2})
    assert found == {"a": {"x": {"other": 3}, "y": 2}, "b": 2}


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"fractions": [0.5, 0.5]}, "fractions are repeated"),
        ({"fractions": [1.5]}, "1 at most"),
        ({"models": {"a/b": {}}, "exclude": [], "reference": None, "starts": {}}, "name of a folder"),
        ({"exclude": [{"models": ["resnet"], "why": "x"}]}, 'Did you mean "resnet3d_18"'),
        ({"exclude": [{"why": "x"}]}, "would leave out all"),
        ({"reference": {"model": "slivit", "start": "vide"}}, 'Did you mean "video"'),
        ({"starts": {"a": {"before": {"recipe": "demo", "stage": "finetune", "start": "a"}}}, "exclude": [],
          "reference": None}, "comes before itself"),
        ({"starts": {"a": {"before": {"recipe": "demo", "shared": True, "start": "a"}}}}, "takes no start"),
        ({"metrics": "roc_auc"}, "metrics"),
    ],
)  # fmt: skip
def test_a_study_that_does_not_fit_together_is_told(make_study, changes, part):
    with pytest.raises(ValueError, match=part):
        make_study(**changes)


def test_all_problems_of_all_recipes_are_told_at_once(make_study, tmp_path):
    wrong = {"slivit": {"set": {"fit": {"epoch": 3}}}, "resnet3d_18": {"set": {"data": {"worker": 1}}}}
    with pytest.raises(RecipeError) as told:
        Grid(make_study(models=wrong)).jobs  # noqa: B018
    assert 'Did you mean "epochs"' in str(told.value)
    assert 'Did you mean "workers"' in str(told.value)
    wrong = {"slivit": {}, "resnet3d_18": {"set": {"model": {"widht": 8}}}}
    with pytest.raises(RecipeError, match='takes no argument "widht"'):
        study.check_networks(Grid(make_study(models=wrong)).jobs)


@pytest.mark.parametrize("only", ["modle=slivit", "model=slivt", "slivit"])
def test_only_names_what_is_there(make_study, only):
    with pytest.raises(RecipeError, match=r"Did you mean|write AXIS"):
        chosen(Grid(make_study()).jobs, [only])


@pytest.mark.parametrize("name", sorted(shipped_recipes("study")))
def test_shipped_studies_are_whole(name):
    recipe = load_recipe("study", name)
    grid = Grid(recipe)
    assert grid.jobs
    assert all(job.needs is None or job.needs in grid.before for job in grid.jobs)
    from slivit.models.registry import list_models

    assert {network for network, _ in study.networks(grid.jobs)} <= set(list_models())
