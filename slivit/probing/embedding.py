"""Embeddings: what a frozen network makes of every scan, in one table that any head, here or elsewhere, reads.

Statistics over the slices of one or three planes, and Raptor's random projections: An et al. 2025 (arXiv:2507.08254).
Origin: written for this project from the paper. Licence: Apache-2.0.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from slivit.data.preprocessing import Preprocessing
from slivit.data.readers.base import check_size
from slivit.data.recipe import Data
from slivit.errors import ReadError, SlivitError, install_command, one_of
from slivit.files import whole_file
from slivit.machines import machines_at
from slivit.models.registry import spec_of
from slivit.predict.features import features
from slivit.probing.recipe import NetworkRecipe
from slivit.recipe import check_recipe, resolved_toml
from slivit.settings import Precision

if TYPE_CHECKING:
    import pandas as pd

    from slivit.probing.extract import Extracted

PART = 256  # scans of a call: what is lost, at most, with a machine
FORMAT, KEY = 1, b"slivit"
SLICES, RAPTOR = "slices", "raptor"


class EmbedRecipe(NetworkRecipe):
    """Which scans are embedded, and what is kept of them; the network's fields are those of `NetworkRecipe`.

    Args:
        out: the table, a Parquet file.
        data: the scans; labels are carried over, and none is needed.
        raptor: random projections of each patch token; 0 leaves Raptor's features out. The paper has 100.
        by_slice: keep the vector of every slice too.
        folder: where features are kept while they are computed, and found again; `features` beside the table where
            empty.
        batch_size: scans a batch.
        precision: in which the network computes; "auto" takes the fastest that the device has.
        device: "auto", "cpu", "cuda", "mps".
    """

    out: str = Field(pattern=r"\.parquet$")
    data: Data
    raptor: int = Field(default=100, ge=0, le=4096)
    by_slice: bool = False
    folder: str = ""
    batch_size: int = Field(default=8, ge=1)
    precision: Precision = "auto"
    device: str = "auto"

    @model_validator(mode="after")
    def _whole_scans(self) -> Self:
        if self.preprocessing.windows:
            raise ValueError("embeddings are of one sample of slices a scan: leave out preprocessing.windows")
        return self


class Embedder(nn.Module):
    """One forward pass of a network over a scan, and what is kept of it.

    A network over slices (one with `slice_tokens`) gives "mean", "max" and "spread" of its slices' vectors, of each
    plane and one plane behind the other; "raptor"; and "slices" where asked. Another gives the features that it offers.

    Args:
        model: made by `create_model`.
        planes: in how many planes its slices lie.
        raptor: random projections K of each patch token; 0 for none.
        by_slice: give the vector of every slice.
        seed: of the projections, which are the same for every scan.
    """

    projection: Tensor

    def __init__(
        self, model: nn.Module, *, planes: int = 1, raptor: int = 100, by_slice: bool = False, seed: int = 0
    ) -> None:
        super().__init__()
        spec = spec_of(model)
        self.network, self.backbone = model, model.get_submodule("backbone")
        self.planes, self.by_slice = planes, by_slice
        made = {"planes": planes, "raptor": raptor, "by_slice": by_slice, "seed": seed, "format": FORMAT}
        self.spec = replace(spec, args={**spec.args, "embedding": made})
        width = getattr(getattr(model, "backbone_info", None), "channels", 0)
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("projection", torch.randn(width, raptor, generator=generator), persistent=False)

    def layer_features(self, x: Tensor) -> dict[str, Tensor]:
        """A batch as the network takes it -> (B, d) by name."""
        network: Any = self.network
        if not hasattr(network, "slice_tokens"):
            return features(network, x)
        slices, patches = network.slice_tokens(x)
        by_plane = slices.float().unflatten(1, (self.planes, -1))
        out = {
            "mean": by_plane.mean(2).flatten(1),
            "max": by_plane.amax(2).flatten(1),
            "spread": by_plane.std(2, correction=0).flatten(1),
        }
        if self.projection.shape[1]:
            out[RAPTOR] = projected(patches, self.planes, self.projection)
        return out | ({SLICES: slices.flatten(1)} if self.by_slice else {})


def projected(patches: Tensor, planes: int, projection: Tensor) -> Tensor:
    """Raptor's features of a batch: patch tokens averaged over the slices of a plane, each projected at random.

    Args:
        patches: (B, S, N, D), S the slices of all planes.
        planes: P.
        projection: (D, K), standard normal.

    Returns:
        (B, P * N * K) float32.

    Source: An et al. 2025, section 3.
    """
    means = patches.float().unflatten(1, (planes, -1)).mean(2)
    return (means @ projection.to(means.device)).flatten(1)


@dataclass(frozen=True, eq=False)
class Embeddings:
    """A table of embeddings.

    Args:
        frame: path, patient, split and what else the manifest had.
        parts: (n, d) float32 by name, in the order of the rows.
        about: the network, digest of its weights, preprocessing and options, as plain values.
    """

    frame: pd.DataFrame
    parts: Mapping[str, Tensor]
    about: Mapping[str, Any]


def embed(
    recipe: EmbedRecipe,
    *,
    processes: int = 0,
    cluster: str = "",
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Embed the scans of a manifest, and write the table, whole or not at all.

    What was computed before is found again by the scans' contents, so that one that died goes on where it was.

    Args:
        recipe: see `EmbedRecipe`.
        processes: that compute, each with a GPU of its own where there are any; 0 computes in this one.
        cluster: a Ray cluster whose machines compute; they must see the scans and `folder` under these paths.
        overwrite: replace an earlier table.
        progress: show a progress bar.

    Returns:
        The table.

    Raises:
        SlivitError: pyarrow is not installed, a table that is there, or scans that cannot be read.
    """
    from slivit.probing.extract import about_features, stored

    out = Path(recipe.out)
    _parquet()
    if out.exists() and not overwrite:
        raise SlivitError(f"{out}: is there already; replace it with --overwrite")
    frame = listed_scans(recipe.data)
    paths = [str(path) for path in frame["path"]]
    model, settings, origin = _embedder(recipe)
    if cluster or processes:
        precision = _elsewhere(recipe, list(dict.fromkeys(paths)), processes, cluster)
        extracted = stored(model, paths, settings, _folder(recipe), precision)
    else:
        extracted = _extracted(recipe, model, settings, paths, progress)
    about = about_features(model, extracted, settings) | {"origin": origin}
    write_embeddings(out, Embeddings(frame, extracted.parts, about))
    return out


