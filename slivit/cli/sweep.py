"""The command that searches settings. Nothing heavy is imported before it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from slivit.cli.common import AGAIN, ClusterOption, user_errors


def add_commands(app: typer.Typer) -> None:
    """Put `sweep` beside the other commands."""
    app.command()(sweep)


def sweep(
    recipe: Annotated[str, typer.Argument(help="A sweep's TOML file, or the name of a shipped one.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, such as trials=50 or set.data.manifest=scans.csv."),
    ] = None,
    cluster: ClusterOption = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin anew where another sweep lies.")] = False,
) -> None:
    """Search for the settings that do best on validation rows; called again, it goes on."""
    from slivit.experiments.sweep import run
    from slivit.recipe import load_recipe

    with user_errors(AGAIN):
        typer.echo(run(load_recipe("sweep", recipe, overrides or ()), cluster=cluster, overwrite=overwrite))
