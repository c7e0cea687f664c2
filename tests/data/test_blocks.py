import matplotlib
import pytest
import torch

from slivit.data.augmentation import Augmentation
from slivit.data.blocks import VolumeBlock, contact_sheet, from_input, to_input, volume_dataloaders
from slivit.data.manifest import read_manifest
from slivit.data.preprocessing import Preprocessing, load_slices
from slivit.data.tiling import tile_slices
from slivit.errors import SlivitError
from slivit.models.registry import IMAGENET_MEAN, IMAGENET_STD, ModelSpec
from slivit.targets.task import Task

matplotlib.use("Agg")
BINARY = Task(kind="binary", targets=("bright",))


def loaders(csv, input="tiled", mean=IMAGENET_MEAN, std=IMAGENET_STD, task=BINARY, **options):
    spec = ModelSpec("made", input=input, size=(4, 16, 16), mean=mean, std=std)
    manifest = read_manifest(csv, task)
    settings = Preprocessing(size=spec.size)
    manifest = manifest.with_task(task.fitted(manifest.rows("train")))
    return volume_dataloaders(manifest, spec, settings, batch_size=8, device="cpu", **options), manifest, settings


@pytest.mark.parametrize(
    ("input", "mean", "shape"),
    [
        ("tiled", IMAGENET_MEAN, (8, 3, 64, 16)),
        ("volume", (0.5,), (8, 1, 4, 16, 16)),
        ("clip", IMAGENET_MEAN, (8, 3, 4, 16, 16)),
    ],
)
def test_batches_have_the_layout_of_the_model(blob_scans, input, mean, shape):
    dls, *_ = loaders(blob_scans, input, mean, mean)
    x, y = dls.one_batch()
    assert tuple(x.shape) == shape
    assert x.dtype == torch.float32
    assert tuple(y.shape) == (8, 1)


def test_an_item_is_the_preprocessed_scan(blob_scans):
    dls, manifest, settings = loaders(blob_scans)
    x, y = dls.valid.one_batch()
    for i, row in enumerate(manifest.rows("val")):
        stack = torch.from_numpy(load_slices(row["path"], settings))
        expected = tile_slices(to_input(stack[None], "clip", IMAGENET_MEAN, IMAGENET_STD))[0]
        assert torch.allclose(x[i].as_subclass(torch.Tensor), expected)
        assert y[i].item() == row["bright"]


def test_validation_sees_every_scan_once_and_unchanged(blob_scans):
    change = Augmentation(rotate=180, flip_horizontal=True)
    plain, *_ = loaders(blob_scans)
    changed, *_ = loaders(blob_scans, augmentation=change)
    first, second = (torch.cat([x for x, _ in d.valid]) for d in (plain, changed))
    assert len(first) == 8
    assert torch.equal(first, second)
    assert not torch.equal(*(torch.cat([x for x, _ in d.train.new(shuffle=False)]) for d in (plain, changed)))


def test_normalisation_is_undone():
    stacks = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    for input in ("tiled", "clip"):
        x = to_input(stacks, input, IMAGENET_MEAN, IMAGENET_STD)
        assert torch.allclose(from_input(x, 3, IMAGENET_MEAN, IMAGENET_STD), stacks.float(), atol=1e-3)


def test_imagenet_normalisation_is_torchvisions():
    from torchvision.transforms.functional import normalize

    stack = torch.randint(0, 256, (1, 1, 4, 4), dtype=torch.uint8)
    rgb = stack[:, 0].float().div(255).expand(3, 4, 4)
    expected = normalize(rgb, list(IMAGENET_MEAN), list(IMAGENET_STD))
    assert torch.allclose(to_input(stack, "tiled", IMAGENET_MEAN, IMAGENET_STD)[0], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (BINARY, ("bright",)),
        (Task(kind="multiclass", targets=("grade",)), ("low", "high")),
        (Task(kind="regression", targets=("size",), unit="mm"), ("mm",)),
    ],
)
def test_show_batch_draws_titled_contact_sheets(blob_scans, task, words):
    import matplotlib.pyplot as plt

    dls, *_ = loaders(blob_scans, task=task)
    dls.show_batch(max_n=4)
    axes = [a for a in plt.gcf().axes if a.images]
    assert len(axes) == 4
    assert all(a.images[0].get_array().max() > 200 for a in axes)
    assert all(any(word in a.get_title() for word in words) for a in axes)
    plt.close("all")


def test_contact_sheet_is_near_square():
    assert contact_sheet(torch.zeros(12, 10, 10), gap=2).shape == (3 * 12 - 2, 4 * 12 - 2)
    assert contact_sheet(torch.zeros(1, 10, 10)).shape == (10, 10)


def test_fewer_scans_than_a_batch(blob_scans):
    _, manifest, settings = loaders(blob_scans)
    spec = ModelSpec("made", input="tiled", size=(4, 16, 16))
    big = volume_dataloaders(manifest, spec, settings, batch_size=500, device="cpu")
    assert len(big.train) == 1
    assert len(big.train.one_batch()[0]) == 24


@pytest.mark.parametrize("channels", [2, 4])
def test_channels_that_scans_do_not_have_are_no_copies(channels):
    mean = std = (0.5,) * channels
    with pytest.raises(SlivitError, match=f"takes {channels} channels, and scans have one"):
        to_input(torch.zeros(1, 4, 8, 8), "volume", mean, std)
    with pytest.raises(SlivitError, match="in_chans"):
        VolumeBlock(Preprocessing(size=(4, 8, 8)), mean=mean, std=std)
