"""Features: every registered model offers them, 3DINO by layers, and they are computed once and kept."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from slivit.data.preprocessing import Preprocessing
from slivit.errors import ModelError, ReadError
from slivit.models.dino3d import pool_tokens
from slivit.models.registry import create_model, list_models, model_spec
from slivit.predict.features import feature_sets, features
from slivit.probing import extract as extract_module
from slivit.probing.extract import extract, read_digest
from slivit.probing.linear import join
from slivit.probing.store import weights_digest


def small(name, **args):
    torch.manual_seed(0)
    return create_model(name, 2, **{**model_spec(name).small, **args}).eval()


def batch(model, size=2):
    return torch.randn(model.spec.batch_shape(size), generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=list_models(output="vector"))
def model(request):
    return small(request.param)


def test_every_model_offers_the_features_of_its_backbone(model):
    with torch.no_grad():
        parts = features(model, batch(model))
        for name, parameter in model.named_parameters():
            if not name.startswith("backbone."):
                parameter.fill_(0.123)
        untouched = features(model, batch(model))
    sets = feature_sets(model, parts)
    assert sets
    for names in sets.values():
        assert set(names) <= set(parts)
    for name, part in parts.items():
        assert part.shape[0] == 2
        assert part.ndim == 2
        assert part.dtype == torch.float32
        torch.testing.assert_close(untouched[name], part)


def test_3dino_offers_its_last_layers_in_the_order_of_its_head():
    model = small("dino3d_vit_small", depth=5)
    x = batch(model)
    with torch.no_grad():
        parts = features(model, x)
        for name, names in feature_sets(model, parts).items():
            layers, average = (4 if "4" in name else 1), name.endswith("+patches")
            expected = pool_tokens(model.backbone.forward_layers(x, layers), average)
            torch.testing.assert_close(join(parts, names), expected)
            other = small("dino3d_vit_small", depth=5, **model.head_args(name))
            torch.testing.assert_close(other.forward_features(x), expected)
    assert list(feature_sets(model, parts)) == ["last1", "last4", "last1+patches", "last4+patches"]
    shallow = small("dino3d_vit_small", depth=2)
    assert list(feature_sets(shallow, {})) == ["last1", "last2", "last1+patches", "last2+patches"]


def test_3dino_puts_channel_behind_channel():
    several, one = small("dino3d_vit_small", in_chans=2), small("dino3d_vit_small")
    one.backbone.load_state_dict(several.backbone.state_dict())
    x = batch(several)
    with torch.no_grad():
        parts = features(several, x)
        for name, part in parts.items():
            alone = [features(one, x[:, i : i + 1])[name] for i in range(2)]
            torch.testing.assert_close(part, torch.cat(alone, 1))
    assert several.head_args("last1") is None


class Plain(nn.Module):
    """A model that offers nothing but a backbone and a head."""

    def __init__(self):
        super().__init__()
        self.backbone, self.head = nn.Conv3d(1, 3, 2), nn.Linear(3, 1)

    def forward(self, x):
        return self.head(self.backbone(x).mean((2, 3, 4)))


def test_without_an_offer_features_are_what_the_head_takes():
    model, x = Plain(), torch.randn(2, 1, 4, 4, 4)
    torch.testing.assert_close(features(model, x)["pooled"], model.backbone(x).mean((2, 3, 4)))
    with pytest.raises(ModelError, match="offers no features"):
        features(nn.Linear(2, 2), x)


class Mixed(Plain):
    """Its features come through a part that is neither backbone nor head."""

    def __init__(self):
        super().__init__()
        self.integrator = nn.Linear(3, 3)

    def forward_features(self, x):
        return self.integrator(self.backbone(x).mean((2, 3, 4)))


@pytest.mark.parametrize(("make", "part"), [(Mixed, "integrator"), (Plain, "backbone"), (Mixed, "backbone")])
def test_other_weights_are_other_features(make, part):
    model, x = make(), torch.randn(2, 1, 4, 4, 4)
    before, digest = features(model, x)["pooled"], read_digest(model)
    nn.init.ones_(model.head.weight)
    assert read_digest(model) == digest
    nn.init.ones_(model.get_submodule(part).weight)
    assert not torch.equal(features(model, x)["pooled"], before)
    assert read_digest(model) != digest


@pytest.fixture
def scans(tmp_path, rng):
    paths = [str(tmp_path / f"scan{i}.npy") for i in range(5)]
    import nibabel

    paths = [path.replace(".npy", ".nii") for path in paths]
    for path in paths:
        array = rng.integers(0, 200, (32, 32, 32)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)
    return paths


SETTINGS = Preprocessing(size=(32, 32, 32))


def test_features_are_computed_once_and_found_by_content(scans, tmp_path):
    model = small("dino3d_vit_small")
    first = extract(model, scans, SETTINGS, tmp_path / "features", batch_size=2)
    assert (first.computed, len(first.parts["class_1"])) == (5, 5)
    again = extract(model, scans[::-1], SETTINGS, tmp_path / "features")
    assert again.computed == 0
    assert all(torch.equal(again.parts[name].flip(0), part) for name, part in first.parts.items())
    copy = tmp_path / "copy.nii"
    copy.write_bytes((tmp_path / "scan3.nii").read_bytes())
    found = extract(model, [str(copy), scans[0], str(copy)], SETTINGS, tmp_path / "features")
    assert found.computed == 0
    assert torch.equal(found.parts["class_1"], first.parts["class_1"][[3, 0, 3]])


def test_other_weights_settings_or_content_are_computed_anew(scans, tmp_path):
    model = small("dino3d_vit_small")
    folder = tmp_path / "features"
    first = extract(model, scans[:2], SETTINGS, folder)
    with torch.no_grad():
        model.head.weight.zero_()
        assert extract(model, scans[:2], SETTINGS, folder).computed == 0
        model.backbone.norm.bias.add_(1)
    assert weights_digest(model.backbone) != first.weights
    assert extract(model, scans[:2], SETTINGS, folder).computed == 2
    other = SETTINGS.model_copy(update={"stretch": (1.0, 99.0)})
    assert extract(model, scans[:2], other, folder).computed == 2
    assert extract(model, scans[:2], SETTINGS.model_copy(update={"flips": ("slices",)}), folder).computed == 0
    content = (tmp_path / "scan1.nii").read_bytes()
    (tmp_path / "scan1.nii").write_bytes(content[:-2] + b"\1\0")
    assert extract(model, scans[:2], SETTINGS, folder).computed == 1


def test_an_extraction_that_dies_goes_on_where_it_was(scans, tmp_path, monkeypatch):
    model = small("dino3d_vit_small")
    monkeypatch.setattr(extract_module, "KEPT_SCANS", 2)
    broken = [*scans[:3], str(tmp_path / "bad.nii")]
    (tmp_path / "bad.nii").write_bytes(b"no scan at all")
    with pytest.raises(ReadError, match=r"bad\.nii"):
        extract(model, broken, SETTINGS, tmp_path / "features", batch_size=1)
    assert len(list((tmp_path / "features").rglob("*.safetensors"))) == 2
    rest = extract(model, scans, SETTINGS, tmp_path / "features", batch_size=1)
    assert rest.computed == 2
    alone = extract(model, scans, SETTINGS, tmp_path / "other", batch_size=5)
    torch.testing.assert_close(rest.parts["patches"], alone.parts["patches"])


def test_a_damaged_file_is_computed_anew(scans, tmp_path, caplog):
    model = small("dino3d_vit_small")
    first = extract(model, scans, SETTINGS, tmp_path / "features")
    (file,) = (tmp_path / "features").rglob("*.safetensors")
    assert len(load_file(file)["class_1"]) == 5
    file.write_bytes(file.read_bytes()[:-8])
    again = extract(model, scans, SETTINGS, tmp_path / "features")
    assert again.computed == 5
    assert "computed anew" in caplog.text
    torch.testing.assert_close(again.parts["class_1"], first.parts["class_1"])


def test_windows_are_refused(scans, tmp_path):
    from slivit.data.windows import Windows

    with pytest.raises(ModelError, match=r"leave out preprocessing\.windows"):
        extract(small("dino3d_vit_small"), scans, SETTINGS.model_copy(update={"windows": Windows()}), tmp_path / "f")
