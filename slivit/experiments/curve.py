"""Label efficiency: the study of one recipe whose axes are the share of the labels and the seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from slivit.errors import RecipeError
from slivit.experiments.recipe_study import StudyRecipe
from slivit.experiments.study_grid import RUNS
from slivit.files import write_text
from slivit.folder.lock import make_folder
from slivit.recipe import check_recipe, resolved_toml
from slivit.train.recipe import FinetuneRecipe

FRACTIONS, SEEDS = (0.1, 0.25, 0.5, 1.0), (0, 1, 2)
RECIPE, EARLIER = "finetune.toml", "curve.json"


def curve_study(
    recipe: FinetuneRecipe,
    out: str | Path,
    fractions: Sequence[float] = FRACTIONS,
    seeds: Sequence[int] = SEEDS,
) -> StudyRecipe:
    """The study that trains a recipe on nested subsets of its training patients, with several seeds.

    Args:
        recipe: from `load_recipe("finetune", ...)`; its `out`, `seed` and `data.train_fraction` are replaced. It is
            kept as `finetune.toml` in the folder.
        out: the folder of the study.
        fractions: of the training patients, above 0 and up to 1.
        seeds: of the training.

    Raises:
        RecipeError: fractions or seeds that cannot be used, or a folder of a curve that was no study yet.
    """
    folder = Path(out)
    if (folder / EARLIER).is_file() or any((folder / RUNS).glob("fraction_*")):
        raise RecipeError(
            f"{folder}: holds a curve of an earlier version, whose runs are called otherwise, so it cannot go on. Its "
            "page, tables and runs stay as they are; give another folder"
        )
    values = {"out": str(folder), "recipe": str(folder / RECIPE), "title": "", "models": {recipe.model.name: {}}}
    study = check_recipe(StudyRecipe, {**values, "fractions": [*fractions], "seeds": [*seeds]}, "the curve")
    write_text(make_folder(folder) / RECIPE, resolved_toml(recipe))
    return study
