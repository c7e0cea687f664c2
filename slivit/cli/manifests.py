"""Commands that make and check tables of scans. Nothing heavy is imported before a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from slivit.cli.common import ClusterOption, user_errors
from slivit.errors import SlivitError, nearest, one_of

if TYPE_CHECKING:
    from slivit.targets.task import Task


def add_commands(app: typer.Typer) -> None:
    """Put `manifest` and `check` beside the other commands."""
    app.command()(manifest)
    app.command()(check)


def manifest(
    name: Annotated[str, typer.Argument(help="The data set: one of `slivit list importers`.")],
    root: Annotated[Path, typer.Argument(help="Its folder (or MedMNIST file), as downloaded.")],
    out: Annotated[Path, typer.Argument(help="The CSV to write.")],
    options: Annotated[list[str] | None, typer.Argument(metavar="[OPTION=VALUE]...", help="Of the importer.")] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="CONDITION", help='Of dicom: which series, "modality=MR description~T1 slices>=20".'),
    ] = None,
    channels: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=SERIES", help='Of dicom: series of a study that are channels, "t1=T1 t2=T2".'),
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="Of dicom: a CSV of labels by patient or accession.")] = None,
) -> None:
    """Make a manifest of a public data set, of a folder of class folders, or of an archive of DICOM files."""
    from slivit.data.importers import make_manifest

    with user_errors():
        given = _importer_options(name, options or [], where or [], channels or [])
        given |= {"labels": str(labels)} if labels else {}
        made = make_manifest(name, root, out, **given)
        for note in made.notes:
            typer.echo(f"note: {note}", err=True)
        splits = made.frame["split"].value_counts().to_dict() if "split" in made.frame else {}
        counts = ", ".join(f"{split} {count}" for split, count in splits.items()) or "no split yet"
        typer.echo(f"{out}: {len(made.frame)} scans of {made.frame['patient'].nunique()} patients ({counts})")
        if made.task is None:
            typer.echo("task: none, because there is no column of targets yet")
        else:
            typer.echo(f"task: kind = {made.task.kind}, targets = {', '.join(made.task.targets)}")
            for name in ("labels", "regions"):
                if cells := getattr(made.task, name, None):
                    typer.echo(f"      {name} = {{ {', '.join(f'{k} = {_written(v)}' for k, v in cells.items())} }}")


def check(
    csv: Annotated[Path, typer.Argument(metavar="MANIFEST", help="The CSV of scans.")],
    out: Annotated[Path, typer.Option(help="Where scans.csv and check.html go.")] = Path("check"),
    kind: Annotated[str | None, typer.Option(help="Such as binary; segmentation with --label.")] = None,
    target: Annotated[list[str] | None, typer.Option(help="A target column; may be given more than once.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A label of the masks; may be given more than once.")
    ] = None,
    root: Annotated[Path | None, typer.Option(help="Where relative paths start; the CSV's folder if absent.")] = None,
    reader: Annotated[
        list[str] | None, typer.Option(metavar="OPTION=VALUE", help="For reading, such as axis=coronal.")
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN=VALUE", help="Rows to keep, such as modality=CT.")
    ] = None,
    channels: Annotated[
        str | None, typer.Option(metavar="COLUMN,COLUMN", help="Columns of paths that are the channels of one scan.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that read scans.")] = 2,
    cluster: ClusterOption = "",
    time_limit: Annotated[float, typer.Option(min=0, help="Seconds that a scan may take; 0 for no limit.")] = 300.0,
    reviews: Annotated[
        Path | None, typer.Option(help="Notes of `slivit view`; reviews.csv beside the manifest if absent.")
    ] = None,
) -> None:
    """Read every scan before training does: unreadable, odd and duplicated scans, labels, patients across splits.

    Ends with status 1 where training on the manifest would be wrong.
    """
    from tqdm import tqdm

    from slivit.machines import readers_at
    from slivit.report.check import run_check

    with (
        user_errors(),
        readers_at(cluster, workers) as readers,
        tqdm(desc="check", unit="scan", disable=None) as bar,
    ):

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        options: dict[str, Any] = {"root": root, "reader": _pairs(reader or []), "workers": readers}
        options |= {"time_limit": time_limit, "where": _pairs(where or []), "reviews": reviews}
        options |= {"channels": tuple(name.strip() for name in channels.split(",")) if channels else ()}
        result = run_check(csv, out, _task(kind, target, label), progress=progress, **options)
    for sentence in result.summary:
        typer.echo(sentence)
    typer.echo(out / "check.html")
    raise typer.Exit(result.exit_status)


def _written(value: Any) -> str:
    """As TOML has it."""
    return str(list(value) if isinstance(value, tuple) else value)


def _importer_options(name: str, words: list[str], where: list[str], channels: list[str]) -> dict[str, Any]:
    """The options of an importer; behind --where or --channels, words that are none of them are more of those.

    Raises:
        SlivitError: both were given, so that it is not clear of which a word is.
    """
    from slivit.data.importers import importer_spec

    known = {*importer_spec(name).options, "missing", "shared", "val", "seed"}
    more = [word for word in words if (where or channels) and word.partition("=")[0] not in known]
    if more and where and channels:
        raise SlivitError(f'"{more[0]}": of --where or of --channels? Write the word again: --channels {more[0]}')
    given = _pairs([word for word in words if word not in more])
    given |= {"channels": (*channels, *more)} if channels else {}
    return {**given, "where": (*where, *(() if channels else more))} if where else given


def _pairs(options: list[str]) -> dict[str, Any]:
    """ "key=value" texts as a mapping; values as in TOML, bare words are text."""
    from slivit.recipe import parse_value

    pairs = [option.partition("=") for option in options]
    for key, equals, _ in pairs:
        if not equals or not key:
            raise SlivitError(f'"{key}" is not an option; write OPTION=VALUE')
    return {key: parse_value(value) for key, _, value in pairs}


def _task(kind: str | None, targets: list[str] | None, labels: list[str] | None) -> Task | None:
    from pydantic import ValidationError

    from slivit.settings import problems
    from slivit.targets.task import Kind, Task

    if kind is None and not targets and not labels:
        return None
    kind = kind or ("segmentation" if labels else None)
    kinds = get_args(Kind)
    if kind not in kinds:
        given = f'--kind is "{kind}"' if kind else "--target needs --kind beside it"
        raise SlivitError(f"{given}; it is one of {one_of(kinds)}.{nearest(kind or '', kinds)}")
    given_fields: dict[str, Any] = {"targets": tuple(targets or ())} if targets or kind != "segmentation" else {}
    given_fields |= {"labels": _pairs(labels)} if labels else {}
    try:
        return Task(kind=kind, **given_fields)  # type: ignore[arg-type]
    except ValidationError as error:
        raise SlivitError(f"--kind and --target do not make a task: {'; '.join(problems(error))}") from error
