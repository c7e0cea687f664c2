"""Runs that segment, on the page: what is told of cases, masks, their difference and Dice."""

import shutil
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from slivit.errors import SlivitError
from slivit.evaluate.masks import read_cases
from slivit.predict.masks import segment
from slivit.targets.task import Task
from slivit.viewer import notebook
from slivit.viewer.desk import Desk
from slivit.viewer.pictures import COLOURS, mask_png
from slivit.viewer.segments import DIFFERENCE, case_facts, difference, masks_facts, open_bench, painted


@pytest.fixture(scope="module")
def bench(mask_run):
    return open_bench(mask_run)


def number_of(bench, split):
    return next(n for n, row in enumerate(bench.rows) if row["split"] == split)


def test_the_worklist_has_dice_and_volumes_of_the_runs_cases(bench, mask_run):
    cases = read_cases(mask_run / "cases.csv").set_index("path")
    found = Desk([bench]).worklist("mask")
    assert len(found["rows"]) == len(bench.rows)
    known = [row for row in found["rows"] if row["value"] is not None]
    assert {row["key"] for row in known} == set(cases.index)
    for row in known:
        own = cases.loc[row["key"]]
        assert row["value"] == pytest.approx(own["dice"], rel=1e-4)
        known_parts = [own["dice"], own["predicted_ml"], own["true_ml"], own["hd95"]]
        assert row["parts"] == [pytest.approx(known_parts, rel=1e-4)]
        assert row["hd95"] == pytest.approx(own["hd95"], rel=1e-4)
        assert row["call"] == row["truth"] == ""


def test_the_masks_of_a_case_are_the_stored_ones_and_their_dice_that_of_the_table(bench, mask_run):
    opened = bench.open(str(number_of(bench, "test")))
    found = bench.masks(opened)
    assert bench.has_masks(opened)
    own = read_cases(mask_run / "cases.csv").set_index("path").loc[opened.row["path"]]
    (structure,) = found.structures
    for name in ("dice", "true_ml", "predicted_ml"):
        assert structure[name] == pytest.approx(own[name], abs=1e-6)
    served = nibabel.Nifti1Image.from_bytes(bench.layer(opened, "true"))
    stored = nibabel.load(opened.row["mask"])
    turned = nibabel.as_closest_canonical
    np.testing.assert_array_equal(np.asarray(turned(served).dataobj), np.asarray(turned(stored).dataobj))
    np.testing.assert_allclose(turned(served).affine, turned(stored).affine, atol=1e-5)
    written = nibabel.load(mask_run / "masks" / f"{Path(opened.row['path']).stem}.nii.gz")
    layer = nibabel.Nifti1Image.from_bytes(bench.layer(opened, "predicted"))
    np.testing.assert_array_equal(np.asarray(turned(layer).dataobj), np.asarray(turned(written).dataobj))
    assert bench.layer(opened, "another") is None
    assert case_facts(bench, opened)["shown"] == f"{own['dice']:.3f}"
    folded = case_facts(bench, replace(opened, row={**opened.row, "split": "train"}))  # the kept model has seen all
    assert any("by the network of its fold" in sentence for sentence in folded["sentences"])
    assert masks_facts(found)["layers"] == ["predicted", "true", "difference"]


def test_a_case_without_a_stored_mask_is_segmented_on_demand(bench, tmp_path):
    row = number_of(bench, "train")
    opened = bench.open(str(row))
    assert case_facts(bench, opened)["shown"] == "\u2013"
    assert "it was predicted now" in " ".join(bench.masks(opened).notes)
    expected = segment(bench.engine, bench.rows[row]).masks
    np.testing.assert_array_equal(bench.masks(opened).layers["predicted"] > 0, expected[0])
    shutil.copy(bench.rows[row]["path"], tmp_path)
    dropped = bench.open_files(tmp_path)
    shutil.rmtree(tmp_path)
    found = bench.masks(dropped)
    np.testing.assert_array_equal(found.layers["predicted"] > 0, expected[0])
    assert list(found.layers) == ["predicted"]
    assert found.structures[0]["dice"] is None


def test_regions_are_painted_the_smallest_last_and_differences_are_told_apart():
    task = Task(kind="segmentation", labels={"core": 1, "edema": 2}, regions={"inner": (1,), "whole": (1, 2)})
    masks = np.zeros((2, 1, 1, 4), bool)
    masks[1, ..., :3] = masks[0, ..., 0] = True
    true = painted(masks, task)
    assert true.ravel().tolist() == [1, 2, 2, 0]
    predicted = np.array([[[2, 2, 0, 1]]], np.uint8)
    assert [DIFFERENCE[v - 1] if v else "" for v in difference(true, predicted).ravel()] == [
        "another structure", "", "missed", "added"
    ]  # fmt: skip


def test_two_runs_that_segment_are_compared(bench, mask_run, tmp_path):
    second = open_bench(shutil.copytree(mask_run, tmp_path / "second"))
    second.known = {key: {**row, "dice": row["dice"] + 0.1} for key, row in second.known.items()}
    rows = [row for row in Desk([bench, second]).worklist("mask")["rows"] if row["value"] is not None]
    for row in rows:
        assert row["others"][0][0] == pytest.approx(row["value"] + 0.1, abs=1e-4)
        assert row["spread"] == pytest.approx(0.05, abs=1e-4)


def test_a_mask_over_a_slice_is_painted_where_the_mask_is(bench):
    import cv2

    opened = bench.open(str(number_of(bench, "test")))
    layers = bench.masks(opened).layers
    number = int(np.argmax(layers["true"].sum((1, 2))))
    data = mask_png(opened.scan, layers["true"], number, COLOURS)
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    inside = layers["true"][number] > 0
    assert inside.any()
    np.testing.assert_array_equal(picture[..., 3] > 0, inside)
    assert (picture[inside][:, :3] == COLOURS[0][::-1]).all()
    assert mask_png(opened.scan, layers["true"], 99, COLOURS) is None
    padded = replace(
        opened.scan, stack=np.zeros((6, 40, 48), np.uint8), grid=(24, 24)
    )  # 8 rows, 12 columns on each side
    picture = cv2.imdecode(np.frombuffer(mask_png(padded, layers["true"], number, COLOURS), np.uint8), -1)
    np.testing.assert_array_equal(picture[8:-8, 12:-12, 3] > 0, inside)
    assert picture.shape == (40, 48, 4)


def test_a_notebook_shows_the_masks_of_a_scan(bench, mask_run):
    number = number_of(bench, "test")
    shown = notebook.view(mask_run, number, target=None, method="gradcam", device="cpu")
    page = shown._repr_mimebundle_()["text/html"]
    dice = bench.known[str(bench.rows[number]["path"])]["dice"]
    assert f"mean Dice {dice:.3f}" in repr(shown)
    assert [page.index(f'alt="{name}"') for name in notebook.ORDER] == sorted(
        page.index(f'alt="{name}"') for name in notebook.ORDER
    )
    assert "blob" in page
    with pytest.raises(SlivitError, match="leave target out"):
        notebook.view(mask_run, number, target="blob", method="gradcam", device="cpu")
