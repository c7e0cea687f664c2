"""The labelled scans of a recipe: one set or several, each with its fitted task, its cache and its windows."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slivit.data.cache import SliceCache
from slivit.data.cache_memory import MemoryCache, room_for_slices, room_in_memory
from slivit.data.covariates import with_covariates
from slivit.data.manifest import Manifest
from slivit.data.preprocessing import Preprocessing, load_slices
from slivit.data.recipe import Data, cache_of
from slivit.data.sources import load_manifest
from slivit.data.table import write_table
from slivit.data.training_range import depths_sentence, training_range
from slivit.evaluate.details import check_subgroups
from slivit.folder import SPLIT, WINDOWS, RunFolder
from slivit.targets.segmentation import Segmentation
from slivit.targets.task import Task
from slivit.train.recipe import Labelled

if TYPE_CHECKING:
    from slivit.data.slices import Grey
    from slivit.data.window_plan import ScanWindows
    from slivit.train.mixture import Mixture

log = logging.getLogger(__name__)
SET = "set"
"""The column that says which of several sets a scan is from."""


@dataclass(frozen=True)
class Part:
    """One labelled set.

    Args:
        name: in the recipe; empty for the only one.
        data: the recipe's section.
        manifest: its rows, under the fitted task.
        outputs: which of the network's outputs are its own.
        kept: where the run keeps its slices, where the recipe names no cache.
    """

    name: str
    data: Data
    manifest: Manifest
    outputs: slice
    kept: MemoryCache | SliceCache | None = None

    @property
    def task(self) -> Task:
        """The fitted task."""
        return self.manifest.task

    @property
    def cache(self) -> MemoryCache | SliceCache | None:
        """Where its preprocessed slices are kept."""
        return self.kept or cache_of(self.data)

    def rows(self, *splits: str) -> list[Mapping[str, Any]]:
        """The rows of splits, as far as there are some."""
        return [row for split in splits if split in self.manifest.splits for row in self.manifest.rows(split)]

    @property
    def counts(self) -> dict[str, int]:
        """The number of scans in each split."""
        return {split: len(self.manifest.rows(split)) for split in self.manifest.splits}


@dataclass(frozen=True)
class LabelledScans:
    """All labelled scans of a training.

    Args:
        parts: the sets, in the order of their outputs.
    """

    parts: tuple[Part, ...]

    @property
    def alone(self) -> bool:
        """Whether there is one set only, so that what is trained is a whole model and not a backbone."""
        return len(self.parts) == 1

    @cached_property
    def task(self) -> Task | Mixture:
        """What the network is trained for: the task of the only set, or those of all sets side by side."""
        if self.alone:
            return self.parts[0].task
        from slivit.train.mixture import Mixture

        return Mixture({part.name: part.task for part in self.parts})

    @cached_property
    def manifest(self) -> Manifest:
        """All rows in one table; a column "set" says where each of several sets' is from, and patients keep apart."""
        if self.alone:
            return self.parts[0].manifest
        import pandas as pd

        frames = []
        for part in self.parts:
            frame = part.manifest.frame
            frame[SET] = part.name
            frame["patient"] = part.name + "/" + frame["patient"].astype(str)
            frames.append(frame)
        source = " with ".join(part.manifest.source for part in self.parts)
        return Manifest(pd.concat(frames, ignore_index=True), self.parts[0].task, source)

    @property
    def cache(self) -> MemoryCache | SliceCache | SeveralCaches | None:
        """Where the slices of all sets are kept: each set's own cache."""
        caches = [part.cache for part in self.parts]
        if self.alone or not any(caches):
            return caches[0]
        pairs = zip(self.parts, caches, strict=True)
        return SeveralCaches(
            {str(row["path"]): cache for part, cache in pairs if cache for row in part.manifest.rows()}
        )

    @property
    def processes(self) -> int:
        """How many processes read scans."""
        return max(part.data.processes for part in self.parts)

    def kept(self, own: Path, settings: Preprocessing, plan: Sequence[ScanWindows] | None) -> LabelledScans:
        """The same scans, decoded once: the slices of sets whose recipe names no cache stay in memory, or on disk.

        Args:
            own: a folder of the run for what memory has no room for, which is removed at the run's end.
            settings: the preprocessing, with its size set.
            plan: how scans are cut into windows, if they are.
        """
        without = [part for part in self.parts if not part.data.cache and not part.task.dense]
        paths = [str(row["path"]) for part in without for row in part.manifest.rows()]
        slices, rows, columns = settings.stored.sized()
        depth = max((scan.depth for scan in plan or ()), default=slices)
        size = depth * rows * columns * max(len(settings.channels), 1) * (1 if settings.rounded else 4)
        shared, names = self.processes > 0, {part.name for part in without}
        kept: MemoryCache | SliceCache
        if room_in_memory(len(paths) * size, shared=shared):
            kept = MemoryCache(paths, settings, size, shared=shared)
        elif room_for_slices(own, len(paths) * size):
            kept = SliceCache(own)
        else:
            return self
        return LabelledScans(tuple(replace(p, kept=kept) if p.name in names else p for p in self.parts))

    def keep(self, folder: RunFolder) -> None:
        """Write the rows in their splits to the run's folder."""
        for part in self.parts:
            log.info("%r", part.manifest)
        self.manifest.to_csv(folder.file(SPLIT))

    def range(self, settings: Preprocessing) -> dict[str, Any]:
        """What the training scans are like, so that predictions can tell of scans that are not like them.

        Args:
            settings: the preprocessing, with its size set.
        """
        if self.parts[0].task.dense:
            return {}
        paths = [str(row["path"]) for row in self.manifest.rows("train")]
        seen = training_range(paths, settings, workers=self.processes)
        if seen is None:
            return {}
        if sentence := depths_sentence(seen, settings):
            log.log(logging.WARNING if seen.fewer else logging.INFO, sentence)
        return {"scans_range": seen.model_dump(mode="json")}

    def check_masks(self, settings: Preprocessing) -> None:
        """Look at all masks, where there are such, before anything is trained.

        Raises:
            ManifestError: all that is wrong with them.
        """
        for part in self.parts:
            if isinstance(part.task, Segmentation):
                from slivit.data.case_checks import checked_masks

                checked_masks(part.manifest, part.task, settings, part.data.align, part.data.processes)

    def windows(self, settings: Preprocessing) -> Sequence[ScanWindows] | None:
        """The windows of the scans that train and validate; None where scans stay whole.

        Args:
            settings: the preprocessing, with its size set.

        Raises:
            ManifestError: labels of slices that contradict the scans or each other.
            ReadError: scans that cannot be read.
        """
        if settings.windows is None:
            return None
        from slivit.data.slice_labels import read_slice_labels
        from slivit.data.window_plan import count_slices, plan_windows, used_rows

        paths = [str(row["path"]) for row in used_rows(self.manifest)]
        depths = count_slices(paths, settings.reader, workers=self.processes)
        data = self.parts[0].data
        root, source, labels = data.root or None, data.slice_labels, None
        if source:
            labels = read_slice_labels(source, self.manifest, depths, root=root, reader=settings.reader)
        return plan_windows(self.manifest, settings, depths, labels)


