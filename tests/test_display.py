"""What Jupyter shows: pictures of the right size and proportions, and tables with what matters."""

import base64
import io
import json
import re

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import slivit
from slivit.display import mask_image, middle_of, volume_image

RAS = nib.orientations.axcodes2ornt("RAS")


def picture_of(html):
    data = re.search(r"data:image/jpeg;base64,([^\"]+)", html)[1]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_a_volume_with_geometry_shows_three_planes_in_true_proportions():
    array = np.zeros((40, 100, 50), np.float32)
    array[20], array[:, 50], array[:, :, 25] = 1, 1, 1  # the planes through the middle are white
    image = volume_image(array, (5.0, 1.0, 2.0))
    assert image.shape == (220, 3 * 220 + 2 * 3)
    assert (image == 255).all()  # each plane is shown whole, and what is around it is white too
    array[20, :5] = 0
    top = volume_image(array, (5.0, 1.0, 2.0))[:, :220]  # slice 20: 100 mm x 100 mm
    assert top[:8].mean() < 40
    assert top[20:].mean() > 250


@pytest.mark.parametrize(("depth", "shape"), [(1, (220, 220)), (12, (243, 735)), (40, (243, 735))])
def test_a_volume_without_geometry_shows_a_contact_sheet(depth, shape):
    array = np.random.default_rng(0).integers(0, 255, (depth, 32, 32), np.uint8)
    assert volume_image(array, None).shape == shape


@pytest.mark.parametrize("spacing", [(5.0, 1.0, 2.0), None])
def test_a_mask_lies_over_the_scan_in_its_colour(spacing):
    array, mask = np.zeros((40, 100, 50), np.float32), np.zeros((40, 100, 50), np.uint8)
    array[:, 50:], mask[10:31, 20:81, 5:46] = 100, 1
    assert middle_of(mask) == (20, 50, 25)
    assert middle_of(np.zeros((4, 6, 8))) == (2, 3, 4)
    image = mask_image(array, mask, [(200, 0, 0)], spacing, None, (20, 50, 25)).astype(int)
    assert image.shape[:2] == volume_image(array, spacing).shape
    painted = (image[..., 0] - image[..., 1]) == 100  # half of the colour
    assert {tuple(c) for c in image[painted]} >= {(100, 0, 0), (227, 127, 127)}
    assert 0.02 < painted.mean() < 0.5


def test_a_volume_shows_itself(blob_scans):
    html = slivit.read_volume(blob_scans.parent / "scan1.nii")._repr_html_()
    assert picture_of(html).ndim == 2
    assert "6 x 24 x 24" in html
    assert "3 x 1 x 1 mm" in html
    assert len(html) < 100_000


def test_text_of_files_cannot_bring_in_html():
    volume = slivit.Volume(np.zeros((1, 4, 4)), None, "<script>alert(1)</script>", notes=('"><img>',))
    html = volume._repr_html_()
    assert "<script>" not in html
    assert html.count("<img") == 1


def test_a_manifest_and_its_task_show_their_counts(blob_scans):
    task = slivit.Task(kind="binary", targets=("bright",))
    html = slivit.read_manifest(blob_scans, task)._repr_html_()
    assert "0: 12, 1: 12" in html
    assert "scan0.nii" in html
    assert str(blob_scans.parent) not in html.partition("<table>")[2]
    size = slivit.Task(kind="regression", targets=("size",), unit="px")
    manifest = slivit.read_manifest(blob_scans, size)
    assert "±" in manifest._repr_html_()
    assert "mean of training" in size.fitted(manifest.rows("train"))._repr_html_()


def test_a_checkpoint_and_a_run_show_what_they_are(tmp_path, made_up_predictions):
    from slivit.evaluate.measure import measure, write_results
    from slivit.evaluate.recipe import Testing

    model = slivit.create_model("image_classifier", 1, backbone="resnet10t", image_size=32, stride=16)
    table, task = made_up_predictions("binary")
    settings = slivit.Preprocessing(size=model.spec.size)
    training = {"scans": {"train": 7}, "started_from": {"folder": "runs/before"}}
    slivit.save_checkpoint(tmp_path / "checkpoint", model, task, settings, training)
    html = slivit.load_checkpoint(tmp_path)._repr_html_()
    assert "image_classifier" in html
    assert "runs/before" in html
    assert "7 train" in html
    (tmp_path / "recipe.toml").write_text('out = "x"\n[task]\ntargets = ["drusen"]\n')
    run = slivit.Run(tmp_path)
    assert not run.finished
    assert "unfinished" in run._repr_html_()
    write_results(tmp_path, table, task, measure(table, task, Testing(draws=20)))
    run = slivit.Run(tmp_path)
    value = json.loads((tmp_path / "metrics.json").read_text())["splits"]["test"]["metrics"]["roc_auc"]["value"]
    assert f"{value:.3f}" in run._repr_html_()
    assert len(run.predictions) == len(table)
    assert run.checkpoint().task == task
    with pytest.raises(slivit.SlivitError, match=r"no history\.csv"):
        run.history  # noqa: B018
    with pytest.raises(slivit.SlivitError, match="no run there"):
        slivit.Run(tmp_path / "nothing")