def _embedder(recipe: EmbedRecipe) -> tuple[Embedder, Preprocessing, dict[str, Any]]:
    """The network of a recipe, its preprocessing, and where its weights are from."""
    from slivit.probing.networks import load_network

    network = load_network(recipe)
    settings = network.preprocessing.model_copy(update={"flips": ()})
    planes = len(settings.planes or ("",))
    model = Embedder(network.model, planes=planes, raptor=recipe.raptor, by_slice=recipe.by_slice, seed=recipe.seed)
    return model, settings, dict(network.origin)


def _folder(recipe: EmbedRecipe) -> str | Path:
    return recipe.folder or Path(recipe.out).parent / "features"


def _extracted(
    recipe: EmbedRecipe, model: Embedder, settings: Preprocessing, paths: Sequence[str], progress: bool = False
) -> Extracted:
    from slivit.data.recipe import cache_of
    from slivit.probing.extract import extract

    options: dict[str, Any] = {"batch_size": recipe.batch_size, "workers": recipe.data.processes}
    options |= {"precision": recipe.precision, "cache": cache_of(recipe.data), "progress": progress}
    return extract(model, paths, settings, _folder(recipe), device=recipe.device, **options)


def _elsewhere(recipe: EmbedRecipe, paths: Sequence[str], processes: int, cluster: str) -> str:
    """Have features computed and kept, each part of the scans by one call.

    Returns:
        The precision in which they were computed.

    Raises:
        SlivitError: a process that died again and again, or devices that choose different precisions.
    """
    with machines_at(cluster, processes, Path(recipe.out).parent / "workers") as machines:
        size = max(1, min(PART, math.ceil(len(paths) / (4 * max(1, machines.slots)))))
        parts = [(resolved_toml(recipe), paths[i : i + size]) for i in range(0, len(paths), size)]
        used = {precision for _, precision in machines.map(_extract_part, parts, _died)}
    if len(used) > 1:
        raise SlivitError(f"the devices computed in {one_of(used)}; name one precision for all with precision=float32")
    return used.pop() if used else recipe.precision


