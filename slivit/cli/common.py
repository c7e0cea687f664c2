"""What the modules of the command line share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from slivit.errors import SlivitError, message


@contextmanager
def told_errors() -> Iterator[None]:
    """Show a user's mistake without a traceback, and end with status 2; a bug keeps its traceback."""
    try:
        yield
    except SlivitError as error:
        typer.secho(f"slivit: {message(error)}", err=True, fg=typer.colors.RED)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.secho("slivit: stopped", err=True)
        raise typer.Exit(130) from None
