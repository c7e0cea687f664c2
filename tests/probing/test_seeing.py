"""Seeing features: components, foreground, places in the scan, the last block's attention, and the command."""

import nibabel
import numpy as np
import pytest
import torch
from nibabel.affines import apply_affine
from sklearn.decomposition import PCA
from typer.testing import CliRunner

from slivit.cli import app
from slivit.data.preprocessing import Preprocessing, preprocess
from slivit.data.readers import read_volume
from slivit.data.windows import Windows
from slivit.errors import ModelError, SlivitError
from slivit.models.registry import create_model, model_spec
from slivit.probing.cells import Box, seen_box
from slivit.probing.pca import components, foreground, otsu, pca_colours
from slivit.probing.seeing import see
from slivit.probing.visualise import affine_of, save_nifti, turned_to_ras
from slivit.report.planes import plane
from slivit.volume import Volume


def network(**args):
    torch.manual_seed(0)
    model = create_model("dino3d_vit_small", 1, **{**model_spec("dino3d_vit_small").small, "depth": 3, **args}).eval()
    for name, parameter in model.backbone.named_parameters():
        parameter.data.normal_(1 if "gamma" in name else 0, 0.2)
    return model


def command(*args, expect=0):
    done = CliRunner().invoke(app, [str(a) for a in args])
    assert done.exit_code == expect, (done.output, done.exception)
    return done.output


