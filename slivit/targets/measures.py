"""The metrics that stand for a kind of task where not all of them are shown."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Measures:
    """Names of metrics of `slivit.statistics`, each choice in the order in which it is shown.

    Args:
        main: shown while training and compared between models; the first one chooses heads and stands for an output.
        headlines: what a page puts first.
        logged: the line of a split in a log.
        by_group: drawn for subgroups.
        by_output: a table's columns where there are several outputs.
        gap: the metric whose largest difference between subgroups a page says.
    """

    main: tuple[str, ...]
    headlines: tuple[str, ...]
    logged: tuple[str, ...]
    by_group: tuple[str, ...]
    by_output: tuple[str, ...]
    gap: str
