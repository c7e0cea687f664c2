"""The documented schema and the files say the same."""

import re
from pathlib import Path

from slivit.evaluate.measure import SCHEMA, measure
from slivit.evaluate.recipe import Testing as Options

DOC = (Path(__file__).resolve().parents[2] / "docs" / "metrics-schema.md").read_text("utf-8")


def test_every_key_of_metrics_is_documented(made_up_predictions):
    table, task = made_up_predictions("binary")
    found = measure(table, task, Options(draws=5, subgroups=("sex",)))
    split = found["splits"]["test"]
    keys = {*found, *split, *split["metrics"]["roc_auc"], *found["operating_point"], *split["curves"]["drusen"]["roc"]}
    keys -= {"kind", "undefined"} | set(found["operating_point"]["thresholds"])
    assert [key for key in sorted(keys) if f"`{key}`" not in DOC] == []
    assert f"`{SCHEMA['schema']}`, version {SCHEMA['version']}" in DOC


def test_every_key_that_the_tables_name_is_there(made_up_predictions):
    table, task = made_up_predictions("binary")
    found = measure(table, task, Options(draws=5, subgroups=("sex",)))
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", DOC.split("## `comparison.json`")[0], flags=re.M)
    named = {key for row in rows for key in re.findall(r"`(\w+)`", row)} - {
        "readers",
        "baseline",
        "means",
    }  # of a run, or of labels
    assert named <= {*found, *found["splits"]["test"]}
