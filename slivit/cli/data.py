"""Commands that prepare scans and look after the cache. Nothing heavy is imported before a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slivit.cli.common import AGAIN, ClusterOption, user_errors
from slivit.errors import SlivitError

if TYPE_CHECKING:
    from slivit.data.cache import CacheInfo, Group

CacheFolder = Annotated[Path, typer.Argument(help="The folder that a recipe names in data.cache.", show_default=False)]


def add_commands(app: typer.Typer) -> None:
    """Put `prepare` and `cache` beside the other commands."""
    app.command()(prepare)
    cache = typer.Typer(help="Look at, or empty, a cache of preprocessed slices.", no_args_is_help=True)
    cache.command("info")(cache_info)
    cache.command("clear")(cache_clear)
    app.add_typer(cache, name="cache")


def prepare(
    target: Annotated[str, typer.Argument(metavar="RECIPE|MANIFEST", help="A training recipe, or a CSV of scans.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, such as model.name=slivit.")
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Where slices are kept, in place of data.cache.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that read, in place of data.workers.")] = None,
    limit_gb: Annotated[float | None, typer.Option(min=0, help="Size limit, in place of data.cache_gb.")] = None,
    cluster: ClusterOption = "",
    stage: Annotated[str, typer.Option(help="The recipe's stage: finetune or pretrain.")] = "finetune",
) -> None:
    """Read and preprocess every scan once, so that training starts at full speed."""
    import json

    from slivit.train.prepare import recipe_for, run

    options: dict[str, Any] = {"cache": cache and str(cache), "workers": workers, "cache_gb": limit_gb}
    given = [f"data.{key}={json.dumps(value)}" for key, value in options.items() if value is not None]
    with user_errors(AGAIN):
        if stage not in ("finetune", "pretrain"):
            raise SlivitError(f'--stage must be "finetune" or "pretrain", got "{stage}"')
        counts = run(recipe_for(target, [*(overrides or ()), *given], stage), cluster=cluster)  # type: ignore[arg-type]
        if counts.failed:
            raise SlivitError(f"{len(counts.failed)} of {_total(counts)} scans cannot be read; see above")


def _total(counts: Any) -> int:
    return counts.built + counts.kept + len(counts.failed)


def cache_info(folder: CacheFolder) -> None:
    """Say what a cache holds, by preprocessing."""
    from slivit.data.cache import open_cache

    with user_errors():
        info = open_cache(folder).info()
        for line in _lines(info):
            typer.echo(line)


def cache_clear(
    folder: CacheFolder,
    unused_days: Annotated[
        float | None, typer.Option(min=0, help="Only what was not used for this many days; everything if absent.")
    ] = None,
) -> None:
    """Remove preprocessed slices; they are made again when they are needed."""
    from slivit.data.cache import open_cache
    from slivit.files import size_text

    with user_errors():
        typer.echo(f"{size_text(open_cache(folder).clear(unused_days))} freed")


def _lines(info: CacheInfo) -> list[str]:
    from slivit.files import size_text

    total = f"{info.folder}: {info.scans} scans, {size_text(info.bytes)}"
    partial = [f"  {size_text(info.partial_bytes)} half written"] if info.partial_bytes else []
    return [total, *(f"  {_line(group)}" for group in info.groups), *partial]


def _line(group: Group) -> str:
    """One preprocessing in a line: its entries, when they were used, and the settings that are not the default."""
    from datetime import datetime

    from slivit.data.preprocessing import Preprocessing
    from slivit.files import size_text

    used = f"{datetime.fromtimestamp(group.used):%Y-%m-%d %H:%M}"
    size = " x ".join(str(n) for n in group.settings.get("size") or ())
    plain = Preprocessing().model_dump(mode="json")
    changed = {k: v for k, v in group.settings.items() if k != "size" and v != plain.get(k)}
    options = ", ".join([size, *(f"{k} {v}" for k, v in changed.items())])
    old = "" if group.current else "; made by another version of slivit, and no longer used"
    return f"{group.scans} scans, {size_text(group.bytes)}, last used {used}: {options}{old}"
