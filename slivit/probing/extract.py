"""Scans in, features out: each computed once, kept on disk, and found there the next time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slivit.checkpoint import Checkpoint
from slivit.data.cache import code_version
from slivit.data.preprocessing import Preprocessing
from slivit.errors import ModelError, ReadError
from slivit.models.registry import spec_of
from slivit.predict.engine import Engine, error_of
from slivit.probing.store import FeatureStore, weights_digest
from slivit.settings import Precision

Vectors = dict[str, Tensor]
KEPT_SCANS, KEPT_SECONDS = 256, 60.0  # after so many scans or so long, what is computed goes to disk


@dataclass(frozen=True)
class Extracted:
    """The features of scans, in the order they were asked for.

    Args:
        parts: (n, d) float32 by name, see `slivit.predict.features`.
        computed: how many scans were computed now; the others were there.
        seconds: that reading and computing them took.
        weights: see `read_digest`.
        precision: in which the network computed.
    """

    parts: dict[str, Tensor]
    computed: int
    seconds: float
    weights: str
    precision: str = "float32"


def extract(
    model: nn.Module,
    paths: Sequence[str],
    settings: Preprocessing,
    folder: str | Path,
    *,
    device: str = "auto",
    batch_size: int = 8,
    workers: int = 0,
    precision: Precision = "float32",
    cache: Any = None,
    progress: bool = False,
) -> Extracted:
    """The features of scans under a frozen network: computed for those that are not in `folder`, and kept there.

    What is computed is kept every 256 scans or every minute, so that an extraction that dies goes on where it was.

    Args:
        model: with a `.spec`; put into evaluation mode.
        paths: of the scans; the same content in two places is computed once.
        settings: the preprocessing, with its size set; its `flips` have no effect.
        folder: where features are kept, of any number of networks.
        device: "auto", "cpu", "cuda", ...
        batch_size: scans a batch.
        workers: processes that read scans.
        precision: in which the network computes; "auto" takes the fastest that the device has.
        cache: where preprocessed slices are kept.
        progress: show a progress bar.

    Raises:
        ReadError: a scan that cannot be read.
        ModelError: a model that offers no features, or a preprocessing that cuts scans into windows.
    """
    if settings.windows:
        raise ModelError("features are of one sample of slices a scan: leave out preprocessing.windows")
    options: dict[str, Any] = {"batch_size": batch_size, "workers": workers, "precision": precision, "cache": cache}
    engine = Engine(Checkpoint(model, None, settings), device, **options)
    weights = read_digest(model)
    store = FeatureStore(folder, _about(model, weights, settings, engine.precision))
    digests = [store.digest(path) for path in paths]
    there = store.places()
    missing = {d: path for d, path in zip(digests, paths, strict=True) if d not in there}
    begun = time.perf_counter()
    _keep(store, list(missing), _features(engine, list(missing.values()), progress))
    seconds = time.perf_counter() - begun
    return Extracted(store.load(digests), len(missing), seconds, weights, engine.precision)


def stored(
    model: nn.Module, paths: Sequence[str], settings: Preprocessing, folder: str | Path, precision: str
) -> Extracted:
    """The features of scans that other processes computed and kept.

    Args:
        model, paths, settings, folder: as `extract` takes them.
        precision: in which they were computed.

    Raises:
        ReadError: features that are not there.
    """
    weights = read_digest(model)
    store = FeatureStore(folder, _about(model, weights, settings, precision))
    digests = [store.digest(path) for path in paths]
    there = store.places()
    if absent := next((path for path, digest in zip(paths, digests, strict=True) if digest not in there), ""):
        raise ReadError(f"{absent}: its features are not in {folder}; do all machines see the same folder there?")
    return Extracted(store.load(digests), len(set(digests)), 0.0, weights, precision)


def read_digest(model: nn.Module) -> str:
    """A number that stands for the weights that the features of a model follow from.

    What a family offers by itself comes from its backbone alone; without an offer `features` takes what enters the
    head, in which every other part of the model may have a share.
    """
    offers = hasattr(model, "layer_features") or hasattr(model, "pooled_features")
    return weights_digest(model.get_submodule("backbone")) if offers else weights_digest(model, without="head")


def about_features(model: nn.Module, extracted: Extracted, settings: Preprocessing) -> dict[str, Any]:
    """All that extracted features depend on beside the scans, as plain values."""
    return _about(model, extracted.weights, settings, extracted.precision)


def _about(model: nn.Module, weights: str, settings: Preprocessing, precision: str) -> dict[str, Any]:
    """All that features depend on beside the scan, as plain values."""
    spec = spec_of(model)
    args = {key: value for key, value in spec.args.items() if key != "pretrained"}
    network = {"name": spec.name, "args": args, "weights": weights, "precision": precision}
    return {
        "network": network,
        "preprocessing": settings.model_dump(mode="json", exclude={"flips"}),
        "code": code_version(),
    }


def _features(engine: Engine, paths: Sequence[str], progress: bool) -> Iterator[Vectors]:
    """The features of scans, one after the other."""
    from tqdm import tqdm

    scans = engine.over(engine.read(paths), lambda stacks: _by_scan(engine.features(stacks)))
    shown = tqdm(scans, "features", len(paths), unit="scan", disable=None if progress else True, leave=False)
    for number, scan, vectors in shown:
        if vectors is None:
            raise ReadError(error_of(paths[number], scan))
        yield vectors


def _by_scan(parts: Vectors) -> list[Vectors]:
    """(B, d) by part -> for each scan, (d,) by part."""
    return [dict(zip(parts, rows, strict=True)) for rows in zip(*parts.values(), strict=True)]


def _keep(store: FeatureStore, digests: Sequence[str], scans: Iterator[Vectors]) -> None:
    """Put features, in the order of `digests`, into the store; what came before an error is kept too."""
    waiting: list[Vectors] = []
    kept, since = 0, time.perf_counter()

    def flush() -> None:
        if waiting:
            ready = digests[kept : kept + len(waiting)]
            store.add(ready, {name: torch.stack([w[name] for w in waiting]) for name in waiting[0]})

    try:
        for vectors in scans:
            waiting.append(vectors)
            if len(waiting) >= KEPT_SCANS or time.perf_counter() - since >= KEPT_SECONDS:
                flush()
                waiting, kept, since = [], kept + len(waiting), time.perf_counter()
    finally:
        flush()
