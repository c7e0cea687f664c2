"""The commands that write, in their smallest form, with what each leaves and how it goes on after it was killed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

FULL = os.environ.get("SLIVIT_CAMPAIGN") == "full"
MODELS = {"trained": "fine", "segmenting": "masks"}
"""Runs that commands use, and the recipes that they are trained by."""
SERVER = Path(__file__).with_name("server.py")
IGNORED = re.compile(
    r"(^|/)(log\.txt|clock\.json|workers/.*|lock\.json|\.lock|CACHEDIR\.TAG)$|\.journal(\.lock)?$|\.part$"
)
"""What tells of a run's course and not of its result: its log, its clock, its locks, and what is unfinished."""
TIMES = re.compile(rb'("(?:seconds|at|computed)": )("[^"]*"|[0-9.e-]+)')
DRAFTS = re.compile(r"(^|/)\.[^/]*(draft|old|partial|tmp)[^/]*|\.partial$")


def amount(name: str, full: int, small: int) -> int:
    """How many cases there are: all of them with SLIVIT_CAMPAIGN=full, or what CAMPAIGN_NAME says."""
    return int(os.environ.get(f"CAMPAIGN_{name}", full if FULL else small))


@dataclass(frozen=True)
class Job:
    """A command.

    Args:
        name: of the command.
        argv: the command itself.
        out: the folder or file that it makes, below the ground.
        again: what goes on after a kill, tried in this order until one ends well.
        old: whether the result of an earlier call lies there, which must be there, whole, until the new one is.
    """

    name: str
    argv: tuple[str, ...]
    out: str
    again: tuple[tuple[str, ...], ...]
    old: bool = False


class Server:
    """The process that runs commands; see `server.py`."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.folder, self.scratch = folder, scratch
        self.process = subprocess.Popen(
            [sys.executable, str(SERVER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "SLIVIT_WEIGHTS": str(folder / "weights"), "HF_HUB_OFFLINE": "1"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait()

    def __call__(self, argv: tuple[str, ...], *, scratch: str = "one", seconds: float = 300, **options: Any) -> Any:
        """Run a command: `at` and `signal` end it at an operation on files, `memory` and `seconds` limit it.

        A trained model that the command names is made before.
        """
        for name in MODELS:
            if any(a.endswith(str(self.folder / name)) and not a.startswith("out=") for a in argv):
                self.model(name)
        where = {"folder": str(self.folder), "scratch": str(self.scratch / scratch)}
        line = {"argv": ["-q", *argv], "seconds": seconds, **where, **options}
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def model(self, name: str) -> Path:
        """The run of a trained model, one of `MODELS`, which is made where it is not there yet."""
        run = self.folder / name
        if not run.exists():
            done = self(("finetune", f"{self.folder}/{MODELS[name]}.toml", f"out={run}", "fit.epochs=1"))
            assert done["status"] == 0, done["said"]
        return run


def tree(path: Path) -> Mapping[str, bytes]:
    """The content of a file or of all files of a folder, without times; nothing where it is not there."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    named = {"" if p == path else p.relative_to(path).as_posix(): p for p in files}
    return {name: _without_times(p) for name, p in named.items() if not IGNORED.search(name)}


def _without_times(path: Path) -> bytes:
    if path.name == "sweep.html":
        return re.sub(rb">\d+\.\d<", b">T<", path.read_bytes())  # minutes, the only numbers with one digit
    if path.name == "study.html":
        return re.sub(rb"\d+\.\d\d( |&nbsp;|\xc2\xa0)min", b"T min", path.read_bytes())
    if path.name not in ("trials.csv", "runs.csv"):
        return TIMES.sub(rb"\1T", path.read_bytes())
    rows = [line.split(b",") for line in path.read_bytes().splitlines()]
    place = rows[0].index(b"seconds")
    return b"\n".join(b",".join([*row[:place], *row[place + 1 :]]) for row in rows)


def drafts(path: Path) -> list[str]:
    """What unfinished writes left beside and below a result."""
    found = [*path.parent.glob(f".{path.stem}.*"), *(path.rglob("*") if path.is_dir() else ())]
    return sorted(p.name for p in found if DRAFTS.search(p.name))


def jobs(ground: Path) -> list[Job]:
    """All commands that write, on the scans, recipes and runs of `conftest.ground`."""
    made = [*_trainings(ground), *_searches(ground), *_uses(ground), *_looks(ground), *_tables(ground)]
    return sorted(made, key=lambda job: job.name)


def _job(name: str, argv: list[str], out: str, *again: list[str], old: bool = False) -> Job:
    ways = again or (argv, [*argv, "--overwrite"])
    return Job(name, tuple(argv), out, tuple(map(tuple, ways)), old)


