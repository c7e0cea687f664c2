"""Studies: their scans, runs and comparison as a whole, and the command."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from slivit.errors import SlivitError
from slivit.experiments import study
from slivit.experiments.study_grid import Grid
from slivit.experiments.study_table import measure_study
from slivit.files import write_text
from slivit.recipe import resolved_toml

COMPARE = study.compare_runs


@pytest.fixture
def compared(trained, monkeypatch):
    """As `trained`, and the runs are compared too, which takes longer."""
    monkeypatch.setattr("slivit.experiments.study.compare_runs", COMPARE)
    return trained


def run(recipe, **options):
    return study.run(recipe, processes=0, **options)


def measured(recipe):
    """What is told of a study, without its page."""
    return measure_study(Grid(recipe), run(recipe).states)


def test_runs_are_made_and_compared(make_study, compared, tmp_path):
    compared.fails["resnet3d_18/random/fraction_1/seed_1"] = SlivitError("the network is too large")
    found = run(make_study())
    assert len(compared.made) == 12
    assert len(found.failed) == 1
    assert found.page == tmp_path / "study" / "study.html"
    told = json.loads((found.folder / "study.json").read_text())
    cells = {(c["model"], c["start"], c["fraction"]): c for c in told["cells"]}
    cell = cells["slivit", "random", 0.25]
    single = [r["metrics"]["roc_auc"] for r in cell["runs"]]
    assert cell["metrics"]["roc_auc"]["value"] == pytest.approx(np.mean(single))
    assert cell["spread"]["roc_auc"]["sd"] == pytest.approx(np.std(single, ddof=1))
    assert cell["train_scans"] == 10
    table = pd.read_csv(found.folder / "study.csv").set_index(["model", "start", "fraction"])
    assert len(table) == 6
    assert table.loc[("slivit", "random", 0.25), "roc_auc"] == pytest.approx(np.mean(single))
    assert len(pd.read_csv(found.folder / "runs.csv").query("state == 'done'")) == 11
    page = found.page.read_text()
    for text in ("3D ResNet", "no such weights", "labels-roc-auc.svg", "25% of the labels",
                 "1 run failed", "the network is too large"):  # fmt: skip
        assert text in page


def test_everything_is_tested_against_the_reference_alone(make_study, trained):
    told = measured(make_study())
    tests = [t for t in told["tests"] if (t["method"], t["metric"]) == ("paired bootstrap", "roc_auc")]
    assert {(t["model"], t["start"], t["fraction"]) for t in tests} == {
        (m, s, f) for m, s in (("slivit", "video"), ("resnet3d_18", "random")) for f in (1.0, 0.25)
    }
    assert all(t["reference"] == {"model": "slivit", "start": "random", "fraction": t["fraction"]} for t in tests)
    cells = {(c["model"], c["start"], c["fraction"]): c["metrics"]["roc_auc"]["value"] for c in told["cells"]}
    for t in tests:
        assert t["difference"] == pytest.approx(
            cells[t["model"], t["start"], t["fraction"]] - cells["slivit", "random", t["fraction"]]
        )
    every = [t for t in told["tests"] if t["method"] == "paired bootstrap"]
    assert all(t["bonferroni"] == pytest.approx(min(1, t["p_value"] * len(every))) for t in every)


def test_a_reference_of_the_start_alone_is_the_same_model(make_study, trained):
    told = measured(make_study(reference={"start": "random"}, seeds=[0], fractions=[1.0]))
    assert {(t["model"], t["start"], t["reference"]["model"]) for t in told["tests"]} == {("slivit", "video", "slivit")}


def test_phantoms_are_made_once(make_study, trained, tmp_path):
    recipe = make_study(seeds=[0], phantoms=[{"kind": "oct", "out": str(tmp_path / "oct"), "n": 1}])
    run(recipe)
    before = sorted((tmp_path / "oct").rglob("*"))
    assert (tmp_path / "oct" / "manifest.csv").is_file()
    run(recipe)
    assert sorted((tmp_path / "oct").rglob("*")) == before


def test_the_command_lists_runs_and_its_status_tells_of_failures(make_study, trained):
    from slivit.cli import app

    recipe = make_study(seeds=[0], fractions=[1.0])
    file = Path(recipe.out).parent / "study.toml"
    write_text(file, resolved_toml(recipe))
    listed = CliRunner().invoke(app, ["study", str(file), "--list"])
    assert listed.exit_code == 0
    assert "3 runs: 3 to do" in listed.output
    assert "left out  resnet3d_18, start video: no such weights" in listed.output
    trained.fails["video"] = SlivitError("gone")
    assert CliRunner().invoke(app, ["study", str(file), "--processes", "0"]).exit_code == 1
    assert "2 done, 1 failed" in CliRunner().invoke(app, ["study", str(file), "--list"]).output
    trained.fails.clear()
    assert CliRunner().invoke(app, ["study", str(file), "--processes", "0"]).exit_code == 0
    assert CliRunner().invoke(app, ["study", str(file), "seeds=[0,0]"]).exit_code == 2


def test_a_study_of_several_tasks_is_one_for_each_and_shares_what_they_start_from(make_study, compared, tmp_path):
    tasks = {"day": {"title": "by day", "set": {"fit": {"epochs": 1}}}, "night": {"set": {"fit": {"epochs": 2}}}}
    before = {"stage": "pretrain", "recipe": "simclr", "shared": True}
    one = {"seeds": [0], "fractions": [1.0], "exclude": [{"models": ["resnet3d_18"], "why": "one is enough"}]}
    starts = {"random": {}, "simclr": {"before": before}}
    recipe = make_study(**one, tasks=tasks, starts=starts, out=str(tmp_path / "many"))
    found = run(recipe)
    assert not found.failed
    shared = {folder for folder, _ in compared.made if "starts" in folder}
    assert [folder.split("/")[-3:] for folder in shared] == [["many", "starts", "simclr"]]
    assert sum("/runs/" in f"/{folder}/" or "seed_0" in folder for folder, _ in compared.made) == 4
    table = pd.read_csv(found.page)
    assert table["task"].tolist() == ["day", "day", "night", "night"]
    assert (tmp_path / "many" / "day" / "study.html").is_file()
    assert "by day" in (tmp_path / "many" / "day" / "study.html").read_text()
    lines = list(study.listing(recipe))
    assert lines[0].startswith("day: done")
    assert any(line.startswith("night: ") for line in lines)


@pytest.mark.slow
def test_a_study_of_real_runs_in_processes_of_its_own(make_study, blob_scans, tmp_path):
    again = {"manifest": str(blob_scans), "split": "test"}
    recipe = make_study(fractions=[1.0], seeds=[0], starts={"random": {}}, exclude=[], tests={"again": again})
    found = study.run(recipe, processes=1)
    assert not found.failed
    told = json.loads((found.folder / "study.json").read_text())
    assert [c["metrics"]["roc_auc"]["n"] for c in told["cells"]] == [8, 8]
    assert all(r["seconds"] > 0 for r in told["runs"])
    assert [g["value"] for g in told["sites"][0]["gaps"]] == pytest.approx([0.0] * 4)


def test_a_reference_may_have_another_share_and_there_may_be_several(make_study, trained):
    references = [{"model": "slivit", "start": "random", "fraction": 0.25}, {"start": "random"}]
    told = measured(make_study(reference=references))
    tests = [t for t in told["tests"] if (t["method"], t["metric"]) == ("paired bootstrap", "roc_auc")]
    against = {(t["model"], t["start"], t["fraction"]): [] for t in tests}
    for t in tests:
        against[t["model"], t["start"], t["fraction"]].append(tuple(t["reference"].values()))
    assert against["resnet3d_18", "random", 1.0] == [("slivit", "random", 0.25)]
    assert against["slivit", "video", 1.0] == [("slivit", "random", 0.25), ("slivit", "random", 1.0)]
    every = [t for t in told["tests"] if t["method"] == "paired bootstrap"]
    assert all(t["bonferroni"] == pytest.approx(min(1, t["p_value"] * len(every))) for t in every)


def test_groups_have_means_paired_differences_and_a_best(make_study, compared, tmp_path):
    groups = {"ours": {"models": ["slivit"]}, "others": {"title": "3D networks", "models": ["resnet3d_18"]}}
    found = run(make_study(groups=groups, seeds=[0, 1, 2]))
    told = json.loads((found.folder / "study.json").read_text())
    value = {(c["model"], c["start"], c["fraction"]): c["metrics"]["roc_auc"]["value"] for c in told["cells"]}
    entries = {
        (g["statistic"], g["group"], g["start"], g["fraction"]): g for g in told["groups"] if g["metric"] == "roc_auc"
    }
    assert entries["mean", "others", "random", 1.0]["value"] == pytest.approx(value["resnet3d_18", "random", 1.0])
    gain = entries["start", "ours", "video", 0.25]
    assert gain["value"] == pytest.approx(value["slivit", "video", 0.25] - value["slivit", "random", 0.25])
    assert gain["low"] <= gain["value"] <= gain["high"]
    best = next(g for g in told["groups"] if (g["statistic"], g["metric"], g["fraction"]) == ("best", "roc_auc", 1.0))
    top = max(("random", "video"), key=lambda start: value["slivit", start, 1.0])
    assert (best["best"], best["start"], best["other_best"]) == ("slivit", top, "resnet3d_18")
    assert best["value"] == pytest.approx(value["slivit", top, 1.0] - value["resnet3d_18", "random", 1.0])
    assert "3D networks" in found.page.read_text()
    spread = told["cells"][0]["spread"]["roc_auc"]
    assert min(spread["values"]) <= spread["low"] <= spread["mean"] <= spread["high"] <= max(spread["values"])
    assert len(pd.read_csv(found.folder / "groups.csv")) == len(told["groups"])


def test_the_rate_of_one_share_is_used_at_the_others(make_study, trained):
    recipe = make_study(set={"fit": {"lr": [1e-2, 1e-3]}}, rates_from=0.25, seeds=[0])
    grid = Grid(recipe)
    whole = [job for job in grid.jobs if job.fraction == 1]
    assert all(job.rate_of and "fraction_0.25" in str(job.rate_of) for job in whole)
    assert whole[0].ready.fit.lr == (1e-2, 1e-3)
    found = run(recipe)
    assert not found.failed
    order = [folder for folder, _ in trained.made]
    assert order.index("slivit/random/fraction_0.25/seed_0") < order.index("slivit/random/fraction_1/seed_0")
    stored = (whole[0].folder / "recipe.toml").read_text()
    assert "lr = 0.001" in stored
    before = len(trained.made)
    run(recipe)
    assert len(trained.made) == before
    with pytest.raises(SlivitError, match="rates_from would do nothing"):
        run(make_study(set={"fit": {"lr": 1e-3}}, rates_from=0.25))


@pytest.fixture
def evaluated(monkeypatch, made_up_predictions):
    """Tests on further sets are written without a network: the run's own predictions, a little worse."""
    made = []

    def write(recipe, *, overwrite=False, resume=False):
        folder = Path(recipe.out)
        made.append(recipe)
        folder.mkdir(exist_ok=True)
        table = pd.read_csv(Path(recipe.checkpoint) / "predictions.csv")
        noise = np.random.default_rng(1).normal(size=len(table)) * 0.3
        worse = table.assign(prob_drusen=np.clip(table["prob_drusen"] + noise, 0, 1)).iloc[:-5]
        worse.to_csv(folder / "predictions.csv", index=False)
        write_text(folder / "recipe.toml", resolved_toml(recipe))
        write_text(folder / "metrics.json", "{}")

    monkeypatch.setattr("slivit.evaluate.command.run", write)
    write.made = made
    return write


