"""The plan: enough epochs before many folds, sizes left alone where size may be the question, time spent once."""

import tomllib
from time import monotonic

import numpy as np
import pandas as pd
import pytest
import torch

import slivit
from slivit.data.augmentation import Augmentation
from slivit.data.preprocessing import Preprocessing
from slivit.errors import DIVERGED, CheckpointError, RecipeError
from slivit.planned import jobs, networks
from slivit.planned.clock import Clock
from slivit.planned.look import Facts
from slivit.planned.mirrors import without_harm
from slivit.planned.networks import Candidate, Folds, Measured, folds_for, keep_of, plan_networks, started_from
from slivit.planned.plan import OWN_FOLDS, Plan, plan_augmentation, plan_folds, plan_preprocessing
from slivit.planned.scans import parts_of, refuse_seen, with_folds
from slivit.targets.task import Task

BINARY = Task(kind="binary", targets=("a",))
SIZE = Task(kind="regression", targets=("mm3",))


@pytest.fixture
def a_second_a_scan(monkeypatch):
    monkeypatch.setattr(networks, "seconds_a_scan", lambda model, args, out_dim, batch: Measured(0.01))


def test_folds_go_before_epochs_do():
    assert folds_for(5, passes=100, enough=25) == Folds(5, 5)
    assert folds_for(5, passes=75, enough=25) == Folds(4, 4)
    assert folds_for(5, passes=34, enough=25) == Folds(3, 2)
    assert folds_for(5, passes=10, enough=25) == Folds(4, 1)
    assert folds_for(2, passes=10, enough=25) == Folds(2, 1)
    assert folds_for(5, passes=75, enough=25, fixed=True) == Folds(5, 3)
    assert folds_for(5, passes=10, enough=25, fixed=True) == Folds(5, 1)


def test_folds_of_the_table_are_kept():
    frame = pd.DataFrame({"patient": range(40), "a": [0, 1] * 20, "fold": [7, 8, 9, 9] * 10}).astype({"patient": str})
    count, why, own = plan_folds(frame, BINARY)
    assert (count, own) == (3, True)
    assert "own column fold" in why
    kept = with_folds(frame, BINARY, Plan.model_construct(folds=3, seed=0, folds_from=OWN_FOLDS))
    assert kept["fold"].tolist() == [0, 1, 2, 2] * 10
    new = with_folds(frame, BINARY, Plan.model_construct(folds=5, seed=0, folds_from=""))
    assert sorted(new["fold"].value_counts()) == [8] * 5
    for column in ([1] * 40, range(40)):  # one fold is none, and one a patient are too many
        count, why, own = plan_folds(frame.assign(fold=column), BINARY)
        assert (count, own) == (5, False)
        assert "left aside" in why


def test_a_class_of_one_patient_does_not_halve_the_folds():
    frame = pd.DataFrame({"patient": [f"P{i}" for i in range(41)], "a": ["x", "y"] * 20 + ["z"]})
    task = Task(kind="multiclass", targets=("a",), classes=("x", "y", "z"))
    count, why, _ = plan_folds(frame, task)
    assert count == 5
    assert "classes of fewer than 3 (1) do not count" in why
    assert plan_folds(frame[:4], task)[0] == 2


def test_networks_of_several_channels_are_those_that_take_them():
    for size in ((10, 32, 32), (1, 32, 32)):
        options = list(networks.options_of(size, 2))
        assert [o.name for o in options] == ["resnet3d", "resnet3d_wide"]
        model = slivit.create_model(options[0].model, 1, **options[0].args).eval()
        assert model(torch.rand(1, 2, *size)).shape == (1, 1)


@pytest.mark.usefixtures("a_second_a_scan")
@pytest.mark.parametrize("size", [(28, 32, 32), (1, 32, 32)])
def test_networks_fit_the_time_and_the_first_gets_most(size):
    grid, spent = Preprocessing(size=size), {}
    for seconds in (60, 1500, 6000, 60_000):
        candidates, folds, reasons, _ = plan_networks(grid, 1, 1000, 5, seconds)
        costs = [c.epochs * 1000 * folds.passes * 0.01 for c in candidates]
        assert sum(costs) <= seconds
        first = [c for c in candidates if not c.seed]
        assert len(first) + len(reasons) == len(list(networks.options_of(size)))
        assert all(c.epochs == 48 for c in candidates if c.seed)  # another seed only where all had what they need
        spent[seconds] = [c.epochs for c in candidates]
        assert spent[seconds] == sorted(spent[seconds], reverse=True)
    assert spent[60] == []
    assert spent[60_000][0] == 48  # 3000 steps of 16 scans
    assert keep_of(candidates) <= len(candidates)


