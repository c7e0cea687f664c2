"""Another normalisation than a model's own."""

import pytest

from slivit.checkpoint import load_checkpoint, save_checkpoint
from slivit.data.preprocessing import Preprocessing
from slivit.errors import ModelError
from slivit.models.registry import create_model
from slivit.targets.task import Task

SMALL = {"slices": 4, "image_size": 16, "depths": (1, 1, 0, 0)}


@pytest.mark.parametrize("channels", [1, 3])
def test_it_replaces_that_of_every_channel_and_is_kept(tmp_path, channels):
    model = create_model("r3d_18", 1, **SMALL, in_chans=channels, mean=0.15897, std=1)
    assert (model.spec.mean, model.spec.std) == ((0.15897,) * channels, (1.0,) * channels)
    task = Task(kind="binary", targets=("pe",))
    save_checkpoint(tmp_path / "run", model, task, Preprocessing(size=model.spec.size))
    assert load_checkpoint(tmp_path / "run").model.spec.mean == model.spec.mean


def test_one_of_the_two_leaves_the_other():
    own = create_model("r3d_18", 1, **SMALL).spec
    assert create_model("r3d_18", 1, **SMALL, std=0.5).spec.mean == own.mean


@pytest.mark.parametrize("wrong", [{"std": 0}, {"mean": "dark"}, {"mean": True}, {"std": [0.2, 0.2, 0.2]}])
def test_what_is_no_normalisation_is_told(wrong):
    with pytest.raises(ModelError, match="is one number"):
        create_model("r3d_18", 1, **SMALL, **wrong)
