"""What there is to choose from, as lines of text."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator

from slivit.errors import SlivitError, nearest, one_of
from slivit.recipe import RECIPES, shipped_recipes

SUPERVISED = {
    "supervised": "labelled images of one set",
    "mixed": "labelled images of several sets, each judged on its own outputs",
}


def lines(what: str) -> Iterator[str]:
    """The lines of one list.

    Args:
        what: "models", "methods", "recipes", "formats", "importers", "phantoms", "plugins" or "weights".

    Raises:
        SlivitError: no such list.
    """
    lists: dict[str, Callable[[], Iterator[str]]] = {
        "models": _models,
        "methods": _methods,
        "recipes": _recipes,
        "formats": _formats,
        "importers": _importers,
        "phantoms": _phantoms,
        "plugins": _plugins,
        "weights": _weights,
    }
    if what not in lists:
        raise SlivitError(f'there is no list of "{what}".{nearest(what, lists)} There are {one_of(lists)}.')
    return lists[what]()


def _models() -> Iterator[str]:
    from slivit.models.registry import list_models, model_spec

    for name in list_models():
        spec = model_spec(name)
        size = " x ".join(str(n) for n in spec.size)
        millions = f"{spec.parameters / 1e6:.1f} M" if spec.parameters else ""
        yield f"{name:26} {spec.takes:19} {size:14} {millions:>8}  {spec.licence}; {spec.source}"
        if spec.weights:
            yield f"{'':26} weights: {spec.weights}"


def _weights() -> Iterator[str]:
    from slivit.models._starts import fetched, starts

    for name, start in starts().items():
        here = "here" if fetched(start) else "gated" if start.gated else "by hand" if start.page else ""
        yield f"{name:20} {start.model:18} {here:8} {start.title}"
        yield f"{'':20} {start.terms}; {start.citation}; {start.address}"


def _methods() -> Iterator[str]:
    from slivit.ssl.registry import describe_pretexts

    for name, title in {**SUPERVISED, **describe_pretexts()}.items():
        yield f"{name:12} {title}"


def _recipes() -> Iterator[str]:
    for stage in RECIPES:
        for name, path in sorted(shipped_recipes(stage).items()):  # type: ignore[arg-type]
            text = path.read_text("utf-8")
            tomllib.loads(text)
            title = text.splitlines()[0].lstrip("# ")
            yield f"{stage:9} {name:28} {title}"


def _formats() -> Iterator[str]:
    from slivit.data.readers import supported_formats

    for name, description in supported_formats().items():
        yield f"{name:12} {description}"


def _importers() -> Iterator[str]:
    from slivit.data.importers import list_importers

    for spec in list_importers():
        yield f"{spec.name:16} {spec.description}"


def _phantoms() -> Iterator[str]:
    from slivit.phantoms import KINDS
    from slivit.plugins import load_plugins

    load_plugins()
    for name, description in KINDS.items():
        yield f"{name:12} {description}"


def _plugins() -> Iterator[str]:
    from slivit.plugins import installed_plugins, load_plugins

    loaded = load_plugins()
    for name, plugin in installed_plugins().items():
        state = "loaded" if name in loaded else "not loaded: name it with --plugin"
        yield f"{name:20} {plugin.version:10} {', '.join(plugin.modules)} ({state})"