@pytest.mark.parametrize("size", [(6, 32, 32), (1, 32, 32)])
def test_networks_start_from_runs_of_ones_own(size, tmp_path):
    args = {"backbone": "resnet10t", "image_size": 64, "stride": 16}
    image = slivit.create_model("image_classifier", 1, **args)
    slivit.save_checkpoint(tmp_path / "run" / "checkpoint", image, BINARY, Preprocessing(size=(1, 64, 64)), {})
    (option,) = started_from([str(tmp_path / "run")], size)
    assert option.model == ("slivit" if size[0] > 1 else "image_classifier")
    model = slivit.create_model(option.model, 1, **option.args)
    assert model.spec.size == size
    slivit.load_backbone(model, option.weights)
    for name, value in image.backbone.state_dict().items():
        assert torch.equal(model.backbone.state_dict()[name], value), name
    with pytest.raises(CheckpointError, match="--weights takes the folder of a run"):
        list(started_from([str(tmp_path)], size))


def test_a_size_is_not_changed_where_it_may_be_the_question():
    oriented = [Facts(shape=(30, 40, 40), spacing=(1, 1, 1), oriented=True)]
    for facts in (oriented, [Facts(shape=(28, 28, 28), mask=True)]):
        augmentation, _ = plan_augmentation(facts, SIZE)
        assert augmentation.zoom == (1, 1)
        assert augmentation.flip_horizontal is not facts[0].oriented
    image, _ = plan_augmentation([Facts(shape=(1, 28, 28))], BINARY)
    assert image.zoom != (1, 1)


def test_images_may_be_larger_than_slices():
    images, _ = plan_preprocessing([Facts(shape=(1, 500, 400), bytes=True)])
    volumes, _ = plan_preprocessing([Facts(shape=(20, 500, 400), bytes=True)])
    assert images.size == (1, 224, 224)
    assert volumes.size == (20, 96, 96)


def test_a_run_that_saw_the_labels_of_these_scans_is_no_start(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "split.csv").write_text("path,split\n/a.nii,train\n/b.nii,val\n/c.nii,test\n")
    frame = pd.DataFrame({"path": ["/a.nii", "/b.nii", "/c.nii", "/d.nii"]})
    refuse_seen([str(run)], frame)  # pre-training without labels leaves no metrics
    (run / "metrics.json").write_text("{}")
    with pytest.raises(RecipeError, match="labels of 2 of these 4 scans"):
        refuse_seen([str(run)], frame)
    refuse_seen([str(run)], frame[2:])


@pytest.fixture
def two_networks():
    options = {"model": "resnet3d_18", "lr": 1e-3, "epochs": 40, "batch_size": 8, "seconds": 100.0}
    return [Candidate(name=name, **options) for name in ("first", "second")]


def test_a_slow_machine_costs_the_later_networks_and_then_the_epochs_of_the_first(two_networks, tmp_path):
    first, second = two_networks
    clock = Clock(tmp_path, minutes=20, workers=1, began=monotonic())
    assert clock.epochs_for(first, 0, two_networks, 5) == 40
    clock.ended(first, 0, 250)  # thought to take 100 s: four more take 1000 s of 1140, and nothing is left
    assert clock.expected(second, two_networks) == 250
    assert clock.epochs_for(second, 0, two_networks, 5) == 0
    assert "second" in clock.left_out
    assert clock.epochs_for(first, 1, two_networks, 5) == 40
    clock.before = 700.0  # 440 s are left for 1000
    assert clock.epochs_for(first, 2, two_networks, 5) == 17
    again = Clock(tmp_path, minutes=20, workers=1, began=monotonic())
    assert again.epochs_for(first, 2, two_networks, 5) == 17
    assert again.epochs_for(second, 0, two_networks, 5) == 0
    assert again.before == pytest.approx(700, abs=5)


