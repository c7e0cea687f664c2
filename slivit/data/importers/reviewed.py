"""The scans of a run without those that people doubt who looked at them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from slivit.data.importers.common import finished
from slivit.data.importers.registry import importer
from slivit.data.reviews import REVIEWS, doubted, in_words, read_reviews, scan_key
from slivit.data.table import read_table
from slivit.errors import ManifestError

_SPLIT = "split.csv"


@importer("reviewed", "the scans of a run without those that reviewers doubt (after slivit view)")
def reviewed(root: Path, *, reviews: str = "") -> pd.DataFrame:
    """List the scans of a run's split.csv but those whose label or scan a reviewer doubts.

    A doubt counts that its reviewer did not take back (by accepting the scan later).

    Args:
        root: the run, or a CSV of scans with whole paths.
        reviews: the notes; RUN/reviews.csv, or reviews.csv beside the CSV, where empty.
    """
    csv = root if root.is_file() else root / _SPLIT
    if not csv.is_file():
        raise ManifestError(
            f"{root}: there is no such run or table. A run has {_SPLIT}, and {REVIEWS} after slivit view"
        )
    notes = read_reviews(Path(reviews) if reviews else csv.with_name(REVIEWS))
    if not notes:
        raise ManifestError(f"{reviews or csv.with_name(REVIEWS)}: there are no notes; slivit view keeps them there")
    frame = read_table(csv).reset_index(drop=True)
    keys = [scan_key({str(name): value for name, value in row.items()}) for row in frame.to_dict("records")]
    doubts = doubted(notes)
    kept = frame[[key not in doubts for key in keys]]
    summary = in_words(notes, set(keys)) or "no scan is doubted"
    return finished(kept, None, [f"{summary}: {len(frame) - len(kept)} of {len(frame)} scans are left out"])
