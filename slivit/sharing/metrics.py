"""The metrics of the run that a checkpoint came out of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

METRICS = "metrics.json"


def run_metrics(checkpoint: Path) -> dict[str, Any] | None:
    """The `metrics.json` beside a checkpoint folder; None where there is none that can be read.

    Args:
        checkpoint: the checkpoint folder of a run.
    """
    try:
        found = json.loads((checkpoint.resolve().parent / METRICS).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("schema") == "slivit.metrics" else None
