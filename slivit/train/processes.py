"""Several processes that run one training on labels: what it may be, who holds the folder, one loss, one table."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slivit.data.notes import gathered_notes
from slivit.errors import RecipeError
from slivit.folder import RunFolder
from slivit.parallel import is_main, launched, of_all, rank_and_size, wait_for_all

if TYPE_CHECKING:
    import pandas as pd

    from slivit.train.recipe import Labelled


def check_processes(recipe: Labelled) -> None:
    """Refuse what one process alone can do, where a launcher started several.

    Raises:
        RecipeError: what, and the way out.
    """
    if launched() == 1:
        return
    data = getattr(recipe, "data", None)
    refused = {
        "looks for a rate or tries several; give fit.lr as one number": not isinstance(recipe.fit.lr, float),
        "trains folds or seeds one after the other; start them one by one": bool(data and data.folds)
        or recipe.fit.seeds > 1,
        "trains masks": any(part.task.dense for part in recipe.parts.values()),
    }
    for what, asked in refused.items():
        if asked:
            raise RecipeError(
                f"the recipe {what}, or start it without `accelerate launch`: {launched()} processes were launched"
            )


@contextmanager
def opened(recipe: Any, *, resume: bool, overwrite: bool) -> Iterator[tuple[RunFolder, Callable[[], None]]]:
    """The run's folder, held and logged to by the main process; the others only speak of what is wrong.

    Args:
        recipe: of the run.
        resume: see `RunFolder.opened`.
        overwrite: see `RunFolder.opened`.

    Yields:
        The folder, and what tells of the notes of readers so far.
    """
    if not is_main():
        logging.getLogger("slivit").setLevel(logging.WARNING)
        wait_for_all()
        folder = RunFolder(Path(recipe.out), recipe, resume=resume)
        with gathered_notes(folder.path, folder.file):
            yield folder, lambda: None
        return
    with (
        RunFolder.opened(recipe, resume=resume, overwrite=overwrite) as folder,
        gathered_notes(folder.path, folder.file) as tell,
    ):
        wait_for_all()
        yield folder, tell


def joined(table: pd.DataFrame, rows: int) -> pd.DataFrame:
    """The table of all scans, in their order, from those of each process.

    Args:
        table: of every n-th scan from this process's number on, n the number of processes; see `own_part`.
        rows: of all of them.
    """
    import pandas as pd

    size = rank_and_size()[1]
    if size == 1:
        return table
    parts = [part.set_axis(range(rank, rows, size)) for rank, part in enumerate(of_all(table))]
    return pd.concat(parts).sort_index()
