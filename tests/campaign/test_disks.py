"""Full disks, and two processes in one folder."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from commands import Job, Server, amount, drafts, jobs, tree

NAMES = ("finetune fine", "finetune masks", "pretrain pre", "pretrain ssl", "evaluate", "predict", "predict masks",
         "embed", "export", "explain", "sweep", "prepare", "auto")  # fmt: skip


@pytest.fixture
def disk(tmp_path):
    """A function that makes a small disk, and changes its size; a skip where this user may mount none."""
    place = tmp_path / "disk"
    place.mkdir()

    def size(kilobytes: int) -> Path:
        how = ["-o", f"remount,size={kilobytes}k"] if place.is_mount() else ["-t", "tmpfs", "-o", f"size={kilobytes}k"]
        if subprocess.run(["mount", *how, "tmpfs", str(place)], capture_output=True).returncode:
            pytest.skip("this user may not mount a tmpfs")
        return place

    yield size
    subprocess.run(["umount", "-l", str(place)], capture_output=True)


def _on(disk: Path, ground: Path, job: Job, argv: tuple[str, ...]) -> tuple[str, ...]:
    """A command whose results lie on the disk: recipes and scans stay where they are."""
    moved = [str(disk / Path(a).relative_to(ground)) if a.startswith(f"{ground}/{job.out}") and not
             a.endswith(".toml") else a for a in argv]  # fmt: skip
    recipes = [a for a in argv if a.endswith(".toml") and argv[0] in ("finetune", "pretrain", "sweep")]
    return (*moved, *(f"out={disk / Path(a).stem}" for a in recipes))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_is_told_and_room_lets_it_go_on(server, ground, disk, name, capsys):
    job = next(j for j in jobs(ground) if j.name == name)
    room = disk(200_000)
    argv = _on(room, ground, job, job.argv)
    out = room / job.out
    whole = server(argv)
    assert whole["status"] == 0, whole["said"]
    wanted, used = tree(out), sum(p.stat().st_size for p in room.rglob("*") if p.is_file()) // 1024
    told = 0
    for share in (0.05, 0.3, 0.6, 0.9)[: amount("DISKS", 4, 4)]:
        subprocess.run(["find", str(room), "-mindepth", "1", "-delete"], check=True)
        disk(max(int(used * share), 4))
        full = server(argv)
        assert full["status"] in (0, 2), full["said"]
        assert "Traceback" not in full["said"]
        if full["status"] == 2:
            told += 1
            assert str(room) in full["said"], full["said"]
            assert "No space left" in full["said"] or "are free there" in full["said"], full["said"]
            assert drafts(out) == []
        disk(200_000)
        ways = [_on(room, ground, job, again) for again in job.again]
        ways = [[a for a in way if not a.startswith("out=")] if "--resume" in way else way for way in ways]
        tried = [server(tuple(way)) for way in ways]
        assert 0 in (full["status"], *(done["status"] for done in tried)), (full["said"], tried)
        assert tree(out) == wanted
    with capsys.disabled():
        print(f"\n{name}: {used} kB, {told} times too little room, each told and made good")
    assert told


@pytest.mark.slow
@pytest.mark.parametrize("name", ["finetune fine", "finetune rates", "pretrain pre"])
def test_of_two_processes_in_one_folder_one_is_refused(server, ground, clean, tmp_path, name, capsys):
    job = next(j for j in jobs(ground) if j.name == name)
    out = clean(job.out)
    assert server(job.argv)["status"] == 0
    wanted, refused = tree(out), 0
    with Server(ground, tmp_path / "second") as other:
        assert other(("--version",))["status"] == 0  # its libraries are loaded by now
        for turn in range(amount("PAIRS", 5, 2)):
            if turn % 2 == 0:
                clean(job.out)
            else:  # both go on with a run that was killed
                clean(job.out)
                server(job.argv, at=50)
            argv = job.argv if turn % 2 == 0 else job.again[0]
            with ThreadPoolExecutor(2) as both:
                ended = list(both.map(lambda run, argv=argv: run(argv), (server, other)))
            assert all("Traceback" not in done["said"] for done in ended)
            states = sorted(done["status"] for done in ended)
            assert states[0] == 0
            assert states[1] in (0, 2), ended  # 0: the second began when the first had ended
            refused += states[1] == 2
            assert tree(out) == wanted
            assert drafts(out) == []
    with capsys.disabled():
        print(f"\n{name}: of two processes {refused} were refused, and the results are whole", file=sys.stdout)
