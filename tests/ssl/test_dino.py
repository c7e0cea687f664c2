"""DINO in 2D and in 3D: what goes in, where gradients go, what is refused, and runs that die and go on."""

import csv

import numpy as np
import pytest
import tifffile
import torch

from slivit.checkpoint import load_encoder
from slivit.errors import CheckpointError, ModelError
from slivit.models.registry import create_model
from slivit.recipe import check_recipe
from slivit.ssl import create_pretext
from slivit.ssl import run as selfsupervised
from slivit.ssl.dino3d import load_heads
from slivit.ssl.learner import pretext_dataloaders, pretext_learner
from slivit.ssl.losses.dino import dino_loss, multi_crop_loss
from slivit.ssl.recipe import PretextFit, SelfSupervisedRecipe

VIT = {"slices": 1, "image_size": 32,
       "backbone_args": {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}}  # fmt: skip
SWIN = {"slices": 1, "image_size": 32, "backbone_args": {"patch_size": 4, "window_size": 4, "embed_dim": 8,
        "depths": (2, 2), "num_heads": (1, 2), "dynamic_img_size": True}}  # fmt: skip
RESNET = {"backbone": "resnet10t", "image_size": 32, "stride": 16,
          "backbone_args": {"channels": [8, 8, 16, 16], "stem_width": 8}}  # fmt: skip
CONVNEXT = {"backbone": "convnext_atto", "image_size": 64,
            "backbone_args": {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8)}}  # fmt: skip
HEAD = {"prototypes": 32, "head_hidden": 16, "bottleneck": 8}
TINY_3D = {"name": "dino3d_vit_small", "dim": 16, "depth": 2, "heads": 2, "slices": 32, "image_size": 32,
           "position_size": 32, "layer_scale": 1.0, "mask_token": True}  # fmt: skip
CROPS = {"large_size": 32, "small_size": 16, "small_crops": 2, "patch_prototypes": 24, **HEAD}


def model_3d(**more):
    args = TINY_3D | more
    return create_model(args.pop("name"), 1, **args)


def batch_3d(pretext, volumes=3):
    item = {"large": torch.rand(2, 1, 32, 32, 32), "small": torch.rand(2, 1, 16, 16, 16), "noise": torch.rand(2, 8)}
    return pretext.views(pretext.collate([item] * volumes))


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """A manifest of 14 volumes of 18 x 24 x 24 voxels."""
    folder = tmp_path_factory.mktemp("scans")
    rows = ["path,patient,split"]
    for i in range(14):
        volume = np.random.default_rng(i).integers(0, 200, (18, 24, 24)).astype(np.uint8)
        tifffile.imwrite(folder / f"{i}.tif", volume, photometric="minisblack")
        rows.append(f"{i}.tif,P{i},{'val' if i >= 12 else 'train'}")
    (folder / "scans.csv").write_text("\n".join(rows))
    return folder / "scans.csv"


@pytest.mark.parametrize(
    ("name", "args", "small"),
    [("slice_vit", VIT, 16), ("slice_vit", {**VIT, "backbone": "vit_small_patch16_dinov3_qkvb"}, 16),
     ("slice_swin", SWIN, 16), ("image_classifier", RESNET, 16), ("image_classifier", CONVNEXT, 32)],
)  # fmt: skip
def test_crops_of_two_sizes_go_through_every_kind_of_network(name, args, small):
    model = create_model(name, 1, **args)
    side = model.spec.size[1]
    pretext = create_pretext("dino", model, small_size=small, small_crops=3, **HEAD)
    crops, targets = pretext.views(torch.randint(0, 255, (4, 1, side, side), dtype=torch.uint8))
    assert crops["large"].shape[-2:] == (side, side)
    assert crops["small"].shape[-2:] == (small, small)
    assert len(targets) == 4
    out = pretext.model(crops)
    assert out["small"].shape == (12, 32)
    pretext.loss(out, targets).backward()
    student, teacher = pretext.model.student, pretext.model.teacher
    assert all(p.grad is not None and p.grad.isfinite().all() for p in student.encoder.backbone.parameters())
    assert all(p.grad is None for p in teacher.parameters())
    assert pretext.encoder is teacher.encoder
    assert pretext.features(torch.zeros(2, 1, side, side, dtype=torch.uint8)).shape == out["features"][:2].shape


