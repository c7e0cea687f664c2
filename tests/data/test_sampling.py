"""Rarer classes drawn as often as the most frequent one."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slivit.data.blocks import volume_dataloaders
from slivit.data.manifest import read_manifest
from slivit.data.preprocessing import Preprocessing
from slivit.data.sampling import item_classes, oversampled
from slivit.errors import SlivitError
from slivit.models.registry import ModelSpec
from slivit.targets.task import Task


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(0, 9))
def test_every_class_is_drawn_equally_often_and_every_item_at_least_once(classes, seed):
    drawn = oversampled(classes, random.Random(seed))
    times = Counter(drawn)
    most = max(Counter(classes).values())
    assert set(Counter(classes[i] for i in drawn).values()) == {most}
    assert set(times) == set(range(len(classes)))
    for name in set(classes):
        own = [times[i] for i, c in enumerate(classes) if c == name]
        assert max(own) - min(own) <= 1


def test_only_classes_can_be_balanced():
    rows = [{"size": 3.0}]
    with pytest.raises(SlivitError, match="not for a regression task"):
        item_classes(rows, Task(kind="regression", targets=("size",)))


def test_a_row_of_several_labels_counts_as_its_rarest():
    task = Task(kind="multilabel", targets=("often", "rare"))
    rows = [{"often": 1, "rare": 0}] * 3 + [
        {"often": 1, "rare": 1},
        {"often": 0, "rare": 0},
        {"often": 0, "rare": None},
    ]
    classes = item_classes(rows, task)
    assert classes == [0, 0, 0, 1, -1, -1]
    drawn = [rows[i] for i in oversampled(classes, random.Random(0))]
    assert (sum(r["often"] for r in drawn), sum(r["rare"] or 0 for r in drawn), len(drawn)) == (6, 3, 9)


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_loaders_balance_training_alone(blob_scans, tmp_path, kind):
    import pandas as pd

    target = {"binary": "bright", "multiclass": "grade"}[kind]
    table = pd.read_csv(blob_scans)
    rare = table[(table["split"] == "train") & (table[target].isin((1, "high")))].index[3:]
    table = table.drop(index=rare)
    table["path"] = [str(blob_scans.parent / p) for p in table["path"]]
    table.to_csv(tmp_path / "rare.csv", index=False)
    task = Task(kind=kind, targets=(target,))
    manifest = read_manifest(tmp_path / "rare.csv", task)
    manifest = manifest.with_task(task.fitted(manifest.rows("train")))
    spec = ModelSpec("made", input="volume", size=(2, 8, 8), mean=(0.5,), std=(0.5,))
    options = {"batch_size": 1, "device": "cpu"}
    dls = volume_dataloaders(manifest, spec, Preprocessing(size=spec.size), oversample=True, **options)
    counts = Counter(float(y.flatten()[0]) for _, y in dls.train)
    assert len(counts) == 2
    assert len(set(counts.values())) == 1
    plain = volume_dataloaders(manifest, spec, Preprocessing(size=spec.size), **options)
    assert len(plain.train) == len(manifest.rows("train")) < len(dls.train)
    assert len(dls.valid) == len(plain.valid)
