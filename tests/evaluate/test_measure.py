"""What `metrics.json` holds: every statistic of a table of predictions, as the statistics package gives it."""

import json

import numpy as np
import pandas as pd
import pytest

from slivit import statistics as st
from slivit.errors import ManifestError, RecipeError
from slivit.evaluate.baselines import against_baseline
from slivit.evaluate.deciding import decide
from slivit.evaluate.described import describe_table
from slivit.evaluate.measure import measure
from slivit.evaluate.recipe import Testing as Options
from slivit.evaluate.tables import read_predictions
from slivit.report.tables import reader_grid

KINDS = ("binary", "multiclass", "multilabel", "regression")


@pytest.mark.parametrize("kind", KINDS)
def test_metrics_are_those_of_the_statistics(made_up_predictions, kind):
    table, task = made_up_predictions(kind)
    found = measure(table, task, Options(draws=30, level=0.8, by_patient=True))
    assert (found["schema"], found["version"]) == ("slivit.metrics", 1)
    test = table[table["split"] == "test"]
    y = test[list(task.target_columns)].to_numpy() if kind != "multiclass" else None
    y = (
        np.array([task.classes.index(c) for c in test["target_label"]])
        if y is None
        else y.squeeze()
        if kind == "binary"
        else y
    )
    names = task.classes if kind == "multiclass" else None if kind == "binary" else task.targets
    p = test[list(task.prediction_columns)].to_numpy()
    wanted = st.summarise(kind, y, p, groups=test["patient"].to_numpy(), names=names, draws=30, level=0.8)
    assert found["splits"]["test"]["metrics"] == {name: e.to_dict() for name, e in wanted.items()}
    assert found["splits"]["test"]["scans"] == len(test)


@pytest.mark.parametrize("kind", KINDS)
def test_metrics_are_json(made_up_predictions, kind):
    table, task = made_up_predictions(kind)
    found = measure(table, task, Options(draws=5, subgroups=("sex", "age")), data={"source": "x.csv"})
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_details_of_a_test_set_and_not_of_the_rows_that_decided(made_up_predictions):
    table, task = made_up_predictions("binary")
    found = measure(table, task, Options(draws=5))["splits"]
    details = {"delong", "curves", "reliability", "thresholds", "referral", "confusion"}
    assert details <= set(found["test"])
    assert not details & set(found["val"])
    (tn, fp), (fn, tp) = found["test"]["confusion"]["drusen"]["counts"]
    assert tn + fp + fn + tp == found["test"]["scans"]
    assert tp / (tp + fn) == pytest.approx(found["test"]["metrics"]["sensitivity"]["value"])
    assert [p["percent"] for p in found["test"]["referral"]["drusen"]] == [0, 5, 10, 15, 20, 25]


def test_classes_are_referred_by_how_sure_the_model_is_of_any(made_up_predictions):
    table, task = made_up_predictions("multiclass")
    test = table[table["split"] == "test"]
    p = test[list(task.prediction_columns)].to_numpy()
    wanted = st.referral_curve(
        test["target_label"] == "DME", p[:, 1], uncertainty=-p.max(axis=1), plan=st.Plan(draws=5)
    )
    found = measure(test, task, Options(draws=5))["splits"]["test"]["referral"]["DME"]
    assert found == [point.to_dict() for point in wanted]


def test_counts_tell_classes_and_missing_labels(made_up_predictions):
    table, task = made_up_predictions("multilabel")
    found = measure(table, task, Options(draws=5))["splits"]["val"]["counts"]["DRV"]
    labels = table.loc[table["split"] == "val", "target_DRV"]
    assert found == {"n": labels.notna().sum(), "missing": labels.isna().sum(),
                     "classes": {"1": (labels == 1).sum(), "0": (labels == 0).sum()}}  # fmt: skip


def test_subgroups_have_bands_and_gaps(made_up_predictions):
    table, task = made_up_predictions("binary")
    table.loc[5:9, "sex"] = ""
    options = Options(draws=10, subgroups=("sex", "age"), bands={"age": (50,)}, reference={"sex": "F"})
    found = measure(table.assign(split="test"), task, options)["splits"]["test"]["subgroups"]
    assert set(found["columns"]["age"]) == {"below 50", "50 and above"}
    assert found["columns"]["sex"]["(missing)"]["n"] == 5
    assert found["columns"]["sex"]["M"]["differences"]["roc_auc"]["value"] is not None
    assert found["largest"]["roc_auc"]["column"] in ("sex", "age")


def test_a_column_that_names_no_groups_is_told(made_up_predictions):
    table, task = made_up_predictions("binary")
    with pytest.raises(RecipeError, match=r'no column "sx"\. Did you mean "sex"'):
        measure(table, task, Options(draws=5, subgroups=("sx",)))
    with pytest.raises(RecipeError, match=r'"path" has .* different values'):
        measure(table, task, Options(draws=5, subgroups=("path",)))


def readers_csv(folder, table, **readers):
    file = folder / "readers.csv"
    pd.DataFrame({"path": table["path"], **readers}).to_csv(file, index=False)
    return str(file)


def test_readers_of_a_binary_task(made_up_predictions, tmp_path):
    table, task = made_up_predictions("binary")
    test = table[table["split"] == "test"]
    truth = test["target_drusen"].astype(int)
    half = truth.where(np.arange(len(truth)) % 2 == 0)
    csv = readers_csv(tmp_path, test, ann=truth, ben=half.astype("Int64"), cy=1 - truth)
    found = measure(table, task, Options(draws=5, readers=csv))["splits"]["test"]["readers"]["drusen"]
    points = {point["name"]: point for point in found["points"]}
    assert points["ann"]["sensitivity"]["value"] == points["ann"]["specificity"]["value"] == 1
    assert points["cy"]["sensitivity"]["value"] == 0
    assert points["ben"]["n"] == half.notna().sum()
    assert found["average"]["sensitivity"]["value"] == pytest.approx(2 / 3)


