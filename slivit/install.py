"""How this package is installed, in the words of a command: messages, cards and exported programs say it."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, metadata

SOURCE = "SLIVIT_SOURCE"
"""The environment variable that names where the package is had: an address that pip takes, or a name on an index."""


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
        told = metadata("slivit")
    except PackageNotFoundError:
        return ""
    pages = [page.partition(", ")[2] for page in told.get_all("Project-URL") or ()]
    pages = [*(told.get_all("Home-page") or ()), *pages]
    address = next((page for page in pages if page.startswith("https://")), "")
    return f"git+{address}" if address else ""
