"""The probe of a pre-training recipe: labelled batches for the callback that tries the features."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from slivit.data.preprocessing import Preprocessing
from slivit.data.sources import load_manifest
from slivit.ssl.recipe import Probe

if TYPE_CHECKING:
    from torch import Tensor

    from slivit.data.manifest import Manifest
    from slivit.ssl.pretext import Pretext
    from slivit.ssl.probe import FeatureProbe

PROBE = "probe.csv"


def make_probe(probe: Probe, pretext: Pretext, settings: Preprocessing, batch_size: int, folder: Path) -> FeatureProbe:
    """The callback of a recipe's probe: it learns from the set's train rows and is measured on its val rows.

    Test rows are never looked at.

    Args:
        probe: the recipe's section.
        pretext: whose features are tried.
        settings: the preprocessing, with its size set.
        batch_size: scans a batch.
        folder: of the run.

    Raises:
        ManifestError: all that was found wrong with the labelled set.
    """
    from slivit.ssl.probe import FeatureProbe

    manifest = load_manifest(probe.data, probe.task)
    manifest = manifest.with_task(probe.task.fitted(manifest.rows("train")))
    return FeatureProbe(
        pretext.features,
        labelled_batches(manifest, "train", settings, batch_size, probe.data.processes),
        labelled_batches(manifest, "val", settings, batch_size, probe.data.processes),
        manifest.task,
        folder / PROBE,
        every=probe.every,
        kind=probe.kind,
        neighbours=probe.neighbours,
    )


def labelled_batches(
    manifest: Manifest, split: str, settings: Preprocessing, batch_size: int, workers: int
) -> Callable[[], Iterator[tuple[Tensor, Tensor]]]:
    """A function that gives (B, S, H, W) uint8 stacks and encoded targets of the rows of one split, in their order."""
    import numpy as np
    import torch

    from slivit.errors import ReadError
    from slivit.predict.batching import read_batches

    rows = manifest.rows(split)
    targets = torch.as_tensor(np.stack([np.asarray(manifest.task.encode(row)) for row in rows]))
    paths = [str(row["path"]) for row in rows]

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for scans in read_batches(paths, settings, None, workers, batch_size):
            if errors := [scan.error for _, scan in scans if scan.stack is None]:
                raise ReadError(errors[0])
            stacks = torch.stack([torch.from_numpy(scan.stack) for _, scan in scans])
            yield stacks, targets[[number for number, _ in scans]]

    return batches