def test_runs_are_tested_on_further_sets_each_by_itself(make_study, compared, evaluated, tmp_path):
    recipe = make_study(
        tests={"london": {"title": "London", "manifest": str(tmp_path / "london.csv")}}, fractions=[1.0]
    )
    found = run(recipe)
    assert len(compared.made) == len(evaluated.made) == 6
    told = json.loads((found.folder / "study.json").read_text())
    (site,) = told["sites"]
    assert site["scans"] == told["scans"] - 5
    own = {(c["model"], c["start"]): c["metrics"]["roc_auc"]["value"] for c in told["cells"]}
    there = {(c["model"], c["start"]): c["metrics"]["roc_auc"]["value"] for c in site["cells"]}
    for gap in (g for g in site["gaps"] if g["metric"] == "roc_auc"):
        pair = gap["model"], gap["start"]
        assert gap["value"] == pytest.approx(own[pair] - there[pair])
        assert gap["low"] < gap["value"] < gap["high"]
    table = pd.read_csv(found.folder / "sites.csv")
    assert set(table["test"]) == {"own", "london"}
    assert "London" in found.page.read_text()
    run(recipe)
    assert len(compared.made) == len(evaluated.made) == 6
    wider = make_study(
        tests={**recipe.model_dump(mode="json")["tests"], "paris": {"manifest": "p.csv"}}, fractions=[1.0]
    )
    run(wider)
    assert (len(compared.made), len(evaluated.made)) == (6, 12)


