"""`python study RECIPE [KEY=VALUE]...` from a clone: the same as `slivit study`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from slivit.cli import launch  # noqa: E402 (the clone must be found first)

launch("study")
