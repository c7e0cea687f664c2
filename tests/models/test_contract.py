"""What every registered model must do; a network that segments gives logits of every voxel instead of a vector."""

from __future__ import annotations

import json
import pickle
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from slivit.errors import ModelError, SlivitError
from slivit.models._covariates import held
from slivit.models._lora import is_adapted
from slivit.models.registry import check_output, create_model, list_models, model_spec

OUT_DIM = 3


def small(name: str) -> nn.Module:
    torch.manual_seed(0)
    return create_model(name, OUT_DIM, **model_spec(name).small)


def batch(model: nn.Module, size: int = 2) -> Tensor:
    return torch.randn(model.spec.batch_shape(size), generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=list_models(), scope="module")
def made(request: pytest.FixtureRequest) -> nn.Module:
    return small(request.param)


@pytest.fixture
def model(made: nn.Module) -> nn.Module:
    return deepcopy(made)


def test_gives_one_output_a_scan_or_voxel(model: nn.Module) -> None:
    model.eval()
    with torch.no_grad():
        output = model(batch(model))
        assert output.shape == (2, OUT_DIM, *(batch(model).shape[2:] if model.spec.output == "mask" else ()))
        assert output.dtype == torch.float32
        torch.testing.assert_close(output[:1], model(batch(model)[:1]), rtol=1e-3, atol=1e-4)


def test_every_parameter_learns(model: nn.Module) -> None:
    model.train()
    model(batch(model)).square().sum().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None]
    assert idle == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_a_frozen_backbone_stays_as_it_is(model: nn.Module) -> None:
    model.backbone.requires_grad_(False)
    before = {name: p.clone() for name, p in model.named_parameters()}
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(batch(model)).square().sum().backward()
    optimiser.step()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert any(name.startswith("head.") for name in changed)
    assert not any(name.startswith("backbone.") for name in changed)


def test_a_wrong_shape_is_told(model: nn.Module) -> None:
    x = batch(model)
    with pytest.raises(ModelError, match="got"):
        model(x[..., :-1])
    with pytest.raises(ModelError, match="got"):
        model(torch.cat([x, x], dim=1))


def test_names_where_it_comes_from(made: nn.Module) -> None:
    assert made.spec.source
    assert made.spec.licence


def test_described_in_json_saved_loaded_and_sent_to_another_process_it_computes_the_same(
    model: nn.Module, tmp_path: Path
) -> None:
    assert not is_adapted(model)  # or its checkpoint would hold the adapters that it does not have
    args = json.loads(json.dumps(dict(model.spec.args)))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    torch.manual_seed(5)
    copy = create_model(model.spec.name, OUT_DIM, **args)
    copy.load_state_dict(load_file(tmp_path / "model.safetensors"))
    sent = pickle.loads(pickle.dumps(model))
    with torch.no_grad():
        expected = model.eval()(batch(model))
        torch.testing.assert_close(copy.eval()(batch(model)), expected)
        torch.testing.assert_close(sent.eval()(batch(model)), expected)


@pytest.mark.parametrize("name", list_models(output="vector"))
def test_reads_covariates_before_its_head(name: str) -> None:
    plain, own = small(name), create_model(name, OUT_DIM, **{**model_spec(name).small, **COVARIATES.get(name, READS)})
    assert own.spec.args["covariates"] == 2
    layers = [p for n, p in own.named_parameters() if n.endswith("covariates.weight")]
    x, z = batch(plain), torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    with torch.no_grad():
        for table in () if layers else own.eval().buffers():
            table.fill_(0.1)
        if layers:  # at the start they change nothing
            assert own.eval().load_state_dict(_renamed(plain), strict=False).unexpected_keys == []
            torch.testing.assert_close(own(x, z), plain.eval()(x))
            nn.init.ones_(layers[0])
        seen = own(x, z)
        assert not torch.allclose(seen, own(x, 0 * z))
        for model in (pickle.loads(pickle.dumps(own)), deepcopy(own)):
            torch.testing.assert_close(model(x, z), seen)
        with held(own, z[:1]):
            torch.testing.assert_close(own(x[:1]), seen[:1])
            torch.testing.assert_close(own(x)[:1], seen[:1])
        with pytest.raises(ModelError, match="covariates"):
            own(x)


READS = {"covariates": 2}
COVARIATES = {  # an ensemble has no head of its own that could read them; its members do
    "ensemble": READS | {"members": [{"kind": "linear", "features": ["histogram", "covariates"], "width": 34}]}
}


def _renamed(plain: nn.Module) -> dict[str, Tensor]:
    """The weights of a network under the names that they have once covariates are read: one layer lies deeper."""
    linear = next(n for n, part in plain.head.named_modules() if isinstance(part, nn.Linear))
    prefix = f"head.{linear}".rstrip(".") + "."
    return {
        k.replace(prefix, prefix + "linear.") if k.startswith(prefix) else k: v for k, v in plain.state_dict().items()
    }


@pytest.mark.parametrize("name", list_models())
def test_states_its_size(name: str) -> None:
    spec = model_spec(name)
    with torch.device("meta"):
        model = create_model(name, 1)
    assert spec.parameters == sum(p.numel() for p in model.parameters()), "register_model(parameters=...) is wrong"
    assert model.spec.size == spec.size


def test_an_unknown_name_or_argument_is_told() -> None:
    with pytest.raises(ModelError, match="slivit"):
        create_model("slivitt", 1)
    with pytest.raises(SlivitError, match="vit_depth"):
        create_model("slivit", 1, vit_dept=2)


def test_masks_where_a_vector_is_needed_are_told() -> None:
    with pytest.raises(ModelError, match=r"unet gives masks; a vector a scan is needed(.|\n)*lrcn"):
        check_output(small("unet"), "vector")
    with pytest.raises(ModelError, match=r"image_classifier gives a vector(.|\n)*unet"):
        check_output(small("image_classifier"), "mask")
    assert set(list_models(output="mask")) | set(list_models(output="vector")) == set(list_models())
