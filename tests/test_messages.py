"""What the commands say to those who do not know them yet."""

import pytest
from typer.testing import CliRunner

from slivit.cli import app


def said(*args):
    done = CliRunner().invoke(app, [str(a) for a in args])
    assert done.exit_code == 2, (done.output, done.exception)
    return " ".join(done.output.split())


def test_evaluate_says_what_it_takes_where_there_is_nothing(tmp_path):
    (tmp_path / "drusen").mkdir()
    told = said("evaluate", tmp_path / "drusne")
    assert "evaluate takes the folder of a run" in told
    assert f'Did you mean "{tmp_path / "drusen"}"?' in told
    assert "no such file or folder" in said("evaluate", "nowhere/at/all")


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (("--target", "drusen"), "--target needs --kind beside it"),
        (("--kind", "binari", "--target", "drusen"), 'Did you mean "binary"?'),
    ],
)
def test_check_says_which_kinds_of_tasks_there_are(blob_scans, options, part):
    told = said("check", blob_scans, *options)
    assert part in told
    assert '"multilabel"' in told


def test_recipes_are_listed_by_name():
    lines = CliRunner().invoke(app, ["list", "recipes"]).output.splitlines()
    names = [line.split()[1] for line in lines if line.startswith("finetune")]
    assert names == sorted(names)
    assert "slivit_oct" in names
