"""Fixed public protocols: finished runs become rows of a leaderboard, beside what was published."""

from __future__ import annotations

import statistics
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from slivit.errors import SlivitError, nearest, one_of
from slivit.files import read_json, write_json, write_text
from slivit.run import RECIPES, Run

SEEDS = 3
"""Runs with different seeds that make a whole row."""


class Protocol(BaseModel):
    """Scans, their split, and the metric that counts.

    Args:
        name: in the table.
        title: what it is.
        manifest: what `data.manifest` is; a folder that the user has where it is no MedMNIST set.
        importer: that lists the folder.
        kind: of the task.
        metric: on the test rows.
        train: scans of the official split; 0 where there is none.
        val: as `train`.
        test: as `train`.
        items: how the items of the test split are called in their file, before their number.
        source: the paper of the data.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str
    manifest: str
    importer: str = ""
    kind: str
    metric: str
    train: int = 0
    val: int = 0
    test: int = 0
    items: str = ""
    source: str


@cache
def _tables() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name("bench.toml").read_text("utf-8"))


@cache
def protocols() -> Mapping[str, Protocol]:
    """All protocols by name."""
    return {n: Protocol(name=n, **values) for n, values in _tables().items() if n != "published"}


def find_protocol(name: str) -> Protocol:
    """A protocol.

    Raises:
        SlivitError: none of that name.
    """
    if name not in protocols():
        raise SlivitError(f'no protocol "{name}".{nearest(name, protocols())} There are {one_of(protocols())}.')
    return protocols()[name]


def published(name: str) -> list[dict[str, Any]]:
    """What was published under a protocol: method, value and source."""
    return [row for row in _tables()["published"] if row["protocol"] == name]


def how_to(protocol: Protocol) -> list[str]:
    """The commands that make a row of one's own."""
    where = f"data.manifest={protocol.manifest}" + (f" data.importer={protocol.importer}" if protocol.importer else "")
    run = f"slivit finetune RECIPE {where} task.kind={protocol.kind} seed=$SEED out=runs/{protocol.name}_$SEED"
    row = f'slivit bench {protocol.name} runs/{protocol.name}_* --name "METHOD" --page LEADERBOARD.md'
    return [f"for SEED in 0 1 2; do {run}; done", row]


def row_of(protocol: Protocol, method: str, runs: Sequence[str | Path]) -> dict[str, Any]:
    """The row that finished runs make.

    Args:
        protocol: under which they were made.
        method: what the row is called.
        runs: their folders, one a seed.

    Returns:
        The mean over the seeds and their spread, each value with its interval, the training scans, and the minutes
        from the recipe to the metrics on the clock.

    Raises:
        SlivitError: a run that is not finished, of other scans or another kind of task, or a seed given twice.
    """
    results = [_checked(protocol, Run(run)) for run in runs]
    seeds = [one["seed"] for one in results]
    if len(set(seeds)) < len(seeds):
        raise SlivitError(f"{protocol.name}: a seed is given twice ({seeds}); a row is of runs with different seeds")
    values = [one["value"] for one in results]
    spread = statistics.stdev(values) if len(values) > 1 else None
    minutes = statistics.mean(one["minutes"] for one in results)
    row = {"protocol": protocol.name, "method": method, "metric": protocol.metric, "value": statistics.mean(values)}
    return row | {"spread": spread, "runs": results, "minutes": minutes}


def _checked(protocol: Protocol, run: Run) -> dict[str, Any]:
    """What counts of a run, where it was made under the protocol."""
    metrics, recipe = run.metrics, run.recipe
    kind, test = metrics["task"]["kind"], metrics["splits"].get("test")
    if kind != protocol.kind or test is None:
        raise SlivitError(f"{run.folder}: {protocol.name} is a {protocol.kind} task with test rows; this is {kind}")
    if protocol.test and test["scans"] != protocol.test:
        raise SlivitError(f"{run.folder}: has {test['scans']} test scans, and {protocol.name} has {protocol.test}")
    if protocol.items:
        rows = run.predictions
        names = rows.loc[rows["split"] == "test", "path"].astype(str).str.rpartition("#")[2]
        if set(names) != {f"{protocol.items}{i}" for i in range(protocol.test)}:
            raise SlivitError(f"{run.folder}: its test scans are not those of the official split of {protocol.name}")
    estimate = test["metrics"][protocol.metric]
    kept = {name: estimate.get(name) for name in ("value", "low", "high")}
    begun = next(run.folder / name for name in RECIPES if (run.folder / name).is_file())
    clock = (run.folder / "metrics.json").stat().st_mtime - begun.stat().st_mtime
    return {"seed": recipe.get("seed", 0), **kept, "minutes": clock / 60}


def add_row(page: str | Path, row: Mapping[str, Any]) -> Path:
    """Put a row into a leaderboard, in place of one of the same name; rows lie in PAGE.json beside it."""
    page = Path(page)
    store = page.with_suffix(".json")
    rows = read_json(store) or []
    same = (row["protocol"], row["method"])
    rows = [r for r in rows if (r["protocol"], r["method"]) != same] + [dict(row)]
    write_json(store, rows)
    write_text(page, leaderboard(rows))
    return page


def leaderboard(rows: Sequence[Mapping[str, Any]]) -> str:
    """The page: every protocol that has a row, published or ours, the best first."""
    parts = [
        "# Leaderboard",
        "",
        "Ours by `slivit bench PROTOCOL RUN... --page benchmarks/LEADERBOARD.md`, each from finished runs on the fixed "
        "scans and split; published values as their sources give them (they may have chosen by the test scans, or "
        "averaged other numbers of runs). `slivit bench PROTOCOL` shows how to make a row.",
    ]
    for name, protocol in protocols().items():
        lines = [_line(r) for r in rows if r["protocol"] == name] + [_published_line(r) for r in published(name)]
        if lines:
            parts += ["", f"## {name}", "", f"{protocol.title}; {protocol.metric}. Data: {protocol.source}.", ""]
            parts += ["| method | value | seeds | minutes | source |", "| --- | --- | --- | --- | --- |"]
            parts += [line for _, line in sorted(lines, key=lambda pair: -pair[0])]
    return "\n".join(parts) + "\n"


def _line(row: Mapping[str, Any]) -> tuple[float, str]:
    each = "; ".join(
        f"{r['value']:.3f}" + (f" ({r['low']:.3f} to {r['high']:.3f})" if r["low"] is not None else "")
        for r in row["runs"]
    )
    sd = f" (SD {row['spread']:.3f})" if row["spread"] is not None else ""
    count = len(row["runs"])
    seeds = f"{count}" if count >= SEEDS else f"{count} of {SEEDS}"
    value = f"**{row['value']:.3f}**{sd}: {each}"
    return row["value"], f"| {row['method']} | {value} | {seeds} | {row['minutes']:.0f} | ours |"


def _published_line(row: Mapping[str, Any]) -> tuple[float, str]:
    return row["value"], f"| {row['method']} | {row['value']:.3f} | | | {row['source']} |"