@pytest.fixture(scope="module")
def learners(blob_scans):
    """A Learner of each kind of task on the same scans, untrained."""

    def make(kind, *targets):
        task = slivit.Task(kind=kind, targets=targets)
        manifest = slivit.read_manifest(blob_scans, task)
        task = task.fitted(manifest.rows("train"))
        manifest = manifest.with_task(task)
        model = slivit.create_model(
            "slivit", task.out_dim, backbone="resnet10t", slices=4, image_size=32, stride=16, vit_depth=1
        )
        dls = slivit.volume_dataloaders(manifest, model.spec, slivit.Preprocessing(size=model.spec.size), batch_size=4)
        return slivit.volume_learner(dls, model, task, seed=0)

    return {"binary": make("binary", "bright"), "multiclass": make("multiclass", "grade"),
            "multilabel": make("multilabel", "bright", "both"), "regression": make("regression", "size")}  # fmt: skip


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", "regression"])
def test_top_losses_name_and_draw_the_scans(kind, learners, monkeypatch):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    learn = learners[kind]
    with learn.no_bar():
        found = slivit.VolumeInterpretation.from_learner(learn)
        table = found.table()
        assert len(table) == 8
        assert table["loss"].is_monotonic_decreasing
        assert table["path"].is_unique
        assert len(found.table(99)) == 8, "there are no more than there are"
        probabilities, known = learn.get_preds(ds_idx=1)
        learn.loss_func.reduction = "none"
        losses = learn.loss_func(_logits(learn, probabilities), known)
        learn.loss_func.reduction = "mean"
        np.testing.assert_allclose(table.loc[range(8), "loss"], losses, rtol=1e-3, atol=1e-5)
        found.plot_top_losses(3)
    titles = [ax.get_title() for ax in plt.gcf().axes if ax.get_title()]
    plt.close("all")
    assert len(titles) == 3
    assert f"loss {table['loss'].iloc[0]:.3f}" in titles[0]


def _logits(learn, predictions):
    kind = learn.loss_func.task.kind
    if kind == "regression":
        return (predictions - learn.loss_func.center) / learn.loss_func.spread
    return predictions.log() if kind == "multiclass" else predictions.logit()


def test_confusion_matrices_agree_with_scikit_learn(learners):
    from sklearn.metrics import confusion_matrix

    for kind in ("binary", "multiclass"):
        learn = learners[kind]
        with learn.no_bar():
            found = slivit.VolumeInterpretation.from_learner(learn)
            p, y = learn.get_preds(ds_idx=1)
            called = (p.argmax(1) if kind == "multiclass" else (p[:, 0] >= 0.5).int()).numpy()
            expected = confusion_matrix(y.flatten().numpy().astype(int), called, labels=[0, 1])
            np.testing.assert_array_equal(found.confusion_matrix(), expected)
    with learners["regression"].no_bar(), pytest.raises(slivit.SlivitError, match="no confusion matrix"):
        slivit.VolumeInterpretation.from_learner(learners["regression"]).confusion_matrix()


def test_show_batch_and_show_results_title_every_volume(learners):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    learn = learners["binary"]
    learn.dls.show_batch(max_n=4)
    assert sum(ax.get_title().startswith("bright") for ax in plt.gcf().axes) == 4
    with learn.no_bar():
        learn.show_results(max_n=3)
    assert sum("predicted: bright" in ax.get_title() for ax in plt.gcf().axes) == 3
    plt.close("all")


def test_frames_of_a_run_are_data_frames(tmp_path):
    (tmp_path / "recipe.toml").write_text('out = "x"\n')
    pd.DataFrame({"epoch": [0], "valid_loss": [0.5]}).to_csv(tmp_path / "history.csv", index=False)
    assert slivit.Run(tmp_path).history["valid_loss"].tolist() == [0.5]


@pytest.mark.parametrize("layout", ["LPS", "RAS", "SPL", "AIR", "ILP", "PSR"])
def test_a_scan_is_shown_as_radiologists_view_it_however_it_is_stored(layout):
    patient = np.zeros((40, 30, 20), np.uint8)  # to the right, to the front, to the head
    patient[30:], patient[:, 25:], patient[:, :, 17:] = 60, 120, 240
    turn = nib.orientations.ornt_transform(RAS, nib.orientations.axcodes2ornt(layout))
    array = nib.orientations.apply_orientation(patient, turn)
    affine = nib.orientations.inv_ornt_aff(turn, patient.shape)
    image = volume_image(array, (1.0, 1.0, 1.0), affine)
    assert image.shape == (165, 3 * 220 + 2 * 3)
    axial, coronal, sagittal = (image[:, i * 223 : i * 223 + 220].astype(int) for i in range(3))
    assert axial[10, 110] > axial[150, 110], "front up"
    assert axial[150, 10] > axial[150, 210], "the patient's right on the left"
    assert coronal[35, 110] > coronal[120, 110], "head up"
    assert coronal[120, 10] > coronal[120, 210], "the patient's right on the left"
    assert sagittal[15, 110] > sagittal[140, 110], "head up"
    assert sagittal[140, 10] > sagittal[140, 210], "front on the left"


@pytest.mark.real_data
def test_real_ct_looks_alike_as_nifti_and_as_dicom(real_data):
    folder = real_data / "ibsi_sts_008"
    volumes = [slivit.read_volume(folder / name) for name in ("nifti/CT_image.nii.gz", "dicom/CT")]
    nifti, dicom = (volume_image(v.array, v.spacing, v.affine).astype(int) for v in volumes)
    assert np.abs(nifti - dicom).max() <= 1
    shoulder = nifti[40:180, :220]  # of the left arm, seen from the feet
    assert shoulder[:, :40].mean() > shoulder[:, -30:].mean() + 50, "trunk on the left, air on the right"