@pytest.mark.parametrize("when", ["trained", "tested"])
def test_a_run_is_ranked_among_copies_with_other_orders_of_slices(make_study, compared, evaluated, when):
    recipe = make_study(shuffles={"copies": 4, "when": when}, fractions=[1.0], seeds=[0], starts={"random": {}},
                        exclude=[], models={"slivit": {}})  # fmt: skip
    found = run(recipe)
    told = json.loads((found.folder / "study.json").read_text())
    auc = next(s for s in told["shuffles"] if s["metric"] == "roc_auc")
    assert (auc["copies"], auc["least"] <= auc["mean"] <= auc["most"]) == (4, True)
    assert auc["value"] == pytest.approx(told["cells"][0]["metrics"]["roc_auc"]["value"])
    assert len(told["cells"]) == 1
    assert auc["p_value"] == pytest.approx(auc["rank"] / 5)
    assert (len(compared.made), len(evaluated.made)) == ((5, 0) if when == "trained" else (1, 4))
    if when == "tested":
        assert sorted(r.shuffle_slices for r in evaluated.made) == [1, 2, 3, 4]
    assert len(auc["values"]) == 4
    page = found.page.read_text()
    assert f"slices in order is number {auc['rank']} of 5 by ROC AUC" in page
    assert "figure-order-roc-auc" in page
    assert "values" not in pd.read_csv(found.folder / "shuffles.csv")


