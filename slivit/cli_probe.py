"""Commands that look at what a frozen network knows. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slivit.cli_common import told_errors
from slivit.errors import SlivitError

if TYPE_CHECKING:
    from slivit.recipe_probe import ProbeRecipe

ModelName = Annotated[str | None, typer.Option("--model", help="A network by name, where no checkpoint is given.")]
Weights = Annotated[str | None, typer.Option(help="For --model: a file, folder or identifier of published weights.")]
RandomInit = Annotated[bool, typer.Option("--random-init", help="Leave the network's weights at random.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace earlier results in the same folder.")]


def add_commands(app: typer.Typer) -> None:
    """Put `probe` beside the other commands."""
    app.command()(probe)


def probe(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="[CHECKPOINT] MANIFEST [KEY=VALUE]...",
            help="A run or checkpoint folder (or --model), the labelled scans, and options such as testing.draws=2000.",
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
    features: Annotated[Path | None, typer.Option(help="Where features are kept; beside OUT if absent.")] = None,
    iterations: Annotated[int | None, typer.Option(help="Steps of the linear heads; 12,500 if absent.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Scans a step of the linear heads; 128 if absent.")] = None,
    standardise: Annotated[bool | None, typer.Option(help="Standardise features by the training scans.")] = None,
    page: Annotated[bool | None, typer.Option(help="Draw the page of results.")] = None,
    knn: Annotated[bool, typer.Option("--knn", help="Ask nearest neighbours too.")] = False,
    neighbours: Annotated[str | None, typer.Option("-k", help="Numbers of neighbours, such as 10,20.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Of the neighbours' weights; 0.07 if absent.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that read scans.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, ...")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Measure what the features of a frozen network are worth: linear heads, and nearest neighbours.

    The features of every scan are computed once and kept. All heads (13 learning rates by the network's sets of
    features) are trained at once; the best on the validation rows is measured on the test rows, with intervals.
    """
    options: dict[str, Any] = {
        "model.name": model,
        "model.weights": weights,
        "random_init": random_init or None,
        "seed": seed,
        "task.kind": kind,
        "task.targets": target or None,
        "out": out and str(out),
        "features.folder": features and str(features),
        "features.standardise": standardise,
        "page": page,
        "linear.iterations": iterations,
        "linear.batch_size": batch_size,
        "knn.run": knn or neighbours is not None or temperature is not None or None,
        "knn.temperature": temperature,
        "data.workers": workers,
        "device": device,
    }
    with told_errors():
        from slivit.stages.probe import run

        options["knn.neighbours"] = whole_numbers(neighbours, "-k") if neighbours else None
        typer.echo(run(_recipe(targets, options), overwrite=overwrite))


def _recipe(targets: list[str], options: dict[str, Any]) -> ProbeRecipe:
    """The recipe that the arguments and options of the command make."""
    from slivit.recipe import apply_override, check_recipe
    from slivit.recipe_probe import ProbeRecipe

    given = [t for t in targets if "=" not in t or Path(t).exists()]
    named = options["model.name"] is not None
    if len(given) != (1 if named else 2):
        raise SlivitError(
            f"give {'MANIFEST alone, since --model names the network' if named else 'CHECKPOINT and MANIFEST'}; got "
            f"{' '.join(given) or 'neither'}. Without a checkpoint, name a network: --model NAME --weights FILE"
        )
    checkpoint, manifest = ("", given[0]) if named else given
    values: dict[str, Any] = {"checkpoint": checkpoint, "out": str(Path(checkpoint or ".") / "probe")}
    values["data"] = {"manifest": manifest}
    overrides = [f"{key}={json.dumps(value)}" for key, value in options.items() if value is not None]
    for override in [*(t for t in targets if t not in given), *overrides]:
        apply_override(values, override)
    return check_recipe(ProbeRecipe, values, f"probe of {checkpoint or options['model.name']}")


def whole_numbers(text: str, option: str) -> list[int]:
    """Read "10,20" as [10, 20]."""
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise SlivitError(f'{option}: "{text}": give whole numbers between commas, such as 10,20') from None
