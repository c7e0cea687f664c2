"""Published networks by name: the table, where weights are looked for, what licences ask, and conversions."""

from __future__ import annotations

import pytest
import torch
from huggingface_hub import constants
from typer.testing import CliRunner

from slivit.checkpoint.lineage import describe_start
from slivit.cli import app
from slivit.data.preprocessing import Preprocessing
from slivit.errors import CheckpointError, ModelError, RecipeError
from slivit.models._starts import fetched, fill_start, find_start, get, locate, starts
from slivit.models._weights import load_backbone
from slivit.models.registry import create_model, model_spec
from slivit.probing.embedding import EmbedRecipe
from slivit.recipe import check_recipe
from slivit.ssl.recipe import SelfSupervisedRecipe
from slivit.train.recipe import FinetuneRecipe


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """A machine without weights and without a network."""
    monkeypatch.setenv("SLIVIT_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "weights"


def recipe(**model):
    values = {"out": "x", "data": {"manifest": "scans.csv"}, "task": {"kind": "binary", "targets": ["y"]}}
    return check_recipe(FinetuneRecipe, values | {"model": model}, "a test")


@pytest.mark.parametrize("name", starts())
def test_every_entry_names_a_network_a_licence_a_paper_and_an_input(name):
    start = find_start(name)
    with torch.device("meta"):
        create_model(start.model, 1, **start.args)
    assert start.licence
    assert "arXiv" in start.citation or "doi" in start.citation
    assert start.hub or start.url or start.page
    assert start.checked
    Preprocessing(**start.preprocessing)
    assert bool(start.restricts) >= ("NC" in start.licence)


def test_a_name_fills_the_network_and_the_input_it_was_trained_on():
    filled = recipe(weights="3dino")
    assert (filled.model.name, filled.model.weights) == ("dino3d_vit_large", "3dino")
    assert (filled.preprocessing.sampling, filled.preprocessing.stretch) == ("resample", (0.05, 99.95))
    assert recipe(pretrained="ct-fm").preprocessing.window == (-1024, 2048)
    small = recipe(weights="dinov3-small", slices=12)
    assert (small.model.args["backbone"], small.model.args["slices"]) == ("vit_small_patch16_dinov3_qkvb", 12)
    values = {"out": "x.parquet", "data": {"manifest": "scans.csv"}, "model": {"name": "dinov2-small"}}
    assert check_recipe(EmbedRecipe, values, "a test").model.weights == "dinov2-small"
    assert fill_start({"model": {"name": "slivit"}}) == {"model": {"name": "slivit"}}


def test_another_network_or_input_is_refused():
    with pytest.raises(RecipeError, match=r"model.name is 'slivit', and 3dino is for 'dino3d_vit_large'"):
        recipe(name="slivit", weights="3dino")
    values = {"model": {"weights": "ct-fm"}, "preprocessing": {"window": [-100, 900], "stretch": False}}
    with pytest.raises(RecipeError, match=r"preprocessing.window is \[-100, 900\], and ct-fm was trained with"):
        fill_start(values)


def test_self_supervision_from_a_name_sees_the_input_of_that_network_and_refuses_another():
    values = {"method": "mae", "out": "x", "data": {"manifest": "scans.csv"}, "model": {"weights": "ct-fm"}}
    filled = check_recipe(SelfSupervisedRecipe, values, "a test")
    assert (filled.model.name, filled.preprocessing.window) == ("ct_fm", (-1024, 2048))
    assert check_recipe(SelfSupervisedRecipe, values | {"model": {"weights": "dinov2-small"}}, "a test").model.args
    other = {"model": {"weights": "openmind-primus-m"}, "preprocessing": {"spacing": [2.0, 2.0, 2.0]}}
    with pytest.raises(RecipeError, match=r"preprocessing.spacing is \[2.0, 2.0, 2.0\], and openmind-primus-m was"):
        check_recipe(SelfSupervisedRecipe, values | other, "a test")


def test_without_a_network_it_is_told_what_to_fetch_and_where_to_put_it(alone):
    with pytest.raises(CheckpointError, match=r"dinov2-small: the file model.safetensors cannot be had(.|\n)*weights"):
        locate("dinov2-small")
    with pytest.raises(CheckpointError, match=r"under CC BY-NC-ND 4.0(.|\n)*slivit weights get 3dino"):
        locate("3dino")
    with pytest.raises(CheckpointError, match=r'"3dinoo"(.|\n)*3dino'):
        find_start("3dinoo")
    with pytest.raises(CheckpointError, match="nothing is fetched before you accept"):
        get("3dino", lambda start: False)
    with pytest.raises(CheckpointError, match=r"huggingface.co/AICONSlab/3DINO-ViT \(accept its terms there"):
        get("3dino", lambda start: True)
    with pytest.raises(CheckpointError, match=r"github.com/cozygene/SLIViT"):
        get("slivit", lambda start: True)


def test_terms_are_accepted_once(alone):
    asked = []
    for _ in range(2):
        with pytest.raises(CheckpointError, match="cannot be had"):
            get("retfound", lambda start: asked.append(start.name) or True)
    assert asked == ["retfound"]


def test_the_folder_is_looked_into_and_a_changed_file_is_refused(alone):
    alone.mkdir()
    file = alone / find_start("medicalnet-18").file
    source = create_model("medicalnet_18", 1, **model_spec("medicalnet_18").small)
    torch.save({"state_dict": published(source.backbone.state_dict())}, file)
    assert fetched(find_start("medicalnet-18")) == file
    target = create_model("medicalnet_18", 1, pretrained="medicalnet-18", **model_spec("medicalnet_18").small)
    torch.testing.assert_close(target.backbone.state_dict(), source.backbone.state_dict())
    assert len(describe_start("medicalnet-18")["sha256"]) == 64
    torch.save({"state_dict": {k: v + 1 for k, v in published(source.backbone.state_dict()).items()}}, file)
    with pytest.raises(CheckpointError, match="another file than the one that medicalnet-18 was before"):
        locate("medicalnet-18")


def published(state):
    """Names as in MedicalNet's files: of parallel training, with the decoder of the segmentation."""
    decoder = {"module.conv_seg.0.weight": torch.zeros(2, 2), "module.conv_seg.0.bias": torch.zeros(2)}
    return {f"module.{name}": tensor for name, tensor in state.items()} | decoder


def test_medicalnet_s_published_names_and_shapes():
    state = create_model("medicalnet_50", 1).backbone.state_dict()
    shapes = {
        "conv1.weight": (64, 1, 7, 7, 7),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1, 1),
        "layer3.5.conv2.weight": (256, 256, 3, 3, 3),
        "layer4.2.bn3.running_var": (2048,),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes
    assert not any(name.startswith("fc") for name in state)


def test_ct_fm_s_published_names_with_and_without_a_decoder():
    args = model_spec("ct_fm").small
    source, one, other = (create_model("ct_fm", 1, **args) for _ in range(3))
    state = source.backbone.state_dict()
    assert {"conv_init.weight", "layers.0.blocks.0.conv1.weight", "layers.4.blocks.3.conv2.weight"} <= state.keys()
    load_backbone(one, state)
    whole = {f"encoder.{name}": tensor for name, tensor in state.items()}
    dropped = load_backbone(other, whole | {"up_layers.0.upsample.0.weight": torch.zeros(2)})
    assert dropped == ("up_layers.0.upsample.0.weight",)
    x = torch.rand(source.spec.batch_shape(1))
    with torch.no_grad():
        for model in (one, other):
            torch.testing.assert_close(model.eval().forward_features(x), source.eval().forward_features(x))


def test_merlin_s_published_names_and_shapes_are_those_of_an_inflated_resnet_152():
    from torchvision.models import resnet152

    with torch.device("meta"):
        state, flat = create_model("merlin", 1).backbone.state_dict(), resnet152().state_dict()
    names = {name for name in flat if not name.startswith("fc.")}
    assert state.keys() == names
    flat_again = {name: tuple(s for i, s in enumerate(t.shape) if t.ndim != 5 or i != 2) for name, t in state.items()}
    assert flat_again == {name: tuple(flat[name].shape) for name in names}
    assert tuple(state["conv1.weight"].shape) == (64, 3, 3, 7, 7)
    assert {state[f"layer2.0.conv{i}.weight"].shape[2] for i in (1, 3)} == {1}


def test_merlin_s_checkpoint_holds_a_text_encoder_and_heads_that_are_left_out():
    args = model_spec("merlin").small
    source, target = create_model("merlin", 1, **args), create_model("merlin", 1, **args)
    state = {f"encode_image.i3_resnet.{k}": v for k, v in source.backbone.state_dict().items()}
    heads = {f"encode_image.i3_resnet.{name}.weight": torch.zeros(2) for name in ("contrastive_head", "classifier")}
    dropped = load_backbone(target, state | heads | {"encode_text.linear_layer.weight": torch.zeros(2)})
    assert len(dropped) == 3
    x = torch.rand(source.spec.batch_shape(1))
    with torch.no_grad():
        torch.testing.assert_close(target.eval().forward_features(x), source.eval().forward_features(x))
        turned = x.transpose(-1, -2).flip(-1, -2)
        assert not torch.allclose(source(x), source(turned), atol=1e-6)


def test_resenc_l_s_published_names_are_those_of_its_public_definition():
    with torch.device("meta"):
        state = create_model("resenc_l", 1).backbone.state_dict()
    assert 2 * len(state) == 448, "as many as the published encoder has, where each stands twice"
    shapes = {
        "stem.convs.0.conv.weight": (32, 1, 3, 3, 3),
        "stages.0.blocks.0.conv1.norm.bias": (32,),
        "stages.1.blocks.0.skip.1.conv.weight": (64, 32, 1, 1, 1),
        "stages.4.blocks.0.skip.1.norm.weight": (320,),
        "stages.5.blocks.5.conv2.conv.bias": (320,),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes
    assert not any("skip" in name for name in state if name.startswith(("stages.0.", "stages.5.")))


def test_a_checkpoint_of_nnssl_holds_the_encoder_three_times_and_a_decoder(tmp_path):
    args = model_spec("resenc_l").small
    source, target = create_model("resenc_l", 1, **args), create_model("resenc_l", 1, **args)
    own = {f"encoder.{name}": tensor for name, tensor in source.backbone.state_dict().items()}
    twice = {n.replace(".conv.", ".all_modules.0.").replace(".norm.", ".all_modules.1."): t for n, t in own.items()}
    whole = own | twice | {f"decoder.{name}": tensor for name, tensor in (own | twice).items()}
    whole |= {"decoder.transpconvs.0.weight": torch.zeros(2), "decoder.seg_layers.4.bias": torch.zeros(1)}
    plan = {"key_to_encoder": "encoder.stages", "pretrain_num_input_channels": 1}
    torch.save({"network_weights": whole, "nnssl_adaptation_plan": plan, "citations": []}, tmp_path / "c.pth")
    load_backbone(target, tmp_path / "c.pth")
    torch.testing.assert_close(target.backbone.state_dict(), source.backbone.state_dict())


def test_primus_m_s_published_names_and_what_is_left_out():
    with torch.device("meta"):
        state = create_model("primus_m", 1).backbone.state_dict()
    shapes = {
        "down_projection.proj.weight": (864, 1, 8, 8, 8),
        "eva.pos_embed": (1, 20**3, 864),
        "eva.blocks.15.attn.q_proj.bias": (864,),
        "eva.blocks.0.attn.norm.weight": (864,),
        "eva.blocks.0.mlp.fc1_g.weight": (2304, 864),
        "eva.blocks.0.gamma_2": (864,),
        "eva.norm.weight": (864,),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes
    assert "eva.blocks.0.attn.k_proj.bias" not in state
    args = model_spec("primus_m").small
    source, target = create_model("primus_m", 1, **args), create_model("primus_m", 1, **args)
    more = {"mask_token": torch.zeros(1, 1, 24), "up_projection.decode.0.0.weight": torch.zeros(2)}
    load_backbone(target, {"network_weights": source.backbone.state_dict() | more})
    torch.testing.assert_close(target.backbone.state_dict(), source.backbone.state_dict())


def test_primus_m_s_tokens_lie_in_the_published_order_and_positions_fit_another_cube():
    args = model_spec("primus_m").small | {"slices": 16, "image_size": 24}
    backbone = create_model("primus_m", 1, **args).backbone.eval()
    assert tuple(backbone.eva.grid) == (3, 2, 3), "rows, slices, columns"
    seen = []
    backbone.eva.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = torch.rand(1, 1, 16, 24, 24)
    with torch.no_grad():
        out = backbone(x)
        patches = backbone.down_projection((x - x.mean()) / x.std(correction=0))
    assert tuple(out.shape) == (1, 24, 2, 3, 3)
    torch.testing.assert_close(seen[0][0, 4], patches[0, :, 1, 0, 1])  # token 4: row 0, slice 1, column 1
    source = create_model("primus_m", 1, **model_spec("primus_m").small)
    wider = create_model("primus_m", 1, **model_spec("primus_m").small | {"slices": 32, "image_size": 32})
    load_backbone(wider, source.backbone.state_dict())
    torch.testing.assert_close(wider.backbone.eva.pos_embed.mean(1), source.backbone.eva.pos_embed.mean(1))
    with pytest.raises(ModelError, match="slices = image_size"):
        load_backbone(create_model("primus_m", 1, **args), source.backbone.state_dict())
    with pytest.raises(ModelError, match="multiple of 6"):
        create_model("primus_m", 1, **model_spec("primus_m").small | {"dim": 32})


def test_primus_m_s_rotations_turn_by_the_distance_along_each_axis_alone():
    from timm.layers import apply_rot_embed_cat

    from slivit.models.openmind import rotations

    turned = apply_rot_embed_cat(torch.ones(27, 12), rotations((3, 3, 3), 12))
    grid = (turned @ turned.T).reshape(3, 3, 3, 3, 3, 3)
    torch.testing.assert_close(grid[0, 0, 0, 1, 0, 0], grid[1, 2, 1, 2, 2, 1])
    torch.testing.assert_close(grid[0, 0, 0, 0, 1, 0], grid[0, 0, 0, 0, 0, 1])
    assert grid[0, 0, 0, 2, 0, 0] < grid[0, 0, 0, 1, 0, 0] < grid[0, 0, 0, 0, 0, 0]


def test_retfound_s_file_is_a_masked_autoencoder_s():
    tiny = {"slices": 1, "image_size": 32, "backbone_args": {"embed_dim": 16, "depth": 2, "num_heads": 2}}
    source, target = (create_model("slice_vit", 1, backbone="vit_large_patch16_224", **tiny) for _ in range(2))
    state = source.backbone.state_dict()
    load_backbone(target, {"model": state | {"mask_token": torch.zeros(1, 1, 8), "decoder_pred.bias": torch.zeros(4)}})
    torch.testing.assert_close(target.backbone.state_dict(), state)


def test_the_commands_list_and_get(alone):
    runner = CliRunner()
    listed = runner.invoke(app, ["list", "weights"]).output
    assert all(name in listed for name in starts())
    assert "CC BY-NC-ND 4.0" in listed
    refused = runner.invoke(app, ["weights", "get", "retfound"], input="n\n")
    assert refused.exit_code == 2
    assert "nothing is fetched before you accept that" in refused.output
    assert runner.invoke(app, ["weights", "get", "nothing"]).exit_code == 2