def test_a_model_can_have_a_pre_training_of_its_own(make_study):
    before = {"recipe": "kermany_oct", "shared": True}
    own = {**before, "set": {"model": {"backbone": "resnet18"}}}
    starts = {"random": {}, "video": {"before": before, "before_models": {"resnet3d_18": own}}}
    grid = Grid(make_study(starts=starts, exclude=[]))
    assert {
        p.relative_to(grid.recipe.out).as_posix(): j.recipe.model.args["backbone"] for p, j in grid.before.items()
    } == {
        "starts/video": "convnext_tiny",
        "starts/video/resnet3d_18": "resnet18",
    }


def test_a_study_of_probes(blob_scans, tmp_path):
    from slivit.experiments.recipe_study import StudyRecipe

    size = {"backbone": "test_resnet", "backbone_args": {}, "image_size": 32, "stride": 16, "slices": 4}
    recipe = StudyRecipe.model_validate(
        {
            "out": str(tmp_path / "study"),
            "stage": "probe",
            "models": {"a": {"set": {"model": {"name": "slivit", **size}}}},
            "starts": {"random": {}},
            "fractions": [1.0, 0.5],
            "redraw": True,
            "seeds": [0, 1],
            "set": {
                "data": {"manifest": str(blob_scans), "workers": 0},
                "task": {"kind": "binary", "targets": ["bright"]},
                "linear": {"iterations": 20, "rates": [0.1]},
                "testing": {"draws": 50},
            },
        }
    )
    found = run(recipe)
    assert not found.failed, [json.loads((f / "outcome.json").read_text()) for f in found.failed]
    told = json.loads((found.folder / "study.json").read_text())
    assert [(c["fraction"], len(c["runs"])) for c in told["cells"]] == [(1.0, 2), (0.5, 2)]
    half = [pd.read_csv(found.folder / f"runs/a/random/fraction_0.5/seed_{s}/split.csv") for s in (0, 1)]
    drawn = [set(t["path"][t["split"] == "train"]) for t in half]
    assert drawn[0] != drawn[1]
    assert all((found.folder / run_["folder"]).is_dir() for c in told["cells"] for run_ in c["runs"])
