"""What the modules of the command line share."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from slivit.errors import SlivitError, message

INTERRUPTED = 128 + signal.SIGINT
ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGXCPU") if hasattr(signal, name))
"""Signals that ask a process to end: by a scheduler, a terminal that is closed, a limit of time."""
_NAMES = "ENOSPC EDQUOT EFBIG EIO EROFS EACCES EPERM ENAMETOOLONG ELOOP EMFILE ENFILE ESTALE ETIMEDOUT EREMOTEIO"
_OUTSIDE = {getattr(errno, name) for name in _NAMES.split() if hasattr(errno, name)}
"""Errors for which the system is to blame, or what it was asked for, and not the program."""
ROOM = (
    "there is not enough memory; lower fit.batch_size (--batch-size), slices or image_size, or take a smaller network"
)
ClusterOption = Annotated[
    str,
    typer.Option("--cluster", metavar="auto|ray://HOST:PORT", help="A Ray cluster that does the work, where one runs."),
]
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


def named_value(text: str, option: str) -> tuple[str, str]:
    """The name and the value in NAME=VALUE.

    Args:
        text: what was given.
        option: for the message.

    Raises:
        SlivitError: no such pair.
    """
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise SlivitError(f'{option} "{text}": is NAME=VALUE, such as age=61')
    return name.strip(), value.strip()


class Everywhere(TyperGroup):
    """The program, whose own switches may stand behind the command, too."""

    SWITCHES = ("-q", "--quiet", "-v", "--verbose")

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments, the switches first."""
        switches = [a for a in args if a in self.SWITCHES]
        return super().parse_args(ctx, [*switches, *(a for a in args if a not in self.SWITCHES)])


@dataclass
class Advice:
    """What is said of a command that is stopped.

    Args:
        go_on: gives the way to go on, or nothing; it is called when the command was stopped.
    """

    go_on: Callable[[], str] = str


@contextmanager
def user_errors(go_on: str = "") -> Iterator[Advice]:
    """Show a user's mistake without a traceback, and end with status 2; a bug keeps its traceback.

    Ctrl-C ends with status 130, and what schedulers and closed terminals send (`ENDING`) with 128 and the signal's
    number. Both leave no temporary folder, and say how to go on. What the system refuses, such as a name that is too
    long or printing to a full disk, is said in its words.

    Args:
        go_on: how; a command that knows it later sets it on what is given.
    """
    advice = Advice(lambda: go_on)
    try:
        with _terminated_like_interrupted():
            yield advice
    except SlivitError as error:
        typer.secho(f"slivit: {message(error)}", err=True, fg=typer.colors.RED)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        raise _stopped(advice, INTERRUPTED) from None
    except _Ended as end:
        raise _stopped(advice, int(end.code or 0)) from None
    except OSError as error:
        if error.errno not in _OUTSIDE:
            raise
        what = os.fsdecode(error.filename)[:300] if error.filename else "what is printed or read"
        typer.secho(f"slivit: {what}: {error.strerror}", err=True, fg=typer.colors.RED)
        raise typer.Exit(2) from None
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        typer.secho(f"slivit: {ROOM}: {str(error).splitlines()[0][:300]}", err=True, fg=typer.colors.RED)
        raise typer.Exit(2) from None


def _out_of_memory(error: BaseException) -> bool:
    from slivit.device import out_of_memory

    return out_of_memory(error)


class _Ended(SystemExit):
    """A signal asked this process to end."""


def _stopped(advice: Advice, status: int) -> typer.Exit:
    way = advice.go_on()
    by = "" if status == INTERRUPTED else f" by {signal.Signals(status - 128).name}"
    with suppress(OSError):  # the terminal may be gone
        typer.secho(f"slivit: stopped{by}{'; ' if way else ''}{way}", err=True)
    return typer.Exit(status)


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Let the signals of `ENDING` raise SystemExit, so that all that is open is closed; a second one changes nothing.

    What the caller ignores (nohup) stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _: Any) -> None:
        for other in heard:
            signal.signal(other, signal.SIG_IGN)
        raise _Ended(128 + number)

    def listen() -> dict[Any, Any]:
        return {number: signal.signal(number, end) for number in heard}

    def lost(unraisable: Any) -> None:
        """Hear the signal again that came where Python drops what is raised, as in what it calls round a fork."""
        if not isinstance(unraisable.exc_value, _Ended):
            hook(unraisable)
            return
        number = int(unraisable.exc_value.code or 0) - 128
        listen()
        threading.Timer(0.05, os.kill, (os.getpid(), number)).start()

    heard = [number for number in ENDING if signal.getsignal(number) != signal.SIG_IGN]
    hook, sys.unraisablehook = sys.unraisablehook, lost
    before = listen()
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)
