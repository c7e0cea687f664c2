"""The section of a recipe that says where the scans are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from slivit.data.inspection import Columns
from slivit.data.slice_labels import SliceLabels
from slivit.data.table import is_table
from slivit.device import cores
from slivit.errors import RecipeError
from slivit.settings import Section, Seed, changed

if TYPE_CHECKING:
    from slivit.data.cache import SliceCache

MEDMNIST = "medmnist:"
GB = 1e9


class Data(Section):
    """Where the scans are.

    Args:
        manifest: a CSV; or a data set that an importer lists: its folder, a MedMNIST `.npz`, or "medmnist:NAME"
            ("medmnist:NAME@64").
        also: further manifests of the same columns and classes, whose rows are added; patients of different manifests
            are different ones. The other keys here count for all of them.
        importer: one of `slivit list importers`; for a folder "folders" and for an `.npz` "medmnist" where empty.
        importer_options: what that importer takes.
        test_manifest: a CSV of scans kept for testing, in place of the manifest's own test rows.
        root: the folder that relative scan paths start from (the CSV's by default), or that holds MedMNIST files.
        download: download a MedMNIST file that is not in `root`.
        columns: the names of the manifest's columns.
        channels: the columns of paths whose scans are the channels of one, in place of `columns.path`: ["t1", "flair"].
            They lie on one grid (preprocessing.reader.align = "resample" brings them to the first's). All channels of
            one file are read with preprocessing.reader.channel = "all" instead.
        where: keep the rows whose columns have these values: {"modality": ["CT"]}.
        fractions: train, val and test fractions of patients, where the manifest has no split column.
        split_seed: the seed of every split that is made here.
        val_from_train: where the manifest has train rows but no val rows, move this fraction of the training patients
            to val; 0 makes that an error for a CSV and takes a tenth for an importer.
        folds: train as often, so that every scan is tested once by a model that never saw its patient, and pool the
            predictions; the table's own column `fold` where it has one. Its splits and `fractions` are left aside: the
            rest is split by `val_from_train`, a tenth where that is 0. 0 trains once, by the table's splits.
        train_fraction: keep this fraction of the training patients (label efficiency); nested for one seed.
        fraction_seed: the seed by which `train_fraction` draws patients; `split_seed` where it is negative.
        workers: processes that read scans, at most as many as there are cores; 0 reads in the training process.
        cache: folder of preprocessed slices, for all runs; where empty, a run keeps them for itself while it trains.
        cache_gb: the largest size of that folder, in GB; what was used longest ago makes room. 0 sets no limit.
        align: segmentation only: "error" where a mask lies on another grid than its scan, or "resample" the mask.
        slice_labels: which slices are positive, where scans are cut into windows; see
            `slivit.data.slice_labels.SliceLabels`. Without them every window has the target of its scan.
    """

    manifest: str = Field(min_length=1)
    also: tuple[str, ...] = ()
    importer: str = ""
    importer_options: dict[str, Any] = Field(default_factory=dict)
    test_manifest: str = ""
    root: str = ""
    download: bool = False
    columns: Columns = Columns()
    channels: tuple[str, ...] = ()
    where: dict[str, str | int | float | list[str | int | float]] = Field(default_factory=dict)
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    split_seed: Seed = 0
    val_from_train: float = Field(default=0.0, ge=0, lt=1)
    folds: int = Field(default=0, ge=0)
    train_fraction: float = Field(default=1.0, gt=0, le=1)
    fraction_seed: int = -1
    workers: int = Field(default=2, ge=0)
    cache: str = ""
    cache_gb: float = Field(default=0.0, ge=0)
    align: Literal["error", "resample"] = "error"
    slice_labels: SliceLabels | None = None

    @property
    def processes(self) -> int:
        """`workers`, but no more than there are cores: beyond that they only slow each other down."""
        return min(self.workers, cores())

    @property
    def is_table(self) -> bool:
        """Whether the manifest is a CSV, and not a data set that an importer lists."""
        return _is_table(self.manifest)

    def check(self) -> None:
        """Check that every key has something to act on, before anything is read.

        Raises:
            RecipeError: keys that would do nothing.
        """
        if self.folds == 1:
            raise RecipeError("data.folds is 1; cross-validation needs 2 at least, and 0 trains once")
        if len(set(self.channels)) < max(len(self.channels), 2) and self.channels:
            raise RecipeError(
                f"data.channels is {list(self.channels)}; it names two columns of paths or more, each once. One column "
                "is named in data.columns.path."
            )
        names = [name for name in (self.manifest, *self.also, self.test_manifest) if name]
        tables = [name for name in names if _is_table(name)]
        named = [name for name in names if name.startswith(MEDMNIST)]
        idle = {
            "an importer lists folders and files of a data set, and this is a table": ("importer", "importer_options")
            if len(tables) == len(names)
            else (),
            "an importer knows its columns": () if tables else ("columns",),
            "it is for tables and for medmnist:NAME": () if tables or named else ("root",),
            "it is for medmnist:NAME": () if named else ("download",),
            "all training patients are kept": () if self.train_fraction < 1 else ("fraction_seed",),
            "there is no data.cache": () if self.cache else ("cache_gb",),
            "data.folds tests every scan once": ("test_manifest",) if self.folds else (),
        }
        for why, keys in idle.items():
            if keys and (given := changed(self, *keys)):
                raise RecipeError(f"{', '.join('data.' + key for key in given)} would do nothing: {why}; leave it out")


def _is_table(name: str) -> bool:
    return is_table(name) and not name.startswith(MEDMNIST)


def refuse_unused(data: Data, why: str, *names: str) -> None:
    """Refuse keys of a data section that would do nothing, so that nobody believes they did.

    Raises:
        ValueError: one of them was set.
    """
    idle = changed(data, *names)
    if idle:
        raise ValueError(f"{', '.join('data.' + name for name in idle)} would do nothing: {why}; leave it out")


def cache_of(data: Data) -> SliceCache | None:
    """The cache of a recipe, or None where it has none.

    Raises:
        CacheError: a folder that cannot be used.
    """
    if not data.cache:
        return None
    from slivit.data.cache import SliceCache

    return SliceCache(data.cache, max_bytes=round(data.cache_gb * GB) or None)
