"""Pre-training from Python: slices of volumes as images, the Learner, schedules, the backbone that comes out."""

import random

import nibabel
import numpy as np
import pytest
import tifffile
import torch
from fastai.callback.core import Callback

import slivit
from slivit.data.cache import SliceCache
from slivit.data.images import LoadImage, SliceReader, count_slices, seeded, slice_items
from slivit.errors import CheckpointError
from slivit.ssl._lars import lars
from slivit.ssl.learner import pretext_learner, undecayed
from slivit.train.callbacks import seed_everything
from slivit.train.schedules import block_depth, layered_groups, warmup_cosine

SWIN = {"slices": 1, "image_size": 32, "backbone_args": {"patch_size": 4, "window_size": 4, "embed_dim": 8,
        "depths": (2, 2), "num_heads": (1, 2)}}  # fmt: skip


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    """Eight volumes of 3 to 5 slices whose pixels tell the slice's number, as TIFF files."""
    folder = tmp_path_factory.mktemp("volumes")
    for i in range(8):
        depth = 3 + i % 3
        slices = np.arange(depth, dtype=np.uint8)[:, None, None] * 10 + np.random.default_rng(i).integers(
            0, 5, (1, 40, 40)
        )
        tifffile.imwrite(folder / f"{i}.tif", slices.astype(np.uint8), photometric="minisblack")
    return sorted(folder.glob("*.tif"))


def test_every_slice_is_an_item_and_is_read_alone(volumes):
    depths = {str(path): count_slices(str(path)) for path in volumes}
    rows = [{"path": path, "split": "val"} for path in depths]
    items = slice_items(rows, "all", depths)
    assert len(items) == sum(depths.values())
    settings = slivit.Preprocessing(size=(1, 40, 40), stretch=False, window=(0, 255))
    for item in items:
        assert SliceReader(settings).load(item).mean() // 10 == item["part"]