def test_each_kind_of_crop_is_changed_in_its_own_way():
    model = create_model("image_classifier", 1, **RESNET)
    whole = {"large_crop": (1.0, 1.0), "small_crop": (1.0, 1.0), "small_size": 32, "small_crops": 1, "flip": 0.0}
    still = {"strength": 0.0, "blur_probability": (0.0, 0.0, 0.0), "solarise_probability": 0.0}
    image = torch.randint(0, 255, (2, 1, 32, 32), dtype=torch.uint8)

    def crops(**more):
        made, _ = create_pretext("dino", model, **whole | still | more, **HEAD).views(image)
        return [*made["large"].chunk(2), made["small"]]

    plain = crops()
    assert torch.equal(plain[0], plain[1])
    assert torch.equal(plain[0], plain[2])
    for i in range(3):
        blurred = crops(blur_probability=tuple(float(i == k) for k in range(3)))
        assert [torch.equal(a, b) for a, b in zip(blurred, plain, strict=True)] == [k != i for k in range(3)]
    inverted = crops(solarise_probability=1.0)
    assert [torch.equal(a, b) for a, b in zip(inverted, plain, strict=True)] == [True, False, True]


def test_all_pairs_but_the_same_crop_count_alike():
    generator = torch.Generator().manual_seed(0)
    large, small = (torch.randn(n, 8, generator=generator) for n in (6, 9))
    teacher = torch.randn(6, 8, generator=generator).softmax(1)
    students = [*large.chunk(2), *small.chunk(3)]
    pairs = [dino_loss([s], [t]) for i, s in enumerate(students) for j, t in enumerate(teacher.chunk(2)) if i != j]
    torch.testing.assert_close(multi_crop_loss(large, small, teacher), torch.stack(pairs).mean())
    whole = multi_crop_loss(large, small[:0], teacher)
    torch.testing.assert_close(whole, (pairs[0] + pairs[1]) / 2)


def test_a_size_that_does_not_fit_and_other_models_are_refused():
    strict = SWIN | {"backbone_args": {**SWIN["backbone_args"], "dynamic_img_size": False}}
    with pytest.raises(ModelError, match="dynamic_img_size"):
        create_pretext("dino", create_model("slice_swin", 1, **strict), small_size=16, **HEAD)
    with pytest.raises(ModelError, match="mask_token = true"):
        create_pretext("dino3d", model_3d(mask_token=False), **CROPS)
    with pytest.raises(ModelError, match="in_chans = 2"):
        create_pretext("dino3d", model_3d(in_chans=2), **CROPS)
    with pytest.raises(ModelError, match="multiple of 16"):
        create_pretext("dino3d", model_3d(), **CROPS | {"small_size": 20})
    with pytest.raises(ModelError, match=r"got image_classifier"):
        create_pretext("dino3d", create_model("image_classifier", 1, **RESNET), **CROPS)


def test_in_3d_gradients_reach_the_student_alone_and_every_part_of_it():
    pretext = create_pretext("dino3d", model_3d(), **CROPS)
    crops, targets = batch_3d(pretext)
    assert crops["mask"].shape == (6, 8)
    out = pretext.model(crops)
    assert out["masked"].shape == (int(crops["mask"].sum()), 24)
    pretext.loss(out, targets).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in pretext.model.student.parameters())
    assert all(p.grad is None for p in pretext.model.teacher.parameters())
    assert pretext.encoder.backbone is pretext.model.teacher.backbone
    pretext.model.train()
    assert pretext.features(torch.zeros(2, 32, 32, 32, dtype=torch.uint8)).shape == (2, 16)
    assert not any(module.training for module in pretext.model.teacher.modules())  # as a probe leaves it


def test_the_loss_is_the_sum_of_its_parts_and_parts_can_be_left_out():
    pretext = create_pretext("dino3d", model_3d(), **CROPS, centring="softmax")
    crops, targets = batch_3d(pretext)
    pretext.model.eval()
    with torch.no_grad():
        loss = pretext.loss(pretext.model(crops), targets)
    parts = [pretext.parts[name] for name in ("dino_loss", "ibot_loss", "koleo_loss")]
    assert loss.item() == pytest.approx(sum(parts), rel=1e-5)
    plain = create_pretext("dino3d", model_3d(), **CROPS, ibot_weight=0, koleo_weight=0)
    crops, targets = batch_3d(plain)
    assert not crops["mask"].any()
    assert not {"ibot_loss", "koleo_loss"} & set(plain.parts)
    assert plain.loss(plain.model(crops), targets).isfinite()


def test_rates_fall_by_layer_and_for_the_patches(scans):
    pretext = create_pretext("dino3d", model_3d(), **CROPS)
    rows = [{"path": str(scans.parent / f"{i}.tif"), "split": "train" if i < 10 else "val"} for i in range(12)]
    import slivit

    dls = pretext_dataloaders(rows, pretext, slivit.Preprocessing(size=(32, 32, 32)), batch_size=4)
    fit = PretextFit(layer_decay=0.9, patch_lr=0.2, checkpoint_activations=True)
    learn = pretext_learner(dls, pretext, fit)
    torch.testing.assert_close(torch.tensor(learn.rates), torch.tensor([0.9**3, 0.2 * 0.9**3, 0.81, 0.9, 1.0]).double())
    assert pretext.model.student.backbone.checkpointing


