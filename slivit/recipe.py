"""Typed recipes: what a stage does, as a TOML file with `key=value` overrides, every problem reported in one error."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from slivit.errors import RecipeError, gather, nearest, one_of
from slivit.settings import Section

Stage = Literal["pretrain", "finetune", "evaluate", "probe", "sweep", "study"]


TABLES = (".csv", ".tsv", ".xlsx", ".xls", ".ods")
RECIPES: dict[str, str] = {
    "pretrain": "slivit.train.recipe:PretrainRecipe",
    "mixed": "slivit.train.recipe:MixedRecipe",
    "selfsupervised": "slivit.ssl.recipe:SelfSupervisedRecipe",
    "finetune": "slivit.train.recipe:FinetuneRecipe",
    "evaluate": "slivit.evaluate.recipe:EvaluateRecipe",
    "probe": "slivit.probing.recipe:ProbeRecipe",
    "sweep": "slivit.experiments.recipe_sweep:SweepRecipe",
    "study": "slivit.experiments.recipe_study:StudyRecipe",
}
"""Where each kind of recipe is declared: in the room that runs it, imported when it is asked for."""

Recipe = TypeVar("Recipe", bound=Section)


def recipe_folders(stage: Stage) -> list[Path]:
    """Where shipped recipes lie: inside the installed package, or in the stage's folder of a clone."""
    package = Path(__file__).parent
    return [f for f in (package / "recipes" / stage, package.parent / stage) if f.is_dir()]


def shipped_recipes(stage: Stage) -> dict[str, Path]:
    """The shipped recipes of a stage by name."""
    files = [p for folder in recipe_folders(stage) for p in sorted(folder.glob("*.toml"))]
    return {p.stem: p for p in reversed(files)}


def find_recipe(stage: Stage, name: str) -> Path:
    """The file of a recipe, given by its path or by the name of a shipped one.

    Raises:
        RecipeError: neither a file nor a shipped recipe.
    """
    path = Path(name)
    if path.is_file() and path.suffix.lower() not in TABLES:
        return path
    shipped = shipped_recipes(stage)
    if name in shipped:
        return shipped[name]
    _not_scans(stage, path)
    known = one_of(sorted(shipped)) or "none"
    raise RecipeError(f'no recipe "{name}": no such file, and shipped for {stage} are {known}.{nearest(name, shipped)}')


def _not_scans(stage: Stage, path: Path) -> None:
    """Name the command that would work where scans are given in place of a recipe.

    Raises:
        RecipeError: a table, or a folder.
    """
    if not path.is_dir() and not (path.is_file() and path.suffix.lower() in TABLES):
        return
    what = "folder" if path.is_dir() else "table"
    text = f"{path}: is a {what}, and slivit {stage} takes a recipe (slivit list recipes)"
    if stage == "finetune":
        text += (
            f". slivit auto {path} goes from labelled scans to a model by itself; or: slivit finetune small_scans "
            f"data.manifest={path} \"task.targets=['COLUMN']\""
        )
    raise RecipeError(text)


def load_recipe(stage: Stage, name: str | Path, overrides: Sequence[str] = ()) -> Any:
    """Read and check a recipe.

    Args:
        stage: "pretrain", "finetune", "evaluate", "sweep" or "study".
        name: a TOML file, or the name of a shipped recipe.
        overrides: "key=value" with dotted keys, such as "fit.epochs=5"; values as in TOML, bare words are text.

    Returns:
        The recipe of that stage, such as a `FinetuneRecipe`; for pre-training a `SelfSupervisedRecipe` where `method`
        is not "supervised".

    Raises:
        RecipeError: every problem of the recipe at once.

    Example:
        >>> recipe = slivit.load_recipe("finetune", "slivit_oct", ["data.manifest=scans.csv", "fit.epochs=5"])
        >>> recipe.fit.epochs, recipe.model.name
        (5, 'slivit')
    """
    path = find_recipe(stage, str(name))
    values = read_values(path)
    for override in overrides:
        apply_override(values, override)
    return check_recipe(recipe_kind(stage, values), values, str(path))


def read_values(path: Path) -> dict[str, Any]:
    """Read a recipe's plain values, unchecked.

    Raises:
        RecipeError: not a TOML file.
    """
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{path}: not a TOML file: {error}") from error


def recipe_kind(stage: Stage, values: Mapping[str, Any]) -> type[Section]:
    """The kind of recipe that plain values are meant for: pre-training is of three kinds, by its `method`."""
    method = values.get("method", "supervised") if stage == "pretrain" else "supervised"
    kind = stage if method == "supervised" else "mixed" if method == "mixed" else "selfsupervised"
    return recipe_class(kind)


def recipe_class(kind: str) -> type[Section]:
    """The class of a kind of recipe, by its name in `RECIPES`."""
    return _named(RECIPES[kind])


