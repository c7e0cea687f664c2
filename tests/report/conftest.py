"""Pages made of made-up predictions, one of each kind."""

import pytest

from slivit.evaluate.deciding import decide
from slivit.evaluate.measure import measure
from slivit.evaluate.recipe import Testing as Options
from slivit.report.page import write_report


@pytest.fixture(scope="module", autouse=True)
def without_pdf():
    """Nothing: here figures are drawn as PDF, too."""


KINDS = ("binary", "multiclass", "multilabel", "regression")


def evaluate(table, task, **options):
    """Metrics of a table, and the table under the decision that they were made with."""
    testing = Options(**{"draws": 40, **options})
    val = table[table["split"] == "val"]
    decision = None if task.kind == "regression" else decide(val, task, testing)
    metrics = measure(table, task, testing, decision=decision, data={"source": "scans.csv", "rows": len(table)})
    return metrics, decision.apply(table, task) if decision else table


@pytest.fixture(scope="session")
def evaluated(made_up_predictions):
    """(metrics, table) by kind."""
    options = {"subgroups": ("sex", "age"), "site": "site", "bands": {"age": (50, 70)}, "reference": {"site": "Haifa"}}
    rules = {"binary": "sensitivity=0.9", "multilabel": "youden"}
    return {
        kind: evaluate(*made_up_predictions(kind), operating_point=rules.get(kind, ""), **options) for kind in KINDS
    }


@pytest.fixture(scope="session")
def pages(evaluated, tmp_path_factory):
    """The page of each kind."""
    folder = tmp_path_factory.mktemp("pages")
    return {kind: write_report(folder / kind, metrics, table) for kind, (metrics, table) in evaluated.items()}
