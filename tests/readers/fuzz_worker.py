"""Reads the files named on standard input, one a line, and answers each with a line that says how it went.

Run as a process of its own, so that a decoder that crashes or hangs takes down this worker and not the tests.
"""

from __future__ import annotations

import faulthandler
import resource
import sys
import traceback
from pathlib import Path

from slivit.data.readers import read_volume
from slivit.errors import SlivitError

_MEMORY = 6 << 30  # bytes: a broken header must not fill the machine


def _outcome(path: str) -> str:
    try:
        volume = read_volume(path)
    except SlivitError as error:
        return "refused" if Path(path).name in str(error) else f"nameless {error}"
    except BaseException:
        return "bug " + traceback.format_exc().replace("\n", " | ")
    return "read" if volume.array.size else "empty"


def main() -> None:
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    for line in sys.stdin:
        print(_outcome(line.strip()), flush=True)


if __name__ == "__main__":
    main()
