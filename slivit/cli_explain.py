"""Commands that show why a model predicts what it predicts. Nothing heavy is imported before a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from slivit.cli_common import told_errors


def add_commands(app: typer.Typer) -> None:
    """Put `explain` and `view` beside the other commands."""
    app.command()(explain)


def explain(
    checkpoint: Annotated[Path, typer.Argument(help="A run or checkpoint folder.")],
    scan: Annotated[Path, typer.Argument(help="A scan: a file or folder, in any format that can be read.")],
    out: Annotated[Path, typer.Option(help="Where slices.csv, sheet.png and the overlays go.")] = Path("explanation"),
    target: Annotated[str | None, typer.Option(help="What to explain: a target or class; the likeliest if absent.")] = (
        None
    ),
    method: Annotated[
        list[str] | None, typer.Option(help="occlusion, rollout or gradcam; may be given more than once.")
    ] = None,
    fill: Annotated[str, typer.Option(help="By what occlusion replaces a slice: mean, black or grey.")] = "mean",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Scans that occlusion predicts at a time.")] = 8,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier explanation there.")] = False,
) -> None:
    """Say which slices of a scan a prediction rests on, and where in them."""
    from tqdm import tqdm

    with told_errors(), tqdm(desc="occlusion", unit="scan", disable=None, leave=False) as bar:
        from slivit.stages.explain import run

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        options: dict[str, Any] = {"target": target, "methods": method, "fill": fill, "device": device}
        run(checkpoint, scan, out, batch_size=batch_size, overwrite=overwrite, progress=progress, **options)
    typer.echo(out)
