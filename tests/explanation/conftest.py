"""A small SLIViT, its checkpoint, and a scan that it takes as it is."""

import numpy as np
import pytest
import torch

from slivit.checkpoint import load_checkpoint, save_checkpoint
from slivit.data.preprocessing import Preprocessing
from slivit.models.registry import create_model, model_spec
from slivit.targets.task import Task
from slivit.volume import Volume

SLICES, SIDE = 5, 32
TASK = Task(kind="binary", targets=("bright",))


def make_network(out_dim=1, **changes):
    torch.manual_seed(0)
    args = {**model_spec("slivit").small, "slices": SLICES, "image_size": SIDE, **changes}
    model = create_model("slivit", out_dim, **args)
    with torch.no_grad():
        # So that slices make a difference that can be measured, at a probability in the middle.
        model.head.weight.mul_(10)
        model.head.bias.fill_(7)
    return model


@pytest.fixture(scope="session")
def network():
    """A function that makes a small SLIViT; further arguments are the model's."""
    return make_network


@pytest.fixture(scope="session")
def settings():
    return Preprocessing(size=(SLICES, SIDE, SIDE), stretch=None)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, settings):
    folder = save_checkpoint(tmp_path_factory.mktemp("explained") / "checkpoint", make_network(), TASK, settings)
    return load_checkpoint(folder)


@pytest.fixture(scope="session")
def volume():
    """(D, H, W) of bytes, as large as the model takes: preprocessing leaves it as it is. No two slices are alike."""
    rng = np.random.default_rng(3)
    array = rng.integers(0, 256, (SLICES, SIDE, SIDE)) // np.array([1, 3, 8, 2, 5])[:, None, None]
    array = array.astype(np.uint8)
    return Volume(array, (3.0, 1.0, 1.0), "made up")
