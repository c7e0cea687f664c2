"""The page of other tasks, and of several runs at once, in headless Chromium."""

import json
import shutil

import pandas as pd
import pytest


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["regression", "multiclass"])
def test_other_tasks(serve, visit, runs, scans, kind):
    visitor = visit(serve(runs(kind)).url)
    visitor.find("scan35")
    visitor.wait(lambda: len(visitor.all(".bars.scored .bar")) == 6)
    table = json.loads((runs(kind) / "metrics.json").read_text())["splits"]["test"]
    assert table["scans"] == 8
    if kind == "regression":
        assert " mm" in visitor.text(".prediction .big")
        assert "off by" in visitor.text(".calibration")
    else:
        assert "Called" in visitor.text(".prediction")
        assert len(visitor.all(".prediction .outputs tr")) == 2
    visitor.wait(lambda: [e for e in visitor.all(".calibration img") if e.is_displayed()])
    visitor.quiet()


@pytest.mark.slow
def test_runs_beside_each_other(serve, visit, run, tmp_path):
    shutil.copytree(run, tmp_path / "second")
    table = pd.read_csv(tmp_path / "second" / "predictions.csv")
    table.assign(prob_bright=1 - table["prob_bright"], call_bright=1 - table["call_bright"]).to_csv(
        tmp_path / "second" / "predictions.csv", index=False
    )
    visitor = visit(serve(run, tmp_path / "second").url, "wide")
    visitor.wait(lambda: visitor.all("#list tbody tr"))
    spreads = [float(t.split()[0]) for t in visitor.texts("#list tbody td:nth-child(5)") if t[:1].isdigit()]
    assert spreads == sorted(spreads, reverse=True)
    assert "calls differ" in visitor.texts("#list tbody tr")[0]
    visitor.see(".compare", "calls differ")
    visitor.wait(lambda: len([e for e in visitor.all(".flat .under") if e.get_attribute("src")]) == 2)
    visitor.wait(lambda: [e for e in visitor.all(".rest .bars .bar") if e.is_displayed()])
    visitor.quiet()
