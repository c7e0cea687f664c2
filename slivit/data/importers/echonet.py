"""EchoNet-Dynamic: apical four-chamber echocardiogram videos with ejection fraction."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pandas as pd

from slivit.data.importers.common import Source, finished, numbers
from slivit.data.importers.registry import importer
from slivit.targets.task import Task

_SOURCE = Source(
    "EchoNet-Dynamic",
    "https://echonet.github.io/dynamic",
    "FileList.csv and a folder Videos with one .avi for each row",
)
_NUMBERS = ("EF", "ESV", "EDV", "FPS", "NumberOfFrames")


@importer("echonet", "EchoNet-Dynamic videos: ejection fraction (EF, %), EF below 50, official split")
def echonet(root: Path, *, target: Literal["EF", "ef_below_50"] = "EF") -> pd.DataFrame:
    """List the videos of EchoNet-Dynamic with EF (%), `ef_below_50` (0/1), volumes (mL) and the official split.

    Every video is of another patient, so the patient is the name of the video.

    Args:
        root: the folder with FileList.csv and Videos.
        target: the target of the suggested task; both columns are there.

    Source: Ouyang et al. 2020, Nature 580:252; FileList.csv with FileName, EF, ESV, EDV, FPS, NumberOfFrames, Split.
        The threshold of 50%: Avram et al. 2024, Results.
    """
    table = _SOURCE.table(
        _SOURCE.file(root, "FileList.csv"), ["FileName", "EF", "Split"], ["ESV", "EDV", "FPS", "NumberOfFrames"]
    )
    videos = _SOURCE.folder(root, "Videos")
    stem = table["FileName"].str.removesuffix(".avi")
    frame = pd.DataFrame({"path": [str(videos / f"{s}.avi") for s in stem], "patient": stem})
    frame["split"] = table["Split"].str.lower()
    measured = {name: numbers(table[name]) for name in _NUMBERS if name in table}
    frame = frame.assign(**measured)
    known = frame["EF"].notna()
    frame = frame[known].assign(ef_below_50=(frame.loc[known, "EF"] < 50).astype("int64"))
    notes = [] if known.all() else [f"{(~known).sum()} videos without EF: left out"]
    task = Task(kind="regression", targets=("EF",), unit="%")
    return finished(frame, task if target == "EF" else Task(kind="binary", targets=(target,)), notes, _SOURCE, root)
