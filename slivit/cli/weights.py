"""The command that fetches published weights. Nothing heavy is imported before it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from slivit.cli.common import user_errors

if TYPE_CHECKING:
    from slivit.models._starts import Start

weights = typer.Typer(help="Weights of published networks.", no_args_is_help=True)


def add_commands(app: typer.Typer) -> None:
    """Put `weights` beside the other commands."""
    app.add_typer(weights, name="weights")


@weights.callback()
def _group() -> None:
    """Weights of published networks: slivit list weights shows them."""


@weights.command()
def get(
    names: Annotated[list[str], typer.Argument(help="Names of `slivit list weights`.")],
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="Accept the terms without being asked.")
    ] = False,
) -> None:
    """Fetch weights once, for this machine or to carry to one without a network (SLIVIT_WEIGHTS names the folder).

    Terms that forbid something are shown and accepted once.
    """
    with user_errors():
        from slivit.models._starts import get as fetch

        for name in names:
            typer.echo(fetch(name, (lambda _: True) if accept_licence else _asked))


def _asked(start: Start) -> bool:
    """Show the terms, and ask."""
    typer.echo(f"{start.name}: {start.title}\n  {start.terms}\n  {start.citation}\n  {start.address}", err=True)
    return typer.confirm("Do you accept these terms?", default=False, err=True)
