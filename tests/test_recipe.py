import tomllib
from importlib import import_module

import pytest

from slivit.errors import RecipeError
from slivit.models.registry import list_models
from slivit.recipe import RECIPES, find_recipe, load_recipe, resolved_toml, shipped_recipes
from slivit.settings import settings_of
from slivit.ssl.registry import list_pretexts

SHIPPED = [(stage, name) for stage in RECIPES for name in shipped_recipes(stage)]
MINIMAL = 'out = "o"\n[data]\nmanifest = "m.csv"\n[task]\nkind = "binary"\ntargets = ["t"]\n'


@pytest.fixture
def minimal(tmp_path):
    path = tmp_path / "my.toml"
    path.write_text(MINIMAL)
    return path


@pytest.mark.parametrize(("stage", "name"), SHIPPED)
def test_shipped_recipes_are_valid_and_tell_how_to_run(stage, name, tmp_path):
    recipe = load_recipe(stage, name)
    text = find_recipe(stage, name).read_text()
    assert text.startswith("# ")
    if name != "demo":
        assert f"slivit {stage} {name}" in text
    if hasattr(recipe, "model"):
        assert recipe.model.name in list_models()
    again = tmp_path / "again.toml"
    again.write_text(resolved_toml(recipe))
    assert load_recipe(stage, again) == recipe


def test_scans_in_place_of_a_recipe_are_answered_with_the_command_that_works(tmp_path):
    table = tmp_path / "scans.csv"
    table.write_text("path,label\n")
    for given in (table, tmp_path):
        with pytest.raises(RecipeError, match=rf"slivit auto {given} .*finetune small_scans data\.manifest={given}"):
            find_recipe("finetune", str(given))
    with pytest.raises(RecipeError, match="is a table, and slivit pretrain takes a recipe"):
        find_recipe("pretrain", str(table))


def test_the_paper_s_experiments_ship():
    assert {"kermany_oct"} <= set(shipped_recipes("pretrain"))
    wanted = {"slivit_oct", "echo_ef", "echo_low_ef", "liver_pdff", "nodulemnist3d", "adrenalmnist3d"}
    assert wanted <= set(shipped_recipes("finetune"))
    assert "default" in shipped_recipes("evaluate")
    assert {"slivit_benchmarks", "video_pretraining", "initialisations", "demo"} <= set(shipped_recipes("study"))


@pytest.mark.parametrize("method", list_pretexts())
def test_every_method_ships_with_the_numbers_of_its_paper_and_with_small_ones(method):
    named = "vis_mae" if method == "swin_mae" else method
    for name in (named, f"{named}_small"):
        recipe = load_recipe("pretrain", name)
        assert recipe.method == method
        assert "# Source:" in find_recipe("pretrain", name).read_text()
        factory = getattr(import_module(f"slivit.ssl.{method}"), method)
        assert set(recipe.pretext.args) < set(settings_of(factory))


def test_overrides_are_typed(minimal):
    overrides = ["fit.lr=1e-4", "fit.epochs=5", "data.manifest=other.csv", "model.slices=16", "task.targets=['a']"]
    overrides += ["augmentation.crop=[0.5, 1.0]", "preprocessing.stretch=false", 'model.backbone="resnet18"']
    recipe = load_recipe("finetune", minimal, overrides)
    assert recipe.fit.lr == 1e-4
    assert recipe.fit.epochs == 5
    assert recipe.data.manifest == "other.csv"
    assert recipe.model.args == {"slices": 16, "backbone": "resnet18"}
    assert recipe.augmentation.crop == (0.5, 1.0)
    assert recipe.preprocessing.stretch is None
    assert recipe.task.targets == ("a",)


def test_every_problem_is_told_at_once(minimal):
    overrides = ["fit.epoch=5", "fit.batch_size=0", "data.fractions=[0.5]", "sed=3", "task.kind=binry"]
    with pytest.raises(RecipeError) as error:
        load_recipe("finetune", minimal, overrides)
    text = str(error.value)
    assert "5 problems" in text or text.count("  - ") >= 5
    for part in ['unknown key "fit.epoch". Did you mean "epochs"?', "fit.batch_size", "data.fractions",
                 'unknown key "sed". Did you mean "seed"?', "task.kind"]:  # fmt: skip
        assert part in text


def test_missing_keys_and_files(tmp_path, minimal):
    minimal.write_text('out = "o"\n')
    with pytest.raises(RecipeError, match='"data" is missing'):
        load_recipe("finetune", minimal)
    with pytest.raises(RecipeError, match='Did you mean "slivit_oct"'):
        load_recipe("finetune", "slivit_otc")
    minimal.write_text("out = \n")
    with pytest.raises(RecipeError, match="not a TOML file"):
        load_recipe("finetune", minimal)


@pytest.mark.parametrize(
    ("override", "told"),
    [("fit.epochs", "not an override"), ("=5", "not an override"), ("out.deep=1", "out is a value")],
)
def test_bad_overrides(minimal, override, told):
    with pytest.raises(RecipeError, match=told):
        load_recipe("finetune", minimal, [override])


def test_a_task_must_fit_its_kind(minimal):
    with pytest.raises(RecipeError, match="a binary task has one target column"):
        load_recipe("finetune", minimal, ["task.targets=['a', 'b']"])


def test_resolved_recipe_is_plain_toml(minimal):
    recipe = load_recipe("finetune", minimal, ["preprocessing.stretch=false"])
    values = tomllib.loads(resolved_toml(recipe))
    assert values["preprocessing"]["stretch"] is False
    assert values["fit"]["patience"] == 5


@pytest.mark.parametrize(
    ("recipe", "override", "told"),
    [
        ("simclr_small", "data.train_fraction=0.1", "data.train_fraction would do nothing"),
        ("simclr_small", "preprocessing.windows.stride=4", "belong to labelled scans"),
        ("mixed", "fit.oversample=true", "are for one labelled set"),
    ],
)
def test_keys_that_would_do_nothing_are_refused(recipe, override, told):
    with pytest.raises(RecipeError, match=told.replace(".", r"\.")):
        load_recipe("pretrain", recipe, [override])
