"""The command that goes from labelled scans to a tested model. Nothing heavy is imported before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from slivit.cli.common import ClusterOption, named_value, user_errors


def add_commands(app: typer.Typer) -> None:
    """Put `auto` beside the other commands."""
    app.command()(auto)


def auto(
    scans: Annotated[
        str,
        typer.Argument(
            help="A CSV or spreadsheet; a folder of class folders; a folder of scans (with --labels); a BIDS data set; "
            "a MedMNIST file.",
            show_default=False,
        ),
    ] = "",
    target: Annotated[list[str] | None, typer.Option(help="Column to predict; repeatable; guessed if absent.")] = None,
    kind: Annotated[str, typer.Option(help="binary, multiclass, multilabel or regression; guessed if absent.")] = "",
    labels: Annotated[str, typer.Option(help="A table that names the scans of a folder, or their patients.")] = "",
    importer: Annotated[str, typer.Option(help="Of a public data set's folder; see slivit list importers.")] = "",
    option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Of the importer: suffix=T1w, where=description~T1.")
    ] = None,
    covariate: Annotated[
        list[str] | None,
        typer.Option(help="Column to read beside the scans; repeatable; none for none; age, sex, BMI if absent."),
    ] = None,
    channel: Annotated[
        list[str] | None, typer.Option(help="Column of paths that is a channel of every scan; name each of them.")
    ] = None,
    time: Annotated[str, typer.Option(help="That it may take: 45m, 2h.")] = "45m",
    out: Annotated[Path, typer.Option(help="The run's folder.")] = Path("auto"),
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1)] = 0,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RUN|NAME",
            help="Pre-trained weights whose features are tried: a run of yours (networks start from it too), a name of "
            "slivit list weights, or NAME=FILE; repeatable.",
        ),
    ] = None,
    plan: Annotated[str, typer.Option(metavar="PLAN.toml", help="A plan to follow, in place of a new one.")] = "",
    cluster: ClusterOption = "",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in OUT that was stopped.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in OUT.")] = False,
) -> None:
    """From labelled scans to a tested model: baselines, networks by folds, their ensemble, and a report."""
    from slivit.errors import SlivitError

    with user_errors():
        if not scans and not resume:
            raise SlivitError(
                "give a table or folder of scans: slivit auto SCANS [--target NAME]; or --resume --out RUN"
            )
        from slivit.planned import auto as run

        given: dict[str, Any] = {
            "target": target or (),
            "covariates": covariate or (),
            "channels": channel or (),
            "weights": weights or (),
        }
        given |= {"importer_options": dict(named_value(text, "--option") for text in option or [])}
        where: dict[str, Any] = {"out": out, "resume": resume, "overwrite": overwrite, "cluster": cluster, "plan": plan}
        run(scans, kind=kind, labels=labels, importer=importer, time=time, seed=seed, **where, **given)
        typer.echo(out / "report" / "auto.html")