def test_computing_activations_again_changes_no_gradient():
    backbone = model_3d().backbone
    volume = torch.rand(2, 1, 32, 32, 32)
    gradients = []
    for enable in (False, True):
        backbone.set_grad_checkpointing(enable)
        backbone.zero_grad()
        backbone(volume).square().sum().backward()
        gradients.append([p.grad.clone() for p in backbone.parameters() if p.grad is not None])
    torch.testing.assert_close(*gradients)


def recipe(scans, out, method="dino3d", **more):
    values = {
        "method": method,
        "out": str(out),
        "data": {"manifest": str(scans), "workers": 0},
        "images": {"slices": 2},
        "model": TINY_3D,
        "pretext": {**CROPS, "temperature_warmup": 2, "centring": "softmax"},
        "fit": {"epochs": 3, "lr": 1e-3, "batch_size": 4, "warmup": 1, "weight_decay_end": 0.2, "clip": 3.0,
                "layer_decay": 0.9, "patch_lr": 0.2, "device": "cpu"},
    }  # fmt: skip
    if method == "simclr":
        values["model"] = {"name": "image_classifier", **RESNET}
        values["pretext"] = {"hidden": 16, "projection": 8}
        values["fit"] = {k: v for k, v in values["fit"].items() if k not in ("layer_decay", "patch_lr")}
    if method == "dino":
        values["model"] = {"name": "slice_vit", **VIT}
        values["pretext"] = {"small_size": 16, "small_crops": 2, **HEAD}
    return check_recipe(SelfSupervisedRecipe, values | more, "the tests")


def history(folder):
    with (folder / "history.csv").open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.parametrize("method", ["simclr", "dino", "dino3d"])
def test_a_run_that_dies_goes_on_to_the_same_losses_and_weights(method, scans, tmp_path, monkeypatch):
    from slivit.train import callbacks

    selfsupervised.run(recipe(scans, tmp_path / "whole", method))
    kept = callbacks.LogEpochs.after_epoch

    def die(callback):
        if callback.epoch == 2:
            raise KeyboardInterrupt
        kept(callback)

    with monkeypatch.context() as patched:
        patched.setattr(callbacks.LogEpochs, "after_epoch", die)
        with pytest.raises(KeyboardInterrupt):
            selfsupervised.run(recipe(scans, tmp_path / "died", method))
    selfsupervised.run(recipe(scans, tmp_path / "died", method), resume=True)
    assert history(tmp_path / "died") == history(tmp_path / "whole")
    weights = [load_encoder(tmp_path / name).model.backbone.state_dict() for name in ("whole", "died")]
    assert all(torch.equal(tensor, weights[1][key]) for key, tensor in weights[0].items())


def test_from_pretraining_to_high_resolution_to_a_classifier(scans, tmp_path):
    first = selfsupervised.run(recipe(scans, tmp_path / "first"))
    config = load_encoder(first)
    assert config.training["method"] == "dino3d"
    higher = TINY_3D | {"slices": 48, "image_size": 48, "position_size": 48, "resize_positions": True}
    crops = CROPS | {"large_size": 48, "small_size": 32, "heads": str(first)}
    fit = {"epochs": 1, "lr": 5e-4, "batch_size": 4, "warmup": 0, "device": "cpu"}
    second = selfsupervised.run(
        recipe(scans, tmp_path / "second", model=higher | {"weights": str(first)}, pretext=crops, fit=fit)
    )
    assert load_encoder(second).training["started_from"]["folder"] == str(first)
    model = create_model("dino3d_vit_small", 2, **{k: v for k, v in higher.items() if k not in ("name", "mask_token")},
                         pretrained=str(second))  # fmt: skip
    kept = load_encoder(second).model.backbone.state_dict()
    assert all(torch.equal(tensor, kept[key]) for key, tensor in model.backbone.state_dict().items())
    assert model(torch.zeros(1, 1, 48, 48, 48)).shape == (1, 2)


def test_heads_are_taken_over_strictly(scans, tmp_path):
    first = selfsupervised.run(recipe(scans, tmp_path / "run", fit={"epochs": 1, "batch_size": 4, "device": "cpu"}))
    pretext = create_pretext("dino3d", model_3d(), **CROPS, heads=str(first))
    again = create_pretext("dino3d", model_3d(), **CROPS, heads=str(first))
    weights = [p.model.student.ibot_head.state_dict() for p in (pretext, again)]
    assert all(torch.equal(tensor, weights[1][key]) for key, tensor in weights[0].items())
    with pytest.raises(CheckpointError, match=r"dino_head[\s\S]*has shape"):
        create_pretext("dino3d", model_3d(), **CROPS | {"prototypes": 16}, heads=str(first))
    with pytest.raises(CheckpointError, match="no such weight file"):
        load_heads(pretext.model.student, tmp_path / "nowhere")
