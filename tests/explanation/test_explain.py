"""Explanations: what is said of a slice is what the model does, and each score lands where it belongs."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import slivit
from slivit.explanation import FILLS, METHODS, ExplainError, engine_of, explain_seen, see_scan
from slivit.explanation.attention import WatchAttention, rollout
from slivit.explanation.gradcam import grad_cam, watched
from slivit.explanation.layers import map_layers
from slivit.explanation.occlusion import without_slice
from slivit.explanation.scan import slice_numbers
from slivit.models.registry import create_model, list_models, model_spec
from slivit.predict.engine import predict_table
from slivit.targets.decision import Decision
from slivit.targets.task import Task
from slivit.volume import Volume

TASK = Task(kind="binary", targets=("bright",))
CLASSES = Task(kind="multiclass", targets=("label",), classes=("a", "b", "c"))


def write_nifti(volume, path, affine=None):
    """(D, H, W) as NIfTI, columns to the left, rows to the back, slices upwards: axial reading gives it back."""
    import nibabel

    affine = np.diag([-1.0, -1.0, 3.0, 1.0]) if affine is None else affine
    nibabel.save(nibabel.Nifti1Image(volume.transpose(2, 1, 0), affine), path)
    return str(path)


def predicted(checkpoint, path):
    table = predict_table(checkpoint.model, [{"path": path}], checkpoint.task, checkpoint.preprocessing)
    if checkpoint.operating_point:
        table = checkpoint.operating_point.apply(table, checkpoint.task)
    return table["prob_bright"][0]


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("kind", ["plain", "mirrored", "with a temperature"])
def test_the_change_of_an_occlusion_is_the_difference_of_two_predictions(checkpoint, volume, tmp_path, fill, kind):
    if kind == "mirrored":
        settings = checkpoint.preprocessing.model_copy(update={"flips": ("horizontal", "slices")})
        checkpoint = dataclasses.replace(checkpoint, preprocessing=settings)
    if kind == "with a temperature":
        checkpoint = dataclasses.replace(checkpoint, operating_point=Decision(temperature=2.5))
    whole = write_nifti(volume.array, tmp_path / "whole.nii")
    found = slivit.explain(checkpoint, whole, methods=["occlusion"], fill=fill, batch_size=2)
    table = found.table().set_index("slice")
    assert found.prediction == pytest.approx(predicted(checkpoint, whole), abs=1e-6)
    for number in (0, 3):
        changed = without_slice(found.scan, number, fill)
        kept = [i for i in range(len(changed)) if i != number]
        np.testing.assert_array_equal(changed[kept], volume.array[kept])
        without = predicted(checkpoint, write_nifti(changed, tmp_path / "without.nii"))
        assert table["without"][number] == pytest.approx(without, abs=1e-6)
        assert table["change"][number] == pytest.approx(predicted(checkpoint, whole) - without, abs=1e-6)
    assert table["change"].abs().max() > 0.01


def test_evidence_is_the_change_of_log_odds(checkpoint, volume):
    table = slivit.explain(checkpoint, volume, methods=["occlusion"]).table()
    logit = lambda p: np.log(p / (1 - p))  # noqa: E731
    before = table["without"] + table["change"]
    np.testing.assert_allclose(table["occlusion"], logit(before) - logit(table["without"]), atol=1e-4)


def test_evidence_of_a_class_is_its_log_odds():
    logits = torch.randn(2, 4, 3)
    p = logits.double().softmax(-1)
    torch.testing.assert_close(CLASSES.evidence(logits), (p / (1 - p)).log())


def test_regression_is_explained_in_its_unit(network, settings, volume):
    task = Task(kind="regression", targets=("age", "size"), unit="mm", center=(50.0, 3.0), spread=(10.0, 2.0))
    found = slivit.explain(network(2), volume, task=task, preprocessing=settings, target="size")
    table = found.table()
    np.testing.assert_allclose(table["occlusion"], table["change"], atol=1e-5)
    assert found.prediction == pytest.approx(found.predictions["pred_size"])
    strongest = table["occlusion"].abs().to_numpy().argmax()
    assert found.ranking("occlusion")[0] == table["slice"][strongest]


def test_copies_of_a_slice_are_hidden_together_and_blanks_are_no_slices(checkpoint, volume):
    short = Volume(volume.array[:3], None, "short")
    found = slivit.explain(checkpoint, short)
    assert found.scan.slices.tolist() == [0, 0, 1, 2, 2]
    assert found.table()["slice"].tolist() == [0, 1, 2]
    hidden = without_slice(found.scan, 2, "black")
    assert not hidden[3:].any()
    np.testing.assert_array_equal(hidden[:3], found.scan.stack[:3])
    padded = dataclasses.replace(checkpoint, preprocessing=checkpoint.preprocessing.model_copy(update={"short": "pad"}))
    found = slivit.explain(padded, short)
    assert found.scan.slices.tolist() == [0, 1, 2, -1, -1]
    assert found.table()["slice"].tolist() == [0, 1, 2]
    assert np.isfinite(found.table()).all().all()


def test_interpolated_slices_belong_to_the_nearest(settings):
    settings = settings.model_copy(update={"sampling": "resample"})
    assert slice_numbers(2, settings).tolist() == [0, 0, 1, 1, 1]
    assert slice_numbers(5, settings).tolist() == [0, 1, 2, 3, 4]


def test_attention_is_watched_without_the_model_s_help(checkpoint):
    x = torch.randn(checkpoint.model.spec.batch_shape(2))
    with torch.no_grad(), WatchAttention() as watch:
        output = checkpoint.model(x)
        torch.testing.assert_close(torch.stack(watch.maps, 1), checkpoint.model.attention_maps(x))
    torch.testing.assert_close(output, checkpoint.model(x))


def test_rollout_is_the_product_of_the_layers_with_their_residuals():
    maps = [torch.rand(1, 2, 4, 4).softmax(-1) for _ in range(3)]
    expected = torch.eye(4)
    for layer in maps:
        expected = (layer[0].mean(0) + torch.eye(4)) / 2 @ expected
    found = rollout(maps)
    torch.testing.assert_close(found[0], expected)
    torch.testing.assert_close(found.sum(-1), torch.ones(1, 4))


def test_a_model_that_pools_slices_without_regard_to_them_has_even_attention(network, settings, volume):
    model = network()
    for block in model.blocks:
        torch.nn.init.zeros_(block.attention.qkv.weight)
    found = slivit.explain(model, volume, task=TASK, preprocessing=settings, methods=["rollout"])
    scores = found.attributions["rollout"].scores
    np.testing.assert_allclose(scores, scores[0], rtol=1e-5)


def test_grad_cam_of_a_linear_head_over_pooled_cells_is_what_each_cell_adds_to_the_logit():
    from slivit.models._backbones import feature_map

    torch.manual_seed(0)
    model = create_model("resnet18_2d", 1, **(model_spec("resnet18_2d").small | {"image_size": 96})).eval()
    stack = torch.randint(0, 256, (3, 96, 96), dtype=torch.uint8)
    scan_of = engine_of(model, task=TASK, preprocessing=slivit.Preprocessing(size=(3, 96, 96)))
    images = scan_of.input_of(stack[None])[0].transpose(0, 1)
    with torch.no_grad():
        features = feature_map(model.backbone, model.backbone_info.stage, images)
        added = torch.einsum("c,schw->shw", model.head.weight[0], features) / (3 * 3 * 3)
    torch.testing.assert_close(grad_cam(scan_of, stack, "bright"), added.relu(), rtol=1e-4, atol=1e-6)
    regression = Task(kind="regression", targets=("bright",))
    signed = engine_of(model, task=regression, preprocessing=scan_of.settings)
    torch.testing.assert_close(grad_cam(signed, stack, "bright"), added.abs(), rtol=1e-4, atol=1e-6)


def test_mirrored_views_are_turned_back(checkpoint, volume):
    mirrored = checkpoint.preprocessing.model_copy(update={"flips": ("vertical",)})
    views = [slivit.explain(checkpoint, v, methods=["gradcam"]).attributions["gradcam"].maps
             for v in (volume, Volume(volume.array[:, ::-1].copy(), None, "turned"))]  # fmt: skip
    both = slivit.explain(dataclasses.replace(checkpoint, preprocessing=mirrored), volume, methods=["gradcam"])
    expected = (views[0] + views[1][:, ::-1]) / 2
    np.testing.assert_allclose(both.attributions["gradcam"].maps, expected, atol=1e-5)


@pytest.mark.parametrize("name", list_models(output="vector"))
def test_every_model_is_explained_or_says_why_not(name):
    torch.manual_seed(0)
    model = create_model(name, 3, **model_spec(name).small)
    slices, height, width = model.spec.size
    array = np.random.default_rng(0).integers(0, 256, (slices + 1, height + 3, width)).astype(np.uint8)
    settings = slivit.Preprocessing(size=model.spec.size, stretch=None)
    scan_of = engine_of(model, task=CLASSES, preprocessing=settings)
    scan = see_scan(Volume(array, None, "noise"), settings)
    found = explain_seen(scan_of, scan, target="b")
    assert {*found.attributions, *found.skipped} == set(METHODS)
    for method, attribution in found.attributions.items():
        assert attribution.scores.shape == (slices,)
        assert np.isfinite(attribution.scores).all()
        if attribution.maps is not None:
            assert len(attribution.maps) == slices
            assert (attribution.maps >= 0).all()
        if method == "rollout":
            assert 0 < attribution.scores.sum() <= 1 + 1e-5
    for method, why in found.skipped.items():
        assert "needs at least two slices" in why if method == "occlusion" else "is not defined" in why
        assert slices == 1 or method != "occlusion"
        with pytest.raises(ExplainError, match=r"defined|two slices"):
            explain_seen(scan_of, scan, methods=[method])


# Where in the batch of slices a change of one cell of the input must show in the layer that Grad-CAM weighs.
TOKENS = {"dino3d_vit_small": (16, 16), "vivit": (2, 16), "videomae": (2, 16), "timesformer": (1, 16), "vit3d": (2, 8),
          "mvit_v1_b": (2, 16), "swin3d_t": (2, 32), "slice_vit": (1, 8), "slice_swin": (1, 8)}  # fmt: skip


@pytest.mark.parametrize("name", sorted(TOKENS))
def test_tokens_are_brought_to_the_order_of_the_volume(name):
    """A change in one corner changes the same corner of the map most."""
    torch.manual_seed(1)
    model = create_model(name, 1, **(model_spec(name).small | _wide(name))).eval()
    along, across = TOKENS[name]
    x = 0.1 * torch.randn(model.spec.batch_shape(1))
    changed = x.clone()
    changed[:, :, -along:, :across, -across:] += 3
    layer = map_layers(model)[0]
    with torch.no_grad(), watched([layer]) as seen:
        model(x)
        before = layer.cells(seen[0], x)
        model(changed)
        difference = (layer.cells(seen[0], x) - before)[0].norm(dim=0)
    place = np.unravel_index(int(difference.argmax()), difference.shape)
    assert place == (difference.shape[0] - 1, 0, difference.shape[2] - 1)
    assert min(difference.shape) > 1


def _wide(name):
    """Sizes that leave at least two cells along every axis."""
    if name.startswith("dino3d"):
        return {"slices": 48, "image_size": 32, "layer_scale": 0.1}
    return {"slices": 8, "image_size": 64 if name == "swin3d_t" else 32}


def test_maps_are_those_of_the_backbone(checkpoint):
    """The layer that is watched in a network of timm gives the very map that the model goes on with."""
    x = torch.randn(checkpoint.model.spec.batch_shape(1))
    layer = map_layers(checkpoint.model)[0]
    with torch.no_grad(), watched([layer]) as seen:
        features = checkpoint.model.forward_features(x)
    torch.testing.assert_close(seen[0], features)
    slices = checkpoint.model.spec.size[0]
    torch.testing.assert_close(layer.cells(features, x)[0, :, 2], features.chunk(slices, dim=2)[2][0])


def test_grad_cam_leaves_the_model_as_it_was(checkpoint, volume):
    model = engine_of(checkpoint)
    model.model.requires_grad_(False)
    grad_cam(model, torch.from_numpy(volume.array), "bright")
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.model.modules())
    model.model.requires_grad_(True)
    assert all(p.grad is None for p in model.model.parameters())


def test_mistakes_are_told(checkpoint, network, settings, volume):
    with pytest.raises(ExplainError, match='Did you mean "bright"'):
        slivit.explain(checkpoint, volume, target="brihgt")
    with pytest.raises(ExplainError, match='Did you mean "gradcam"'):
        slivit.explain(checkpoint, volume, methods=["grad-cam"])
    with pytest.raises(ExplainError, match='"mean", "black", "grey"'):
        slivit.explain(checkpoint, volume, methods=["occlusion"], fill="white")
    with pytest.raises(ExplainError, match="task= and preprocessing="):
        slivit.explain(network(), volume)
    published = network(token_layout="published")
    with pytest.raises(ExplainError, match="belongs to none of them"):
        slivit.explain(published, volume, task=TASK, preprocessing=settings, methods=["rollout"])
    some = dataclasses.replace(volume, array=volume.array[:2], indices=(0, 1), depth=5)
    with pytest.raises(slivit.SlivitError, match="read the whole volume"):
        slivit.explain(checkpoint, some)


def test_a_network_of_nan_is_not_explained(network, settings, volume):
    model = network()
    torch.nn.init.constant_(model.head.bias, float("nan"))
    with pytest.raises(ExplainError, match="output is not a number"):
        slivit.explain(model, volume, task=TASK, preprocessing=settings)


def test_the_likeliest_class_is_explained(network, settings, volume):
    found = slivit.explain(network(3), volume, task=CLASSES, preprocessing=settings, methods=["gradcam"])
    assert found.prediction == max(found.predictions[f"prob_{c}"] for c in "abc")


@pytest.mark.parametrize("how", [{"spacing": (1, 1, 1)}, {"fit": "pad"}])
def test_what_was_resampled_or_padded_lies_where_it_was(how):
    """A bright box in a scan: a map that is bright where the model's slices are lies on the box again."""
    from slivit.explanation.outputs import overlay_array
    from slivit.explanation.result import Attribution

    array = np.zeros((10, 20, 40), np.uint8)
    array[4:6, 5:10, 25:35] = 255
    settings = slivit.Preprocessing(size=(30, 48, 48), stretch=None, **how)
    scan = see_scan(Volume(array, (3.0, 2.0, 1.0), "box"), settings)
    maps = scan.stack.astype(np.float32) / 255
    explanation = SimpleNamespace(
        scan=scan, attributions={"m": Attribution("m", np.zeros(len(scan.sampled)), maps, {})}
    )
    volume = overlay_array(explanation, "m")
    assert volume.shape == array.shape
    assert volume[array > 0].mean() > 0.8
    assert volume[array == 0].mean() < 0.02