def _trainings(g: Path) -> list[Job]:
    recipes = {"fine": "finetune", "rates": "finetune", "masks": "finetune"}
    recipes |= {"pre": "pretrain", "ssl": "pretrain", "mixed": "pretrain"}
    return [
        _job(f"{stage} {recipe}", [stage, f"{g}/{recipe}.toml"], recipe, [stage, "--resume", f"{g}/{recipe}"],
             [stage, f"{g}/{recipe}.toml"])
        for recipe, stage in recipes.items()
    ]  # fmt: skip


def _searches(g: Path) -> list[Job]:
    curve = ["curve", f"{g}/fine.toml", f"{g}/curve", "fit.epochs=1", "--fractions", "0.5,1", "--seeds", "0"]
    auto = ["auto", f"{g}/scans/scans.csv", "--plan", f"{g}/plan.toml", "--out", f"{g}/auto"]
    return [
        _job("curve", curve, "curve", curve),
        _job("study", ["study", f"{g}/study.toml", "--processes", "0"], "study", ["study", f"{g}/study.toml"]),
        _job("sweep", ["sweep", f"{g}/sweep.toml"], "sweep", ["sweep", f"{g}/sweep.toml"]),
        _job("auto", auto, "auto", ["auto", "--resume", "--out", f"{g}/auto"], auto),
    ]


def _uses(g: Path) -> list[Job]:
    run, segmenting, scan = f"{g}/trained", f"{g}/segmenting", f"{g}/scans/scan0.nii"
    on = ["--workers", "0", "--batch-size", "2", "--device", "cpu"]
    table = ["predict", run, f"{g}/scans.zip", f"{g}/scans/scan1.nii", "-o", f"{g}/table.csv", *on]
    masks = ["predict", segmenting, scan, f"{g}/scans/scan1.nii", "-o", f"{g}/volumes/table.csv", *on]
    evaluate = ["--out", f"{g}/evaluated", "testing.draws=5", "testing.pictures=0"]
    explain = ["explain", run, scan, "--out", f"{g}/explained", "--method", "occlusion", "--device", "cpu"]
    tables = [f"a={g}/a.csv", f"b={g}/b.csv"]
    return [
        _job("predict", table, "table.csv", [*table, "--resume"]),
        _job("predict masks", masks, "volumes", [*masks, "--resume"]),
        _job("evaluate", ["evaluate", run, *evaluate], "evaluated"),
        _job("evaluate masks", ["evaluate", segmenting, *evaluate], "evaluated"),
        _job("compare", ["compare", *tables, "--out", f"{g}/compared", "--draws", "5"], "compared"),
        _job("export", ["export", run, f"{g}/exported", "--overwrite"], "exported", old=True),
        _job("explain", [*explain, "--overwrite"], "explained", old=True),
    ]


def _looks(g: Path) -> list[Job]:
    run, csv, scan = f"{g}/trained", f"{g}/scans/scans.csv", f"{g}/scans/scan0.nii"
    probe = ["probe", run, csv, "--kind", "binary", "--target", "bright", "--out", f"{g}/probed", "device=cpu"]
    probe += ["testing.draws=5", "linear.iterations=20", "data.workers=0"]
    seen = ["visualise", "--model", "dino3d_vit_small", "--random-init", scan, "model.slices=16", "model.image_size=32"]
    seen += ["model.dim=32", "model.depth=2", "model.heads=2", "--device", "cpu", "--out", f"{g}/seen"]
    embed = ["embed", csv, f"{g}/embedding/table.parquet", "--model", "slice_vit", "--random-init", "model.slices=4"]
    embed += ["model.image_size=16", "model.backbone_args={patch_size=8, embed_dim=16, depth=1, num_heads=2}"]
    embed += ["data.workers=0", "device=cpu", "--raptor", "5"]
    alike = ["similarity", csv, "a=random", "b=random", "--backbone", "resnet10t", "--slices", "2"]
    alike += ["--image-size", "64", "--out", f"{g}/alike"]
    return [
        _job("probe", probe, "probed"),
        _job("embed", embed, "embedding", embed),
        _job("visualise", seen, "seen"),
        _job("similarity", alike, "alike"),
        _job("check", ["check", csv, "--kind", "binary", "--target", "bright", "--out", f"{g}/checked"], "checked"),
    ]


def _tables(g: Path) -> list[Job]:
    get = ["weights", "get", "ct-fm", "--accept-licence"]
    return [
        _job("manifest folders", ["manifest", "folders", f"{g}/classes", f"{g}/classes.csv"], "classes.csv"),
        _job("manifest dicom", ["manifest", "dicom", f"{g}/archive", f"{g}/series.csv"], "series.csv"),
        _job("prepare", ["prepare", f"{g}/fine.toml", "--cache", f"{g}/cache", "--workers", "0"], "cache"),
        _job("phantoms", ["phantoms", "oct2d", f"{g}/phantoms", "-n", "4"], "phantoms"),
        _job("weights get", get, "weights/fetched.json", get),
    ]
