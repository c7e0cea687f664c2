"""Commands for models that are shared. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from slivit.cli.common import ClusterOption, user_errors
from slivit.errors import SlivitError

FAILED = 1
"""The exit status where all was done, but some scans could not be predicted."""


def add_commands(app: typer.Typer) -> None:
    """Put `predict` and `export` beside the other commands."""
    app.command()(predict)
    app.command()(export)


def _batch_size(text: str) -> int:
    """A number of scans, or 0 for "auto"."""
    if text == "auto":
        return 0
    if not text.isdecimal() or int(text) < 1:
        raise SlivitError(f'--batch-size is "auto" or a number from 1, got "{text}"')
    return int(text)


def predict(
    checkpoint: Annotated[str, typer.Argument(help="A run, checkpoint or export folder, or hub:OWNER/NAME.")],
    scans: Annotated[
        list[str],
        typer.Argument(
            help="Scans in any format; folders or zip archives of scans; manifests (CSV).", show_default=False
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A CSV; the table goes to standard output if absent.")
    ] = None,
    backbone: Annotated[
        str, typer.Option(metavar="PATH", help="The backbone of a model that holds adapters alone.")
    ] = "",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    batch_size: Annotated[str, typer.Option(help="Scans a batch: a number, or auto, which measures.")] = "auto",
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that read scans.", show_default=False)] = None,
    processes: Annotated[
        int | None, typer.Option(min=0, help="Processes that predict; one a GPU where there are several.")
    ] = None,
    cluster: ClusterOption = "",
    precision: Annotated[str, typer.Option(help="float32, bfloat16, float16 or auto.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a table that was not finished.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a table.")] = False,
) -> None:
    """Predict new scans: probabilities, or values in the target's unit.

    Ends with status 1 where a scan could not be predicted; the column error says why. The others are in the table.
    """
    from slivit.predict.command import run

    with user_errors("go on with the same command and --resume" if out else ""):
        options: dict[str, Any] = {"device": device, "batch_size": _batch_size(batch_size), "workers": workers}
        options |= {"precision": precision, "backbone": backbone, "processes": processes, "cluster": cluster}
        table = run(checkpoint, scans, out, resume=resume, overwrite=overwrite, **options)
    if out is None:
        from slivit.data.table import as_shown

        as_shown(table).to_csv(sys.stdout, index=False)
    _tell(table, out)


def _tell(table: Any, out: Path | None) -> None:
    """Say how it went, and end with the status that says so too."""
    errors = [e for e in table["error"] if e]
    doubtful = int((table["warnings"] != "").sum())
    where = f"{out}: " if out else ""
    typer.echo(f"{where}{len(table) - len(errors)} of {len(table)} scans predicted, {doubtful} with warnings", err=True)
    if not errors:
        return
    for error in errors[:10]:
        typer.secho(f"  - {error}", err=True, fg=typer.colors.RED)
    rest = f" and {len(errors) - 10} more" if len(errors) > 10 else ""
    again = "; mend them and try again with --resume" if out else ""
    typer.secho(
        f"slivit: {len(errors)} of {len(table)} scans could not be predicted{rest}; the column error says why{again}",
        err=True,
        fg=typer.colors.RED,
    )
    raise typer.Exit(FAILED)


def export(
    target: Annotated[Path, typer.Argument(metavar="RUN", help="A run or checkpoint folder.")],
    out: Annotated[Path, typer.Argument(help="A new folder.")],
    format: Annotated[str, typer.Option(help="safetensors, onnx or torch-export.")] = "safetensors",
    bf16: Annotated[bool, typer.Option("--bf16", help="Large weights in bfloat16: half the size.")] = False,
    card: Annotated[
        Path | None, typer.Option(metavar="NOTES.toml", help="What the card says: licence, intended use, ...")
    ] = None,
    scans: Annotated[
        list[str] | None, typer.Option(help="Scans to compare on, repeatable; the run's test scans if absent.")
    ] = None,
    most: Annotated[int, typer.Option(min=1, help="Scans that are compared.")] = 8,
    tolerance: Annotated[
        float | None,
        typer.Option(help="The largest difference allowed, of a probability or in spreads of the target."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
) -> None:
    """Write a trained model for other people: weights or a graph, its config, a card, checksums, and predict.py."""
    from slivit.sharing.command import run

    with user_errors():
        options: dict[str, Any] = {"format": format, "bf16": bf16, "notes": card, "scans": scans or ()}
        made = run(target, out, tolerance=tolerance, most=most, overwrite=overwrite, **options)
    typer.echo(made.folder)
    typer.echo(f"fingerprint {made.fingerprint}")