@dataclass(frozen=True)
class SeveralCaches:
    """The caches of several sets as one.

    Args:
        caches: by the path of a scan; a scan that is not among them is read anew each time.
    """

    caches: Mapping[str, MemoryCache | SliceCache]

    def load(self, path: str, settings: Preprocessing) -> Grey:
        """The preprocessed slices of a scan, as `SliceCache.load` gives them."""
        cache = self.caches.get(path)
        return cache.load(path, settings) if cache else load_slices(path, settings)


def labelled_scans(recipe: Labelled) -> LabelledScans:
    """The scans of a recipe under its tasks, which the training rows complete.

    Raises:
        ManifestError: all that is wrong with a table.
        RecipeError: columns of subgroups that are not there.
    """
    parts, end = [], 0
    for name, section in recipe.parts.items():
        manifest = load_manifest(section.data, section.task)
        if section.task.covariates:
            manifest = with_covariates(manifest, recipe.preprocessing.reader, section.data.processes)
        manifest = manifest.with_task(section.task.fitted(manifest.rows("train")))
        check_subgroups(manifest.frame, recipe.testing)
        for covariate in manifest.task.inputs:
            log.info("covariate %s", covariate)
        begin, end = end, end + manifest.task.out_dim
        parts.append(Part(name, section.data, manifest, slice(begin, end)))
    return LabelledScans(tuple(parts))


def write_windows(plan: Sequence[ScanWindows], task: Task, folder: RunFolder) -> None:
    """Write `windows.csv`: how each scan is cut, and how many of its windows are positive."""
    import pandas as pd

    from slivit.data.window_plan import summary

    target = task.targets[0] if task.two_classes else None
    table = pd.DataFrame(summary(plan, target))
    write_table(folder.file(WINDOWS), table)
    for split, part in table.groupby("split", sort=False):
        positive = f", {part['positive'].sum()} of them positive" if target else ""
        log.info("%s: %d scans, %d windows%s", split, len(part), part["windows"].sum(), positive)
