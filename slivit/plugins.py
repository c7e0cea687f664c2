"""Packages of other people that add models, importers, pretexts, readers or phantoms.

A plugin is an installed distribution that names its modules under the entry points of `GROUPS`; importing them
registers what is in them. One is loaded only where it is installed and the user names it: in a recipe (`plugins`), by
the option `--plugin`, or in the environment. A checkpoint names the plugins that it was made with, and loads none.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from pydantic import model_validator

from slivit.errors import PluginError, nearest, one_of
from slivit.settings import Section

ENVIRONMENT = "SLIVIT_PLUGINS"
GROUPS = ("slivit.models", "slivit.importers", "slivit.pretexts", "slivit.readers", "slivit.phantoms")


@dataclass(frozen=True)
class Plugin:
    """An installed plugin.

    Args:
        name: of its distribution, as `pip install` takes it.
        version: of its distribution.
        modules: that it registers things in, by the entry points' group without "slivit.", such as "models".
    """

    name: str
    version: str
    modules: Mapping[str, tuple[str, ...]]


def installed_plugins() -> dict[str, Plugin]:
    """All plugins that are installed, loaded or not, by name."""
    plugins: dict[str, Plugin] = {}
    for group in GROUPS:
        for point in entry_points(group=group):
            if point.dist:
                name, kind = _plain(point.dist.name), group.removeprefix("slivit.")
                plugin = plugins.get(name) or Plugin(name, point.dist.version, {})
                modules = dict.fromkeys((*plugin.modules.get(kind, ()), point.module))
                plugins[name] = Plugin(name, plugin.version, {**plugin.modules, kind: tuple(modules)})
    return plugins


def name_plugins(names: Iterable[str]) -> None:
    """Have plugins loaded: by this process and, through its environment, by those that it starts.

    Args:
        names: of distributions ("slivit-cubes"), or of a module that one registers ("slivit_cubes.models").
    """
    named = dict.fromkeys((*_named(), *names))
    if named:
        os.environ[ENVIRONMENT] = ",".join(named)


def load_plugins() -> dict[str, str]:
    """Load the plugins that the user has named, each once.

    Returns:
        The version of each by name.

    Raises:
        PluginError: one that is not installed, or that cannot be imported.
    """
    return dict(_load(name) for name in _named())


def _named() -> Sequence[str]:
    return [name.strip() for name in os.environ.get(ENVIRONMENT, "").split(",") if name.strip()]


@cache
def _load(name: str) -> tuple[str, str]:
    known = installed_plugins()
    owners = {module: p.name for p in known.values() for modules in p.modules.values() for module in modules}
    plugin = known.get(owners.get(name, _plain(name)))
    if plugin is None:
        there = f"Installed are {one_of(known)}." if known else "None is installed."
        raise PluginError(f'plugin "{name}" is not installed.{nearest(name, known)} {there} Install it with pip.')
    for module in dict.fromkeys(m for modules in plugin.modules.values() for m in modules):
        try:
            with warnings.catch_warnings():  # else they would stand among the notes of the scan that is being read
                warnings.simplefilter("ignore", FutureWarning)
                warnings.simplefilter("ignore", DeprecationWarning)
                import_module(module)
        except ImportError as error:
            raise PluginError(f'plugin "{plugin.name}": its module {module} cannot be imported: {error}') from error
    return plugin.name, plugin.version


def _plain(name: str) -> str:
    """A distribution's name as it is compared: "Slivit_Cubes" is "slivit-cubes"."""
    return re.sub(r"[-_.]+", "-", name).lower()


def way_to(plugins: Mapping[str, str]) -> str:
    """In words, how plugins are had that something was made with.

    Args:
        plugins: version by name.
    """
    names = list(plugins)
    which = ", ".join(f"{name} {version}" for name, version in plugins.items())
    return (
        f"It was made with the plugins {which}; nothing of them is loaded unless you say so. Install them, if you "
        f"trust them, and name them: --plugin {' --plugin '.join(names)}, {ENVIRONMENT}={','.join(names)}, or "
        f"plugins = {names} in a recipe."
    )


class Plugged(Section):
    """A recipe that may use plugins.

    Args:
        plugins: the distributions that the recipe needs, such as "slivit-cubes"; see `slivit list plugins`.
    """

    plugins: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _load_them(cls, values: Any) -> Any:
        """Load them first, for the other keys may name what is in them."""
        if isinstance(values, Mapping) and isinstance(names := values.get("plugins"), list | tuple):
            name_plugins(str(name) for name in names)
            load_plugins()
        return values