def _extract_part(part: tuple[str, Sequence[str]]) -> str:
    """Compute and keep the features of some scans; the precision in which."""
    toml, paths = part
    recipe, model, settings = _kept(toml)
    return _extracted(recipe, model, settings, paths).precision


@lru_cache(maxsize=1)
def _kept(toml: str) -> tuple[EmbedRecipe, Embedder, Preprocessing]:
    """What a process keeps between parts."""
    recipe: EmbedRecipe = check_recipe(EmbedRecipe, tomllib.loads(toml), "the embedding")
    model, settings, _ = _embedder(recipe)
    return recipe, model, settings


def _died(part: tuple[str, Sequence[str]], how: str) -> str:
    raise SlivitError(f"{part[1][0]} or one of the {len(part[1]) - 1} scans after it: {how}")


def listed_scans(data: Data) -> pd.DataFrame:
    """The scans of a data section with all their columns; labels are not looked at."""
    from slivit.data.inspection import inspect_manifest
    from slivit.data.sources import imported_frame, named_source
    from slivit.errors import ManifestError, gather

    path, importer = named_source(data)
    if importer:
        return imported_frame(importer, path, data).reset_index(drop=True)
    root = data.root or None
    seen = inspect_manifest(path, columns=data.columns, root=root, patient_from_path=True, where=data.where)
    gather(list(seen.problems), str(path), ManifestError)
    return seen.frame.reset_index(drop=True)


def write_embeddings(path: str | Path, embeddings: Embeddings) -> Path:
    """Write a table as Parquet; what it is of stands in the file's own metadata."""
    pa, parquet = _parquet()
    table = pa.Table.from_pandas(embeddings.frame, preserve_index=False)
    for name, part in embeddings.parts.items():
        values = pa.array(part.contiguous().reshape(-1).numpy())
        table = table.append_column(f"embedding_{name}", pa.FixedSizeListArray.from_arrays(values, part.shape[1]))
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), KEY: json.dumps(dict(embeddings.about))})
    with whole_file(path) as partial:
        parquet.write_table(table, partial)
    return Path(path)


def read_embeddings(path: str | Path) -> Embeddings:
    """Read a table that `slivit embed` wrote.

    Raises:
        ReadError: no such file, another one, or one that holds far more than its bytes make likely.
    """
    pa, parquet = _parquet()
    try:
        with parquet.ParquetFile(path) as file:
            cells = sum(getattr(field.type, "list_size", 1) for field in file.schema_arrow)
            check_size(path, (file.metadata.num_rows, cells), 4, Path(path).stat().st_size)
            table = file.read()
        about = dict(json.loads((table.schema.metadata or {})[KEY]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReadError(f"{path}: no table of embeddings; slivit embed writes one ({error})") from error
    names = [name for name in table.column_names if name.startswith("embedding_")]
    for field in map(table.schema.field, names):
        numbers = pa.types.is_fixed_size_list(field.type) and pa.types.is_float32(field.type.value_type)
        if not numbers or table[field.name].null_count or not len(table):
            raise ReadError(f"{path}: {field.name} holds {field.type}; a set of embeddings has float32 in every row")
    parts = {}
    for name in names:
        column = table[name].combine_chunks()
        rows = torch.from_numpy(column.flatten().to_numpy(zero_copy_only=False).copy())
        parts[name.removeprefix("embedding_")] = rows.reshape(len(column), -1)
    return Embeddings(table.drop_columns(names).to_pandas(), parts, about)


def _parquet() -> tuple[Any, Any]:
    """The package pyarrow, and its part for Parquet."""
    from importlib import import_module

    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise SlivitError(f"tables of embeddings need the package pyarrow: {install_command('embed')}") from error


def chosen_parts(embeddings: Embeddings, names: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
    """What heads may read: each part by itself, and all statistics together.

    Args:
        embeddings: the table.
        names: of the sets wanted; all but the slices themselves where empty.

    Raises:
        SlivitError: a set that there is not.
    """
    from slivit.errors import nearest

    sets: dict[str, tuple[str, ...]] = {name: (name,) for name in embeddings.parts}
    if {"mean", "max", "spread"} <= sets.keys():
        sets["statistics"] = ("mean", "max", "spread")
    for name in names:
        if name not in sets:
            raise SlivitError(f'there is no set "{name}".{nearest(name, sets)} There are {one_of(sets)}.')
    return {name: sets[name] for name in names or sets if names or name != SLICES}
