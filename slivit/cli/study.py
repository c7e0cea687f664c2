"""The command that runs a study. Nothing heavy is imported before it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from slivit.cli.common import AGAIN, ClusterOption, user_errors

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, such as seeds=[0] set.fit.epochs=5.")
]
Only = Annotated[
    list[str] | None,
    typer.Option(metavar="AXIS=VALUES", help="Make these runs alone, such as model=slivit,r3d_18; repeatable."),
]
Processes = Annotated[
    int | None, typer.Option(min=0, help="Runs at a time; one a GPU, or one, if absent. 0: in this process.")
]


def add_commands(app: typer.Typer) -> None:
    """Put `study` beside the other commands."""
    app.command()(study)


def study(
    recipe: Annotated[str, typer.Argument(help="A study: a TOML file, or the name of a shipped one.")],
    overrides: Overrides = None,
    processes: Processes = None,
    cluster: ClusterOption = "",
    only: Only = None,
    listed: Annotated[bool, typer.Option("--list", help="Show the runs and their state, and end.")] = False,
    so_far: Annotated[
        bool, typer.Option("--so-far", help="Compare finished runs although others are missing.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Train runs of other recipes there anew.")] = False,
) -> None:
    """Train a grid of models, initialisations, label fractions and seeds, and compare them.

    Called again, it goes on where it stopped. Ends with status 1 where a run failed.
    """
    from slivit.experiments.study import listing, run
    from slivit.recipe import load_recipe

    with user_errors(AGAIN):
        loaded = load_recipe("study", recipe, overrides or ())
        if listed:
            for line in listing(loaded, only or ()):
                typer.echo(line)
            return
        result = run(loaded, processes=processes, cluster=cluster, only=only or (), so_far=so_far, overwrite=overwrite)
        typer.echo(result.page or result.folder)
    raise typer.Exit(1 if result.failed else 0)
