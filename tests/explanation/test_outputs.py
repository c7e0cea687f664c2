"""What an explanation writes: a table, a picture, and overlays that lie where the scan lies."""

import json

import nibabel
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import slivit
from slivit.cli import app
from slivit.explanation import ExplainError
from slivit.explanation.outputs import overlay, overlay_array
from slivit.explanation.sheet import MOST, shown_slices
from slivit.volume import Volume


@pytest.fixture(scope="module")
def tall(volume):
    """A scan of eleven slices, of which the model sees five."""
    array = np.random.default_rng(5).integers(0, 256, (11, 40, 24)).astype(np.uint8)
    return Volume(array, (2.0, 0.5, 0.75), "tall")


def test_slices_that_were_not_seen_are_zero(checkpoint, tall):
    found = slivit.explain(checkpoint, tall)
    seen = found.table()["slice"].tolist()
    assert seen == [1, 3, 5, 7, 9]
    for method, attribution in found.attributions.items():
        array = overlay_array(found, method)
        assert array.shape == (11, 40, 24)
        assert not array[[0, 2, 4, 6, 8, 10]].any()
        if attribution.maps is None:
            assert (array[3] == np.float32(attribution.scores[1])).all()
    assert found.attributions["gradcam"].maps is not None


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("codes", ["LPS", "RAS", "ASL"])
def test_an_overlay_has_the_grid_of_its_nifti_file(checkpoint, tmp_path, axis, codes):
    """The brightest voxel of one slice is marked in the overlay at the same place of the file's own grid."""
    from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform

    shape = (7, 8, 9)
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    affine = np.diag([2.0, 3.0, 4.0, 1.0]) @ inv_ornt_aff(turn, shape)
    affine[:3, 3] += (5, -6, 7)
    array = np.zeros(shape, np.uint8)
    array[2, 3, 4] = 255
    path = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    reading = checkpoint.preprocessing.model_copy(update={"reader": {"axis": axis}, "size": (9, 32, 32)})
    scan = slivit.read_volume(path, axis=axis)
    found = _marked(scan, reading)
    image = overlay(found, "gradcam")
    assert image.shape == shape
    np.testing.assert_allclose(image.affine, nibabel.load(path).affine)
    assert np.unravel_index(np.argmax(image.get_fdata()), shape) == (2, 3, 4)


def _marked(scan, settings):
    """An explanation whose Grad-CAM is the scan itself."""
    from slivit.explanation.result import Attribution, Explanation
    from slivit.explanation.scan import SeenScan
    from slivit.targets.task import Task

    slices = np.arange(scan.depth)
    seen = SeenScan(scan.source, scan.array, slices, scan.shape, scan.spacing, scan.affine, ())
    maps = scan.array.astype(np.float32)
    marked = {"gradcam": Attribution("gradcam", maps.mean((1, 2)).astype(float), maps, {})}
    return Explanation(seen, Task(kind="binary", targets=("t",)), "t", {"prob_t": 0.5}, marked, {}, "mean")


def test_an_overlay_of_another_format_lies_where_the_scan_lies(tmp_path):
    affine = np.array([[0, 0, -0.75, 30], [0, -0.5, 0, 20], [2.0, 0, 0, -9], [0, 0, 0, 1]])
    array = np.zeros((6, 5, 4), np.uint8)
    array[4, 1, 2] = 9
    scan = Volume(array, (2.0, 0.5, 0.75), "a folder of DICOM", affine)
    image = overlay(_marked(scan, None), "gradcam")
    place = np.unravel_index(np.argmax(image.get_fdata()), image.shape)
    np.testing.assert_allclose(image.affine @ (*place, 1), affine @ (4, 1, 2, 1))
    image = overlay(_marked(Volume(array, (2.0, 0.5, 0.75), "frames"), None), "gradcam")
    assert image.header.get_zooms() == pytest.approx((0.75, 0.5, 2.0))
    assert int(image.header["sform_code"]) == 0


def test_saved_whole_and_read_back(checkpoint, tall, tmp_path):
    found = slivit.explain(checkpoint, tall)
    out = found.save(tmp_path / "why")
    table = pd.read_csv(out / "slices.csv")
    assert list(table) == ["slice", "occlusion", "without", "change", "rollout", "gradcam"]
    pd.testing.assert_frame_equal(table, found.table(), check_dtype=False)
    facts = json.loads((out / "explanation.json").read_text())
    assert facts["predictions"]["prob_bright"] == pytest.approx(found.prediction)
    assert facts["methods"]["occlusion"]["top_slice"] == table["slice"][table["occlusion"].argmax()]
    assert (out / "sheet.png").read_bytes().startswith(b"\x89PNG")
    assert found._repr_png_() == (out / "sheet.png").read_bytes()
    assert {p.name for p in out.glob("*.nii.gz")} == {f"{m}.nii.gz" for m in found.attributions}
    with pytest.raises(ExplainError, match="--overwrite"):
        found.save(out)
    found.save(out, overwrite=True)


def test_a_folder_of_other_things_is_never_replaced(checkpoint, tall, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ExplainError, match="other things"):
        slivit.explain(checkpoint, tall, methods=["rollout"]).save(tmp_path, overwrite=True)
    assert (tmp_path / "thesis.txt").is_file()


def test_of_many_slices_the_best_are_shown(checkpoint, tall, network, settings):
    many = Volume(np.random.default_rng(0).integers(0, 256, (60, 32, 32)).astype(np.uint8), None, "many")
    settings = settings.model_copy(update={"size": (60, 32, 32)})
    task = slivit.Task(kind="binary", targets=("bright",))
    found = slivit.explain(network(slices=60), many, task=task, preprocessing=settings, methods=["rollout", "gradcam"])
    shown = shown_slices(found)
    assert len(shown) == MOST
    assert (np.diff(shown) > 0).all()
    assert {found.ranking("rollout")[0], found.ranking("gradcam")[0]} <= set(shown)


def test_the_command(checkpoint, tall, tmp_path):
    path = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(tall.array.transpose(2, 1, 0), np.diag([-0.75, -0.5, 2.0, 1.0])), path)
    out = tmp_path / "out"
    command = ["explain", str(checkpoint.path), str(path), "--out", str(out), "--method", "rollout"]
    done = CliRunner().invoke(app, [*command, "--method", "occlusion", "--fill", "black"])
    assert done.exit_code == 0, (done.output, done.exception)
    assert str(out) in done.output
    assert list(pd.read_csv(out / "slices.csv")) == ["slice", "rollout", "occlusion", "without", "change"]
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 2
    assert "--overwrite" in again.output
    wrong = CliRunner().invoke(app, [*command[:-1], "rolout"])
    assert wrong.exit_code == 2
