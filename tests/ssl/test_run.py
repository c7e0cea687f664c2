"""Runs without labels that die and go on: in their first epoch, between the steps of a large batch, behind the last."""

import numpy as np
import pytest
import torch
from PIL import Image

from slivit.checkpoint import load_encoder
from slivit.errors import ModelError, RecipeError
from slivit.recipe import check_recipe
from slivit.ssl import run as selfsupervised
from slivit.ssl.recipe import PretextSettings, SelfSupervisedRecipe
from slivit.ssl.unlabelled import unlabelled_frame
from slivit.train import callbacks

RESNET = {"name": "image_classifier", "backbone": "resnet10t", "image_size": 32, "stride": 16,
          "backbone_args": {"channels": [8, 8, 16, 16], "stem_width": 8}}  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A manifest of 24 images, 4 of them for validation."""
    folder = tmp_path_factory.mktemp("images")
    rows = ["path,patient,split"]
    for i in range(24):
        Image.fromarray(np.random.default_rng(i).integers(0, 200, (32, 32), np.uint8)).save(folder / f"{i}.png")
        rows.append(f"{i}.png,P{i},{'val' if i >= 20 else 'train'}")
    (folder / "images.csv").write_text("\n".join(rows))
    return folder / "images.csv"


def recipe(images, out, **fit):
    values = {
        "method": "simclr",
        "out": str(out),
        "data": {"manifest": str(images), "workers": 0},
        "images": {"slices": 1},
        "model": RESNET,
        "pretext": {"hidden": 16, "projection": 8},
        "fit": {"epochs": 2, "lr": 1e-2, "batch_size": 4, "warmup": 1, "device": "cpu"} | fit,
    }
    return check_recipe(SelfSupervisedRecipe, values, "the tests")


@pytest.fixture
def die(monkeypatch):
    """Let a run die at the first call of a function of which a condition holds."""

    def dying(owner, name, when=lambda *_: True):
        kept = getattr(owner, name)

        def dead(*args, **kwargs):
            if when(*args):
                monkeypatch.undo()
                raise KeyboardInterrupt
            return kept(*args, **kwargs)

        monkeypatch.setattr(owner, name, dead)

    return dying


def died_and_resumed(images, out, **fit):
    with pytest.raises(KeyboardInterrupt):
        selfsupervised.run(recipe(images, out, **fit))
    return selfsupervised.run(recipe(images, out, **fit), resume=True)


def same(first, second):
    weights = [load_encoder(run).model.backbone.state_dict() for run in (first, second)]
    history = [(run / "history.csv").read_text() for run in (first, second)]
    return history[0] == history[1] and all((t == weights[1][name]).all() for name, t in weights[0].items())


def test_no_gradient_is_lost_between_the_epochs_of_a_large_batch(images, tmp_path, die):
    fit = {"epochs": 2, "accumulate": 3, "optimiser": "lars"}  # five batches an epoch: a step of three, and one of two
    whole = selfsupervised.run(recipe(images, tmp_path / "whole", **fit))
    die(callbacks.StopOnNaN, "after_batch", lambda callback: callback.epoch == 1 and callback.iter == 3)
    assert same(whole, died_and_resumed(images, tmp_path / "died", **fit))


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    """A run that never died."""
    return selfsupervised.run(recipe(images, tmp_path_factory.mktemp("run") / "whole"))


@pytest.mark.parametrize("where", ["first epoch", "saving"])
def test_a_run_goes_on_wherever_it_died(images, whole, tmp_path, die, where):
    if where == "saving":
        die(selfsupervised, "save_backbone")
    else:
        die(callbacks.StopOnNaN, "after_batch", lambda callback: callback.iter == 3)
    assert same(whole, died_and_resumed(images, tmp_path / "died"))


def test_a_finished_run_does_not_go_on(images, whole):
    before = (whole / "checkpoint" / "model.safetensors").read_bytes()
    with pytest.raises(RecipeError, match="the run is finished"):
        selfsupervised.run(recipe(images, whole), resume=True)
    assert (whole / "checkpoint" / "model.safetensors").read_bytes() == before


def test_a_recipe_can_name_a_method_that_somebody_registered(images, tmp_path):
    from slivit.ssl.registry import _FACTORIES, register_pretext
    from slivit.ssl.simclr import simclr

    def my_method(model, *, temperature: float = 0.1):
        return simclr(model, temperature=temperature, hidden=16, projection=8)

    register_pretext(my_method)
    try:
        own = recipe(images, tmp_path / "own", epochs=1)
        own = check_recipe(SelfSupervisedRecipe, own.model_dump() | {"method": "my_method", "pretext": {}}, "the tests")
        assert load_encoder(selfsupervised.run(own)).training["method"] == "my_method"
        with pytest.raises(ModelError, match="my_method: temperature"):
            selfsupervised.run(own.model_copy(update={"pretext": PretextSettings(temperature="hot")}), overwrite=True)
    finally:
        del _FACTORIES["my_method"]
    with pytest.raises(ModelError, match='no pre-training method "my_method"'):
        selfsupervised.run(own, overwrite=True)


def test_each_channel_of_a_scan_is_a_scan_of_its_own(images, tmp_path):
    """Two columns of images: twice as many scans, a patient's on one side of validation."""
    rows = [line.split(",") for line in images.read_text().splitlines()[1:]]
    pairs = [f"{a[0]},{b[0]},{a[1]},{a[2]}" for a, b in zip(rows[::2], rows[1::2], strict=True)]
    table = images.with_name("pairs.csv")
    table.write_text("\n".join(["t1,t2,patient,split", *pairs]))
    values = recipe(table, tmp_path / "run", epochs=1).model_dump()
    values["data"]["channels"] = ["t1", "t2"]
    both = check_recipe(SelfSupervisedRecipe, values, "the tests")
    frame = unlabelled_frame(both.data, both.images)
    assert [p.rpartition("/")[2] for p in frame["path"]][:4] == ["0.png", "1.png", "2.png", "3.png"]
    assert frame["split"].value_counts().to_dict() == {"train": 20, "val": 4}
    assert (selfsupervised.run(both) / "checkpoint" / "model.safetensors").is_file()


def test_the_network_is_kept_on_the_way(images, tmp_path, die):
    fit = {"epochs": 2, "accumulate": 3, "keep_at": [0.5, 0.75]}  # two steps an epoch: after the second and the third
    die(callbacks.StopOnNaN, "after_batch", lambda callback: callback.epoch == 1 and callback.iter == 1)
    out = died_and_resumed(images, tmp_path / "run", **fit)
    first = selfsupervised.run(recipe(images, tmp_path / "whole", **fit))
    assert sorted(p.name for p in (out / "kept").iterdir()) == ["0.5", "0.75"]
    for share in ("0.5", "0.75"):
        weights = [load_encoder(run / "kept" / share).model.backbone.state_dict() for run in (out, first)]
        assert all(torch.equal(t, weights[1][name]) for name, t in weights[0].items())
    ends = load_encoder(out).model.backbone.state_dict()
    assert not all(torch.equal(t, ends[name]) for name, t in weights[0].items())
