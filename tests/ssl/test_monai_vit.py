"""MONAI-ViT pre-training: what spoils volumes, the three tasks, and a run whose backbone another model takes."""

import math

import numpy as np
import pytest
import tifffile
import torch
from safetensors.torch import load_file

from slivit.errors import ModelError
from slivit.models.registry import create_model, model_spec
from slivit.ssl import create_pretext
from slivit.ssl._corruption3d import Corruption, corrupt, inside, random_boxes, rotate, shuffle_boxes

pytest.importorskip("monai", reason="MONAI is not installed (the extra baselines)")
SMALL = dict(model_spec("monai_vit").small)
PRETRAIN = """
method = "monai_vit"
out = "{out}"
[data]
manifest = "{csv}"
workers = 0
[model]
name = "monai_vit"
{model}
[pretext]
crops = 1
projection = 8
[pictures]
every = 2
count = 2
[fit]
epochs = 2
lr = 1e-3
batch_size = 3
warmup = 1
layer_decay = 0.9
"""


def new_model(**args):
    torch.manual_seed(0)
    return create_model("monai_vit", 1, **{**SMALL, **args})


def volumes(count=4, side=12):
    return torch.rand(count, 1, side, side, side, generator=torch.Generator().manual_seed(1))


def monai_holes(x, transform):
    """What MONAI's transform makes of a volume, and where its boxes are."""
    x = transform(x.clone())
    mask = torch.zeros(x.shape, dtype=torch.bool)
    for hole in transform.hole_coords:
        mask[hole] = True
    return torch.as_tensor(x), mask


@pytest.mark.parametrize("outer", [0.0, 1.0])
def test_dropout_hits_as_much_and_fills_in_the_same_range_as_monais(outer):
    from monai.transforms import RandCoarseDropout

    torch.manual_seed(0)
    x = volumes(60, 24)
    settings = Corruption(outer=outer, shuffle=0.0, boxes=3, hole=(4 / 24, 10 / 24), window=(4 / 24, 10 / 24))
    spoilt, where = corrupt(x, settings)
    assert torch.equal(spoilt[~where], x[~where])
    assert (spoilt[where] != x[where]).float().mean() > 0.99
    assert spoilt.aminmax().min >= x.min()
    assert spoilt.aminmax().max <= x.max()
    theirs = RandCoarseDropout(3, 4, dropout_holes=not outer, max_holes=3, max_spatial_size=10, prob=1.0)
    theirs.set_random_state(0)
    boxes = torch.stack([monai_holes(one, theirs)[1] for one in x]).float().mean((1, 2, 3, 4))
    share = 1 - boxes if outer else boxes
    ours = where.float().mean((1, 2, 3, 4))
    error = math.hypot(ours.std(), share.std()) / math.sqrt(len(x))
    assert abs(ours.mean() - share.mean()) < 4 * error
    assert ours.std() > 0  # each volume its own boxes


def test_shuffling_moves_voxels_within_boxes_alone():
    torch.manual_seed(0)
    x = volumes()
    starts, ends = random_boxes(4, 3, (12, 12, 12), (0.25, 0.25))
    spoilt, boxes = shuffle_boxes(x, starts, ends), inside(starts, ends, (12, 12, 12), x.device)
    assert torch.equal(spoilt[~boxes], x[~boxes])
    assert (spoilt[boxes] != x[boxes]).float().mean() > 0.9
    torch.testing.assert_close(spoilt.flatten(1).sort().values, x.flatten(1).sort().values)
    one = slice(*(int(edge[0, 0, 0]) for edge in (starts, ends)))
    assert one.stop - one.start == 3


def test_boxes_reach_every_edge_and_never_beyond():
    starts, ends = random_boxes(500, 2, (4, 8, 12), (0.25, 0.5))
    sizes = ends - starts
    assert sizes.amin((0, 1)).tolist() == [1, 2, 3]
    assert sizes.amax((0, 1)).tolist() == [2, 4, 6]
    assert starts.amin((0, 1)).tolist() == [0, 0, 0]
    assert ends.amax((0, 1)).tolist() == [4, 8, 12]