def test_readers_take_time(made_up_predictions, tmp_path):
    table, task = made_up_predictions("binary")
    test = table[table["split"] == "test"]
    truth = test["target_drusen"].astype(int)
    csv = readers_csv(tmp_path, test, **{"ann": truth, "ben": 1 - truth, "ann seconds": 60.0})
    found = measure(table, task, Options(draws=5, readers=csv), data={"predicted": {"seconds": 9.0, "scans": 90}})
    split = found["splits"]["test"]
    readers = split["readers"]["drusen"]
    assert [point["name"] for point in readers["points"]] == ["ann", "ben"]
    assert [point["seconds"] for point in readers["points"]] == [60.0 * len(test), None]
    grid = reader_grid("drusen", readers, split, found["data"]["predicted"])
    times = {name: cells[-1] for name, cells in grid.rows}
    assert times["ann"][0].endswith("min") or times["ann"][0].endswith("h")
    assert times["ben"][0] == ""
    assert times["model"] == (f"{0.1 * len(test):.2g} s", "0.1 s a scan")
    csv = readers_csv(tmp_path, test, **{"ann": truth, "ann seconds": -1})
    with pytest.raises(ManifestError, match='ann seconds is "-1"; give seconds'):
        measure(table, task, Options(draws=5, readers=csv))


def test_readers_name_classes_and_labels(made_up_predictions, tmp_path):
    table, task = made_up_predictions("multiclass")
    csv = readers_csv(tmp_path, table, ann=table["target_label"])
    found = measure(table, task, Options(draws=5, readers=csv))["splits"]["test"]["readers"]
    assert set(found) == set(task.classes)
    assert found["DME"]["points"][0]["sensitivity"]["value"] == 1
    table, task = made_up_predictions("multilabel")
    csv = readers_csv(tmp_path, table, target="GA", ann=table["target_GA"].astype("Int64"))
    found = measure(table, task, Options(draws=5, readers=csv))["splits"]["test"]["readers"]
    assert list(found) == ["GA"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.assign(ann="maybe"), 'reader ann: "maybe"; a call is 0, 1 or empty'),
        (lambda f: f.assign(path="elsewhere"), "not one of its scans"),
        (lambda f: f.rename(columns={"path": "scan"}), 'first column, "scan", must be a column'),
        (lambda f: f[["path"]], "has no reader"),
    ],
)
def test_tables_of_readers_that_are_wrong(made_up_predictions, tmp_path, change, message):
    table, task = made_up_predictions("binary")
    frame = change(pd.DataFrame({"path": table["path"], "ann": 1}))
    frame.to_csv(tmp_path / "readers.csv", index=False)
    with pytest.raises(ManifestError, match=message):
        measure(table, task, Options(draws=5, readers=str(tmp_path / "readers.csv")))


@pytest.mark.parametrize("by_patient", [False, True])
def test_scans_of_a_patient_that_are_drawn_apart_are_told(made_up_predictions, caplog, by_patient):
    table, task = made_up_predictions("binary")
    table = table[table["split"] == "test"].assign(
        patient=["P1", "P1", *table["patient"][table["split"] == "test"][2:]]
    )
    measure(table, task, Options(draws=2, by_patient=by_patient))
    assert ("several scans in test" in caplog.text) == (not by_patient)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("named", [True, False])
def test_the_order_of_the_rows_changes_no_byte(made_up_predictions, tmp_path, kind, named):
    table, _ = made_up_predictions(kind, n=90)
    if not named:
        table = table.drop(columns=["path", "patient", "site", "sex", "age"])
    options = Options(
        draws=20,
        by_patient=named,
        subgroups=["site", "age"] if named else [],
        temperature=kind != "regression",
        operating_point="youden" if kind in ("binary", "multilabel") else "",
    )
    found = set()
    for seed in (None, 1):
        rows = table if seed is None else table.sample(frac=1, random_state=seed)
        rows.to_csv(tmp_path / "predictions.csv", index=False)
        found.add(_measured(tmp_path / "predictions.csv", options))
    assert len(found) == 1


def _measured(file, options):
    table, task = read_predictions(file)
    decision = None if task.kind == "regression" else decide(table[table["split"] == "val"], task, options)
    data = describe_table(table, str(file), file.parent / "checkpoint", task, options)
    return json.dumps(measure(table, task, options, decision=decision, data=data))


def test_the_order_of_a_baseline_s_rows_changes_nothing(made_up_predictions):
    table, task = made_up_predictions("binary", n=60)
    plain = table[["path", "split", "prob_drusen"]]
    parts = [plain.assign(baseline="age", prob_drusen=0.5 + plain["prob_drusen"] / 4)]
    parts += [plain.assign(baseline="size and histogram", prob_drusen=1 - plain["prob_drusen"])]
    found = []
    for seed, rows in enumerate((parts, parts, parts[::-1])):
        mine, theirs = (t.sample(frac=1, random_state=seed) for t in (table, pd.concat(rows)))
        found.append(against_baseline(mine, theirs, task, Options(draws=9)))
    assert found[0] == found[1] == found[2]
    assert found[0]["names"] == ["model", "size and histogram"]
