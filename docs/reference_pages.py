"""Pages of the reference that are made anew at every build, so that they cannot fall behind the code."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
OUT = Path(__file__).resolve().parent / "reference"
GROUPS = {
    "scans": ("Scans and tables", ("slivit.volume", "slivit.data", "slivit.phantoms")),
    "models": ("Models", ("slivit.models",)),
    "training": (
        "Tasks and training",
        ("slivit.targets", "slivit.train", "slivit.recipe", "slivit.ssl"),
    ),
    "using": ("Checkpoints, predictions, explanations", ("slivit",)),
}
"""The public names by the module that they live in; the first that fits takes a name."""


OUTSIDE = {"benchmarks/RESULTS.md": "results", "CHANGELOG.md": "changelog", "CONTRIBUTING.md": "contributing"}
"""Pages that lie elsewhere in the repository, and what they are called in the reference."""


def setup(app: Any) -> dict[str, bool]:
    """Write the pages before Sphinx looks for pages."""
    app.connect("builder-inited", lambda _: write_pages())
    app.connect("source-read", _with_links)
    return {"parallel_read_safe": True}


def _with_links(app: Any, name: str, source: list[str]) -> None:
    """Let links to pages outside of this folder lead to their copies."""
    for path, page in OUTSIDE.items():
        source[0] = source[0].replace(f"](../{path}", f"](reference/{page}.md")


def _moved(text: str) -> str:
    """A page of the repository's top, whose links lead from the reference to the guides; code is named, not linked."""
    return re.sub(r"\[([^\]]+)\]\((?:slivit|tests)/[^)]*\)", r"\1", text).replace("](docs/", "](../")


def write_pages() -> None:
    """Write every page of the reference that is not there, or not as it should be."""
    pages = {**dict(api_pages()), "recipe-keys": recipe_page(), "commands": command_page()}
    pages |= {page: _moved((ROOT / path).read_text("utf-8")) for path, page in OUTSIDE.items()}
    OUT.mkdir(exist_ok=True)
    for name, text in pages.items():
        file = OUT / f"{name}.md"
        if not file.is_file() or file.read_text("utf-8") != text:
            file.write_text(text, "utf-8")


def api_pages() -> Iterator[tuple[str, str]]:
    """The public names of `slivit`, by group."""
    from slivit import _HOMES

    left = dict(_HOMES)
    for page, (title, homes) in GROUPS.items():
        names = sorted(n for n, home in left.items() if any(f"{home}.".startswith(f"{h}.") for h in homes))
        left = {n: home for n, home in left.items() if n not in names}
        yield page, "\n".join([f"# {title}", "", *(_entry(name, _HOMES[name]) for name in names)])


def _entry(name: str, home: str) -> str:
    value = getattr(import_module(home), name)
    kind = "autoclass" if inspect.isclass(value) else "autofunction" if callable(value) else "autodata"
    members = "   :members:\n" if kind == "autoclass" else ""
    return f"## {name}\n\n```{{eval-rst}}\n.. {kind}:: slivit.{name}\n{members}```\n"


def recipe_page() -> str:
    """Every section of every recipe with its keys, defaults and what they mean."""
    from slivit.recipe import RECIPES, recipe_class

    lines = ["# Keys of recipes", "", "See [recipes](../recipes.md) for how to use them."]
    shown: dict[type[Any], str] = {}
    for stage in sorted(RECIPES, key=lambda name: name != "finetune"):
        lines += ["", f"## {stage}", "", *_section(recipe_class(stage), stage, shown)]
    return "\n".join(lines) + "\n"


def _section(kind: type[Any], stage: str, shown: dict[type[Any], str]) -> Iterator[str]:
    """A recipe's own keys, then its sections; one that was shown before is named alone."""
    sections = {n: f.annotation for n, f in kind.model_fields.items() if hasattr(f.annotation, "model_fields")}
    yield inspect.getdoc(kind).split("\n")[0]  # type: ignore[union-attr]
    yield ""
    yield from _table(kind, set(kind.model_fields) - set(sections))
    again = {name: section for name, section in sections.items() if section in shown}
    if again:
        yield "As above: " + ", ".join(f"`[{name}]` ({shown[section]})" for name, section in again.items()) + "."
        yield ""
    for name, section in sections.items():
        if name in again:
            continue
        shown[section] = stage
        yield f"### {stage}: [{name}]"
        yield ""
        yield from _table(section, set(section.model_fields))


def _table(kind: type[Any], names: set[str]) -> Iterator[str]:
    texts = meanings(kind)
    yield "| key | default | meaning |"
    yield "| --- | --- | --- |"
    for name, field in kind.model_fields.items():
        if name in names:
            default = "required" if field.is_required() else f"`{_default(field)}`"
            yield f"| `{name}` | {default} | {texts.get(name, '').replace('|', chr(92) + '|')} |"
    yield ""


def _default(field: Any) -> Any:
    value = field.get_default(call_default_factory=True)
    return "none" if value is None else json.dumps(value.model_dump() if hasattr(value, "model_dump") else value)


def meanings(kind: type[Any]) -> dict[str, str]:
    """The `Args` of a docstring by name, each as one line."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        text = inspect.cleandoc(base.__doc__ or "")
        lines = text.partition("Args:\n")[2].split("\n\n")[0].splitlines() if "Args:\n" in text else []
        name = ""
        for line in lines:
            if not line.startswith("     ") and ":" in line:
                name, _, rest = line.strip().partition(":")
                texts[name] = rest.strip()
            elif name:
                texts[name] += " " + line.strip()
    return texts


def command_page() -> str:
    """The help of every command."""
    import typer

    from slivit.cli import app

    lines = ["# Commands", ""]
    group: Any = typer.main.get_command(app)
    for name, command in sorted(group.commands.items()):
        parts = {name: command} | {f"{name} {n}": c for n, c in getattr(command, "commands", {}).items()}
        for title, part in parts.items():
            context = typer.Context(part, info_name=f"slivit {title}")
            lines += [f"{'##' if title == name else '###'} slivit {title}", "", *_help(part, context), ""]
    return "\n".join(lines)


def _help(command: Any, context: Any) -> Iterator[str]:
    """A command's purpose, its usage, and its arguments and options as a table."""
    yield inspect.cleandoc(command.help or "")
    yield ""
    usage = command.get_usage(context).removeprefix("Usage: ")
    yield f"    {usage.translate(str.maketrans('', '', '{}'))}"
    yield ""
    rows = [(_names(p), getattr(p, "help", "") or "") for p in command.params if p.name != "help"]
    if rows:
        yield "| | |"
        yield "| --- | --- |"
    for names, text in rows:
        yield f"| {names} | {text.replace('|', chr(92) + '|')} |".replace("\n", " ")


def _names(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.metavar or parameter.name.upper()}`".replace("|", "\\|")
    return ", ".join(f"`{name}`" for name in parameter.opts)