def test_rotation_is_about_the_axis_of_the_slices():
    x = volumes()
    turned = rotate(x, torch.arange(4))
    for quarter in range(4):
        assert torch.equal(turned[quarter, 0, 5], torch.rot90(x[quarter, 0, 5], quarter))


def test_views_are_turned_scaled_and_spoilt_and_targets_whole():
    pretext = create_pretext("monai_vit", new_model(mean=0.5, std=0.5))
    batch = torch.rand(2, 3, 1, 32, 32, 32) * 2 - 1
    spoilt, (whole, where, turns) = pretext.views(batch)
    assert spoilt.shape == whole.shape == (12, 1, 32, 32, 32)
    back = rotate(whole, (4 - turns) % 4)
    torch.testing.assert_close(back[:6], batch.flatten(0, 1))  # mean and std are those of the scale from -1 to 1
    torch.testing.assert_close(back[6:], batch.flatten(0, 1))
    assert torch.equal(spoilt[~where], whole[~where])
    assert not torch.equal(where[0], where[6])


def test_the_loss_is_the_weighted_sum_of_its_tasks():
    from monai.losses import ContrastiveLoss

    weights = {"inpainting_weight": 2.0, "contrastive_weight": 0.5, "rotation_weight": 3.0}
    pretext = create_pretext("monai_vit", new_model(), projection=8, inpainted="spoilt", **weights)
    inputs, targets = pretext.views(torch.rand(3, 1, 1, 32, 32, 32) * 2 - 1)
    with torch.no_grad():
        out = pretext.model(inputs)
        loss = pretext.loss(out, targets)
    first, second = out["contrastive_loss"].chunk(2)
    whole, where, turns = targets
    parts = {
        "inpainting_loss": 2 * torch.nn.L1Loss()(out["inpainting_loss"][where], whole[where]),
        "contrastive_loss": 0.5 * ContrastiveLoss(0.5)(first, second),
        "rotation_loss": 3 * -out["rotation_loss"].log_softmax(1)[range(6), turns].mean(),
    }
    assert {name: pretext.parts[name] for name in parts} == pytest.approx({k: float(v) for k, v in parts.items()})
    assert float(loss) == pytest.approx(float(sum(parts.values())))


