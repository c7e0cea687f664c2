"""The command line. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from slivit import __version__
from slivit.cli import auto as cli_auto
from slivit.cli import bench as cli_bench
from slivit.cli import data as cli_data
from slivit.cli import explain as cli_explain
from slivit.cli import manifests as cli_manifests
from slivit.cli import nnunet as cli_nnunet
from slivit.cli import probe as cli_probe
from slivit.cli import quick_imports
from slivit.cli import report as cli_report
from slivit.cli import sharing as cli_sharing
from slivit.cli import study as cli_study
from slivit.cli import sweep as cli_sweep
from slivit.cli import weights as cli_weights
from slivit.cli.common import Everywhere, show_log, user_errors
from slivit.errors import SlivitError
from slivit.parallel import is_main
from slivit.plugins import name_plugins
from slivit.recipe import load_recipe, runner

app = typer.Typer(
    name="slivit",
    cls=Everywhere,
    help="Predict disease-risk factors from volumetric scans with few labels.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RecipeName = Annotated[str | None, typer.Argument(help="A TOML file, or the name of a shipped recipe.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, such as fit.epochs=5.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in the same folder.")]
Resume = Annotated[
    Path | None, typer.Option("--resume", metavar="RUN", help="Go on with a run that died; no recipe is needed.")
]


def _version(show: bool) -> None:
    if show:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it and end.")
    ] = False,
    plugin: Annotated[
        list[str] | None, typer.Option("--plugin", metavar="NAME", help="Use an installed plugin; may be repeated.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="What other packages log, too.")] = False,
) -> None:
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")  # of torch to timm: nothing to do here
    name_plugins(plugin or ())
    show_log(quiet, verbose)


def _training(stage: Any, purpose: str) -> None:
    """Add the command of a stage that trains by a recipe, or goes on with a run, and shows its folder."""

    def command(
        recipe: RecipeName = None,
        overrides: Overrides = None,
        resume: Resume = None,
        overwrite: Overwrite = False,
    ) -> None:
        with user_errors() as advice:
            loaded = _recipe(stage, recipe, overrides, resume)
            advice.go_on = lambda: _go_on(loaded)
            folder = runner(loaded)(loaded, resume=resume is not None, overwrite=overwrite)
            if is_main():
                typer.echo(folder)

    app.command(stage, help=purpose)(command)


_training("pretrain", "Pre-train a backbone: on labelled images, or on images and volumes without labels.")
_training("finetune", "Fine-tune a model on labelled volumes, test it, and save it.")


def _recipe(stage: Any, recipe: str | None, overrides: Sequence[str] | None, resume: Path | None) -> Any:
    """The recipe of a training, given by itself or by the run that goes on."""
    from slivit.folder import recipe_of

    changes = list(overrides or ())
    if resume and recipe and "=" in recipe:
        changes.insert(0, recipe)
        recipe = None
    if resume and recipe:
        raise SlivitError("give a recipe, or --resume RUN, which goes on with that run's own recipe; not both")
    if not resume and not recipe:
        raise SlivitError(f"give a recipe: slivit {stage} RECIPE [KEY=VALUE]...; slivit list recipes shows them")
    return load_recipe(stage, str(recipe_of(resume)) if resume else str(recipe), changes)


def _go_on(recipe: Any) -> str:
    """How to go on with a training that was stopped; nothing where it had not begun."""
    from slivit.folder import RECIPE

    begun = (Path(recipe.out) / RECIPE).is_file()
    return f"go on with: slivit {recipe.stage} --resume {recipe.out}" if begun else ""


@app.command()
def phantoms(
    kind: Annotated[str, typer.Argument(help="oct, oct2d, echo, liver, ct or brain.")],
    out: Annotated[Path, typer.Argument(help="A new folder.")],
    n: Annotated[int | None, typer.Option("-n", min=1, help="How many scans.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1)] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Make scans with known answers, in real file formats."""
    from tqdm import tqdm

    from slivit.phantoms import make_phantoms

    with user_errors():
        options = {"n": n} if n else {}
        bar = lambda items: tqdm(items, desc=kind, unit="scan", disable=None)  # noqa: E731
        typer.echo(make_phantoms(kind, out, seed=seed, overwrite=overwrite, progress=bar, **options))


@app.command()
def demo(
    out: Annotated[Path, typer.Argument(help="A new folder.")] = Path("demo"),
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1)] = 0,
    masks: Annotated[bool, typer.Option("--masks", help="Segment, in place of predicting: needs MONAI.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Run the main job on made-up scans: pre-train, fine-tune, evaluate, predict; or with --masks, segment."""
    from slivit.experiments.demo import run, run_masks

    with user_errors():
        (run_masks if masks else run)(out, seed=seed, overwrite=overwrite)


@app.command("list")
def list_things(
    what: Annotated[str, typer.Argument(help="models, weights, methods, recipes, formats, importers or phantoms.")],
) -> None:
    """List what there is to choose from."""
    from slivit.cli.listing import lines

    with user_errors():
        for line in lines(what):
            typer.echo(line)


for module in (
    cli_auto,
    cli_report,
    cli_manifests,
    cli_data,
    cli_probe,
    cli_explain,
    cli_study,
    cli_sweep,
    cli_sharing,
    cli_weights,
    cli_bench,
    cli_nnunet,
):
    module.add_commands(app)


def main() -> None:
    """The console script `slivit`."""
    quick_imports.install()
    app()


def launch(stage: str) -> None:
    """Run one stage as `python STAGE ...` from a clone does."""
    quick_imports.install()
    app(args=[stage, *sys.argv[1:]], prog_name=f"python {stage}")
