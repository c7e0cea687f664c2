"""Commands that look at what a frozen network knows. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from slivit.cli.common import ClusterOption, user_errors
from slivit.errors import SlivitError

ModelName = Annotated[str | None, typer.Option("--model", help="A network by name, where no checkpoint is given.")]
Weights = Annotated[str | None, typer.Option(help="For --model: a file, folder or identifier of published weights.")]
RandomInit = Annotated[bool, typer.Option("--random-init", help="Leave the network's weights at random.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace earlier results in the same folder.")]


def add_commands(app: typer.Typer) -> None:
    """Put `embed`, `probe`, `similarity` and `visualise` beside the other commands."""
    app.command()(embed)
    app.command()(probe)
    app.command()(similarity)
    app.command()(visualise)


def embed(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="[CHECKPOINT] MANIFEST OUT.parquet [KEY=VALUE]...",
            help="A run or checkpoint folder (or --model), the scans, the table to write, and options such as "
            "model.slices=48, preprocessing.sampling=even, by_slice=true or device=cpu.",
            show_default=False,
        ),
    ],
    model: ModelName = None,
    weights: Weights = None,
    random_init: RandomInit = False,
    planes: Annotated[
        int, typer.Option(min=1, max=3, help="1, or 3: axial, coronal and sagittal slices, as many of each.")
    ] = 1,
    raptor: Annotated[
        int | None, typer.Option(min=0, help="Random projections of each patch (Raptor: 100); 0 for none.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the projections, and of a network at random.")] = None,
    processes: Annotated[int, typer.Option(min=0, help="Processes that compute, each with a GPU of its own.")] = 0,
    cluster: ClusterOption = "",
    overwrite: Overwrite = False,
) -> None:
    """Write what a frozen network makes of every scan into one table, for heads here (slivit probe) or anywhere.

    Statistics of the slices' vectors, and Raptor's random projections. Given again, it goes on where it was stopped.
    """
    options: dict[str, Any] = {"model.name": model, "model.weights": weights, "random_init": random_init or None}
    options |= {"seed": seed, "raptor": raptor}
    with user_errors("the same command, given again, goes on"):
        from slivit.probing.embedding import EmbedRecipe
        from slivit.probing.embedding import embed as run
        from slivit.recipe import check_recipe

        if planes == 2:
            raise SlivitError("--planes is 1 or 3; name two of them with preprocessing.planes=[axial,coronal]")
        options["preprocessing.planes"] = ["axial", "coronal", "sagittal"] if planes == 3 else None
        tables = [t for t in targets if t.endswith(".parquet") and "=" not in t]
        if len(tables) != 1:
            raise SlivitError("name the table to write: slivit embed MANIFEST OUT.parquet --model NAME")
        rest = [t for t in targets if t not in tables]
        checkpoint, manifest, values = _values(rest, "MANIFEST", options)
        plain = {"out": tables[0], **values, "data": {"manifest": manifest, **values.get("data", {})}}
        recipe = check_recipe(EmbedRecipe, plain, f"embedding by {checkpoint or model}")
        typer.echo(run(recipe, processes=processes, cluster=cluster, overwrite=overwrite))


def similarity(
    manifest: Annotated[Path, typer.Argument(help="The volumes: a CSV with a column path.")],
    networks: Annotated[
        list[str], typer.Argument(metavar="NAME=NETWORK...", help="random, imagenet, or a run, checkpoint or file.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder of results.")] = Path("similarity"),
    backbone: Annotated[str, typer.Option(help="Of all networks: a convolutional network of timm.")] = "convnext_tiny",
    slices: Annotated[int, typer.Option(min=1, help="Of each volume, spread over it.")] = 8,
    image_size: Annotated[int, typer.Option(min=32, help="Rows and columns in pixels.")] = 256,
    overwrite: Overwrite = False,
) -> None:
    """Tell how alike the features of 2D backbones are in the same slices (linear CKA): a table, tests and a figure."""
    with user_errors():
        from slivit.data.preprocessing import Preprocessing
        from slivit.data.table import read_table
        from slivit.probing.similarity import compare_backbones, make_backbones

        named = {text.partition("=")[0]: text.partition("=")[2] or text for text in networks}
        made = make_backbones(named, backbone, image_size)
        table = read_table(manifest)
        if "path" not in table:
            raise SlivitError(f"{manifest}: has no column path")
        paths = [str(Path(p) if Path(p).is_absolute() else manifest.parent / p) for p in table["path"]]
        settings = Preprocessing(size=(slices, image_size, image_size))
        typer.echo(compare_backbones(paths, made, settings, out, overwrite=overwrite))


def probe(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="[CHECKPOINT] MANIFEST [KEY=VALUE]...",
            help="A run or checkpoint folder (or --model), the labelled scans, and options such as testing.draws=2000, "
            "linear.iterations=5000, knn.run=true or device=cpu.",
            show_default=False,
        ),
    ],
    model: ModelName = None,
    weights: Weights = None,
    random_init: RandomInit = False,
    seed: Annotated[int | None, typer.Option(help="Of the heads, and of a network at random.")] = None,
    kind: Annotated[str | None, typer.Option(help="binary, multiclass, multilabel or regression.")] = None,
    target: Annotated[list[str] | None, typer.Option(help="A target column; may be given more than once.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where results go; CHECKPOINT/probe, or probe, if absent.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Measure what the features of a frozen network are worth: linear heads, and nearest neighbours.

    The features of every scan are computed once and kept. All heads (13 learning rates by the network's sets of
    features) are trained at once; the best on the validation rows is measured on the test rows, with intervals.
    Instead of a network and a manifest, give the table of slivit embed: slivit probe OUT.parquet --kind K --target T.
    """
    options: dict[str, Any] = {
        "model.name": model,
        "model.weights": weights,
        "random_init": random_init or None,
        "seed": seed,
        "task.kind": kind,
        "task.targets": target or None,
        "out": out and str(out),
    }
    with user_errors():
        from slivit.probing.command import run
        from slivit.probing.recipe import ProbeRecipe
        from slivit.recipe import check_recipe

        if table := next((t for t in targets if t.endswith(".parquet") and "=" not in t), None):
            typer.echo(_probe_table(table, [t for t in targets if t != table], options, overwrite))
            return
        checkpoint, manifest, values = _values(targets, "MANIFEST", options)
        plain = {"out": str(Path(checkpoint or ".") / "probe"), **values}
        plain["data"] = {"manifest": manifest, **values.get("data", {})}
        recipe = check_recipe(ProbeRecipe, plain, f"probe of {checkpoint or model}")
        typer.echo(run(recipe, overwrite=overwrite))


