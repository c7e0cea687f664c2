"""The chain of weights behind a run, down to the first file."""

import hashlib

import pytest

from slivit.checkpoint import save_backbone
from slivit.checkpoint.lineage import check_start, started_from
from slivit.data.preprocessing import Preprocessing
from slivit.errors import RecipeError
from slivit.models.recipe import Model
from slivit.models.registry import create_model


def test_the_chain_goes_down_to_the_first_file_with_its_checksum(tmp_path):
    (tmp_path / "imagenet.pth").write_bytes(b"weights")
    first = started_from(Model(name="image_classifier", pretrained=str(tmp_path / "imagenet.pth")))
    assert first == {"started_from": {"file": "imagenet.pth", "sha256": hashlib.sha256(b"weights").hexdigest()}}
    model = create_model("image_classifier", 1, backbone="resnet10t", image_size=32, stride=16)
    training = {"stage": "pretrain", "method": "simclr", "source": "scans.csv", **first}
    save_backbone(tmp_path / "run" / "checkpoint", model, Preprocessing(size=(1, 32, 32)), training)
    for weights in (tmp_path / "run", tmp_path / "run" / "checkpoint" / "model.safetensors"):
        step = started_from(Model(weights=str(weights)))["started_from"]
        assert (step["model"], step["method"]) == ("image_classifier", "simclr")
        assert step["started_from"] == first["started_from"]


def test_published_weights_are_the_first_link_too():
    model = Model(name="image_classifier", backbone="convnext_tiny", pretrained=True)
    assert started_from(model) == {"started_from": {"file": "published weights of convnext_tiny"}}
    assert started_from(Model(name="swin3d_t", weights="KINETICS400_V1")) == {
        "started_from": {"file": "KINETICS400_V1"}
    }
    assert started_from(Model(pretrained=False)) == started_from(Model()) == {}


def test_a_stride_that_does_not_fit_is_named_before_anything_is_read(tmp_path):
    model = create_model("image_classifier", 1, backbone="resnet10t", image_size=32, stride=16)
    save_backbone(tmp_path / "run", model, Preprocessing(size=(1, 32, 32)))
    wanted = {"name": "slivit", "backbone": "resnet10t", "weights": str(tmp_path / "run")}
    told = "was trained with stride=16, and this recipe has model.stride=32.*set model.stride=16"
    with pytest.raises(RecipeError, match=told):
        check_start(Model(**wanted))
    for stride in (8, 16):  # later layers can be left out
        check_start(Model(**wanted, stride=stride))
    check_start(Model(name="slivit", weights="no such run"))
