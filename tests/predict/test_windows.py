"""Scans cut into windows: read once, and scored by all of their windows."""

import nibabel
import numpy as np
import pytest
import torch

from slivit.checkpoint import load_checkpoint, save_checkpoint
from slivit.data.blocks import to_input
from slivit.data.preprocessing import Preprocessing, load_slices
from slivit.data.windows import Windows
from slivit.models.registry import create_model
from slivit.predict.engine import predict_table
from slivit.targets.task import Task

TASK = Task(kind="binary", targets=("pe",))


@pytest.fixture
def rows(tmp_path, rng):
    found = []
    for i, depth in enumerate((3, 4, 9, 13)):
        array = rng.integers(-1000, 1000, (18, 18, depth)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / f"{i}.nii")
        found.append({"path": str(tmp_path / f"{i}.nii"), "pe": i % 2})
    return found


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return create_model("r3d_18", 1, slices=4, image_size=16, depths=(1, 1, 0, 0)).eval()


def settings(**options):
    chosen = {"window": (-1000, 1000), "stretch": False, "windows": {"stride": 2}}
    return Preprocessing(size=(4, 16, 16), **chosen | options)


@pytest.mark.filterwarnings("ignore:.*slices, 4 are used")
@pytest.mark.parametrize("score", ["max", "mean", "top_k"])
def test_a_scan_s_score_is_that_of_a_plain_loop_over_its_windows(rows, model, score):
    chosen = settings(windows={"stride": 2, "score": score, "k": 2})
    table = predict_table(model, rows, TASK, chosen, device="cpu", batch_size=3)
    spec = model.spec
    for row, found in zip(rows, table["prob_pe"], strict=True):
        stack = torch.from_numpy(np.ascontiguousarray(load_slices(row["path"], chosen)))
        scores = []
        for start in Windows(stride=2).starts(len(stack), 4):
            x = to_input(stack[None, start : start + 4], spec.input, spec.mean, spec.std)
            with torch.inference_mode():
                scores.append(model(x).sigmoid().item())
        top = sorted(scores)[-2:]
        expected = {"max": max(scores), "mean": np.mean(scores), "top_k": np.mean(top)}[score]
        assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.filterwarnings("ignore:.*slices, 4 are used")
def test_each_scan_is_read_once_and_each_slice_decoded_once(rows, model, monkeypatch):
    from slivit.data.readers import dispatch

    decoded = []
    original = dispatch._volume

    def counting(scan, select, caught):
        volume = original(scan, select, caught)
        decoded.append((volume.source, volume.indices))
        return volume

    monkeypatch.setattr(dispatch, "_volume", counting)
    predict_table(model, rows[1:], TASK, settings(windows={"stride": 1}), device="cpu")
    assert decoded == [(r["path"], tuple(range(d))) for r, d in zip(rows[1:], (4, 9, 13), strict=True)]


def test_mirror_images_and_batches_change_nothing_else(rows, model):
    chosen = settings(flips=("horizontal", "slices"))
    one, many = (predict_table(model, rows[1:], TASK, chosen, device="cpu", batch_size=b) for b in (1, 50))
    np.testing.assert_allclose(one["prob_pe"], many["prob_pe"], atol=1e-6)


def test_a_checkpoint_keeps_how_scans_are_cut_and_scored(rows, model, tmp_path):
    chosen = settings(windows={"stride": 3, "score": "top_k", "k": 2}, resize=(18, 18))
    save_checkpoint(tmp_path / "run", model, TASK, chosen)
    loaded = load_checkpoint(tmp_path / "run")
    assert loaded.preprocessing == chosen
    before = predict_table(model, rows[1:], TASK, chosen, device="cpu")
    after = predict_table(loaded.model, rows[1:], loaded.task, loaded.preprocessing, device="cpu")
    np.testing.assert_allclose(before["prob_pe"], after["prob_pe"], atol=1e-6)