def test_a_plan_without_costs_is_followed_whatever_the_time(two_networks, tmp_path):
    unknown = [c.model_copy(update={"seconds": 0.0}) for c in two_networks]
    clock = Clock(tmp_path, minutes=0.01, workers=2, began=monotonic() - 100)
    assert [clock.epochs_for(c, 0, unknown, 2) for c in unknown] == [40, 40]


def test_time_that_is_left_goes_to_another_fold_and_stays_decided(two_networks, tmp_path):
    clock = Clock(tmp_path, minutes=20, workers=1, began=monotonic())
    for candidate in two_networks:
        clock.ended(candidate, 0, 300)
    assert clock.one_more_fold(1, two_networks)  # 600 s of 1140
    assert clock.epochs_for(two_networks[1], 1, two_networks, 1) == 40
    clock.before = 700.0
    assert not clock.one_more_fold(2, two_networks)
    again = Clock(tmp_path, minutes=1, workers=1, began=monotonic())
    assert again.one_more_fold(1, two_networks)  # as it was decided, although there is no time any more
    assert not again.one_more_fold(2, two_networks)


def test_a_network_is_not_begun_where_the_baselines_left_no_time(two_networks, tmp_path):
    first, second = two_networks
    late = Clock(tmp_path, minutes=20, workers=1, began=monotonic() - 1100)  # 40 s are left for 500
    assert late.epochs_for(first, 0, [first, second], 5) == 0
    assert " s left" in late.left_out["first"]
    late.took["second"], late.before = {"0": 100.0}, -20.0  # 60 s for 400
    assert late.epochs_for(second, 1, [second], 5) == 8  # cut short


def test_folds_for_which_no_time_is_left_are_left_out_and_the_others_stand(two_networks, tmp_path):
    first = two_networks[0]
    clock = Clock(tmp_path, minutes=20, workers=1, began=monotonic() - 1130)  # 10 s are left
    clock.took["first"] = {"0": 100.0, "1": 100.0}
    assert clock.in_time([first], 5) == 5
    assert [clock.epochs_for(first, fold, [first], 5) for fold in (2, 3, 4)] == [0, 0, 0]
    assert not clock.left_out
    again = Clock(tmp_path, minutes=200, workers=1, began=monotonic())
    assert again.epochs_for(first, 2, [first], 5) == 0
    assert again.in_time([first], 5) == 2
    assert again.one_more_fold(2, [first])  # there is time now
    assert again.in_time([first], 5) == 3


def test_dear_baselines_are_left_out_when_most_of_the_time_is_spent(tmp_path):
    early = Clock(tmp_path, minutes=20, workers=1, began=monotonic() - 100)
    assert early.has_baseline("voxels_6_linear")
    late = Clock(tmp_path, minutes=20, workers=1, began=monotonic() - 1100)
    assert late.has_baseline("voxels_6_linear")  # as it was decided
    assert not late.has_baseline("voxels_12_linear")


def test_a_network_that_diverged_is_tried_once_more_carefully(two_networks, tmp_path, monkeypatch):
    asked, told = [], []

    def made(_, line):
        asked.append(tomllib.loads(line["recipe"])["fit"])
        lost = asked[-1]["lr"] > 5e-4 or line["recipe"].count("second")
        return {"error": f"{DIVERGED} nan in epoch 3" if lost else ""}

    monkeypatch.setattr(jobs, "made_by", made)
    sizes = {"minutes": 9, "workers": 0, "folds": 3, "trained": 1, "keep": 2, "candidates": two_networks}
    what = {"preprocessing": Preprocessing(size=(4, 16, 16)), "augmentation": Augmentation(), "baselines": ()}
    plan = Plan(out=str(tmp_path), source="", task=BINARY, **sizes, **what)
    clock = Clock(tmp_path, minutes=9, workers=1, began=monotonic())
    failed = jobs.train_jobs(plan, two_networks, [0], clock, told.append)
    assert [(fit["lr"], fit["precision"]) for fit in asked] == [(1e-3, "auto"), (1e-3 / 3, "float32")] * 2
    assert list(failed) == ["second"]
    assert list(clock.took) == ["first"]
    assert "tried again" in told[0]
    assert Clock(tmp_path, minutes=9, workers=1, began=monotonic()).careful == ["first, fold 0", "second, fold 0"]


