"""The runs of a study: made once and in order, resumed and repeated, and what failed."""

import json

import pytest

from slivit.errors import RecipeError, SlivitError
from slivit.experiments import study
from slivit.experiments.study_schedule import spoken_time
from slivit.files import write_json
from slivit.recipe import load_recipe


def run(recipe, **options):
    return study.run(recipe, processes=0, **options)


def test_finished_runs_stay_and_dead_ones_go_on(make_study, trained):
    out = run(make_study()).folder
    runs = out / "runs" / "slivit" / "random"
    dead, gone = runs / "fraction_1" / "seed_0", runs / "fraction_1" / "seed_1"
    for folder in (dead, gone):
        (folder / "metrics.json").unlink()
    (dead / "progress.pt").write_bytes(b"x")
    trained.made.clear()
    run(make_study())
    assert trained.made == [("slivit/random/fraction_1/seed_0", True), ("slivit/random/fraction_1/seed_1", False)]
    trained.made.clear()
    run(make_study(seeds=[0, 1, 2]))
    assert len(trained.made) == 6, "a new seed is added to what is there"


def test_a_failed_run_is_recorded_and_tried_again(make_study, trained):
    trained.fails["video/fraction_1/seed_0"] = SlivitError("video.pth: no such file")
    trained.fails["resnet3d_18/random/fraction_1/seed_1"] = RuntimeError("out of memory\nmore")
    found = run(make_study())
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
    again = run(make_study())
    assert len(trained.made) == 2
    assert not again.failed


def test_runs_of_another_recipe_are_not_taken_for_these(make_study, trained):
    run(make_study(seeds=[0]))
    trained.made.clear()
    run(make_study(seeds=[0], set={"data": {"workers": 1, "cache": "somewhere"}, "fit": {"device": "cpu"}}))
    assert not trained.made, "these settings make no other run of it"
    other = make_study(seeds=[0], set={"fit": {"epochs": 7}})
    with pytest.raises(RecipeError, match="another recipe"):
        run(other)
    run(other, overwrite=True)
    assert len(trained.made) == 6


def test_only_some_runs_are_made_and_nothing_is_compared_before_all_are_there(make_study, trained):
    found = run(make_study(), only=["model=slivit", "fraction=1", "seed=0"])
    assert len(trained.made) == 2
    assert found.page is None
    assert len(found.missing) == 10
    found = run(make_study(), only=["start=video"], so_far=True)
    assert found.page is not None
    assert len(found.missing) == 7


def chain(study_base, shared=False):
    """A start from a run on other data, which itself starts from the start `video`."""
    before = {"stage": "finetune", "recipe": str(study_base), "set": {"fit": {"epochs": 2}}}
    before |= {"shared": True} if shared else {"start": "video"}
    return {"random": {}, "video": {"set": {"model": {"weights": "video.pth"}}}, "ct": {"before": before}}


def test_what_a_run_starts_from_is_made_first_for_each_model(make_study, trained, study_base):
    found = run(make_study(starts=chain(study_base), exclude=[], seeds=[0], fractions=[1.0]))
    order = [name for name, _ in trained.made]
    first = order.index("study/starts/ct/slivit")
    assert first < order.index("slivit/ct/fraction_1/seed_0")
    assert len(order) == 6 + 2
    first = load_recipe("finetune", found.folder / "starts" / "ct" / "resnet3d_18" / "recipe.toml")
    assert (first.model.name, first.model.weights, first.fit.epochs, first.fit.batch_size) == (
        "resnet3d_18", "video.pth", 2, 2)  # fmt: skip
    after = load_recipe("finetune", found.folder / "runs/resnet3d_18/ct/fraction_1/seed_0/recipe.toml")
    assert after.model.weights == str(found.folder / "starts" / "ct" / "resnet3d_18")


def test_a_shared_start_is_made_once_with_its_own_network(make_study, trained, study_base):
    found = run(make_study(starts=chain(study_base, shared=True), exclude=[], seeds=[0], fractions=[1.0]))
    assert sum(name.endswith("study/starts/ct") for name, _ in trained.made) == 1
    assert load_recipe("finetune", found.folder / "starts" / "ct" / "recipe.toml").model.name == "slivit"


def test_without_its_start_a_run_fails_and_says_so(make_study, trained, study_base):
    trained.fails["starts/ct/slivit"] = SlivitError("no such data")
    found = run(make_study(starts=chain(study_base), exclude=[], seeds=[0], fractions=[1.0]))
    reasons = {p.parts[-4:]: json.loads((p / "outcome.json").read_text())["reason"] for p in found.failed}
    assert "what it starts from failed" in reasons["slivit", "ct", "fraction_1", "seed_0"]
    assert len(found.failed) == 2, "the other model has its own"


def test_a_run_from_other_weights_is_not_taken_for_this_one(make_study, trained, study_base):
    recipe = make_study(starts=chain(study_base), exclude=[], seeds=[0], fractions=[1.0])
    out = run(recipe).folder
    config = out / "runs/slivit/ct/fraction_1/seed_0/checkpoint/config.json"
    write_json(config, {"sha256": "x", "training": {"started_from": {"sha256": "f" * 64}}})
    trained.made.clear()
    run(recipe)
    assert not trained.made
    write_json(config, {"sha256": "x", "training": {"started_from": {"sha256": "earlier"}}})
    with pytest.raises(RecipeError, match="other weights"):
        run(recipe)
    run(recipe, overwrite=True)
    assert [name for name, _ in trained.made] == ["slivit/ct/fraction_1/seed_0"]


@pytest.mark.parametrize(("seconds", "told"), [(12.3, "12 s"), (600, "10 min"), (12_000, "3 h 20 min")])
def test_times_in_words(seconds, told):
    assert spoken_time(seconds) == told
