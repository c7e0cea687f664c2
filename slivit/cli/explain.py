"""Commands that show why a model predicts what it predicts. Nothing heavy is imported before a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from slivit.cli.common import named_value, user_errors


def add_commands(app: typer.Typer) -> None:
    """Put `explain` and `view` beside the other commands."""
    app.command()(explain)
    app.command()(view)


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
    covariate: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE of a model that reads covariates, such as age=61; held fixed.")
    ] = None,
) -> None:
    """Say which slices of a scan a prediction rests on, and where in them."""
    from tqdm import tqdm

    with user_errors(), tqdm(desc="occlusion", unit="scan", disable=None, leave=False) as bar:
        from slivit.explanation.command import run

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        options: dict[str, Any] = {"target": target, "methods": method, "fill": fill, "device": device}
        known = dict(named_value(text, "--covariate") for text in covariate or ())
        options |= {"overwrite": overwrite, "progress": progress, "covariates": known}
        run(checkpoint, scan, out, batch_size=batch_size, **options)
    typer.echo(out)


def view(
    checkpoint: Annotated[Path, typer.Argument(help="A run or checkpoint folder, or a folder of runs, as a study is.")],
    more: Annotated[
        list[Path] | None,
        typer.Argument(help="A CSV of scans (the run's own split if absent), and further runs to compare with."),
    ] = None,
    readers: Annotated[
        list[Path] | None, typer.Option(help="A CSV of people's calls: path, reader and the target; more than once.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one.")] = 8080,
    host: Annotated[str, typer.Option(help="The address to listen on; this machine's own if absent.")] = "127.0.0.1",
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the browser.")] = True,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Scans that are predicted at a time.")] = 8,
) -> None:
    """Work through scans, predictions and explanations on a local page; nothing leaves this machine."""
    from contextlib import suppress

    with user_errors(), suppress(KeyboardInterrupt):  # the way to end it
        from slivit.viewer.command import run

        options: dict[str, Any] = {"host": host, "port": port, "browser": browser, "readers": readers or ()}
        tell = lambda url: typer.echo(f"{url}  (stop with Ctrl+C)")  # noqa: E731
        warn = lambda text: typer.echo(text, err=True)  # noqa: E731
        run(checkpoint, more or (), device=device, batch_size=batch_size, tell=tell, warn=warn, **options)
