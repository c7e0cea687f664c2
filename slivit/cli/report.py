"""Commands that measure models and draw pages. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from slivit.cli.common import AGAIN, ClusterOption, user_errors
from slivit.errors import SlivitError

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, such as testing.draws=2000.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace earlier results in the same folder.")]
ByPatient = Annotated[bool, typer.Option("--by-patient", help="Draw patients instead of scans for intervals.")]
Target = Annotated[
    str,
    typer.Argument(metavar="CHECKPOINT|RECIPE|CSV", help="A run or checkpoint, a recipe, or a table of predictions."),
]
OperatingPoint = Annotated[
    str | None,
    typer.Option(
        metavar="RULE",
        help="Fix the threshold on validation rows and keep it in the checkpoint: a number, youden, sensitivity=0.9 "
        "or specificity=0.9.",
    ),
]
Temperature = Annotated[
    bool, typer.Option("--temperature", help="Calibrate on validation rows, and keep that in the checkpoint.")
]
Stratified = Annotated[bool, typer.Option("--stratified", help="Keep the class counts in every draw.")]


def add_commands(app: typer.Typer) -> None:
    """Put `evaluate`, `compare` and `curve` beside the other commands."""
    for command in (evaluate, compare, curve):
        app.command()(command)


def evaluate(
    target: Target,
    overrides: Overrides = None,
    manifest: Annotated[str | None, typer.Option(help="The labelled scans; the run's own test rows if absent.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where results go; CHECKPOINT/evaluation if absent.")] = None,
    operating_point: OperatingPoint = None,
    temperature: Temperature = False,
    subgroup: Annotated[list[str] | None, typer.Option(metavar="COLUMN", help="Metrics by it too; repeatable.")] = None,
    site: Annotated[str | None, typer.Option(metavar="COLUMN", help="The column of sites, side by side.")] = None,
    readers: Annotated[Path | None, typer.Option(help="A CSV of human readers' calls.")] = None,
    by_patient: ByPatient = False,
    stratified: Stratified = False,
    level: Annotated[float | None, typer.Option(help="Of the intervals; 0.9 if absent.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Evaluate a checkpoint on labelled scans: predictions, metrics with intervals, and a page."""
    options = {
        "operating_point": operating_point,
        "temperature": temperature or None,
        "subgroups": subgroup or None,
        "site": site,
        "readers": None if readers is None else str(readers),
        "by_patient": by_patient or None,
        "stratified": stratified or None,
        "level": level,
    }
    given = [f"testing.{key}={json.dumps(value)}" for key, value in options.items() if value is not None]
    with user_errors():
        typer.echo(_evaluated(target, [*(overrides or ()), *given], manifest, out, overwrite))


def _evaluated(target: str, overrides: list[str], manifest: str | None, out: Path | None, overwrite: bool) -> Path:
    from slivit.evaluate import command as stage

    if Path(target).suffix.lower() == ".csv":
        if manifest:
            raise SlivitError("a table of predictions has its answers; --manifest is for a checkpoint")
        return stage.run_table(Path(target), stage.testing_for(overrides, target), out, overwrite=overwrite)
    return stage.run(stage.recipe_for(target, overrides, manifest, out), overwrite=overwrite)


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="[NAME=]RUN...", help="Runs, evaluations or tables; one NAME, one method."),
    ],
    out: Annotated[Path, typer.Option(help="Where results go.")] = Path("compare"),
    metric: Annotated[list[str] | None, typer.Option(help="Whose differences are tested; repeatable.")] = None,
    level: Annotated[float, typer.Option(help="Of the intervals.")] = 0.95,
    draws: Annotated[int, typer.Option(min=1, help="Of the bootstrap.")] = 1000,
    by_patient: ByPatient = False,
    stratified: Stratified = False,
    t_test: Annotated[
        bool, typer.Option("--t-test", help="Add the SLIViT paper's t-test, whose p-values are too small.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Compare models on the same test scans: differences with intervals, tests, and a page."""
    from slivit.evaluate.compare import run

    options: dict[str, Any] = {"level": level, "draws": draws, "by_patient": by_patient, "stratified": stratified}
    with user_errors():
        typer.echo(run(runs, out, metrics=metric or (), t_test=t_test, overwrite=overwrite, **options))


def curve(
    recipe: Annotated[str, typer.Argument(help="A fine-tuning recipe: a TOML file, or the name of a shipped one.")],
    out: Annotated[Path, typer.Argument(help="A folder; one that this command left unfinished goes on.")],
    overrides: Overrides = None,
    fractions: Annotated[str, typer.Option(help="Of the training patients.")] = "0.1,0.25,0.5,1",
    seeds: Annotated[str, typer.Option(help="Of the training.")] = "0,1,2",
    cluster: ClusterOption = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Train runs of another recipe there anew.")] = False,
) -> None:
    """Train on nested subsets of the labels, and draw how performance grows with them: a study of shares and seeds."""
    from slivit.experiments.curve import curve_study
    from slivit.experiments.study import run
    from slivit.recipe import load_recipe

    with user_errors(AGAIN):
        shares = [_number(text, float, "--fractions") for text in fractions.split(",")]
        starts = [_number(text, int, "--seeds") for text in seeds.split(",")]
        loaded = load_recipe("finetune", recipe, overrides or ())
        study = curve_study(loaded, out, shares, starts)
        result = run(study, processes=0, cluster=cluster, overwrite=overwrite)
        typer.echo(result.page or result.folder)
    raise typer.Exit(1 if result.failed else 0)


def _number(text: str, kind: type, option: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise SlivitError(f'{option}: "{text}" is not a number; give numbers between commas, such as 0,1,2') from None