@pytest.fixture
def scan(tmp_path, rng):
    """A NIfTI of 40 x 36 x 20 voxels, turned and shifted, dark but for a bright block towards one corner."""
    array = rng.normal(10, 2, (40, 36, 20))
    array[4:18, 20:34, 10:18] += 150
    affine = np.array([[-1.0, 0, 0, 30], [0, 0, 2.5, -20], [0, 1.2, 0, 7], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(array.astype(np.int16), affine), tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def test_components_are_those_of_scikit_learn():
    tokens = torch.randn(30, 7, generator=torch.Generator().manual_seed(0))
    expected = PCA(3).fit_transform(tokens.double().numpy())
    np.testing.assert_allclose(components(tokens, 3).abs(), np.abs(expected), atol=1e-6)
    assert components(tokens[:2], 3)[:, 2].abs().max() < 1e-6


def test_foreground_is_the_brighter_side_of_the_first_component():
    generator = torch.Generator().manual_seed(0)
    inside = torch.arange(60) % 3 == 0
    tokens = torch.randn(60, 5, generator=generator) + 20 * inside[:, None]
    bright = inside + 0.1 * torch.randn(60, generator=generator)
    assert torch.equal(foreground(tokens, bright), inside)
    assert torch.equal(foreground(-tokens, bright), inside)
    assert torch.equal(foreground(tokens, -bright), ~inside)
    assert 2 < otsu(torch.tensor([0.0, 1, 1, 0.5, 5, 6])) < 5
    assert not foreground(torch.ones(4, 3), torch.ones(4)).any()


def test_colours_leave_the_background_black():
    tokens = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    kept = torch.arange(20) < 12
    colours = pca_colours(tokens, kept)
    assert colours[~kept].abs().max() == 0
    assert colours.min() >= 0
    assert colours.max() <= 1
    expected = PCA(3).fit_transform(tokens[kept].double().numpy())
    for found, known in zip(colours[kept].T, expected.T, strict=True):
        assert abs(np.corrcoef(found, known)[0, 1]) > 0.99
    assert not pca_colours(tokens, torch.zeros(20, dtype=torch.bool)).any()


@pytest.mark.parametrize(
    ("options", "start", "length"),
    [
        ({}, (0, 0, 0), (50, 40, 60)),
        ({"sampling": "resample"}, (0, 0, 0), (50, 40, 60)),
        ({"sampling": "middle"}, (9, 0, 0), (32, 40, 60)),
        ({"size": (64, 32, 32), "short": "pad"}, (0, 0, 0), (64, 40, 60)),
        ({"size": (32, 16, 32), "resize": (20, 40)}, (0, 4, 6), (50, 32, 48)),
    ],
)
@pytest.mark.filterwarnings("ignore:made up")
def test_the_box_is_what_the_preprocessing_keeps(options, start, length):
    """A voxel inside of the box leaves a trace in the slices; one beyond it leaves none."""
    settings = Preprocessing(**{"size": (32, 32, 32), "window": (0, 1), "stretch": False, **options})
    box = seen_box((50, 40, 60), settings)
    np.testing.assert_allclose([*box.start, *box.length], [*start, *length])
    array = np.zeros((50, 40, 60), np.float32)
    d, h, w = (int(s + min(n, size - s) / 2) for s, n, size in zip(start, length, array.shape, strict=True))
    array[d - 2 : d + 2, h - 2 : h + 2, w - 2 : w + 2] = 1
    found = np.argwhere(preprocess(Volume(array, None, "made up"), settings) > 100).mean(0) + 0.5
    middle = np.array([d, h, w])
    cells = np.array(settings.size)
    np.testing.assert_allclose((middle - start) / np.array(length) * cells, found, atol=1.0)


def test_values_lie_on_the_scan_where_their_cells_are():
    box = Box((0, 2, 0), (8, 4, 6))
    values = np.arange(2 * 2 * 3, dtype=float).reshape(2, 2, 3)
    nearest = box.onto(values, (8, 8, 6), nearest=True)
    assert (nearest[:, :2] == 0).all()
    assert (nearest[:, 6:] == 0).all()
    np.testing.assert_array_equal(nearest[:, 2:6], values.repeat(4, 0).repeat(2, 1).repeat(2, 2))
    linear = box.onto(np.ones((2, 2, 3)), (8, 8, 6))
    np.testing.assert_allclose(linear[:, 2:6], 1)
    affine = np.diag([2.0, 1, 1, 1])
    place = box.affine((2, 2, 3), affine)
    np.testing.assert_allclose(apply_affine(place, [1, 0, 0]), [2 * 5.5, 2.5, 0.5])


def test_windows_are_refused():
    with pytest.raises(SlivitError, match=r"leave out preprocessing\.windows"):
        seen_box((50, 40, 60), Preprocessing(size=(32, 32, 32), windows=Windows()))


def test_the_attention_is_that_of_the_last_block():
    """Made by hand from what enters the last block; blocks before it give other maps."""
    array = np.random.default_rng(0).integers(0, 255, (32, 32, 32)).astype(np.uint8)
    model, volume = network(), Volume(array, None, "noise")
    entered = []
    for block in model.backbone.blocks:
        block.norm1.register_forward_hook(lambda _, __, output: entered.append(output.clone()))
    seen = see(model, volume, Preprocessing(size=(32, 32, 32), stretch=False))
    expected = []
    for block, tokens in zip(list(model.backbone.blocks)[::-1], entered[::-1], strict=False):
        with torch.inference_mode():
            query, key, _ = block.attn.qkv(tokens).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
            shares = (query[:, :, :1] @ key.mT / 8**0.5).softmax(-1)[0, :, 0, 1:]
        expected.append(shares.reshape(2, 2, 2, 2).permute(0, 3, 2, 1).numpy())
    np.testing.assert_allclose(seen.attention, expected[0], atol=1e-5)
    assert np.abs(seen.attention - expected[1]).max() > 1e-3
    one = see(model, volume, Preprocessing(size=(32, 32, 32), stretch=False), head=1)
    np.testing.assert_allclose(one.attention, seen.attention[1:])
    with pytest.raises(ModelError, match="has 2 heads, 0 to 1; got head 2"):
        see(model, volume, Preprocessing(size=(32, 32, 32)), head=2)


def test_what_is_seen_of_a_scan_that_is_cropped_to_its_foreground_lies_there():
    """Twice the same: the part cut out by hand, and by the rule."""
    array = np.zeros((60, 50, 40), np.float32)
    array[8:40, 10:42, 4:36] = np.random.default_rng(0).uniform(1, 2, (32, 32, 32))
    model, rule = network(), {"threshold": 0.5, "least": 0, "margin": 0}
    settings = Preprocessing(size=(32, 32, 32), stretch=False, rounded=False)
    inner = see(model, Volume(array[8:40, 10:42, 4:36], None, "cut"), settings)
    seen = see(model, Volume(array, None, "whole"), Preprocessing(**dict(settings) | {"foreground": rule}))
    colours, attention = seen.on_scan(array.shape)
    np.testing.assert_allclose(colours[8:40, 10:42, 4:36], inner.on_scan((32, 32, 32))[0], atol=1e-6)
    assert attention.sum() > 0
    assert attention[:, 8:40, 10:42, 4:36].sum() == pytest.approx(attention.sum())


def test_a_turned_scan_lands_where_it_was(scan):
    volume = read_volume(scan)
    turned, space = turned_to_ras(volume.array, affine_of(volume))
    original = nibabel.as_closest_canonical(nibabel.load(scan))
    np.testing.assert_array_equal(turned, np.asarray(original.dataobj))
    np.testing.assert_allclose(space, original.affine)
    unknown = Volume(np.arange(24).reshape(2, 3, 4), None, "a film")
    film, _ = turned_to_ras(unknown.array, affine_of(unknown))
    np.testing.assert_array_equal(plane(film, 2, 1), unknown.array[0])


def test_colours_and_values_are_written_on_the_scans_grid(scan, tmp_path):
    volume = read_volume(scan)
    save_nifti(tmp_path / "values.nii.gz", volume.array.astype(np.float32), affine_of(volume))
    original = nibabel.load(scan)
    again = nibabel.load(tmp_path / "values.nii.gz")
    inside = apply_affine(np.linalg.inv(again.affine) @ original.affine, [5, 30, 12]).round().astype(int)
    assert again.get_fdata()[tuple(inside)] == original.get_fdata()[5, 30, 12]
    colours = np.zeros((*volume.shape, 3), np.uint8)
    colours[..., 1] = 9
    save_nifti(tmp_path / "colours.nii", colours, affine_of(volume))
    stored = np.asanyarray(nibabel.load(tmp_path / "colours.nii").dataobj)
    assert (stored["R"].max(), stored["G"].min()) == (0, 9)


def test_the_command_writes_picture_and_volumes_in_the_scans_space(scan, tmp_path):
    args = [f"model.{key}={value}" for key, value in model_spec("dino3d_vit_small").small.items()]
    out = tmp_path / "seen"
    command("visualise", scan, "--model", "dino3d_vit_small", "--random-init", "--out", out, "--size", "32,64,64",
            "preprocessing.sampling=resample", *args)  # fmt: skip
    original = nibabel.as_closest_canonical(nibabel.load(scan))
    for name in ("pca.nii.gz", "attention.nii.gz"):
        image = nibabel.load(out / name)
        assert image.shape == original.shape
        np.testing.assert_allclose(image.affine, original.affine)
    colours = np.asanyarray(nibabel.load(out / "pca.nii.gz").dataobj)
    shown = (colours["R"] > 0) | (colours["G"] > 0) | (colours["B"] > 0)
    bright = np.asarray(original.dataobj) > 80
    assert shown[bright].mean() > 0.9
    assert shown[~bright].mean() < 0.5
    assert 0 < nibabel.load(out / "attention.nii.gz").get_fdata().max() < 1
    assert (out / "features.png").stat().st_size > 10_000
    given = [scan, "--model", "dino3d_vit_small", "--random-init"]
    assert "is not empty" in command("visualise", *given, "--out", out, *args, expect=2)
    assert "rows and columns" in command("visualise", *given, "--size", "3,4", expect=2)
    small = ("model.slices=8", "model.image_size=32", "model.width=8")
    told = command(
        "visualise", scan, "--model", "resnet3d_18", "--random-init", *small, "--out", tmp_path / "x", expect=2
    )
    assert "no patch tokens" in told
