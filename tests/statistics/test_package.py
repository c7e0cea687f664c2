"""The package as a whole: its public functions name their sources, and importing it stays light."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import pkgutil
import subprocess
import sys

import pytest

import slivit.statistics as package
from slivit.statistics import Comparison, Estimate, higher_is_better

MODULES = [importlib.import_module(f"slivit.statistics.{m.name}") for m in pkgutil.iter_modules(package.__path__)]


def test_every_public_function_names_its_source():
    functions = [getattr(package, name) for name in package.__all__ if inspect.isfunction(getattr(package, name))]
    assert len(functions) > 25
    assert [f.__name__ for f in functions if "Source:" not in (f.__doc__ or "")] == []


def test_every_metric_names_its_source():
    for table in (package.classification.BINARY, package.multiclass.OVERALL, package.regression.REGRESSION):
        assert [name for name, metric in table.items() if "Source:" not in metric.values.__doc__] == []


def test_no_module_knows_torch_fastai_or_pandas():
    for module in MODULES:
        tree = ast.parse(inspect.getsource(module))
        names = {n.name for node in ast.walk(tree) if isinstance(node, ast.Import) for n in node.names}
        names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not {n.partition(".")[0] for n in names} & {"torch", "fastai", "pandas", "matplotlib"}, module


def test_importing_loads_neither_scipy_nor_scikit_learn():
    code = (
        "import sys, slivit.statistics; print([m for m in ('scipy', 'sklearn', 'torch', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_estimates_never_hold_nan():
    with pytest.raises(ValueError, match="nan"):
        Estimate(float("nan"))
    with pytest.raises(ValueError, match="why"):
        Estimate(None)
    with pytest.raises(ValueError, match="inf"):
        Comparison("DeLong", "roc_auc", statistic=float("inf"), p_value=0.0)
    with pytest.raises(ValueError, match="why"):
        Comparison("DeLong", "roc_auc")
    assert json.loads(json.dumps(Estimate(0.5, 0.4, 0.6).to_dict()))["low"] == 0.4


def test_estimates_are_told_in_words():
    assert str(Estimate(0.5, 0.4, 0.6)) == "0.500 (90% interval 0.400 to 0.600)"
    assert str(Estimate(0.5)) == "0.500"
    assert str(Estimate(None, why="one class only")) == "not defined: one class only"
    assert Estimate(0.5).defined


def test_directions_of_metrics():
    assert higher_is_better("roc_auc/edema") is True
    assert higher_is_better("f1_weighted") is True
    assert higher_is_better("mae") is False
    assert higher_is_better("calibration_slope") is None
