"""Tables whose scans have several channels: addresses, checks, the cache, batches, and what `slivit check` says."""

from __future__ import annotations

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch

from slivit import Preprocessing, Task, load_slices, read_manifest, volume_dataloaders
from slivit.data.augmentation import Augmentation, apply_augmentation, draw_augmentation
from slivit.data.cache import SliceCache
from slivit.data.layout import from_input, to_input
from slivit.errors import ManifestError, SlivitError
from slivit.models.registry import create_model
from slivit.report.check import run_check

TASK = Task(kind="binary", targets=("ill",))
SETTINGS = Preprocessing(size=(4, 16, 16), channels=("t1", "t2"))


@pytest.fixture
def table(tmp_path, rng):
    rows = []
    for number in range(9):
        row = {"patient": f"P{number}", "ill": number % 2, "split": ("train", "val", "test")[number % 3]}
        for name in ("t1", "t2"):
            row[name] = f"{name}_{number}.nii"
            array = rng.integers(0, 100 if name == "t1" else 9000, (16, 16, 4)).astype(np.int16)
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / row[name])
        rows.append(row)
    return pd.DataFrame(rows)


def manifest(table, folder, **options):
    table.to_csv(folder / "scans.csv", index=False)
    return read_manifest(folder / "scans.csv", TASK, channels=("t1", "t2"), **options)


def test_columns_of_paths_become_one_address_and_are_found_again(table, tmp_path):
    found = manifest(table.assign(axis="axial"), tmp_path)
    row = found.rows("train")[0]
    assert row["path"] == f"{tmp_path}/t1_0.nii#axis=axial | {tmp_path}/t2_0.nii#axis=axial"
    assert row["t2"] == f"{tmp_path}/t2_0.nii"
    (tmp_path / "elsewhere").mkdir()
    found.to_csv(tmp_path / "elsewhere/split.csv")
    for channels in (("t1", "t2"), ()):
        again = read_manifest(tmp_path / "elsewhere/split.csv", TASK, channels=channels)
        assert again.frame["path"].tolist() == found.frame["path"].tolist()


def test_everything_wrong_is_told_by_row(table, tmp_path):
    table.loc[0, "t2"] = "t2_9.nii"
    table.loc[1, "t2"] = table.loc[1, "t1"]
    table.loc[2, "t1"] = "NA"
    table.loc[4] = table.loc[3].where(table.columns.isin(["t1", "t2"]), table.loc[4])
    with pytest.raises(ManifestError) as told:
        manifest(table, tmp_path)
    for said in (
        'row 2: scan "',
        't2_9.nii" does not exist. Did you mean',
        "row 3: t1 and t2 name one file twice",
        "row 4: t1 is empty",
        "is already in row 5",
    ):
        assert said in str(told.value)


def test_a_channel_may_be_a_part_of_a_file(table, tmp_path, rng):
    four = rng.integers(0, 99, (16, 16, 4, 3)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(four, np.eye(4)), tmp_path / "four.nii")
    found = manifest(table.assign(t1="four.nii#frame=2"), tmp_path)
    stack = load_slices(found.rows("train")[0]["path"], SETTINGS)
    nibabel.save(nibabel.Nifti1Image(four[..., 2], np.eye(4)), tmp_path / "alone.nii")
    alone = load_slices(str(tmp_path / "alone.nii"), SETTINGS.model_copy(update={"channels": ()}))
    np.testing.assert_array_equal(stack[0], alone)


def test_contrast_is_stretched_channel_by_channel(table, tmp_path):
    stack = load_slices(manifest(table, tmp_path).rows("train")[0]["path"], SETTINGS)
    assert stack.shape == (2, 4, 16, 16)
    assert all(abs(float(channel.mean()) - 127) < 10 for channel in stack)


def test_the_cache_tells_channels_and_their_order(table, tmp_path):
    cache = SliceCache(tmp_path / "cache")
    path = manifest(table, tmp_path).rows("train")[0]["path"]
    turned = " | ".join(reversed(path.split(" | ")))
    first = cache.load(path, SETTINGS)
    np.testing.assert_array_equal(cache.load(path, SETTINGS), load_slices(path, SETTINGS))
    np.testing.assert_array_equal(cache.load(turned, SETTINGS), first[::-1])
    assert cache.info().scans == 2
    nibabel.save(nibabel.Nifti1Image(np.ones((16, 16, 4), np.int16), np.eye(4)), tmp_path / "t2_0.nii")
    assert (cache.load(path, SETTINGS)[1] == 0).all()


def test_batches_have_channels_and_are_changed_alike(table, tmp_path):
    model = create_model(
        "resnet3d_18", 1, slices=4, image_size=16, depths=(1, 1, 1, 1), width=4, in_chans=2, mean=0.4, std=0.2
    )
    changes = Augmentation(rotate=30, flip_slices=True)
    dls = volume_dataloaders(manifest(table, tmp_path), model.spec, SETTINGS, batch_size=3, augmentation=changes)
    x, _ = dls.one_batch()
    assert x.shape == (3, 2, 4, 16, 16)
    assert model(x.as_subclass(torch.Tensor).cpu()).shape == (3, 1)
    dls.show_batch()
    stacks = torch.randint(0, 255, (2, 3, 4, 16, 16)).float()
    draw = draw_augmentation(changes, 2, 4)
    together = apply_augmentation(stacks, draw)
    for channel in range(3):
        torch.testing.assert_close(together[:, channel], apply_augmentation(stacks[:, channel], draw))
    there_and_back = from_input(to_input(stacks, "volume", (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)), 4, (0.4, 0.5, 0.6),
                                (0.2, 0.3, 0.4))  # fmt: skip
    torch.testing.assert_close(there_and_back, stacks, atol=1e-3, rtol=0)
    with pytest.raises(SlivitError, match="takes 3 channels, and the scans have 2"):
        to_input(stacks[:, :2], "volume", (0.5,) * 3, (0.5,) * 3)


def test_the_check_knows_channels(table, tmp_path):
    nibabel.save(nibabel.load(tmp_path / "t1_4.nii"), tmp_path / "t2_4.nii")
    nibabel.save(nibabel.Nifti1Image(np.ones((16, 16, 4), np.int16), np.eye(4)), tmp_path / "t2_5.nii")
    moved = np.diag([1.0, 1, 2, 1])
    nibabel.save(nibabel.Nifti1Image(np.ones((16, 16, 4), np.int16), moved), tmp_path / "t2_6.nii")
    table.to_csv(tmp_path / "scans.csv", index=False)
    result = run_check(tmp_path / "scans.csv", tmp_path / "check", TASK, channels=("t1", "t2"), workers=0)
    told = " ".join(finding.text for finding in result.findings)
    assert "channels 0 and 1 hold the same values" in told.casefold()
    assert "channel 1 holds one value alone" in told.casefold()
    assert "does not lie on the grid" in result.table["problem"].iloc[6]
    assert result.table["channels"].tolist()[:6] == [2] * 6
    assert "2 channels of 4 × 16 × 16" in (tmp_path / "check/check.html").read_text("utf-8")
