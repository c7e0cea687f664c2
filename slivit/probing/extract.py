"""Scans in, features out: each computed once, kept on disk, and found there the next time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from slivit.data.blocks import to_input
from slivit.data.cache import code_version
from slivit.data.preprocessing import Preprocessing
from slivit.errors import ModelError, ReadError
from slivit.models.registry import spec_of
from slivit.predict.engine import Item, ScanDataset, choose_device
from slivit.probing.features import features
from slivit.probing.store import FeatureStore, weights_digest

Precision = Literal["float32", "bfloat16", "float16"]
KEPT_SCANS, KEPT_SECONDS = 256, 60.0  # after so many scans or so long, what is computed goes to disk


@dataclass(frozen=True)
class Extracted:
    """The features of scans, in the order they were asked for.

    Args:
        parts: (n, d) float32 by name, see `slivit.probing.features`.
        computed: how many scans were computed now; the others were there.
        seconds: that reading and computing them took.
        weights: see `read_digest`.
    """

    parts: dict[str, Tensor]
    computed: int
    seconds: float
    weights: str


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
        precision: "bfloat16" and "float16" compute faster where the device supports them.
        cache: where preprocessed slices are kept.
        progress: show a progress bar.

    Raises:
        ReadError: a scan that cannot be read.
        ModelError: a model that offers no features, or a preprocessing that cuts scans into windows.
    """
    if settings.windows:
        raise ModelError("features are of one sample of slices a scan: leave out preprocessing.windows")
    where = choose_device(device)
    weights = read_digest(model)
    store = FeatureStore(folder, _about(model, weights, settings, precision))
    digests = [store.digest(path) for path in paths]
    there = store.found()
    missing = {d: path for d, path in zip(digests, paths, strict=True) if d not in there}
    begun = time.perf_counter()
    loader = _loader(list(missing.values()), settings, cache, batch_size, workers, progress)
    run = _Runner(model.to(where).eval(), where, precision)
    _keep(store, list(missing), (run(batch) for batch in loader))
    seconds = time.perf_counter() - begun
    return Extracted(store.load(digests), len(missing), seconds, weights)


def read_digest(model: nn.Module) -> str:
    """A number that stands for the weights that the features of a model follow from.

    What a family offers by itself comes from its backbone alone; without an offer `features` takes what enters the
    head, in which every other part of the model may have a share.
    """
    offers = hasattr(model, "layer_features") or hasattr(model, "pooled_features")
    return weights_digest(model.get_submodule("backbone")) if offers else weights_digest(model, without="head")


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


def _loader(
    paths: Sequence[str], settings: Preprocessing, cache: Any, batch_size: int, workers: int, progress: bool
) -> Iterable[list[Item]]:
    from tqdm import tqdm

    dataset = ScanDataset(paths, settings, cache)
    loader = DataLoader(dataset, batch_size=batch_size, num_workers=workers, collate_fn=list)
    return tqdm(loader, desc="features", unit="batch", disable=None if progress else True, leave=False)


@dataclass(frozen=True)
class _Runner:
    """A batch of items to (B, d) features by part, on the CPU."""

    model: nn.Module
    device: torch.device
    precision: str

    def __call__(self, batch: Sequence[Item]) -> dict[str, Tensor]:
        if errors := [item.error for item in batch if item.error]:
            raise ReadError(errors[0])
        spec = spec_of(self.model)
        stacks = torch.stack([item.stack for item in batch if item.stack is not None]).to(self.device)
        low = self.precision != "float32"
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, getattr(torch, self.precision) if low else None, enabled=low),
        ):
            parts = features(self.model, to_input(stacks, spec.input, spec.mean, spec.std))
        return {name: part.cpu() for name, part in parts.items()}


def _keep(store: FeatureStore, digests: Sequence[str], batches: Iterator[dict[str, Tensor]]) -> None:
    """Put batches, in the order of `digests`, into the store; what came before an error is kept too."""
    waiting: list[dict[str, Tensor]] = []
    kept, count, since = 0, 0, time.perf_counter()

    def flush() -> None:
        if waiting:
            store.add(digests[kept:count], {name: torch.cat([w[name] for w in waiting]) for name in waiting[0]})

    try:
        for parts in batches:
            waiting.append(parts)
            count += len(next(iter(parts.values())))
            if count - kept >= KEPT_SCANS or time.perf_counter() - since >= KEPT_SECONDS:
                flush()
                waiting, kept, since = [], count, time.perf_counter()
    finally:
        flush()
