"""The errors a user can cause, and the words of their messages.

Every message says where the problem is, what was found, what is allowed, and the way out. The command line shows these
errors without a traceback and ends with status 2; any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, metadata

SOURCE = "SLIVIT_SOURCE"
"""The environment variable that names where the package is had: an address that pip takes, or a name on an index."""


class SlivitError(Exception):
    """A mistake in the input, with a message made for the person who can mend it.

    Example:
        >>> try:
        ...     slivit.create_model("slivitt", 1)
        ... except slivit.SlivitError as error:
        ...     print(str(error).split("? ")[0])
        model "slivitt" is not registered. Did you mean "slivit"
    """


class WriteError(SlivitError, OSError):
    """A file or folder that cannot be written, for a reason outside the program: a full disk, a missing right."""


class ReadError(SlivitError):
    """A scan that cannot be read, or that cannot be read without guessing."""


class ManifestError(SlivitError):
    """A manifest whose rows would make training or testing wrong."""


class RecipeError(SlivitError):
    """A recipe with unknown keys, or with values that are not allowed."""


class CheckpointError(SlivitError):
    """A checkpoint or weight file that does not fit what it is loaded into."""


class ModelError(SlivitError):
    """A model that is not registered, or arguments and inputs that it does not take."""


DIVERGED = "the training loss became"
"""With what the message of a training begins whose loss is no number; other processes know it by that."""


class PluginError(SlivitError):
    """A plugin that was named and cannot be loaded."""


_STORE = re.compile(r"(^|/)[A-Za-z][A-Za-z0-9+.-]+:/")
"""The beginning of an address, also where a path was made of it (/home/s3:/bucket); C:/ is a drive."""
_FRAME = re.compile(r"^Exception occured in `\w+` when calling event `\w+`:\s*")


def message(error: SlivitError) -> str:
    """The message of an error, without what a torch worker process or a callback of fastai puts before it."""
    text = _FRAME.sub("", str(error))
    if not text.startswith("Caught "):
        return text
    return text.rpartition(f"{type(error).__qualname__}: ")[2].strip()


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return ' Did you mean "x"?' for the allowed name closest to `name`, or an empty string."""
    matches = get_close_matches(str(name), [str(a) for a in allowed], n=1, cutoff=0.5)
    return f' Did you mean "{matches[0]}"?' if matches else ""


def one_of(allowed: Iterable[str], limit: int = 30) -> str:
    """Return the allowed names as text for a message, cut after `limit` of them."""
    names = [str(a) for a in allowed]
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(f'"{n}"' for n in names[:limit]) + rest


def mounting(path: str | os.PathLike[str]) -> str:
    """Return the way out where a path is the address of a store (s3://...), which nothing here reads, or ""."""
    if not _STORE.search(os.fspath(path)):
        return ""
    return " Addresses of stores (s3://, gs://, file://) are no paths: mount the store and give the folder it has here."


def no_text(name: str) -> str:
    """What is wrong with the name of a file that is no text, and can stand in no table; "" where it is text."""
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = name.encode("utf-8", "backslashreplace").decode()
        return f'the file name "{shown}" is not UTF-8, so no table can hold it; rename it (convmv -f latin1 -t utf-8)'
    return ""


def gather(problems: Sequence[str], where: str, kind: type[SlivitError], limit: int = 50) -> None:
    """Raise all `problems` as one error of class `kind`, or return where there are none.

    Args:
        problems: one sentence each.
        where: the file or object that they were found in.
        kind: the class of the error to raise.
        limit: how many problems are written out; the rest are counted.
    """
    if not problems:
        return
    shown = [f"  - {p}" for p in problems[:limit]]
    if len(problems) > limit:
        shown.append(f"  ... and {len(problems) - limit} more")
    noun = "problem" if len(problems) == 1 else "problems"
    raise kind(f"{where}: {len(problems)} {noun}\n" + "\n".join(shown))


def install_command(extra: str = "") -> str:
    """The command that installs the package, from where it is to be had.

    Args:
        extra: that it brings, if any.

    Returns:
        From what `SLIVIT_SOURCE` names; else from the repository, where its address is known; else from a clone of it.
    """
    extras = f"[{extra}]" if extra else ""
    source = os.environ.get(SOURCE, "").strip() or _repository()
    if not source:
        return f'pip install ".{extras}"  # in a clone of slivit\'s repository'
    if "/" not in source:
        return f'pip install "{source}{extras}"'
    return f'pip install "slivit{extras} @ {source}"'


def _repository() -> str:
    """The repository as pip takes it, where the package's metadata tell it."""
    try:
        package = metadata("slivit")
    except PackageNotFoundError:
        return ""
    pages = [page.partition(", ")[2] for page in package.get_all("Project-URL") or ()]
    pages = [*(package.get_all("Home-page") or ()), *pages]
    address = next((page for page in pages if page.startswith("https://")), "")
    return f"git+{address}" if address else ""