def test_a_sample_of_slices_is_spread_over_the_volume(volumes):
    settings = slivit.Preprocessing(size=(1, 40, 40), stretch=False, window=(0, 255))
    items = slice_items([{"path": str(volumes[2]), "split": "train"}], 2)
    seen = {(item["part"], int(SliceReader(settings).load(item).mean() // 10)) for item in items for _ in range(20)}
    assert {part for part, _ in seen} == {0, 1}
    assert max(number for part, number in seen if part == 0) <= 2 <= min(n for part, n in seen if part == 1)


@pytest.mark.parametrize("kept", [False, True])
def test_a_slice_has_the_limits_of_its_scan_and_each_scan_is_decoded_once(tmp_path, monkeypatch, kept):
    """Of (4, 8, 8) CT, whose slices differ in brightness: what one slice becomes follows from all of them."""
    import nibabel

    from slivit.data.readers import dispatch

    array = np.random.default_rng(0).normal(0, 5, (8, 8, 4)) + 100 * np.arange(4)
    nibabel.save(nibabel.Nifti1Image(array.astype(np.int16), np.eye(4)), tmp_path / "ct.nii.gz")
    settings = slivit.Preprocessing(size=(1, 8, 8))
    whole = slivit.load_slices(str(tmp_path / "ct.nii.gz"), slivit.Preprocessing(size=(4, 8, 8)))
    decoded, original = [], dispatch._volume
    monkeypatch.setattr(dispatch, "_volume", lambda *args: decoded.append(args) or original(*args))
    reader = SliceReader(settings, SliceCache(tmp_path / "cache") if kept else None)
    items = slice_items(
        [{"path": str(tmp_path / "ct.nii.gz"), "split": "val"}], "all", {str(tmp_path / "ct.nii.gz"): 4}
    )
    for item in (*items, *items):
        np.testing.assert_array_equal(reader.load(item)[0], whole[item["part"]])
    assert len(decoded) == (1 if kept else 2)
    again = SliceReader(settings, SliceCache(tmp_path / "cache") if kept else None)
    np.testing.assert_array_equal(again.load(items[2])[0], whole[2])
    assert len(decoded) == (1 if kept else 4)


def test_what_is_random_of_an_item_follows_from_its_name_alone():
    state = torch.get_rng_state()
    with seeded("3/5"):
        first = torch.rand(2), np.random.rand(), random.random()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(7)
    with seeded("3/5"):
        second = torch.rand(2), np.random.rand(), random.random()  # noqa: NPY002
    assert torch.equal(first[0], second[0])
    assert first[1:] == second[1:]
    with seeded("3/6"):
        assert not torch.equal(torch.rand(2), first[0])


def test_from_python_to_a_volume_model(volumes, tmp_path):
    model = slivit.create_model("image_classifier", 1, backbone="convnext_atto", image_size=32)
    pretext = slivit.create_pretext("simclr", model, hidden=16, projection=8)
    settings = slivit.Preprocessing(size=model.spec.size)
    dls = slivit.pretext_dataloaders(volumes, pretext, settings, batch_size=8, validation=0.2)
    fit = slivit.PretextFit(epochs=2, lr=1e-3, warmup=1, clip=1.0, accumulate=2)
    learn = slivit.pretext_learner(dls, pretext, fit, seed=0)
    with learn.no_bar(), learn.no_logging():
        slivit.fit_pretext(learn)
    folder = slivit.save_backbone(tmp_path / "backbone", model, settings)
    volume = slivit.create_model("slivit", 1, backbone="convnext_atto", image_size=32, slices=2, vit_depth=1)
    slivit.load_backbone(volume, folder)
    trained = model.backbone.state_dict()
    assert all(torch.equal(tensor, trained[key]) for key, tensor in volume.backbone.state_dict().items())
    again = slivit.load_encoder(folder)
    assert again.preprocessing == settings


def test_a_backbone_of_another_kind_is_refused_by_name(tmp_path):
    swin = slivit.create_model("image_classifier", 1, backbone="resnet18", image_size=32)
    folder = slivit.save_backbone(tmp_path / "resnet", swin, slivit.Preprocessing(size=(1, 32, 32)))
    volume = slivit.create_model("slivit", 1, backbone="convnext_atto", image_size=32, slices=2, vit_depth=1)
    with pytest.raises(
        CheckpointError, match=r"(?s)a ResNet was given; the model's backbone is convnext_atto.*missing"
    ):
        slivit.load_backbone(volume, folder)


def test_damaged_backbones_are_refused(tmp_path):
    model = slivit.create_model("image_classifier", 1, backbone="convnext_atto", image_size=32)
    folder = slivit.save_backbone(tmp_path / "b", model, slivit.Preprocessing(size=(1, 32, 32)))
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="checksum"):
        slivit.load_encoder(folder)


def test_the_rate_rises_and_falls():
    schedule = warmup_cosine(1.0, 0.1, 0.25)
    assert schedule(0.0) == pytest.approx(0, abs=1e-3)
    assert schedule(0.125) == pytest.approx(0.5, abs=1e-3)
    assert schedule(0.25) == pytest.approx(1.0, abs=1e-3)
    assert schedule(0.625) == pytest.approx(0.55, abs=1e-3)
    assert schedule(1.0) == pytest.approx(0.1, abs=1e-3)


def test_rates_by_layer():
    model = slivit.create_model(
        "dino3d_vit_small", 1, slices=32, image_size=32, position_size=32, dim=16, depth=2, heads=2
    )
    splitter, scales = layered_groups(model, block_depth(2), 0.5, patch_scale=0.2)
    groups = splitter(model)
    assert sum(len(group) for group in groups) == len(list(model.parameters()))
    rate = {id(p): scale for group, scale in zip(groups, scales, strict=True) for p in group}
    assert rate[id(model.head.weight)] == 1
    assert rate[id(model.backbone.blocks[1].norm1.weight)] == 0.5
    assert rate[id(model.backbone.cls_token)] == 0.125
    assert rate[id(model.backbone.patch_embed.proj.weight)] == pytest.approx(0.025)


class Scale(torch.nn.Module):
    """Something with a parameter of each kind that weight decay treats in its own way."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 2)
        self.norm = torch.nn.LayerNorm(2)
        self.gamma = torch.nn.Parameter(torch.ones(2))
        self.cls_token = torch.nn.Parameter(torch.ones(1, 1, 2))

    def forward(self, x):
        return self.norm(self.linear(x)) * self.gamma + self.cls_token[0]


def toy(images=12, batch=2, undecayed=(), cbs=(), **options):
    """A learner whose loss has no gradient, so that weight decay alone changes weights."""
    from fastai.data.core import DataLoader, DataLoaders

    model = Scale()
    pretext = slivit.Pretext(
        name="toy",
        model=model,
        views=lambda batch: (batch, torch.zeros(2 * len(batch))),  # as of a method with two views
        loss=lambda out, _: (out * 0).sum(),
        encoder=model,
        features=lambda batch: batch,
        undecayed=undecayed,
    )
    data = [torch.randn(2) for _ in range(images)]
    dls = DataLoaders(DataLoader(data, bs=batch), DataLoader(data[:2], bs=batch), device=torch.device("cpu"))
    return pretext_learner(dls, pretext, slivit.PretextFit(**options), cbs=cbs)


def changed(learn, epochs=1, lr=0.1):
    before = {name: p.detach().clone() for name, p in learn.model.named_parameters()}
    with learn.no_bar(), learn.no_logging():
        learn.fit(epochs, lr)
    return {name for name, p in learn.model.named_parameters() if not torch.equal(p, before[name])}


@pytest.mark.parametrize("optimiser", ["adamw", "sgd", "lars"])
def test_weight_decay_spares_biases_norms_scales_and_what_the_method_names(optimiser):
    options = {"optimiser": optimiser, "weight_decay": 0.1}
    assert changed(toy(**options)) == {"linear.weight", "cls_token"}
    assert changed(toy(**options, undecayed=("cls_token",))) == {"linear.weight"}


def test_the_methods_name_what_their_papers_leave_out():
    model = slivit.create_model("slice_swin", 1, **SWIN)
    pretext = slivit.create_pretext("simmim", model, unit=8)
    names = [n for n, p in pretext.model.named_parameters() if p.requires_grad and p.ndim > 1]
    spared = {n.rsplit(".", 1)[-1] for n in names if undecayed(n, pretext.model.get_parameter(n), pretext)}
    assert spared == {"mask_token", "relative_position_bias_table"}


def test_lars_steps_by_the_size_of_the_weights():
    weight, bias = torch.nn.Parameter(torch.full((2, 2), 3.0)), torch.nn.Parameter(torch.ones(2))
    optimiser = lars([[weight, bias]], lr=2.0, mom=0.5, wd=0.1)
    optimiser.state[bias]["do_wd"] = False
    weight.grad, bias.grad = torch.full((2, 2), 4.0), torch.full((2,), 0.25)
    optimiser.step()
    # |weight| = 6 and |gradient + 0.1 weight| = 8.6, each of whose entries is 4.3
    assert weight[0, 0].item() == pytest.approx(3 - 2 * 0.001 * 6 / 8.6 * 4.3)
    assert bias[0].item() == pytest.approx(1 - 2 * 0.25)
    optimiser.step()
    assert bias[0].item() == pytest.approx(0.5 - 2 * (0.5 * 0.25 + 0.25))


def test_batches_that_make_a_step_together_count_alike_and_none_is_left_over():
    steps, losses = [], []

    class Watch(Callback):
        run_valid = False

        def before_backward(self):
            losses.append(round(len(self.xb[0]) / self.loss_grad.item(), 3))

        def after_step(self):
            steps.append(self.iter)

    learn = toy(images=14, accumulate=3, cbs=[Watch()])
    learn.loss_func = lambda out, _: (out * 0).sum() + 2.0
    changed(learn)
    assert steps == [2, 5, 6]  # of seven batches, of two images each
    assert losses == [3.0] * 6 + [1.0]


class Full(Callback):
    """Memory for so many rows at a time; for any number where features are computed again."""

    run_valid = False

    def __init__(self, most, learn_of):
        self.most = most
        learn_of.register_forward_hook(self.look)

    def look(self, module, inputs, output):
        rows = len(output[0] if isinstance(output, tuple) else output)
        if rows > self.most and torch.is_grad_enabled() and self.training and self.learn.keeps_less is not True:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def pretrained(method, images, most=0, **options):
    """A learner after two epochs of a batch of four images, and its weights."""
    seed_everything(0)
    args = {"embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 8}
    model = slivit.create_model("slice_vit", 1, slices=1, image_size=32, backbone_args=args)
    pretext = slivit.create_pretext(method, model, **options)
    settings = slivit.Preprocessing(size=model.spec.size)
    dls = slivit.pretext_dataloaders(images, pretext, settings, slices=1, batch_size=4, validation=0.3, device="cpu")
    fit = slivit.PretextFit(epochs=2, lr=1e-2, optimiser="sgd", precision="float32", warmup=0)
    learn = pretext_learner(dls, pretext, fit, seed=1, cbs=[Full(most, pretext.model)] if most else [])
    with learn.no_bar(), learn.no_logging():
        slivit.fit_pretext(learn)
    return learn, torch.cat([p.detach().flatten() for p in pretext.model.parameters()])


def test_slices_that_an_epoch_does_not_see_are_told_of(tmp_path, rng, caplog):
    paths = [str(tmp_path / f"{number}.npy") for number in range(4)]
    for path in paths:
        np.save(path, rng.integers(0, 255, (5, 32, 32), dtype=np.uint8))
    args = {"embed_dim": 16, "depth": 1, "num_heads": 2, "patch_size": 8}
    model = slivit.create_model("slice_vit", 1, slices=1, image_size=32, backbone_args=args)
    pretext = slivit.create_pretext("simmim", model, unit=16)
    settings = slivit.Preprocessing(size=model.spec.size)
    for slices, told in (("all", False), (5, False), (1, True)):
        caplog.clear()
        with caplog.at_level("INFO", "slivit"):
            slivit.pretext_dataloaders(paths, pretext, settings, slices=slices, batch_size=2, device="cpu")
        assert ("an epoch sees 1 of the slices of a scan (the first one has 5)" in caplog.text) == told


@pytest.mark.parametrize(
    ("method", "most", "options"),
    [("mae", 2, {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}), ("simmim", 1, {"unit": 16})],
)
def test_a_batch_too_large_for_memory_goes_through_in_parts_to_the_same_weights(volumes, method, most, options):
    whole, expected = pretrained(method, volumes, **options)
    parts, weights = pretrained(method, volumes, most, **options)
    assert (parts.at_once, whole.at_once) == (most, 0)
    assert torch.allclose(weights, expected, atol=1e-6)
    assert list(parts.recorder.values[-1]) == pytest.approx(list(whole.recorder.values[-1]), abs=1e-5)


def test_a_loss_that_compares_images_compares_those_of_all_parts():
    """Contrast of two views, of which each goes through alone: the gradient is that of the whole batch."""
    from fastai.data.core import DataLoader, DataLoaders

    from slivit.ssl.losses.contrastive import nt_xent

    def stepped(at_once):
        learn = toy(optimiser="sgd", weight_decay=0.0, precision="float32")
        rows = [(torch.randn(2, generator=torch.Generator().manual_seed(i)),) for i in range(4)]
        learn.dls = DataLoaders(DataLoader(rows, bs=4), DataLoader(rows, bs=4), device=torch.device("cpu"))
        learn.loss_func, learn.at_once = (lambda out, _: nt_xent(*out.chunk(2), 0.5)), at_once
        before = torch.cat([p.detach().flatten() for p in learn.model.parameters()])
        with learn.no_bar(), learn.no_logging():
            learn.fit(1, 0.1)
        return torch.cat([p.detach().flatten() for p in learn.model.parameters()]) - before

    torch.manual_seed(3)
    whole = stepped(0)
    torch.manual_seed(3)
    assert torch.allclose(stepped(1), whole, atol=1e-6)
    assert whole.abs().max() > 1e-3


def test_a_method_that_cannot_be_parted_keeps_less_or_says_what_to_change(volumes):
    small = {"prototypes": 8, "head_hidden": 8, "bottleneck": 4, "small_crops": 0}
    learn, _ = pretrained("dino", volumes, 1, **small)
    assert learn.keeps_less is True
    assert learn.at_once == 0


def test_small_scans_stay_in_memory_and_items_of_an_archive_make_no_files(tmp_path, monkeypatch):
    from slivit.data import images

    rng = np.random.default_rng(0)
    np.savez(tmp_path / "some.npz", train_images=rng.integers(0, 256, (3, 9, 9), np.uint8))
    ct = rng.normal(0, 100, (9, 9, 5)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(ct, np.eye(4)), tmp_path / "ct.nii.gz")
    paths = [*(f"{tmp_path}/some.npz#train/{i}" for i in range(3)), str(tmp_path / "ct.nii.gz")]
    items = slice_items([{"path": p, "split": "train"} for p in paths], 1)
    settings = slivit.Preprocessing(size=(1, 8, 8))
    cache = SliceCache(tmp_path / "cache")
    first = SliceReader(settings, cache)
    seen = [first.load(item, 0.3) for item in items]
    assert len(list((tmp_path / "cache" / "stacks").rglob("*.npy"))) == 1  # of the CT alone
    (tmp_path / "some.npz").unlink()
    (tmp_path / "ct.nii.gz").unlink()
    assert all(np.array_equal(first.load(item, 0.3), one) for item, one in zip(items, seen, strict=True))
    monkeypatch.setattr(images, "IN_MEMORY", 100)  # room for one image of 64 bytes
    np.savez(tmp_path / "some.npz", train_images=rng.integers(0, 256, (3, 9, 9), np.uint8))
    tight = SliceReader(settings)
    for item in items[:3]:
        tight.load(item, 0.3)
    assert sum(stack.nbytes for stack in tight._small.values()) == 64


def test_a_slice_follows_from_the_epoch_and_the_item(tmp_path):

    ct = np.repeat(np.arange(0, 200, 20, dtype=np.uint8)[None, None], 8, 0).repeat(8, 1)
    nibabel.save(nibabel.Nifti1Image(ct, np.eye(4)), tmp_path / "ct.nii.gz")
    load = LoadImage(slivit.Preprocessing(size=(1, 8, 8), stretch=False))
    (item,) = slice_items([{"path": str(tmp_path / "ct.nii.gz"), "split": "train"}], 1)
    state = torch.get_rng_state()
    values = [int(load.read(item, f"{epoch}/0")[0, 0, 0]) for epoch in range(20)]
    assert values == [int(load.read(item, f"{epoch}/0")[0, 0, 0]) for epoch in range(20)]
    assert len(set(values)) > 3
    assert torch.equal(state, torch.get_rng_state())


def test_each_network_is_clipped_by_itself():
    from slivit.ssl.learner import ClipNetworks

    networks = [torch.nn.Linear(4, 4, bias=False) for _ in range(2)]
    for size, network in zip((100.0, 0.1), networks, strict=True):
        network.weight.grad = torch.full((4, 4), size)
    ClipNetworks(1.0, networks).before_step()
    assert networks[0].weight.grad.norm() == pytest.approx(1.0, abs=1e-4)
    assert (networks[1].weight.grad == 0.1).all(), "the other network's gradient is no part of its norm"
    pretext = slivit.create_pretext("dino3d", slivit.create_model("dino3d_vit_small", 1, dim=16, depth=2, heads=2,
        slices=32, image_size=32, position_size=32, mask_token=True), large_size=32, small_size=16, prototypes=8,
        patch_prototypes=8, head_hidden=8, bottleneck=4)  # fmt: skip
    trained = {id(p) for network in pretext.networks for p in network.parameters()}
    assert trained == {id(p) for p in pretext.model.parameters() if p.requires_grad}