@pytest.mark.parametrize("task", ["inpainting", "contrastive", "rotation"])
def test_each_task_alone_teaches_the_backbone(task):
    others = {f"{name}_weight": 0.0 for name in ("inpainting", "contrastive", "rotation") if name != task}
    pretext = create_pretext("monai_vit", new_model(), **others)
    inputs, targets = pretext.views(torch.rand(2, 1, 1, 32, 32, 32) * 2 - 1)
    pretext.loss(pretext.model(inputs), targets).backward()
    trained = [p for p in pretext.model.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    assert all(p.grad is not None for p in pretext.encoder.backbone.parameters())
    assert all(p.grad is None for p in pretext.encoder.head.parameters())
    assert (pretext.pictures is None) == (task != "inpainting")


def test_a_handful_of_volumes_is_told_apart():
    """Views are spoilt by as much as ever; a head without a norm over the batch makes all of them the same instead."""
    from torch.nn import functional as F

    shapes = torch.randn(8, 1, 4, 4, 4, generator=torch.Generator().manual_seed(3))
    batch = F.interpolate(shapes, size=(16, 16, 16), mode="trilinear").clamp(-1, 1)[:, None]
    model = new_model(slices=16, image_size=16, patch_size=8, dim=32, mlp_dim=64)
    pretext = create_pretext("monai_vit", model, projection=32, inpainting_weight=0.0, rotation_weight=0.0)
    optimiser = torch.optim.AdamW([p for p in pretext.model.parameters() if p.requires_grad], lr=3e-3)
    found = []
    for _ in range(160):
        inputs, targets = pretext.views(batch)
        out = pretext.model(inputs)
        optimiser.zero_grad()
        pretext.loss(out, targets).backward()
        optimiser.step()
        first, second = F.normalize(out["contrastive_loss"].detach(), dim=1).chunk(2)
        found.append((first @ second.T).argmax(1) == torch.arange(8))
    assert torch.stack(found[-40:]).float().mean() > 0.75  # an eighth is chance


def test_layers_of_the_network_are_told_by_their_names():
    pretext = create_pretext("monai_vit", new_model())
    depths = {name: pretext.depth_of(name) for name, _ in pretext.model.named_parameters()}
    assert {depth for name, depth in depths.items() if "patch_embedding" in name} == {0}
    assert depths["encoder.backbone.blocks.1.attn.qkv.weight"] == 2
    assert depths["encoder.backbone.norm.weight"] == depths["heads.rotation_loss.weight"] == 3


def test_what_cannot_be_trained_is_told():
    other = create_model("dino3d_vit_small", 1, **model_spec("dino3d_vit_small").small)
    with pytest.raises(ModelError, match="got dino3d_vit_small"):
        create_pretext("monai_vit", other)
    with pytest.raises(ModelError, match=r"slices and image_size .* equal, got 16 and 32"):
        create_pretext("monai_vit", new_model(slices=16))
    with pytest.raises(ModelError, match="all three tasks are 0"):
        create_pretext("monai_vit", new_model(), inpainting_weight=0, contrastive_weight=0, rotation_weight=0)


def test_a_run_by_recipe_gives_a_backbone_that_a_model_of_another_shape_starts_from(tmp_path):
    from slivit.models._weights import load_backbone
    from slivit.recipe import load_recipe, pretrain

    rng = np.random.default_rng(0)
    lines = ["path,patient,split"]
    for i in range(6):
        image = rng.integers(0, 250, (20, 36, 40), dtype=np.uint8)
        tifffile.imwrite(tmp_path / f"{i}.tif", image, photometric="minisblack")
        lines.append(f"{i}.tif,{i},{'train' if i < 4 else 'val'}")
    (tmp_path / "scans.csv").write_text("\n".join(lines))
    arguments = "\n".join(f"{key} = {value}" for key, value in SMALL.items())
    text = PRETRAIN.format(out=tmp_path / "run", csv=tmp_path / "scans.csv", model=arguments)
    (tmp_path / "recipe.toml").write_text(text)
    run = pretrain(load_recipe("pretrain", tmp_path / "recipe.toml"))
    history = np.genfromtxt(run / "history.csv", delimiter=",", names=True)
    tasks = history["inpainting_loss"] + history["contrastive_loss"] + history["rotation_loss"]
    np.testing.assert_allclose(tasks, history["valid_loss"], rtol=1e-4)
    assert np.isfinite(history["rotation_accuracy"]).all()
    assert [p.name for p in (run / "pictures").iterdir()] == ["epoch_002.png"]
    assert load_file(run / "checkpoint" / "decoder.safetensors")["1.weight"].shape == (16, 1, 4, 4, 4)
    tuned = new_model(slices=16, image_size=48)
    load_backbone(tuned, run)
    kept = load_file(run / "checkpoint" / "model.safetensors")["backbone.norm.weight"]
    assert torch.equal(tuned.backbone.norm.weight, kept)


def test_contrast_and_rotation_read_the_class_token():
    model = new_model(class_token=True)
    pretext = create_pretext("monai_vit", model, projection=8)
    inputs, targets = pretext.views(torch.rand(2, 1, 1, 32, 32, 32))
    out = pretext.model(inputs)
    assert out["rotation_loss"].shape == (4, 4)
    pretext.loss(out, targets).backward()
    assert model.backbone.cls_token.grad.abs().sum() > 0
