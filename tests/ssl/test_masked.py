"""Masked methods: masks, losses on masked patches alone, references, and networks that learn and load elsewhere."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from transformers import SwinConfig, SwinForMaskedImageModeling, ViTMAEConfig, ViTMAEForPreTraining
from transformers.models.vit_mae.modeling_vit_mae import build_2d_sinusoidal_position_embedding

from slivit.errors import CheckpointError, ModelError
from slivit.models._weights import load_backbone
from slivit.models.registry import create_model
from slivit.ssl import create_pretext
from slivit.ssl._images import to_model
from slivit.ssl._patches import embed, encode, enlarged, group_mask, patchify, random_mask, unit_mask, unpatchify
from slivit.ssl.gmml import Corruption
from slivit.ssl.mae import grid_positions, mae_loss
from slivit.ssl.pictures import DrawPictures, draw_pictures
from slivit.ssl.simmim import l1_loss
from slivit.ssl.teacher import follow
from slivit.train.callbacks import SeedEpochs

VIT = {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
SWIN = {"patch_size": 2, "window_size": 4, "embed_dim": 8, "depths": (2, 2, 2), "num_heads": (1, 2, 4),
        "drop_path_rate": 0.0}  # fmt: skip
TINY_DECODER = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}
METHODS = (
    ("mae", "slice_vit", TINY_DECODER),
    ("simmim", "slice_vit", {"unit": 16}),
    ("simmim", "slice_swin", {"unit": 8}),
    ("gmml", "slice_vit", {}),
    ("gmml", "slice_swin", {}),
    ("sit", "slice_vit", {"hidden": 16, "projection": 8}),
    ("sit", "slice_swin", {"hidden": 16, "projection": 8}),
    ("swin_mae", "slice_swin", {"unit": 8}),
)


def encoder(name="slice_vit", **args):
    torch.manual_seed(0)
    own = VIT if name == "slice_vit" else SWIN
    return create_model(name, 1, **{"slices": 1, "image_size": 32, "backbone_args": own} | args)


def batch(count=4):
    """Smooth images, (B, 1, 32, 32) uint8."""
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    waves = [torch.sin(x / (3 + i)) * torch.cos(y / (5 + i)) for i in range(count)]
    return (torch.stack(waves)[:, None] * 100 + 128).to(torch.uint8)


@pytest.fixture(params=METHODS, ids=lambda m: f"{m[0]}-{m[1]}")
def made(request):
    method, name, args = request.param
    model = encoder(name)
    return model, create_pretext(method, model, **args)


# ---- masks


@pytest.mark.parametrize(("tokens", "ratio", "masked"), [(196, 0.75, 147), (49, 0.6, 29), (4, 0.01, 1), (4, 0.99, 3)])
def test_random_masks_have_exactly_their_ratio_and_differ(tokens, ratio, masked):
    mask = random_mask(16, tokens, ratio)
    assert mask.shape == (16, tokens)
    assert set(mask.sum(1).tolist()) == {masked}
    assert len({tuple(row) for row in mask.tolist()}) > 1


def test_units_are_masked_as_a_whole():
    mask = unit_mask(8, 56, 4, 0.75).view(8, 14, 4, 14, 4)
    whole = mask.float().mean((2, 4))
    assert set(whole.unique().tolist()) == {0.0, 1.0}
    assert set(whole.sum((1, 2)).tolist()) == {147.0}


def test_groups_cover_their_ratio_and_little_more_with_connected_patches():
    ratios = torch.tensor([0.1, 0.3, 0.5, 0.75])
    mask = group_mask(4, 14, ratios).view(4, 14, 14)
    covered = mask.float().mean((1, 2))
    assert (covered >= ratios).all()
    assert (covered <= ratios + 16 / 196 + 1e-6).all()  # the last rectangle has at most 4 x 4 patches
    together = mask[:, 1:] & mask[:, :-1]
    assert together.float().mean() > mask.float().mean() ** 2  # more neighbours than by chance


def test_the_mask_of_a_corruption_is_where_the_image_was_overwritten():
    corrupt = Corruption(encoder().spec, 8, noise=0.75, replace=0.3, largest=0.3)
    images = torch.rand(32, 1, 32, 32)
    corrupted, mask = corrupt(images)
    assert torch.equal(corrupted == images, ~mask)
    cells = mask[:, 0].unflatten(2, (4, 8)).unflatten(1, (4, 8)).float().mean((2, 4))
    assert set(cells.unique().tolist()) == {0.0, 1.0}
    others = torch.stack([(corrupted == images.roll(shift, 0))[mask.bool()].float().mean() for shift in range(1, 32)])
    assert others.max() > 0.1  # some images are overwritten by their neighbour in the batch, the rest by noise
    assert corrupt(images[:1])[0].shape == (1, 1, 32, 32)


def test_patches_are_cut_as_in_the_papers_and_put_together_again():
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        config = ViTMAEConfig(**hugging_face_sizes(), num_channels=3)
        wanted = ViTMAEForPreTraining(config).patchify(images)
    torch.testing.assert_close(patchify(images, 8), wanted)
    torch.testing.assert_close(unpatchify(patchify(images[:, :1], 8), 8), images[:, :1])


# ---- losses


def test_the_squared_error_counts_masked_patches_alone_by_hand():
    pixels = torch.zeros(1, 3, 2)
    patches, mask = torch.tensor([[[1.0, 3.0], [10.0, 10.0], [2.0, 0.0]]]), torch.tensor([[True, False, True]])
    assert mae_loss(pixels, patches, mask, normed=False).item() == pytest.approx((5 + 2) / 2)
    # Normalised, both masked patches are -+ 1 / sqrt(2): the variance is that of a sample.
    assert mae_loss(pixels, patches, mask, normed=True).item() == pytest.approx(0.5, abs=1e-5)


def test_the_absolute_error_counts_masked_pixels_alone_by_hand():
    images = torch.arange(4.0).view(1, 1, 2, 2)
    mask = torch.tensor([[[[True, False], [False, True]]]])
    assert l1_loss(torch.ones(1, 1, 2, 2), images, mask).item() == pytest.approx((1 + 2) / 2)


def test_the_student_of_sit_sees_corrupted_views_and_its_teacher_the_clean_ones():
    pretext = create_pretext("sit", encoder(), hidden=16, projection=8, solarise_probability=0.0)
    views, (target, mask) = pretext.views(batch(8))
    assert views["clean"].shape == views["corrupted"].shape == (16, 3, 1, 32, 32)
    differs = (views["clean"] != views["corrupted"]).any(1)
    assert not (differs & ~mask).any()
    assert differs[mask].float().mean() > 0.9  # another image may have the very value that was there
    assert target.shape == (16, 1, 32, 32)
    pair = pretext.model.train()
    before = [p.clone() for p in pair.teacher.parameters()]
    pretext.loss(pair(views), (target, mask)).backward()
    assert all(p.grad is None for p in pair.teacher.parameters())
    follow(pair.teacher, pair.student, 1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, pair.teacher.parameters(), strict=True))
    assert pretext.encoder is pair.teacher.trunk.encoder


def test_what_is_not_masked_moves_no_loss(made):
    _, pretext = made
    inputs, (target, mask) = pretext.views(batch())
    outputs = pretext.model.eval()(inputs)
    outside = torch.where(mask[..., None] if target.ndim == 3 else mask, target, target + 5)
    torch.testing.assert_close(pretext.loss(outputs, (outside, mask)), pretext.loss(outputs, (target, mask)))
    inside = torch.where(mask[..., None] if target.ndim == 3 else mask, target * 2 - 1, target)
    if pretext.name != "mae":  # whose patches are normalised
        assert pretext.loss(outputs, (inside, mask)) != pretext.loss(outputs, (target, mask))


# ---- networks


def test_every_trained_parameter_has_a_gradient_and_a_layer(made):
    model, pretext = made
    inputs, targets = pretext.views(batch())
    pretext.loss(pretext.model(inputs), targets).backward()
    trained = {name: p for name, p in pretext.model.named_parameters() if p.requires_grad}
    assert [name for name, p in trained.items() if p.grad is None or not p.grad.isfinite().all()] == []
    assert not any(p.requires_grad for p in model.head.parameters())
    depth = {name: pretext.depth_of(name) for name in trained}
    last = max(depth.values())
    assert {0, 1, 2, last} <= set(depth.values())
    assert all(value == last for name, value in depth.items() if name.startswith(("decoder.", "student.projector.")))
    assert all(value == 0 for name, value in depth.items() if "patch_embed" in name)


def test_it_learns_a_batch_by_heart(made):
    _, pretext = made
    images = batch(8)
    optimiser = torch.optim.AdamW(pretext.model.parameters(), lr=3e-3)

    def step():
        torch.manual_seed(0)
        inputs, targets = pretext.views(images)
        loss = pretext.loss(pretext.model(inputs), targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.item()

    losses = [step() for _ in range(12)]
    assert losses[-1] < 0.95 * losses[0]


def test_pictures_change_masked_places_alone(made):
    _, pretext = made
    original, masked, rebuilt = pretext.pictures(batch()).values()
    assert original.shape == (4, 32, 32)
    torch.testing.assert_close(original, batch()[:, 0] / 255)
    assert all(image.min() >= 0 and image.max() <= 1 for image in (original, masked, rebuilt))
    same = (masked - original).abs() < 1e-6
    assert 0.05 < same.float().mean() < 0.95
    # Noise and other images may have the very value that was there, or one beyond black and white.
    assert ((rebuilt - original).abs()[same] > 1e-6).float().mean() < 0.02


def test_features_are_the_backbone_s_and_need_no_mask(made):
    model, pretext = made
    pretext.model.train()
    features = pretext.features(batch())
    assert pretext.model.training
    torch.testing.assert_close(features, pretext.features(batch()))
    assert features.shape == (4, model.backbone_info.channels)


def test_without_a_mask_the_mae_encoder_is_the_plain_network():
    model = encoder()
    pretext = create_pretext("mae", model, **TINY_DECODER)
    x = to_model(batch() / 255, model.spec)
    nothing = torch.zeros(4, 16, dtype=torch.bool)
    with torch.no_grad():
        token, patches, keep = pretext.model.eval().encode(x[:, :, 0], nothing)
        wanted = model.backbone.forward_features(x[:, :, 0])
    assert keep.tolist() == [list(range(16))] * 4
    torch.testing.assert_close(torch.cat([token[:, None], patches], 1), wanted)


def test_the_mae_encoder_sees_nothing_of_removed_patches():
    model = encoder()
    pretext = create_pretext("mae", model, **TINY_DECODER)
    mask = random_mask(2, 16, 0.75)
    x = torch.randn(2, 3, 32, 32)
    other = torch.where(enlarged(mask, 8)[:, None], torch.randn_like(x), x)
    with torch.no_grad():
        first, second = (pretext.model.eval().encode(images, mask)[:2] for images in (x, other))
    assert first[1].shape == (2, 4, 16)
    torch.testing.assert_close(first, second)


def test_a_swin_without_a_mask_is_the_plain_network():
    model = encoder("slice_swin").eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        mean, tokens = encode(model.backbone, "swin", embed(model.backbone, x))
        torch.testing.assert_close(mean, model.forward_features(x[:, :, None]))
    assert tokens.shape == (2, 16, 32)


def test_the_blocks_of_the_mae_decoder_start_as_xavier_s():
    decoder = create_pretext("mae", encoder(), **TINY_DECODER).model.decoder
    for layer in (layer for layer in decoder.layers.modules() if isinstance(layer, torch.nn.Linear)):
        bound = (6 / sum(layer.weight.shape)) ** 0.5
        assert 0.8 * bound < layer.weight.abs().max() <= bound
        assert not layer.bias.any()


# ---- references


def hugging_face_sizes():
    return {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
            "image_size": 32, "patch_size": 8, "layer_norm_eps": 1e-6, "decoder_hidden_size": 16,
            "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
            "decoder_intermediate_size": 64}  # fmt: skip


def decoder_names(state):
    """The decoder of transformers' MAE under this project's names."""
    pairs = (("decoder_pos_embed", None), ("decoder_embed", "embed"), ("decoder_pred", "pixels"),
             ("decoder_norm", "norm"), ("mask_token", "mask_token"))  # fmt: skip
    own = {}
    for key, value in state.items():
        name = key.removeprefix("decoder.")
        if name.startswith("decoder_layers."):
            for old, new in ((".layernorm_before", ".norm1"), (".layernorm_after", ".norm2"),
                             (".attention.o_proj", ".attn.proj")):  # fmt: skip
                name = name.replace(old, new)
            own[name.replace("decoder_layers.", "layers.")] = value
            continue
        for old, new in pairs:
            if name.startswith(old) and new:
                own[name.replace(old, new)] = value
    for part in ("weight", "bias"):
        qkv = [own.pop(f"layers.0.attention.{letter}_proj.{part}") for letter in "qkv"]
        own[f"layers.0.attn.qkv.{part}"] = torch.cat(qkv)
    return own


def test_the_positions_of_mae_are_those_of_transformers():
    wanted = build_2d_sinusoidal_position_embedding(height=3, width=3, embed_dim=16, cls_token=True)
    first, second = wanted.chunk(2, -1)  # rows and columns, which MAE has the other way round
    torch.testing.assert_close(grid_positions(3, 16)[0], torch.cat([second, first], -1))
    with pytest.raises(ModelError, match="multiple of 4, got 6"):
        grid_positions(3, 6)


@pytest.mark.parametrize("normed", [True, False])
def test_the_loss_of_mae_is_that_of_transformers(normed):
    config = ViTMAEConfig(**hugging_face_sizes(), num_channels=1, mask_ratio=0.75, norm_pix_loss=normed)
    theirs = ViTMAEForPreTraining(config).eval()
    model = encoder(in_chans=1)
    pretext = create_pretext("mae", model, norm_pixels=normed, **TINY_DECODER)
    theirs.vit.embeddings.position_embeddings.data.copy_(model.backbone.pos_embed.data)
    theirs.decoder.decoder_pos_embed.data.copy_(grid_positions(4, 16))
    load_backbone(model, theirs.state_dict())
    decoder = {k: v for k, v in theirs.state_dict().items() if k.startswith("decoder.")}
    pretext.model.decoder.load_state_dict(decoder_names(decoder))
    (x, mask), targets = pretext.views(batch())
    # Their masks come from the order of noise: the smallest stay.
    with torch.no_grad():
        wanted = theirs(x[:, :, 0], noise=mask.float() + torch.arange(16) / 100)
        pixels = pretext.model.eval()((x, mask))
    torch.testing.assert_close(pixels, wanted.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pretext.loss(pixels, targets), wanted.loss, rtol=1e-4, atol=1e-5)


def test_the_loss_of_simmim_is_that_of_transformers():
    sizes = {k: list(v) if isinstance(v, tuple) else v for k, v in SWIN.items()}
    config = SwinConfig(image_size=32, num_channels=1, encoder_stride=8, **sizes)
    theirs = SwinForMaskedImageModeling(config).eval()
    model = encoder("slice_swin", in_chans=1)
    pretext = create_pretext("simmim", model, unit=8)
    load_backbone(model, theirs.state_dict())
    pretext.model.mask_token.data.copy_(theirs.swin.embeddings.mask_token.data)
    for part in ("weight", "bias"):
        getattr(pretext.model.decoder.pixels, part).data.copy_(getattr(theirs.decoder[0], part).data)
    (x, mask), targets = pretext.views(batch())
    with torch.no_grad():
        wanted = theirs(x[:, :, 0], bool_masked_pos=mask)
        rebuilt = pretext.model.eval()((x, mask))
    torch.testing.assert_close(rebuilt, wanted.reconstruction, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pretext.loss(rebuilt, targets), wanted.loss, rtol=1e-4, atol=1e-5)


# ---- what does not fit


def test_models_that_do_not_fit_are_told():
    with pytest.raises(ModelError, match='mae pre-trains the backbone of "slice_vit" with slices = 1; got slice_swin'):
        create_pretext("mae", encoder("slice_swin"))
    convnext = create_model("image_classifier", 1, backbone="convnext_atto", image_size=32)
    with pytest.raises(ModelError, match=r"simmim pre-trains.*image_classifier.*convnext_atto"):
        create_pretext("simmim", convnext)
    with pytest.raises(ModelError, match="single square images"):
        create_pretext("gmml", encoder(slices=3))
    with pytest.raises(ModelError, match="patch size 2, and divide the image size 32 into several; got 7"):
        create_pretext("simmim", encoder("slice_swin"), unit=7)
    with pytest.raises(ModelError, match="into several; got 32"):  # one unit: there would be no loss
        create_pretext("swin_mae", encoder("slice_swin"), unit=32)
    with pytest.raises(ModelError, match="one patch"):
        create_pretext("mae", encoder(image_size=8), **TINY_DECODER)
    with pytest.raises(ModelError, match="noise"):
        create_pretext("gmml", encoder(), noise=0.0, replace=0.0)
    with pytest.raises(ModelError, match="decoder_heads"):
        create_pretext("mae", encoder(), decoder_dim=16, decoder_heads=5)


def test_a_pretrained_swin_does_not_go_into_a_vit_or_a_convnext():
    source = encoder("slice_swin").backbone.state_dict()
    convnext = create_model("slivit", 1, backbone="convnext_atto", image_size=64, slices=2)
    for target, name in ((convnext, "convnext_atto"), (encoder(), "vit_small_patch16_224")):
        with pytest.raises(CheckpointError, match=rf"(?s)a Swin Transformer was given.*{name}.*missing.*layers\.0"):
            load_backbone(target, {f"backbone.{k}": v for k, v in source.items()})


# ---- pictures


def test_pictures_are_drawn_every_few_epochs_and_behind_the_last(tmp_path):
    import slivit
    from slivit.ssl.learner import fit_pretext, pretext_learner

    pretext = create_pretext("mae", encoder(), **TINY_DECODER)
    paths = []
    for i, image in enumerate(batch(8)):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(image[0].numpy()).save(paths[-1])
    settings = slivit.Preprocessing(size=(1, 32, 32), stretch=False)
    dls = slivit.pretext_dataloaders(paths, pretext, settings, batch_size=4, validation=0.25)

    def weights(*cbs):
        torch.manual_seed(0)
        model = encoder()
        pretext = create_pretext("mae", model, **TINY_DECODER)
        learn = pretext_learner(dls, pretext, slivit.PretextFit(epochs=3, lr=1e-3, warmup=1), seed=0)
        with learn.no_bar(), learn.no_logging():
            fit_pretext(learn, cbs=[SeedEpochs(0), *(make(pretext) for make in cbs)])
        return model.backbone.state_dict()

    drawn = weights(lambda pretext: DrawPictures(pretext, tmp_path / "pictures", every=2, count=2))
    assert sorted(p.name for p in (tmp_path / "pictures").iterdir()) == ["epoch_002.png", "epoch_003.png"]
    plain = weights()
    assert all(torch.equal(tensor, plain[key]) for key, tensor in drawn.items())


def test_a_picture_has_a_row_a_name(tmp_path):
    draw_pictures({"original": torch.rand(3, 8, 8), "masked": torch.zeros(3, 8, 8)}, tmp_path / "a.png", "a title")
    with Image.open(tmp_path / "a.png") as image:
        assert image.width > image.height
