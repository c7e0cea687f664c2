"""DataLoaders of windows: what a batch holds, and how often a scan is read."""

from collections import Counter

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch

from slivit.data.augmentation import Augmentation
from slivit.data.blocks import CropSlices, TensorSlices, to_input, volume_dataloaders
from slivit.data.manifest import read_manifest
from slivit.data.preprocessing import Preprocessing, load_slices
from slivit.data.slice_labels import LabelledSlices
from slivit.data.window_plan import plan_windows
from slivit.models.registry import create_model
from slivit.predict.engine import predict_table
from slivit.targets.task import Task
from slivit.train.learner import volume_learner
from slivit.train.recipe import Fit

TASK = Task(kind="binary", targets=("pe",))
SETTINGS = Preprocessing(size=(4, 16, 16), window=(-1000, 1000), stretch=False, windows={"stride": 2})


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Sixteen scans of 4 to 9 slices."""
    folder, rng, rows = tmp_path_factory.mktemp("scans"), np.random.default_rng(0), []
    for i in range(16):
        array = rng.integers(-1000, 1000, (18, 18, 4 + i % 6)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), folder / f"{i}.nii")
        split = "train" if i < 8 else "val"
        rows.append({"path": f"{i}.nii", "patient": f"P{i}", "split": split, "pe": int(i % 4 == 0)})
    pd.DataFrame(rows).to_csv(folder / "scans.csv", index=False)
    return read_manifest(folder / "scans.csv", TASK, need_splits=())


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return create_model("r3d_18", 1, slices=4, image_size=16, depths=(1, 1, 0, 0))


def loaders(manifest, model, settings=SETTINGS, **options):
    return volume_dataloaders(manifest, model.spec, settings, **{"batch_size": 3, "device": "cpu"} | options)


def test_validation_gives_every_window_in_order(manifest, model):
    dls = loaders(manifest, model)
    batches = [(dls.valid.scan, x, y) for x, y in dls.valid]
    assert len(batches) == len(dls.valid)
    assert all(1 <= len(x) <= 3 for _, x, _ in batches)
    spec = model.spec
    for scan, row in enumerate(manifest.rows("val")):
        stack = torch.from_numpy(np.ascontiguousarray(load_slices(row["path"], SETTINGS)))
        windows = torch.stack([stack[s : s + 4] for s in SETTINGS.windows.starts(len(stack), 4)])
        expected = to_input(windows, spec.input, spec.mean, spec.std)
        own = [(x, y) for at, x, y in batches if at == scan]
        assert torch.allclose(torch.cat([x.as_subclass(torch.Tensor) for x, _ in own]), expected)
        assert all(float(v) == row["pe"] for _, y in own for v in y.flatten())


@pytest.mark.parametrize("cached", [False, True])
def test_validation_reads_each_scan_once_an_epoch(manifest, model, monkeypatch, tmp_path, cached):
    from slivit.data import cache, window_loaders

    reads = []

    def counted(path, settings):
        reads.append(path)
        return load_slices(path, settings)

    for module in (cache, window_loaders):
        monkeypatch.setattr(module, "load_slices", counted)
    store = cache.SliceCache(tmp_path / "cache") if cached else None
    dls = loaders(manifest, model, cache=store)
    made = Counter(reads)  # fastai looks at the first scan to learn its type
    for _ in range(2):
        assert sum(len(x) for x, _ in dls.valid) > len(manifest.rows("val"))
    counts = Counter(reads) - (Counter() if cached else made)
    assert {counts[row["path"]] for row in manifest.rows("val")} == {1 if cached else 2}


def test_training_draws_every_window_and_balances_them(manifest, model):
    dls = loaders(manifest, model, batch_size=1, oversample=True)
    answers = Counter(float(y) for _, y in dls.train)
    windows = sum(len(SETTINGS.windows.starts(4 + i % 6, 4)) for i in range(8))
    assert answers[1.0] == answers[0.0]
    assert sum(answers.values()) == len(dls.train) > windows
    plain = loaders(manifest, model, batch_size=1)
    assert len(plain.train) == windows


def test_training_windows_have_the_labels_of_their_slices(manifest, model):
    positive = {row["path"]: frozenset({0} if row["pe"] else ()) for row in manifest.rows()}
    depths = {row["path"]: 4 + i % 6 for i, row in enumerate(manifest.rows())}
    plan = plan_windows(manifest, SETTINGS, depths, LabelledSlices(positive, 1))
    dls = loaders(manifest, model, batch_size=1, plan=plan)
    assert sum(float(y) for _, y in dls.train) == 2  # the first window of each of the two positive scans
    assert sum(float(y.sum()) for _, y in dls.valid) == 2


def test_several_processes_give_the_same(manifest, model):
    alone, many = (torch.cat([x for x, _ in loaders(manifest, model, workers=w).valid]) for w in (0, 2))
    assert torch.equal(alone, many)


def test_the_metric_is_that_of_predicted_scans(manifest, model, tmp_path):
    from sklearn.metrics import roc_auc_score

    learn = volume_learner(loaders(manifest, model), model, TASK, Fit(precision="float32"), path=tmp_path)
    with learn.no_bar(), learn.no_logging():
        _, auc, _ = learn.validate()
        windows, _ = learn.get_preds()
    table = predict_table(model, manifest.rows("val"), TASK, SETTINGS, device="cpu", batch_size=5)
    assert auc == pytest.approx(roc_auc_score(table["target_pe"], table["prob_pe"]))
    counts = [len(SETTINGS.windows.starts(4 + i % 6, 4)) for i in range(8, 16)]
    tops = [float(part.max()) for part in windows.split(counts)]
    np.testing.assert_allclose(tops, table["prob_pe"], atol=1e-5)


def test_crops_are_random_in_training_and_from_the_middle_otherwise(manifest, model):
    larger = SETTINGS.model_copy(update={"resize": (18, 18)})
    dls = loaders(manifest, model, larger, augmentation=Augmentation(flip_horizontal=True))
    assert dls.train.one_batch()[0].shape[-2:] == (16, 16)
    expected = load_slices(manifest.rows("val")[0]["path"], larger)[:4]
    found = dls.valid.decode(dls.valid.one_batch())[0][0]
    np.testing.assert_allclose(found, expected, atol=1e-2)


def test_a_crop_is_part_of_its_slices_and_alike_for_all_of_a_volume():
    x = TensorSlices(torch.arange(8 * 9).reshape(1, 1, 8, 9).expand(40, 3, 8, 9))
    crop = CropSlices((5, 6))
    corners = set()
    for volume in crop(x, split_idx=0):
        top, left = divmod(int(volume[0, 0, 0]), 9)
        assert torch.equal(volume, x[0, :, top : top + 5, left : left + 6])
        corners.add((top, left))
    assert {c for c, _ in corners} == set(range(4))
    assert {c for _, c in corners} == set(range(4))
    assert torch.equal(crop(x, split_idx=1), x[:, :, 1:6, 1:7])


def test_batches_and_results_can_be_shown(manifest, model, tmp_path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    dls = loaders(manifest, model)
    dls.show_batch(max_n=2)
    learn = volume_learner(dls, model, TASK, Fit(precision="float32"), path=tmp_path)
    with learn.no_bar(), learn.no_logging():
        learn.show_results(max_n=2)
    assert len([a for a in plt.gcf().axes if a.images]) == 2
    plt.close("all")
