"""The register of self-supervised methods: a name, and the function that makes its pretext for a model."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, TypeVar

from slivit.errors import ModelError, nearest, one_of
from slivit.plugins import load_plugins
from slivit.settings import call_checked, settings_of

if TYPE_CHECKING:
    from torch import nn

    from slivit.ssl.pretext import Pretext

Factory = TypeVar("Factory", bound=Callable[..., Any])
_FACTORIES: dict[str, Callable[..., Any]] = {}


def register_pretext(factory: Factory) -> Factory:
    """Register a factory `(model, **settings) -> Pretext` under its own name; settings are keywords with defaults.

    Example:
        >>> @slivit.register_pretext  # doctest: +SKIP
        ... def my_method(model, *, temperature=0.1):
        ...     return MyPretext(model, temperature)
    """
    if factory.__name__ in _FACTORIES:
        raise ValueError(f"pretext {factory.__name__!r} is registered twice")
    _FACTORIES[factory.__name__] = factory
    return factory


def _load_methods() -> None:
    package = importlib.import_module("slivit.ssl")
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_") and not module.ispkg:
            importlib.import_module(f"slivit.ssl.{module.name}")
    load_plugins()


def list_pretexts() -> list[str]:
    """The names of all self-supervised methods, sorted.

    Example:
        >>> "simclr" in slivit.list_pretexts()
        True
    """
    _load_methods()
    return sorted(_FACTORIES)


def describe_pretexts() -> dict[str, str]:
    """What each self-supervised method is, in a line, by its name: the title of the module that holds it."""
    modules = {name: inspect.getmodule(_FACTORIES[name]) for name in list_pretexts()}
    return {name: (module.__doc__ or "").splitlines()[0].rstrip(".") for name, module in modules.items() if module}


def create_pretext(name: str, model: nn.Module, **settings: Any) -> Pretext:
    """Make the pretext of a method for a model whose backbone it is to pre-train.

    Args:
        name: one of `list_pretexts()`.
        model: from `slivit.create_model`; the method says which kinds of backbone it takes.
        **settings: the method's own settings.

    Raises:
        ModelError: an unknown method or setting, a value that is not allowed, or a model that does not fit.

    Example:
        >>> model = slivit.create_model("image_classifier", 1, backbone="resnet10t", image_size=32, stride=16)
        >>> pretext = slivit.create_pretext("simclr", model)
    """
    check_pretext(name, settings)
    return call_checked(name, _FACTORIES[name], model, **settings)


def check_pretext(name: str, settings: Collection[str] = ()) -> None:
    """Check that there is a method, and that it has settings of such names.

    Raises:
        ModelError: an unknown method or setting; the nearest one is named.
    """
    _load_methods()
    if name not in _FACTORIES:
        raise ModelError(
            f'there is no pre-training method "{name}".{nearest(name, _FACTORIES)} There are {one_of(_FACTORIES)}.'
        )
    allowed = [p for p in settings_of(_FACTORIES[name]) if p != "model"]
    for key in settings:
        if key not in allowed:
            raise ModelError(f'{name} has no setting "{key}".{nearest(key, allowed)} It has {one_of(allowed)}.')