def test_time_that_is_left_goes_to_copies_of_the_best_network(two_networks, tmp_path):
    first = two_networks[0]
    copy = first.model_copy(update={"name": "first_2", "seed": 200})
    clock = Clock(tmp_path, minutes=20, workers=1, began=monotonic())
    clock.ended(first, 0, 300.0)
    assert clock.one_more_copy(copy, first, range(3))  # 900 s of 1,140
    late = Clock(tmp_path, minutes=1, workers=1, began=monotonic())
    assert late.one_more_copy(copy, first, range(3))  # as it was decided, although there is no time any more
    assert [late.epochs_for(copy, fold, [copy], 3) for fold in range(3)] == [first.epochs] * 3
    third = copy.model_copy(update={"name": "first_3", "seed": 300})
    assert not late.one_more_copy(third, first, range(3))


def test_few_folds_of_networks_leave_baselines_as_many_parts_as_there_can_be():
    frame = pd.DataFrame({"path": [f"{i}.nii" for i in range(40)], "patient": [str(i) for i in range(40)]})
    frame = frame.assign(a=[0, 1] * 20)
    for folds, parts in ((2, 5), (5, 5)):
        plan = Plan.model_construct(folds=folds, folds_from="", seed=0)
        cut = with_folds(frame, BINARY, plan)
        assert cut["fold"].nunique() == folds
        assert len(np.unique(parts_of(cut, BINARY, plan))) == parts
    own = Plan.model_construct(folds=2, folds_from="the table", seed=0)
    given = frame.assign(fold=["x", "y"] * 20)
    assert len(np.unique(parts_of(with_folds(given, BINARY, own), BINARY, own))) == 2


def test_networks_of_images_take_three_colours_and_a_file_holds_them(tmp_path):
    names = [o.model for o in networks.options_of((1, 32, 32), 3)]
    assert set(names) == {"image_classifier"}
    assert all("in_chans" in o.args for o in networks.options_of((4, 32, 32), 3))
    of = {"minutes": 9, "workers": 0, "folds": 3, "keep": 0, "candidates": (), "baselines": ()}
    settings = Preprocessing(size=(1, 32, 32), reader={"channel": "all"}, channels=("red", "green", "blue"))
    plan = Plan(out=str(tmp_path), source="", task=BINARY, preprocessing=settings, augmentation=Augmentation(), **of)
    assert plan.columns == ()
    candidate = Candidate(name="a", model="image_classifier", lr=1e-3, epochs=1, batch_size=4)
    recipe = jobs.recipe_of_job(plan, jobs.job_of(plan, candidate, 0))
    assert recipe.data.channels == ()
    assert recipe.preprocessing.reader == {"channel": "all"}


def test_no_mirror_where_side_is_the_question(rng):
    stacks = rng.integers(0, 60, (120, 4, 24, 24)).astype(np.uint8)
    left = np.arange(120) % 2
    for stack, where in zip(stacks, left, strict=True):
        stack[1:3, 8:16, 2 + 12 * where : 10 + 12 * where] += 150
    frame = pd.DataFrame({"path": map(str, range(120)), "patient": [str(i) for i in range(120)], "a": left})
    wanted = Augmentation(flip_horizontal=True, flip_vertical=True, rotate=10)
    task = BINARY.fitted(frame.to_dict("records"))
    kept, why = without_harm(wanted, list(stacks), frame, left[:, None].astype(float), task, 0)
    assert kept == Augmentation(flip_vertical=True, rotate=10)
    assert len(why) == 1
    assert "flip_horizontal is left out" in why[0]
    large = (stacks.astype(float) * (0.5 + 0.5 * (left[::-1, None, None, None]))).astype(np.uint8)
    seen = frame.assign(a=left[::-1])
    assert without_harm(wanted, list(large), seen, seen["a"].to_numpy(float)[:, None], task, 0) == (wanted, [])
    noise = rng.integers(0, 2, (120, 1)).astype(float)
    assert without_harm(wanted, list(stacks), frame.assign(a=noise[:, 0]), noise, task, 0) == (wanted, [])
