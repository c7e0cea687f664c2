"""The register of importers: a name, one line about it, and a function from a folder to a table of scans."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pandas as pd
from pydantic import TypeAdapter, ValidationError

from slivit.errors import ManifestError, nearest, no_text, one_of
from slivit.plugins import load_plugins

Importer = Callable[..., pd.DataFrame]


@dataclass(frozen=True)
class ImporterSpec:
    """A registered importer.

    Args:
        name: the name under which it is called.
        description: what it lists, in one line.
        run: the function `(root: Path, **options) -> DataFrame`.
    """

    name: str
    description: str
    run: Importer

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """The options of the function, by name."""
        return {k: p for k, p in inspect.signature(self.run).parameters.items() if k != "root"}

    @property
    def help(self) -> str:
        """What the function does and takes, for the command line."""
        return inspect.getdoc(self.run) or self.description


_IMPORTERS: dict[str, ImporterSpec] = {}


def importer(name: str, description: str) -> Callable[[Importer], Importer]:
    """Register a function `(root: Path, *, option=default, ...) -> DataFrame` as the importer `name`.

    The frame has `path` (absolute), `patient`, the targets, where the data set has an official one `split`, and any
    other columns; `finished` of `common.py` adds the task that the targets suggest and the notes for the user.
    """

    def keep(function: Importer) -> Importer:
        if name in _IMPORTERS:
            raise ValueError(f"importer {name!r} is registered twice")
        _IMPORTERS[name] = ImporterSpec(name, description, function)
        return function

    return keep


def list_importers() -> list[ImporterSpec]:
    """All registered importers, by name."""
    package = importlib.import_module("slivit.data.importers")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"slivit.data.importers.{module.name}")
    load_plugins()
    return [_IMPORTERS[name] for name in sorted(_IMPORTERS)]


def importer_spec(name: str) -> ImporterSpec:
    """The importer of that name.

    Raises:
        ManifestError: no such importer; the nearest one is named.
    """
    names = [spec.name for spec in list_importers()]
    if name not in names:
        raise ManifestError(f'there is no importer "{name}".{nearest(name, names)} There are {one_of(names)}.')
    return _IMPORTERS[name]


def run_importer(spec: ImporterSpec, root: Path, options: Mapping[str, Any]) -> pd.DataFrame:
    """Call an importer with options that may be text, as a command line gives them ("true", "a,b").

    Raises:
        ManifestError: an unknown option, a value of the wrong type, or what the importer finds wrong.
    """
    hints = get_type_hints(spec.run)
    for key in options:
        if key not in spec.options:
            allowed = one_of(spec.options) or "no options"
            raise ManifestError(f'{spec.name} has no option "{key}".{nearest(key, spec.options)} It takes {allowed}.')
    given = {key: _converted(spec.name, key, value, hints[key]) for key, value in options.items()}
    try:
        return spec.run(root, **given)
    except UnicodeEncodeError as error:
        raise ManifestError(f"{spec.name}: {no_text(str(error.object)) or error}") from error


def _converted(name: str, key: str, value: Any, hint: Any) -> Any:
    if isinstance(value, str) and "tuple" in str(hint):
        value = tuple(part.strip() for part in value.split(",") if part.strip())
    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as err:
        reasons = "; ".join(e["msg"] for e in err.errors())
        raise ManifestError(f"{name}: option {key} is {value!r}: {reasons}") from None
