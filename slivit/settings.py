"""The ranges of values that settings have, and in words what is wrong with settings that do not keep to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import is_dataclass
from functools import partial
from inspect import Parameter, Signature, signature
from types import SimpleNamespace
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, validate_call

from slivit.errors import ModelError

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Whole = Annotated[int, Field(ge=0)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]


def rising(pair: tuple[float, float]) -> tuple[float, float]:
    """A range as it is.

    Raises:
        ValueError: its first number is above its second.
    """
    if pair[0] > pair[1]:
        raise ValueError("should be the smallest and the largest value, in this order")
    return pair


def apart(pair: tuple[float, float]) -> tuple[float, float]:
    """A range as it is.

    Raises:
        ValueError: its first number is not below its second.
    """
    if pair[0] >= pair[1]:
        raise ValueError("should be a low and a high value, the low one first")
    return pair


Shares = Annotated[tuple[Share, Share], AfterValidator(rising)]
Positives = Annotated[tuple[Positive, Positive], AfterValidator(rising)]
Percent = Annotated[float, Field(ge=0, le=100)]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
"""In what numbers a network computes; "auto" is the fastest that the device has, see `slivit.device`."""
Percents = Annotated[tuple[Percent, Percent], AfterValidator(apart)]

WORDS = {
    "Value error, ": "",
    "Input should be": "should be",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
}


class Section(BaseModel):
    """A part of a recipe: unknown keys are errors, and nothing changes after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def changed(section: BaseModel, *names: str) -> list[str]:
    """The keys of a section (or of the names alone) whose value is not the default."""
    fields = type(section).model_fields
    return [
        name
        for name in names or fields
        if getattr(section, name) != fields[name].get_default(call_default_factory=True)
    ]


def settings_of(factory: Callable[..., Any]) -> dict[str, Parameter]:
    """What a factory takes, by name and with types that can be checked.

    An argument whose type is a dataclass is a group of settings that several factories share: its fields stand for it.
    """
    parameters: dict[str, Parameter] = {}
    types = _types_of(factory)
    for name, parameter in signature(factory).parameters.items():
        kind = types.get(name, Any)
        parameters |= settings_of(kind) if _is_group(kind) else {name: parameter.replace(annotation=kind)}
    return parameters


def call_checked(name: str, factory: Callable[..., Any], *args: Any, **settings: Any) -> Any:
    """Call a factory with settings that must be of the types and in the ranges that its annotations say.

    Args:
        name: of the factory, for the message.
        factory: what is called; arguments without an annotation that can be read are not looked at.
        *args: its positional arguments.
        **settings: its keyword arguments, as `settings_of` names them. A whole number is a float too, and the list of a
            recipe is a tuple where one is meant, but no text is a number.

    Raises:
        ModelError: every setting that does not keep to them, with what was given.
    """
    groups = {key: kind for key, kind in _types_of(factory).items() if _is_group(kind)}
    parameters = settings_of(factory)

    def flat(*args: Any, **settings: Any) -> Any:
        made = {key: kind(**{own: settings.pop(own) for own in settings_of(kind)}) for key, kind in groups.items()}
        return factory(*args, **settings, **made)

    types = flat.__annotations__ = {key: parameter.annotation for key, parameter in parameters.items()}
    flat.__signature__ = Signature(list(parameters.values()))  # type: ignore[attr-defined]
    settings = {key: _tuple_where_meant(types.get(key), value) for key, value in settings.items()}
    config = ConfigDict(strict=True, arbitrary_types_allowed=True)
    try:
        return validate_call(config=config)(flat)(*args, **settings)
    except ValidationError as error:
        raise ModelError(f"{name}: {'; '.join(problems(error))}") from error


def _tuple_where_meant(annotation: Any, value: Any) -> Any:
    """TOML and JSON have lists alone."""
    meant = get_origin(annotation) is tuple or any(get_origin(option) is tuple for option in get_args(annotation))
    return tuple(value) if isinstance(value, list) and meant else value


def _is_group(kind: Any) -> bool:
    return isinstance(kind, type) and is_dataclass(kind)


def _types_of(factory: Callable[..., Any]) -> dict[str, Any]:
    """A factory's annotations as types; anything goes where only a type checker knows a name."""
    if _is_group(factory):
        return get_type_hints(factory, include_extras=True)
    function: Any = factory.func if isinstance(factory, partial) else factory
    function = function.__init__ if isinstance(function, type) else function  # type: ignore[misc]
    types: dict[str, Any] = {}
    for name, annotation in getattr(function, "__annotations__", {}).items():
        one = SimpleNamespace(__annotations__={name: annotation})
        try:
            types |= get_type_hints(one, getattr(function, "__globals__", {}), include_extras=True)
        except NameError:
            types[name] = Any
    return types | {"return": Any}


def problems(error: ValidationError) -> list[str]:
    """One sentence a setting; a value that is of none of several types has them all in one."""
    messages: dict[str, list[str]] = {}
    given: dict[str, Any] = {}
    for problem in error.errors():
        key, *inner = problem["loc"]
        where = ".".join([str(key), *(str(part) for part in inner if isinstance(part, int))])
        messages.setdefault(where, []).append(_shorter(problem["msg"]))
        given[where] = problem["input"]
    return [f"{where}: {' or '.join(dict.fromkeys(said))}, got {given[where]!r}" for where, said in messages.items()]


def _shorter(message: str) -> str:
    """pydantic's message as the other messages of this package are worded."""
    for theirs, ours in WORDS.items():
        message = message.replace(theirs, ours)
    return message