def _named(home: str) -> Any:
    module, _, name = home.partition(":")
    return getattr(import_module(module), name)


def runner(recipe: Any) -> Callable[..., Path]:
    """What trains by a recipe: `run(recipe, resume=False, overwrite=False)` gives the run's folder."""
    return _named(recipe.runner)


def finetune(recipe: Any, *, resume: bool = False, overwrite: bool = False) -> Path:
    """Fine-tune a model on labelled volumes, test it, and save it.

    Args:
        recipe: from `load_recipe("finetune", ...)`.
        resume: go on with a run that died.
        overwrite: replace a run in the same folder.

    Returns:
        The run's folder: recipe, split, history, checkpoint, predictions, metrics, versions, log; see `slivit.Run`.

    Raises:
        SlivitError: whatever is wrong with the recipe or the scans, before anything is trained.

    Example:
        >>> run = slivit.finetune(slivit.load_recipe("finetune", "slivit_oct"))  # doctest: +SKIP
    """
    return _run("finetune", recipe, resume, overwrite)


def pretrain(recipe: Any, *, resume: bool = False, overwrite: bool = False) -> Path:
    """Pre-train a backbone: on labelled images of one or several sets, or on scans without labels.

    Args:
        recipe: from `load_recipe("pretrain", ...)`.
        resume: go on with a run that died.
        overwrite: replace a run in the same folder.

    Returns:
        The run's folder; give it as `model.weights` to a fine-tuning recipe.

    Raises:
        SlivitError: whatever is wrong with the recipe or the scans, before anything is trained.

    Example:
        >>> run = slivit.pretrain(slivit.load_recipe("pretrain", "kermany_oct"))  # doctest: +SKIP
    """
    return _run("pretrain", recipe, resume, overwrite)


def _run(stage: Stage, recipe: Any, resume: bool, overwrite: bool) -> Path:
    if getattr(recipe, "stage", "") != stage:
        raise RecipeError(
            f'this is no recipe of {stage}, but a {type(recipe).__name__}; see load_recipe("{stage}", ...)'
        )
    return runner(recipe)(recipe, resume=resume, overwrite=overwrite)


def check_recipe(kind: type[Recipe], values: Mapping[str, Any], where: str) -> Recipe:
    """Make a recipe of plain values.

    Raises:
        RecipeError: every problem at once, each with the key, what was given, and what is allowed.
    """
    gather([f"{key} holds a null byte, which no name does" for key in _null_bytes(values)], where, RecipeError)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        gather([_problem(kind, e) for e in error.errors()], where, RecipeError)
        raise


def _null_bytes(values: Any, key: str = "recipe") -> Iterator[str]:
    if isinstance(values, Mapping):
        for name, value in values.items():
            yield from _null_bytes(value, str(name) if key == "recipe" else f"{key}.{name}")
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _null_bytes(value, key)
    elif isinstance(values, str) and "\0" in values:
        yield key


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set one "key=value" in a table of plain values; the key may be dotted.

    Raises:
        RecipeError: no key, or a key below something that is no section.
    """
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f'"{override}" is not an override; write key=value, such as fit.epochs=5')
    *sections, last = key.strip().split(".")
    table = values
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise RecipeError(f'"{override}": {section} is a value, not a section')
    table[last] = parse_value(text.strip())


def parse_value(text: str) -> Any:
    """Read a value as TOML does; what is not TOML is text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def _problem(kind: type[BaseModel], error: Any) -> str:
    """One pydantic error in words."""
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        allowed = list(_fields_at(kind, error["loc"][:-1]))
        return f'unknown key "{key}".{nearest(str(error["loc"][-1]), allowed)} Allowed here are {one_of(allowed)}.'
    if error["type"] == "missing":
        return f'"{key}" is missing'
    message = error["msg"].removeprefix("Value error, ")
    given = "" if isinstance(error["input"], dict) else f" (given: {error['input']!r})"
    return f"{key}: {message[:1].lower()}{message[1:]}{given}"


def _fields_at(kind: type[BaseModel], location: Sequence[Any]) -> Iterator[str]:
    """The field names of the section at `location`."""
    for part in location:
        annotation = kind.model_fields[part].annotation if part in kind.model_fields else None
        options = [annotation, *get_args(annotation)]
        kind = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), kind)
    yield from kind.model_fields


def resolved_toml(recipe: BaseModel) -> str:
    """A recipe with all its defaults, as TOML that `load_recipe` reads back to the same recipe."""
    return toml_text(recipe.model_dump(mode="json"))


def toml_text(table: Mapping[str, Any]) -> str:
    """Plain values as TOML, which has no null: what is None is left out, and its absence means the same."""
    import tomli_w

    def known(table: Mapping[str, Any]) -> dict[str, Any]:
        return {k: known(v) if isinstance(v, Mapping) else v for k, v in table.items() if v is not None}

    return tomli_w.dumps(known(table))