def _probe_table(table: str, rest: list[str], options: dict[str, Any], overwrite: bool) -> Path:
    """Heads on a table of embeddings; the network's options have no meaning there."""
    from slivit.probing.table import TableRecipe, run
    from slivit.recipe import apply_override, check_recipe

    networks = {"model.name": "--model", "model.weights": "--weights", "random_init": "--random-init"}
    if idle := [flag for key, flag in networks.items() if options.pop(key)]:
        raise SlivitError(f"{', '.join(idle)}: the embeddings of {table} are computed already; leave it out")
    if unknown := [t for t in rest if "=" not in t]:
        raise SlivitError(f'{unknown[0]}: give the table {table} alone, and options such as heads=["linear"]')
    values: dict[str, Any] = {"embeddings": table, "out": str(Path(table).with_suffix("")) + "_probe"}
    overrides = [f"{key}={json.dumps(value)}" for key, value in options.items() if value is not None]
    for override in [*rest, *overrides]:
        apply_override(values, override)
    return run(check_recipe(TableRecipe, values, f"probe of {table}"), overwrite=overwrite)


def visualise(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="[CHECKPOINT] SCAN [KEY=VALUE]...",
            help="A run or checkpoint folder (or --model), a scan, options such as preprocessing.sampling=resample.",
            show_default=False,
        ),
    ],
    model: ModelName = None,
    weights: Weights = None,
    random_init: RandomInit = False,
    seed: Annotated[int | None, typer.Option(help="Of a network at random.")] = None,
    out: Annotated[Path, typer.Option(help="A new folder.")] = Path("features_seen"),
    head: Annotated[int | None, typer.Option(help="Of the attention, from 0; the mean of all heads if absent.")] = None,
    size: Annotated[
        str | None, typer.Option(metavar="S,H,W", help="Sample the scan to this size, for more and smaller patches.")
    ] = None,
    mask: Annotated[bool, typer.Option(help="Leave the background black.")] = True,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Show a frozen network's features of a scan: patch tokens as colours, and where its class token looks.

    Writes features.png (three planes), and pca.nii.gz and attention.nii.gz on the grid of the scan.
    """
    options = {"model.name": model, "model.weights": weights, "random_init": random_init or None, "seed": seed}
    with user_errors():
        from slivit.probing.networks import load_network
        from slivit.probing.recipe import NetworkRecipe
        from slivit.probing.visualise import run
        from slivit.recipe import check_recipe

        checkpoint, scan, values = _values(targets, "SCAN", options)
        recipe = check_recipe(NetworkRecipe, values, f"features of {checkpoint or model}")
        sides = whole_numbers(size, "--size") if size else []
        if sides and len(sides) != 3:
            raise SlivitError(f'--size: "{size}": give slices, rows and columns, such as 96,192,192')
        done = run(
            load_network(recipe), scan, out, head=head, size=sides, mask=mask, device=device, overwrite=overwrite
        )
        typer.echo(done)


def _values(targets: list[str], what: str, options: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """Read the arguments of a command.

    Args:
        targets: a checkpoint where no model is named, the scan or manifest, and "key=value".
        what: "MANIFEST" or "SCAN".
        options: by dotted key; None where not given.

    Returns:
        The checkpoint or "", the scan or manifest, and the plain values of a recipe.
    """
    from slivit.recipe import apply_override

    given = [t for t in targets if "=" not in t or Path(t).exists()]
    named = options["model.name"] is not None
    if len(given) != (1 if named else 2):
        raise SlivitError(
            f"give {f'{what} alone, since --model names the network' if named else f'CHECKPOINT and {what}'}; got "
            f"{' '.join(given) or 'neither'}. Without a checkpoint, name a network: --model NAME --weights FILE"
        )
    checkpoint, target = ("", given[0]) if named else given
    values: dict[str, Any] = {"checkpoint": checkpoint}
    overrides = [f"{key}={json.dumps(value)}" for key, value in options.items() if value is not None]
    for override in [*(t for t in targets if t not in given), *overrides]:
        apply_override(values, override)
    return checkpoint, target, values


def whole_numbers(text: str, option: str) -> list[int]:
    """Read "10,20" as [10, 20]."""
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise SlivitError(f'{option}: "{text}": give whole numbers between commas, such as 10,20') from None
