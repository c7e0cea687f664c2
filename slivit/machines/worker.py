"""A process that makes calls for another: `python -m slivit.machines.worker`.

A pickled function, by its name, and what it is called on come in; whether it went well, and the result or the error, go
out. Whatever else is printed goes to standard error. The process ends with its sender.
"""

from __future__ import annotations

import logging
import os
import pickle
import queue
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

Call = tuple[Callable[[Any], Any], Any]


def answer(call: Call) -> tuple[bool, Any]:
    """Make a call: (True, its result), or (False, what it raised)."""
    function, item = call
    try:
        return True, function(item)
    except Exception as error:
        return False, error


def packed(answered: tuple[bool, Any]) -> bytes:
    """An answer in bytes; an error that cannot be pickled goes as its words."""
    try:
        return pickle.dumps(answered)
    except Exception as error:
        problem = answered[1] if not answered[0] else error
        words = "".join(traceback.format_exception(problem)) if isinstance(problem, BaseException) else str(problem)
        return pickle.dumps((False, RuntimeError(words)))


def read_calls(source: IO[bytes], calls: queue.Queue[Call]) -> None:
    """Put calls into a queue; where there will be no more, end the process, whatever it does."""
    try:
        while True:
            calls.put(pickle.load(source))
    except EOFError:
        os._exit(0)


def main() -> None:
    """Answer calls from standard input until it is closed."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    # Not sys.stdin: a reading process is forked while the thread waits in it, and would wait for its lock for ever.
    source = os.fdopen(os.dup(0), "rb")
    sys.stdin = Path(os.devnull).open(encoding="utf-8")  # noqa: SIM115
    calls: queue.Queue[Call] = queue.Queue()
    threading.Thread(target=read_calls, args=(source, calls), daemon=True).start()
    while True:
        answers.write(packed(answer(calls.get())))
        answers.flush()


if __name__ == "__main__":
    main()
