"""The command of the fixed public protocols. Nothing heavy is imported before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slivit.cli.common import user_errors


def add_commands(app: typer.Typer) -> None:
    """Put `bench` beside the other commands."""
    app.command()(bench)


def bench(
    protocol: Annotated[str | None, typer.Argument(help="One of those that the command alone lists.")] = None,
    runs: Annotated[list[Path] | None, typer.Argument(metavar="[RUN]...", help="Finished runs, one a seed.")] = None,
    name: Annotated[str, typer.Option(help="What the row is called.")] = "ours",
    page: Annotated[
        Path | None, typer.Option(metavar="PAGE.md", help="A leaderboard to put the row into; shown alone if absent.")
    ] = None,
) -> None:
    """Make finished runs a row of a leaderboard: fixed public scans, split and metric, beside published numbers.

    Without RUN it shows how to make one; without PROTOCOL it lists the protocols.
    """
    with user_errors():
        from slivit.experiments import bench as room

        if protocol is None:
            for one in room.protocols().values():
                typer.echo(f"{one.name:20} {one.metric:8} {one.title}; {one.source}")
            return
        chosen = room.find_protocol(protocol)
        if not runs:
            lines = [f"published: {r['method']} {r['value']} ({r['source']})" for r in room.published(protocol)]
            for line in [chosen.title, *room.how_to(chosen), *lines]:
                typer.echo(line)
            return
        row = room.row_of(chosen, name, runs)
        typer.echo(f"{chosen.name} {name}: {row['metric']} {row['value']:.3f}, {len(row['runs'])} seeds")
        if page is not None:
            typer.echo(room.add_row(page, row))
