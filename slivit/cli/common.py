"""What the modules of the command line share."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperGroup

from slivit.errors import SlivitError, message

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
AGAIN = "the same command, given again, goes on"


def show_log(quiet: bool = False, verbose: bool = False) -> None:
    """Write to the terminal what is logged: by this package from INFO on, by others from WARNING on.

    Args:
        quiet: only warnings and errors.
        verbose: this package from DEBUG on, others from INFO on.
    """
    shown = logging.StreamHandler(sys.stderr)
    shown.setLevel(logging.WARNING if quiet else logging.NOTSET)
    others = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=others, format="%(message)s", handlers=[shown])
    logging.getLogger("slivit").setLevel(logging.DEBUG if verbose else logging.INFO)


class Everywhere(TyperGroup):
    """The program, whose own switches may stand behind the command, too."""

    SWITCHES = ("-q", "--quiet", "-v", "--verbose")

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments, the switches first."""
        switches = [a for a in args if a in self.SWITCHES]
        return super().parse_args(ctx, [*switches, *(a for a in args if a not in self.SWITCHES)])


@dataclass
class Told:
    """What is said of a command that is stopped.

    Args:
        go_on: gives the way to go on, or nothing; it is called when the command was stopped.
    """

    go_on: Callable[[], str] = str


@contextmanager
def told_errors(go_on: str = "") -> Iterator[Told]:
    """Show a user's mistake without a traceback, and end with status 2; a bug keeps its traceback.

    Ctrl-C ends with status 130, and SIGTERM, by which schedulers stop a job, with 143. Both leave no temporary folder,
    and say how to go on.

    Args:
        go_on: how; a command that knows it later sets it on what is given.
    """
    told = Told(lambda: go_on)
    try:
        with _terminated_like_interrupted():
            yield told
    except SlivitError as error:
        typer.secho(f"slivit: {message(error)}", err=True, fg=typer.colors.RED)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        raise _stopped(told, INTERRUPTED) from None
    except SystemExit as end:
        if end.code != TERMINATED:
            raise
        raise _stopped(told, TERMINATED) from None


def _stopped(told: Told, status: int) -> typer.Exit:
    way = told.go_on()
    by = " by SIGTERM" if status == TERMINATED else ""
    typer.secho(f"slivit: stopped{by}{'; ' if way else ''}{way}", err=True)
    return typer.Exit(status)


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM raise SystemExit, so that all that is open is closed; a second one changes nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
