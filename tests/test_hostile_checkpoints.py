"""Checkpoints that somebody changed: each is refused with a reason, before memory is taken, or computes what it did."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import slivit
from slivit.checkpoint import file_checksum, load_checkpoint, save_backbone
from slivit.errors import CheckpointError


@pytest.fixture(scope="module")
def checkpoint(tiny_slivit, tmp_path_factory):
    model = slivit.create_model("slivit", 1, **tiny_slivit)
    task = slivit.Task(kind="binary", targets=("bright",))
    folder = tmp_path_factory.mktemp("checkpoint") / "whole"
    return slivit.save_checkpoint(folder, model, task, slivit.Preprocessing(size=model.spec.size))


@pytest.fixture
def changed(checkpoint, tmp_path):
    """A function that copies the checkpoint, changes its config and its weights, and makes the checksum fit."""

    def change(config=None, weights=None, text=None):
        folder = shutil.copytree(checkpoint, tmp_path / "changed")
        if weights:
            file = folder / "model.safetensors"
            save_file(weights(load_file(file)), file)
        values = json.loads((folder / "config.json").read_text())
        values["sha256"] = file_checksum(folder / "model.safetensors")
        if config:
            config(values)
        (folder / "config.json").write_text(text(json.dumps(values)) if text else json.dumps(values))
        return folder

    return change


def _refused(folder, match):
    with pytest.raises(CheckpointError, match=match) as error:
        load_checkpoint(folder)
    assert len(str(error.value)) < 4000


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_type_are_refused(changed, dtype):
    _refused(changed(weights=lambda state: {k: v.to(dtype) for k, v in state.items()}), "is stored as .*it must be")


def test_a_backbone_of_another_type_is_refused(tiny_slivit, tmp_path):
    model = slivit.create_model("slivit", 1, **tiny_slivit)
    folder = save_backbone(tmp_path / "backbone", model, slivit.Preprocessing(size=model.spec.size))
    slivit.load_encoder(folder)
    file = folder / "model.safetensors"
    save_file({k: v.to(torch.int8) for k, v in load_file(file).items()}, file)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"sha256": file_checksum(file)}))
    with pytest.raises(CheckpointError, match="is stored as I8"):
        slivit.load_encoder(folder)


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("slices", 10**9, "slices is 1000000000; the largest number"),
        ("vit_dim", 10**6, "vit_dim is 1000000; the largest number"),
        ("vit_dim", 60_000, "does not fit"),
        ("vit_depth", 60_000, "holds far fewer weights than the model"),
        ("image_size", 2048, "does not fit|preprocessing.size is"),
        ("mlp_dim", "16", "mlp_dim: should be a valid integer"),
        ("backbone", [], "backbone: should be a valid string"),
        ("backbone", "x" * 10**6, "backbone has 1000000 characters"),
        ("backbone_args", {"act_layer": "nothing"}, "no slivit can be made of these arguments"),
        ("backbone_args", {"layers": [60_000] * 4}, "holds far fewer weights|does not fit"),
        ("backbone_args", {"checkpoint_path": "/etc/passwd"}, "would open other files"),
    ],
)
def test_arguments_without_end_or_sense_are_refused(changed, key, value, match):
    _refused(changed(lambda config: config["model"]["args"].update({key: value})), match)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda c: c.update(task=[]), "task: should be"),
        (lambda c: c.update(training="x"), "training: should be"),
        (lambda c: c["training"].update(scans_range={"scans": "x"}), r"training\.scans_range"),
        (lambda c: c["model"].update(out_dim=2), "out_dim is 2, and the task has 1 outputs"),
        (lambda c: c["preprocessing"].update(size=None), "size is missing"),
        (lambda c: c["preprocessing"].update(size=[8, 32, 32]), "the model takes"),
        (lambda c: c["preprocessing"].update(resize=[10**9, 10**9]), "allowed are"),
        (lambda c: c["preprocessing"].update(flips=["horizontal"] * 40), "twice"),
        (lambda c: c.update(operating_point={"thresholds": {"other": {}}}), "which is no target"),
        (lambda c: c.update(weights="int4"), "bfloat16"),
        (lambda c: c.update(format=2), "format 2; this version"),
        (lambda c: [c.pop(k) for k in ("model", "sha256")], "model is missing"),
    ],
)
def test_values_of_the_wrong_kind_are_named(changed, change, match):
    _refused(changed(change), match)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (lambda t: '{"a":' * 200_000 + "1" + "}" * 200_000, "nested too deeply"),
        (lambda t: t.replace('"vit_dim": 16', '"vit_dim": ' + "[" * 800 + "]" * 800), "vit_dim|nested"),
        (lambda t: t.replace('"vit_dim": 16', '"vit_dim": Infinity'), "no number in JSON"),
        (lambda t: t.replace('"vit_dim": 16', '"vit_dim": 1e999'), "too large a number"),
        (lambda t: t.replace('"vit_dim": 16', '"vit_dim": ' + "1" * 5000), "cannot be read"),
        (lambda t: '"' + "a" * 17_000_000 + '"', "at most 16000000 are read"),
        (lambda t: "[]", "it holds a list"),
        (lambda t: t.replace('"bright"', '"bright\\ud800"'), "cannot be read.*surrogates not allowed"),
    ],
)
def test_text_that_is_no_config_is_refused(changed, text, match):
    _refused(changed(text=text), match)


def test_an_unchanged_copy_is_opened(changed):
    assert load_checkpoint(changed()).task.targets == ("bright",)
