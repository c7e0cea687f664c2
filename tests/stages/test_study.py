"""Studies: the grid, its runs made once, resumed and repeated, what failed, and the comparison."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from slivit.errors import RecipeError, SlivitError
from slivit.files import write_json, write_text
from slivit.recipe import load_recipe, resolved_toml, shipped_recipes
from slivit.recipe_study import StudyRecipe
from slivit.stages import study
from slivit.stages.study_grid import Grid, chosen, layered
from slivit.stages.study_pool import Worker, devices
from slivit.stages.study_schedule import spoken_time
from slivit.stages.study_table import measure_study
from slivit.stages.study_worker import answer, request

NET = {"backbone": "resnet10t", "slices": 4, "image_size": 32, "stride": 16, "vit_dim": 16, "vit_depth": 1,
       "vit_heads": 2, "dim_head": 8, "mlp_dim": 16}  # fmt: skip


@pytest.fixture
def base(blob_scans, tmp_path):
    """A fine-tuning recipe that speaks of SLIViT and of weights."""
    values = {"out": "unused", "task.kind": "binary", "task.targets": ["bright"], "data.manifest": str(blob_scans),
              "data.workers": 0, "fit.epochs": 1, "fit.lr": 1e-3, "testing.draws": 50, "model.weights": "some.pth",
              **{f"model.{k}": v for k, v in NET.items()}}  # fmt: skip
    write_text(tmp_path / "base.toml", "\n".join(f"{k} = {json.dumps(v)}" for k, v in values.items()))
    return tmp_path / "base.toml"


@pytest.fixture
def make(base, tmp_path):
    """A study of two models, two initialisations, two shares and two seeds; changes by section."""

    def make(**changes):
        narrow = {"model": {"slices": 4, "image_size": 32, "width": 8}, "fit": {"batch_size": 2}}
        values = {
            "out": str(tmp_path / "study"),
            "recipe": str(base),
            "models": {"slivit": {"title": "SLIViT"}, "resnet3d_18": {"title": "3D ResNet", "set": narrow}},
            "starts": {"random": {}, "video": {"models": {"slivit": {"model": {"weights": "video.pth"}}}}},
            "fractions": [1.0, 0.25],
            "seeds": [0, 1],
            "exclude": [{"models": ["resnet3d_18"], "starts": ["video"], "why": "no such weights"}],
            "reference": {"model": "slivit", "start": "random"},
        }
        return StudyRecipe.model_validate(values | changes)

    return make


@pytest.fixture
def trained(monkeypatch, made_up_predictions):
    """Runs are written without training; (folder, resume) of each is kept. `fails` names folders that fail."""
    made, fails = [], {}

    def write(recipe, *, resume=False, overwrite=False):
        folder = Path(recipe.out)
        made.append(("/".join(folder.parts[-4:]), resume))
        write_text(folder / "recipe.toml", resolved_toml(recipe))
        if error := next((e for name, e in fails.items() if name in str(folder)), None):
            raise error
        table, _ = made_up_predictions("binary", n=90)
        noise = np.random.default_rng(recipe.seed).normal(size=90) * (1.2 - recipe.data.train_fraction)
        noise *= 0.2 if recipe.model.name == "slivit" else 0.8
        p = np.clip(table["prob_drusen"] + noise, 0, 1)
        table.assign(prob_drusen=p).to_csv(folder / "predictions.csv", index=False)
        rows = [{"patient": f"T{i}", "split": "train"} for i in range(round(40 * recipe.data.train_fraction))]
        pd.DataFrame(rows).to_csv(folder / "split.csv", index=False)
        write_text(folder / "metrics.json", "{}")
        write_json(folder / "checkpoint" / "config.json", {"sha256": "first", "training": {}})
        (folder / "progress.pt").unlink(missing_ok=True)

    monkeypatch.setattr("slivit.stages.finetune.run", write)
    monkeypatch.setattr("slivit.stages.pretrain.run", write)
    monkeypatch.setattr("slivit.stages.study.check_networks", lambda jobs: None)
    monkeypatch.setattr("slivit.stages.study.compare_runs", lambda grid, states: Path(grid.recipe.out) / "study.html")
    write.made, write.fails = made, fails
    return write


@pytest.fixture
def compared(trained, monkeypatch):
    """As `trained`, and the runs are compared too, which takes longer."""
    monkeypatch.setattr("slivit.stages.study.compare_runs", COMPARE)
    return trained


COMPARE = study.compare_runs


def run(recipe, **options):
    return study.run(recipe, processes=0, **options)


def measured(recipe):
    """What is told of a study, without its page."""
    return measure_study(Grid(recipe), run(recipe).states)


def test_the_grid_is_every_combination_but_those_left_out(make):
    grid = Grid(make())
    assert len(grid.jobs) == (2 * 2 - 1) * 2 * 2
    assert len({job.folder for job in grid.jobs}) == len(grid.jobs)
    assert {(e["model"], e["start"], e["why"]) for e in grid.excluded} == {("resnet3d_18", "video", "no such weights")}
    assert [job.seed for job in grid.jobs] == sorted(job.seed for job in grid.jobs), "the first seed comes first"
    assert {(j.recipe.seed, j.recipe.data.train_fraction) for j in grid.jobs} == {
        (s, f) for s in (0, 1) for f in (1, 0.25)
    }


def test_a_model_has_its_own_arguments_and_the_start_alone_gives_weights(make):
    jobs = {(j.model, j.start): j.recipe for j in Grid(make()).jobs}
    assert jobs["slivit", "random"].model.weights == ""
    assert jobs["slivit", "video"].model.weights == "video.pth"
    assert jobs["slivit", "random"].model.args == NET
    assert jobs["resnet3d_18", "random"].model.args == {"slices": 4, "image_size": 32, "width": 8}
    assert jobs["resnet3d_18", "random"].fit.batch_size == 2
    assert jobs["slivit", "random"].fit.batch_size != 2


def test_without_starts_a_model_starts_as_the_recipe_says(make):
    jobs = {j.model: j for j in Grid(make(starts={}, exclude=[], reference={"model": "slivit"})).jobs}
    assert jobs["slivit"].recipe.model.weights == "some.pth"
    assert jobs["resnet3d_18"].recipe.model.weights == ""


def test_sections_are_merged_and_what_stands_in_them_is_replaced():
    found = layered({"a": {"x": {"deep": 1}, "y": 2}, "b": 1}, {"a": {"x": {"other": 3}}, "b": 2})
    assert found == {"a": {"x": {"other": 3}, "y": 2}, "b": 2}


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"fractions": [0.5, 0.5]}, "fractions are repeated"),
        ({"fractions": [1.5]}, "1 at most"),
        ({"models": {"a/b": {}}, "exclude": [], "reference": None, "starts": {}}, "name of a folder"),
        ({"exclude": [{"models": ["resnet"], "why": "x"}]}, 'Did you mean "resnet3d_18"'),
        ({"exclude": [{"why": "x"}]}, "would leave out all"),
        ({"reference": {"model": "slivit", "start": "vide"}}, 'Did you mean "video"'),
        ({"starts": {"a": {"before": {"recipe": "demo", "stage": "finetune", "start": "a"}}}, "exclude": [],
          "reference": None}, "comes before itself"),
        ({"starts": {"a": {"before": {"recipe": "demo", "shared": True, "start": "a"}}}}, "takes no start"),
        ({"metrics": "roc_auc"}, "metrics"),
    ],
)  # fmt: skip
def test_a_study_that_does_not_fit_together_is_told(make, changes, part):
    with pytest.raises(ValueError, match=part):
        make(**changes)


def test_all_problems_of_all_recipes_are_told_at_once(make, tmp_path):
    wrong = {"slivit": {"set": {"fit": {"epoch": 3}}}, "resnet3d_18": {"set": {"data": {"worker": 1}}}}
    with pytest.raises(RecipeError) as told:
        Grid(make(models=wrong)).jobs  # noqa: B018
    assert 'Did you mean "epochs"' in str(told.value)
    assert 'Did you mean "workers"' in str(told.value)
    wrong = {"slivit": {}, "resnet3d_18": {"set": {"model": {"widht": 8}}}}
    with pytest.raises(RecipeError, match='takes no argument "widht"'):
        study.check_networks(Grid(make(models=wrong)).jobs)


def test_runs_are_made_and_compared(make, compared, tmp_path):
    compared.fails["resnet3d_18/random/fraction_1/seed_1"] = SlivitError("the network is too large")
    found = run(make())
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


def test_everything_is_tested_against_the_reference_alone(make, trained):
    told = measured(make())
    tests = [t for t in told["tests"] if (t["method"], t["metric"]) == ("paired bootstrap", "roc_auc")]
    assert {(t["model"], t["start"], t["fraction"]) for t in tests} == {
        (m, s, f) for m, s in (("slivit", "video"), ("resnet3d_18", "random")) for f in (1.0, 0.25)
    }
    assert all(t["reference"] == {"model": "slivit", "start": "random"} for t in tests)
    cells = {(c["model"], c["start"], c["fraction"]): c["metrics"]["roc_auc"]["value"] for c in told["cells"]}
    for t in tests:
        assert t["difference"] == pytest.approx(
            cells[t["model"], t["start"], t["fraction"]] - cells["slivit", "random", t["fraction"]]
        )
    every = [t for t in told["tests"] if t["method"] == "paired bootstrap"]
    assert all(t["bonferroni"] == pytest.approx(min(1, t["p_value"] * len(every))) for t in every)


def test_a_reference_of_the_start_alone_is_the_same_model(make, trained):
    told = measured(make(reference={"start": "random"}, seeds=[0], fractions=[1.0]))
    assert {(t["model"], t["start"], t["reference"]["model"]) for t in told["tests"]} == {("slivit", "video", "slivit")}


def test_finished_runs_stay_and_dead_ones_go_on(make, trained):
    out = run(make()).folder
    runs = out / "runs" / "slivit" / "random"
    dead, gone = runs / "fraction_1" / "seed_0", runs / "fraction_1" / "seed_1"
    for folder in (dead, gone):
        (folder / "metrics.json").unlink()
    (dead / "progress.pt").write_bytes(b"x")
    trained.made.clear()
    run(make())
    assert trained.made == [
        ("random/fraction_1/seed_0", True),
        ("random/fraction_1/seed_1", False),
    ] or trained.made == [
        ("slivit/random/fraction_1/seed_0", True),
        ("slivit/random/fraction_1/seed_1", False),
    ]
    trained.made.clear()
    run(make(seeds=[0, 1, 2]))
    assert len(trained.made) == 6, "a new seed is added to what is there"


def test_a_failed_run_is_recorded_and_tried_again(make, trained):
    trained.fails["video/fraction_1/seed_0"] = SlivitError("video.pth: no such file")
    trained.fails["resnet3d_18/random/fraction_1/seed_1"] = RuntimeError("out of memory\nmore")
    found = run(make())
    assert [p.parts[-4:] for p in found.failed] == [
        ("slivit", "video", "fraction_1", "seed_0"),
        ("resnet3d_18", "random", "fraction_1", "seed_1"),
    ]
    assert len(trained.made) == 12
    assert json.loads((found.failed[0] / "outcome.json").read_text())["reason"] == "video.pth: no such file"
    second = json.loads((found.failed[1] / "outcome.json").read_text())
    assert second["reason"] == "RuntimeError: out of memory"
    assert "Traceback" in second["traceback"]
    trained.fails.clear()
    trained.made.clear()
    again = run(make())
    assert len(trained.made) == 2
    assert not again.failed


def test_runs_of_another_recipe_are_not_taken_for_these(make, trained):
    run(make(seeds=[0]))
    trained.made.clear()
    run(make(seeds=[0], set={"data": {"workers": 1, "cache": "somewhere"}, "fit": {"device": "cpu"}}))
    assert not trained.made, "these settings make no other run of it"
    other = make(seeds=[0], set={"fit": {"epochs": 7}})
    with pytest.raises(RecipeError, match="another recipe"):
        run(other)
    run(other, overwrite=True)
    assert len(trained.made) == 6


def test_only_some_runs_are_made_and_nothing_is_compared_before_all_are_there(make, trained):
    found = run(make(), only=["model=slivit", "fraction=1", "seed=0"])
    assert len(trained.made) == 2
    assert found.page is None
    assert len(found.missing) == 10
    found = run(make(), only=["start=video"], so_far=True)
    assert found.page is not None
    assert len(found.missing) == 7


@pytest.mark.parametrize("only", ["modle=slivit", "model=slivt", "slivit"])
def test_only_names_what_is_there(make, only):
    with pytest.raises(RecipeError, match=r"Did you mean|write AXIS"):
        chosen(Grid(make()).jobs, [only])


def chain(base, shared=False):
    """A start from a run on other data, which itself starts from the start `video`."""
    before = {"stage": "finetune", "recipe": str(base), "set": {"fit": {"epochs": 2}}}
    before |= {"shared": True} if shared else {"start": "video"}
    return {"random": {}, "video": {"set": {"model": {"weights": "video.pth"}}}, "ct": {"before": before}}


def test_what_a_run_starts_from_is_made_first_for_each_model(make, trained, base):
    found = run(make(starts=chain(base), exclude=[], seeds=[0], fractions=[1.0]))
    order = [name for name, _ in trained.made]
    first = order.index("study/starts/ct/slivit")
    assert first < order.index("slivit/ct/fraction_1/seed_0")
    assert len(order) == 6 + 2
    first = load_recipe("finetune", found.folder / "starts" / "ct" / "resnet3d_18" / "recipe.toml")
    assert (first.model.name, first.model.weights, first.fit.epochs, first.fit.batch_size) == (
        "resnet3d_18", "video.pth", 2, 2)  # fmt: skip
    after = load_recipe("finetune", found.folder / "runs/resnet3d_18/ct/fraction_1/seed_0/recipe.toml")
    assert after.model.weights == str(found.folder / "starts" / "ct" / "resnet3d_18")


def test_a_shared_start_is_made_once_with_its_own_network(make, trained, base):
    found = run(make(starts=chain(base, shared=True), exclude=[], seeds=[0], fractions=[1.0]))
    assert sum(name.endswith("study/starts/ct") for name, _ in trained.made) == 1
    assert load_recipe("finetune", found.folder / "starts" / "ct" / "recipe.toml").model.name == "slivit"


def test_without_its_start_a_run_fails_and_says_so(make, trained, base):
    trained.fails["starts/ct/slivit"] = SlivitError("no such data")
    found = run(make(starts=chain(base), exclude=[], seeds=[0], fractions=[1.0]))
    reasons = {p.parts[-4:]: json.loads((p / "outcome.json").read_text())["reason"] for p in found.failed}
    assert "what it starts from failed" in reasons["slivit", "ct", "fraction_1", "seed_0"]
    assert len(found.failed) == 2, "the other model has its own"


def test_a_run_from_other_weights_is_not_taken_for_this_one(make, trained, base):
    recipe = make(starts=chain(base), exclude=[], seeds=[0], fractions=[1.0])
    out = run(recipe).folder
    config = out / "runs/slivit/ct/fraction_1/seed_0/checkpoint/config.json"
    write_json(config, {"sha256": "x", "training": {"started_from": {"sha256": "first"}}})
    trained.made.clear()
    run(recipe)
    assert not trained.made
    write_json(config, {"sha256": "x", "training": {"started_from": {"sha256": "earlier"}}})
    with pytest.raises(RecipeError, match="other weights"):
        run(recipe)
    run(recipe, overwrite=True)
    assert [name for name, _ in trained.made] == ["slivit/ct/fraction_1/seed_0"]


def test_phantoms_are_made_once(make, trained, tmp_path):
    recipe = make(seeds=[0], phantoms=[{"kind": "oct", "out": str(tmp_path / "oct"), "n": 1}])
    run(recipe)
    before = sorted((tmp_path / "oct").rglob("*"))
    assert (tmp_path / "oct" / "manifest.csv").is_file()
    run(recipe)
    assert sorted((tmp_path / "oct").rglob("*")) == before


def test_the_command_lists_runs_and_its_status_tells_of_failures(make, trained):
    from slivit.cli import app

    recipe = make(seeds=[0], fractions=[1.0])
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


def test_a_worker_that_dies_is_told_and_started_again(tmp_path):
    worker = Worker(0, tmp_path)
    worker.command = [sys.executable, "-c", "import os, sys; sys.stdin.readline(); os.kill(os.getpid(), 9)"]
    assert "memory" in worker({})["error"]
    worker.command = [sys.executable, "-c", "import sys; sys.stdin.readline(); sys.exit(3)"]
    assert "status 3" in worker({})["error"]
    worker.command = [sys.executable, "-c", 'import sys; sys.stdin.readline(); print(\'{"error": ""}\', flush=True)']
    assert worker({}) == {"error": ""}
    worker.stop()
    with pytest.raises(SystemExit):
        worker({})


def test_a_worker_sees_its_device_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 5")
    assert devices() == ["2", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices() == []
    assert Worker(0, tmp_path, "5").environment["CUDA_VISIBLE_DEVICES"] == "5"


def test_a_worker_says_what_is_wrong_with_a_recipe():
    found = answer(request("finetune", 'out = "x"\nfit.epoch = 3', "new"))
    assert "epoch" in found["error"]


@pytest.mark.parametrize(("seconds", "told"), [(12.3, "12 s"), (600, "10 min"), (12_000, "3 h 20 min")])
def test_times_in_words(seconds, told):
    assert spoken_time(seconds) == told


@pytest.mark.parametrize("name", sorted(shipped_recipes("study")))
def test_shipped_studies_are_whole(name):
    recipe = load_recipe("study", name)
    grid = Grid(recipe)
    assert grid.jobs
    assert all(job.needs is None or job.needs in grid.before for job in grid.jobs)
    from slivit.models.registry import list_models

    assert {network for network, _ in study.networks(grid.jobs)} <= set(list_models())


@pytest.mark.slow
def test_a_study_of_real_runs_in_processes_of_its_own(make, tmp_path):
    recipe = make(fractions=[1.0], seeds=[0], starts={"random": {}}, exclude=[])
    found = study.run(recipe, processes=1)
    assert not found.failed
    told = json.loads((found.folder / "study.json").read_text())
    assert [c["metrics"]["roc_auc"]["n"] for c in told["cells"]] == [8, 8]
    assert all(r["seconds"] > 0 for r in told["runs"])
