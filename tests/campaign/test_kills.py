"""Commands are killed at an operation on files, go on, and must leave what an undisturbed one leaves, byte for byte."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from commands import amount, drafts, jobs, tree

NAMES = [job.name for job in jobs(Path("/"))]
SMALL = ("manifest folders", "weights get")
KILLS = 12  # of each command


def _places(operations: list[str], count: int) -> list[int]:
    """Where a command is killed: at operations that differ before such as are alike, spread over its course."""
    first = {operation: place for place, operation in reversed(list(enumerate(operations, 1)))}
    different = sorted(first.values())
    alike = sorted(set(range(1, len(operations) + 1)) - set(different))
    chosen = [_spread(different, count), _spread(alike, count - len(different))]
    return sorted({place for places in chosen for place in places})


def _spread(places: list[int], count: int) -> list[int]:
    """So many of the places at most, the first and the last among them."""
    return [places[int(i)] for i in np.linspace(0, len(places) - 1, max(min(count, len(places)), 0))]


def _goes_on(server, job) -> dict:
    for argv in job.again:
        done = server(argv)
        assert "Traceback" not in done["said"], done["said"]
        if done["status"] in (0, 1) and "Traceback" not in done["said"]:
            return done
    return done


@pytest.mark.parametrize("name", [n if n in SMALL else pytest.param(n, marks=pytest.mark.slow) for n in NAMES])
def test_a_killed_command_goes_on_to_the_same_result(server, ground, clean, name, capsys, tmp_path):
    job = next(j for j in jobs(ground) if j.name == name)
    out = clean(job.out)
    whole = server(job.argv)
    assert whole["status"] == 0, whole["said"]
    wanted, wrong = tree(out), []
    assert wanted, f"{name} leaves nothing"
    kept, scratch = tmp_path / "kept", tmp_path / "tmp"
    if job.old:
        shutil.copytree(out, kept)
    places = _places(whole["operations"], amount("KILLS", KILLS, 3))
    took = whole["seconds"]
    for turn, place in enumerate(places):
        clean(job.out)
        if job.old:
            shutil.copytree(kept, out)
        terminated = turn % 4 == 1
        number = signal.SIGTERM if terminated else signal.SIGKILL
        scratch.mkdir(exist_ok=True)
        killed = server(job.argv, at=place, signal=number, env={"TMPDIR": str(scratch)})
        wrong += _problems(job, killed, place, terminated, out, wanted)
        if terminated and (left := [p.name for p in scratch.iterdir()]):
            wrong.append((place, "temporary files after SIGTERM", left[:5]))
        shutil.rmtree(scratch)
        done = _goes_on(server, job)
        took += killed["seconds"] + done["seconds"]
        found = tree(out)
        if done["status"] != 0 and found != wanted:  # a run that was whole when it was killed says that it is
            wrong.append((place, "does not go on", done["said"][-400:]))
        elif found != wanted:
            differ = sorted(n for n in wanted.keys() | found.keys() if wanted.get(n) != found.get(n))
            wrong.append((place, "other bytes", differ[:5]))
        if left := drafts(out):
            wrong.append((place, "left behind", left[:5]))
    with capsys.disabled():
        counted = f"killed {len(places)} times in {len(whole['operations'])} operations, {took:.0f} s of a core"
        print(f"\n{name}: {counted}, {len(wrong)} wrong")
    clean(job.out)
    assert not wrong, "\n".join(map(str, wrong))


def _problems(job, killed, place, terminated, out, wanted) -> list:
    """What is wrong right after the kill."""
    found = []
    if terminated and killed["status"] not in (143, 0):
        found.append((place, "SIGTERM ends with", killed["status"], killed["said"][-300:]))
    if not terminated and killed["status"] not in (-9, 0):
        found.append((place, "not killed but", killed["status"], killed["said"][-300:]))
    if "Traceback" in killed["said"]:
        found.append((place, "a traceback", killed["said"][-300:]))
    aside = out.with_name(f".{out.name}.old")
    if job.old and wanted not in (tree(out), tree(aside)):
        found.append((place, "the old result is gone"))
    return found
