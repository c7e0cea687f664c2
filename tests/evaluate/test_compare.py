"""Comparisons: the right scans, the right groups, the numbers of the statistics package, and a page."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from slivit import statistics as st
from slivit.errors import ManifestError, RecipeError, SlivitError
from slivit.evaluate import compare
from slivit.evaluate.methods import find_methods
from slivit.files import write_json, write_text


@pytest.fixture
def write(made_up_predictions, tmp_path):
    """Write a table of predictions with noise, and return its path; `change` alters the table."""

    def write(name, kind="binary", noise=0.0, seed=0, change=lambda t: t, n=90):
        table, task = made_up_predictions(kind, n=n)
        rng = np.random.default_rng(seed)
        for column in task.prediction_columns:
            shift = noise * rng.normal(size=n)
            table[column] = (
                table[column] + 5 * shift if kind == "regression" else np.clip(table[column] + shift, 0.001, 0.999)
            )
        if kind == "multiclass":
            p = table[list(task.prediction_columns)]
            table[list(task.prediction_columns)] = p.div(p.sum(axis=1), axis=0)
        change(table).to_csv(tmp_path / f"{name}.csv", index=False)
        return str(tmp_path / f"{name}.csv")

    return write


def result(out):
    return json.loads((out / "comparison.json").read_text())


def test_differences_are_those_of_the_statistics(write, made_up_predictions, tmp_path):
    a, b = write("a"), write("b", noise=0.3)
    found = result(compare.run([a, b], tmp_path / "out", draws=50, by_patient=True))
    test = {k: pd.read_csv(f).query("split == 'test'") for k, f in (("a", a), ("b", b))}
    plan = st.Plan(level=0.95, draws=50, groups=test["a"]["patient"].to_numpy())
    predictions = {k: t["prob_drusen"] for k, t in test.items()}
    wanted = st.compare_models("binary", test["a"]["target_drusen"], predictions, plan=plan)
    bootstrap = [t for t in found["comparisons"] if t["method"] == "paired bootstrap"]
    assert [t["difference"] for t in bootstrap] == [w.difference for w in wanted]
    assert [t["p_value"] for t in bootstrap] == [w.p_value for w in wanted]
    assert [t["holm"] for t in bootstrap] == [w.adjusted for w in wanted]
    assert [t["bonferroni"] for t in bootstrap] == [min(1, 2 * w.p_value) for w in wanted]
    assert "DeLong" not in {t["method"] for t in found["comparisons"]}, "DeLong cannot keep patients together"


def test_delong_and_mcnemar_stand_beside(write, tmp_path):
    a, b = write("a"), write("b", noise=0.3)
    found = result(compare.run([a, b], tmp_path / "out", draws=20, t_test=True))
    tests = {t["method"]: t for t in found["comparisons"]}
    one, two = (pd.read_csv(f).query("split == 'test'") for f in (a, b))
    y = one["target_drusen"]
    assert tests["DeLong"]["p_value"] == st.delong_test(y, one["prob_drusen"], two["prob_drusen"]).p_value
    calls = [(t["prob_drusen"] >= 0.5).astype(float) for t in (one, two)]
    assert tests["McNemar, exact"]["p_value"] == st.mcnemar_test(y, *calls).p_value
    assert list(tests)[-1] == "SLIViT t-test on bootstrap differences"


def test_runs_of_a_name_are_one_method(write, tmp_path):
    files = [f"x={write(f'x{i}', noise=0.1, seed=i)}" for i in range(3)]
    files += [f"y={write(f'y{i}', noise=0.4, seed=9 + i)}" for i in range(3)]
    found = result(compare.run(files, tmp_path / "out", draws=30))
    x = found["methods"]["x"]
    assert x["kind"] == "seeds"
    single = [run["roc_auc"] for run in x["per_run"]]
    assert x["metrics"]["roc_auc"]["value"] == pytest.approx(np.mean(single))
    assert x["spread"]["roc_auc"]["sd"] == pytest.approx(np.std(single, ddof=1))
    welch = next(t for t in found["comparisons"] if t["method"] == "Welch")
    assert welch["first"] == pytest.approx(np.mean(single))
    assert "DeLong" not in {t["method"] for t in found["comparisons"]}
    html = (tmp_path / "out" / "index.html").read_text()
    assert "Runs of x" in html
    assert "standard deviation" in html


def test_folds_are_put_together(write, made_up_predictions, tmp_path):
    def fold(i, k=3):
        return lambda t: t[np.arange(len(t)) % k == i].assign(split="test")

    files = [f"cv={write(f'fold{i}', change=fold(i))}" for i in range(3)]
    whole = write("whole", noise=0.2, change=lambda t: t.assign(split="test"))
    found = result(compare.run([*files, f"one={whole}"], tmp_path / "out", draws=20))
    cv = found["methods"]["cv"]
    assert cv["kind"] == "folds"
    assert [run["scans"] for run in cv["runs"]] == [30, 30, 30]
    table, _ = made_up_predictions("binary", n=90)
    pooled = st.point_metrics("binary", table["target_drusen"], table["prob_drusen"], metrics=["roc_auc"])
    assert cv["metrics"]["roc_auc"]["value"] == pytest.approx(pooled["roc_auc"])
    assert len(cv["per_run"]) == 3
    assert "folds put together" in (tmp_path / "out" / "index.html").read_text()


def test_runs_group_by_their_recipes(write, tmp_path):
    """Runs whose recipes differ in the seed are one method; another learning rate is another."""
    recipe = 'out = "{out}"\nseed = {seed}\n[data]\nmanifest = "m.csv"\nworkers = {workers}\n[fit]\nlr = {lr}\n'
    for name, seed, lr in (("slow_seed0", 0, 0.1), ("slow_seed1", 1, 0.1), ("fast", 0, 0.2)):
        folder = tmp_path / name
        write_text(folder / "recipe.toml", recipe.format(out=folder, seed=seed, workers=seed, lr=lr))
        pd.read_csv(write("p", noise=0.1 * lr)).to_csv(folder / "predictions.csv", index=False)
    methods = find_methods([str(tmp_path / n) for n in ("slow_seed1", "fast", "slow_seed0")])
    assert [(m.name, m.kind, [r.seed for r in m.runs]) for m in methods] == [
        ("slow", "seeds", [0, 1]),
        ("fast", "single", [0]),
    ]


def test_calls_are_made_at_the_stored_operating_point(write, tmp_path):
    from slivit.targets.decision import Decision, Threshold

    folder = tmp_path / "run"
    decision = Decision(rule="youden", thresholds={"drusen": Threshold(value=0.2)})
    write_json(folder / "checkpoint" / "config.json", {"operating_point": decision.model_dump()})
    pd.read_csv(write("a")).to_csv(folder / "predictions.csv", index=False)
    found = result(compare.run([f"low={folder}", f"default={write('b')}"], tmp_path / "out", draws=5))
    low, default = (found["methods"][m]["metrics"]["sensitivity"]["value"] for m in ("low", "default"))
    assert low > default


@pytest.mark.parametrize("kind", ["multiclass", "multilabel", "regression"])
def test_every_kind_has_a_page(write, tmp_path, kind):
    out = compare.run([write("a", kind), write("b", kind, noise=0.3)], tmp_path / "out", draws=10)
    html = (out / "index.html").read_text()
    assert "were tested on the same" in html
    assert not re.search(r"\b(nan|None)\b", html)
    for name in re.findall(r'href="(figures/[^"]+)"', html):
        assert (out / name).stat().st_size > (500 if name.endswith("svg") else -1)


def test_different_scans_cannot_be_compared(write, tmp_path):
    a, b = write("a"), write("b", change=lambda t: t.iloc[:-2])
    with pytest.raises(ManifestError, match=r"2 of 60 scans of a are not in b \(such as .*--manifest"):
        compare.run([a, b], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_different_answers_and_tasks_cannot_be_compared(write, tmp_path):
    flipped = write("b", change=lambda t: t.assign(target_drusen=1 - t["target_drusen"]))
    with pytest.raises(ManifestError, match="different answers for 60 scans"):
        compare.run([write("a"), flipped], tmp_path / "out")
    with pytest.raises(ManifestError, match="only models of the same task"):
        compare.run([write("a"), write("c", "regression")], tmp_path / "out")


def test_what_cannot_be_compared_is_told(write, tmp_path):
    a, b = write("a"), write("b")
    with pytest.raises(RecipeError, match="two runs at least"):
        compare.run([a], tmp_path / "out")
    with pytest.raises(RecipeError, match="name all runs or none"):
        compare.run([f"x={a}", b], tmp_path / "out")
    with pytest.raises(ManifestError, match=r"there is no predictions\.csv"):
        compare.run([a, str(tmp_path / "nowhere")], tmp_path / "out")
    with pytest.raises(SlivitError, match=r'no metric "roc_auk"\. Did you mean "roc_auc"'):
        compare.run([a, b], tmp_path / "out", metrics=["roc_auk"])
    with pytest.raises(ManifestError, match=r'has the scan "/scans/s0089\.nii" twice'):
        compare.run([a, write("c", change=lambda t: pd.concat([t, t.iloc[-1:]]))], tmp_path / "out")


def test_a_comparison_is_not_overwritten_by_accident(write, tmp_path):
    a, b = write("a"), write("b", noise=0.1)
    compare.run([a, b], tmp_path / "out", draws=5)
    with pytest.raises(RecipeError, match="not empty"):
        compare.run([a, b], tmp_path / "out", draws=5)
    compare.run([a, b], tmp_path / "out", draws=6, overwrite=True)
    assert result(tmp_path / "out")["settings"]["draws"] == 6
