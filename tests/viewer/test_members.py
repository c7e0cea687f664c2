"""The members of an ensemble, and masks that people drew, beside a run."""

import shutil

import nibabel
import numpy as np
import pandas as pd
import pytest

from slivit.evaluate.masks import read_cases
from slivit.explanation import ExplainError
from slivit.viewer.bench import Bench
from slivit.viewer.desk import Desk
from slivit.viewer.members import members_of
from slivit.viewer.segments import open_bench, reader_masks


@pytest.fixture(scope="module")
def desk(ensemble_run):
    return Desk([Bench(ensemble_run, device="cpu")])


def test_each_member_predicts_its_part_of_the_ensemble(desk):
    whole, *members = desk.benches
    assert desk.names == ["my_ensemble", "linear of histogram", "forest of voxels2", "kernel of voxels2", "resnet3d_18"]
    opened = whole.open("3")
    said = [member.open("3") for member in members]
    assert all(own.scan is opened.scan for own in said)  # it is read once
    values = [own.predictions["prob_bright"] for own in said]
    assert np.mean(values) == pytest.approx(opened.predictions["prob_bright"], abs=1e-5)
    for member, own, value in zip(members, said, values, strict=True):
        assert member.explain(own, "bright", "occlusion").prediction == pytest.approx(value, abs=1e-5)
        assert member.known[opened.row["path"]]["prob_bright"] == value
    row = next(row for row in desk.worklist("bright")["rows"] if row["key"] == opened.row["path"])
    assert [value for value, _ in row["others"]] == pytest.approx(values, rel=1e-4)


def test_grad_cam_is_of_the_networks_of_an_ensemble_and_of_none_of_its_tables(desk):
    whole, linear, *_, network = desk.benches
    for bench in (whole, network):
        scores = bench.explain(bench.open("3"), "bright", "gradcam").attributions["gradcam"].scores
        assert scores.shape == (6,)
        assert (scores >= 0).all()
    with pytest.raises(ExplainError, match="holds no network"):
        linear.explain(linear.open("3"), "bright", "gradcam")


def test_what_the_run_kept_of_its_members_out_of_fold_counts(ensemble_run, tmp_path):
    run = shutil.copytree(ensemble_run, tmp_path / "run")
    bench = Bench(run)
    path = bench.rows[2]["path"]
    rows = [{"path": path, "member": name, "prob_bright": i / 10} for i, name in enumerate(bench.members)]
    pd.DataFrame(rows).to_csv(run / "members.csv", index=False)
    bench = Bench(run)
    bench.open("2")
    assert [member.known[path]["prob_bright"] for member in members_of(bench)] == [0, 0.1, 0.2, 0.3]


def test_masks_that_people_drew_are_compared_like_those_of_runs(mask_run, tmp_path):
    bench = open_bench(mask_run)
    number = next(n for n, row in enumerate(bench.rows) if row["split"] == "test")
    row = bench.rows[number]
    shutil.copy(row["mask"], tmp_path / "drawn.nii")
    pd.DataFrame([{"path": row["path"], "reader": "Dr. A", "mask": "drawn.nii"}]).to_csv(tmp_path / "a.csv")
    desk = Desk([bench, *reader_masks(tmp_path / "a.csv", bench)])
    assert desk.names == ["my_masks", "Dr. A"]
    reader = desk.benches[1]
    found = reader.masks(reader.open(str(number)))
    own = read_cases(mask_run / "cases.csv").set_index("path").loc[row["path"]]
    assert found.structures[0]["dice"] == 1
    assert found.structures[0]["predicted_ml"] == pytest.approx(own["true_ml"])
    assert not found.layers["difference"].any()
    other = next(str(n) for n in range(len(bench.rows)) if n != number)
    with pytest.raises(Exception, match="no mask of this scan was drawn"):
        reader.masks(reader.open(other))
    assert nibabel.Nifti1Image.from_bytes(reader.layer(reader.open(str(number)), "predicted")).shape
