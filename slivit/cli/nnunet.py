"""The command that has nnU-Net segment the scans of a recipe. Nothing heavy is imported before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slivit.cli.common import AGAIN, user_errors


def add_commands(app: typer.Typer) -> None:
    """Put `nnunet` beside the other commands."""
    app.command()(nnunet)


def nnunet(
    recipe: Annotated[str, typer.Argument(help="A fine-tuning recipe of a segmentation: a TOML file or a name.")],
    out: Annotated[Path, typer.Option(help="The folder.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, such as data.manifest=scans.csv.")
    ] = None,
    configuration: Annotated[str, typer.Option(help="3d_fullres, 2d or 3d_lowres.")] = "3d_fullres",
    trainer: Annotated[str, typer.Option(help="One of nnU-Net's, such as nnUNetTrainer_50epochs.")] = "nnUNetTrainer",
    ct: Annotated[bool, typer.Option("--ct", help="Values are HU, and are normalised over all scans.")] = False,
    device: Annotated[str, typer.Option(help="cuda, cpu or mps.")] = "cuda",
    workers: Annotated[int, typer.Option(min=1, help="Processes that prepare and write scans.")] = 2,
    commands: Annotated[str, typer.Option(metavar="BIN", help="Where nnU-Net's commands are, beside the PATH.")] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin anew.")] = False,
) -> None:
    """Train and test nnU-Net, by its own package, on the scans and splits of a recipe, for `slivit compare`.

    Called again, it goes on where it stopped.
    """
    with user_errors(AGAIN):
        from slivit.experiments.nnunet import NnUNet, run
        from slivit.recipe import check_recipe, load_recipe

        given = {"configuration": configuration, "trainer": trainer, "ct": ct, "device": device}
        how = check_recipe(NnUNet, given | {"workers": workers, "commands": commands}, "slivit nnunet")
        loaded = load_recipe("finetune", recipe, [*(overrides or ()), f"out={out}"])
        typer.echo(run(loaded, out, how, overwrite=overwrite))
