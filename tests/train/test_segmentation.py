"""Segmentation from scans and masks to measured masks: trained, resumed, evaluated, predicted, refused."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import nibabel
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch

import slivit
from slivit.errors import RecipeError, SlivitError
from slivit.evaluate import command as evaluating
from slivit.evaluate import compare as comparing
from slivit.evaluate.recipe import Testing
from slivit.experiments import curve, study
from slivit.folder import RunFolder
from slivit.models.recipe import Model
from slivit.models.registry import model_spec
from slivit.predict import command as predicting
from slivit.predict.engine import Engine
from slivit.predict.masks import segment
from slivit.recipe import check_recipe, finetune, load_recipe
from slivit.sharing import command as exporting
from slivit.train import callbacks
from slivit.train.copies import average_of
from slivit.train.recipe import FinetuneRecipe
from slivit.train.run import Trial, fitted_preprocessing, labelled_scans

TASK = {"kind": "segmentation", "labels": {"blob": 1}}


def recipe(blob_scans, out, **changes):
    values = {
        "out": str(out),
        "data": {"manifest": str(blob_scans.with_name("masks.csv")), "workers": 0},
        "task": TASK,
        "model": {"name": "unet", "slices": 4, "image_size": 16, "filters": [4, 8], "units": 1},
        "preprocessing": {"stretch": False, "window": [0, 350]},
        "patches": {"steps": 4, "mirror": 0.5, "scale": 0.1},
        "fit": {"epochs": 2, "lr": 1e-2, "schedule": "cosine", "batch_size": 2, "monitor": "dice", "patience": 0,
                "device": "cpu", "precision": "float32"},
        "testing": {"draws": 20, "precision": "float32"},
    }  # fmt: skip
    for key, value in changes.items():
        values[key] = values.get(key, {}) | value
    return check_recipe(FinetuneRecipe, values, "the tests")


@pytest.fixture(scope="module")
def run(blob_scans, tmp_path_factory):
    pytest.importorskip("monai")
    return finetune(recipe(blob_scans, tmp_path_factory.mktemp("masks") / "run"))


def test_a_run_ends_in_cases_masks_and_metrics(run, blob_scans):
    assert {"cases.csv", "metrics.json", "masks", "checkpoint", "history.csv"} <= {p.name for p in run.iterdir()}
    assert list(pd.read_csv(run / "history.csv")) == ["epoch", "train_loss", "valid_loss", "dice"]
    cases = pd.read_csv(run / "cases.csv")
    assert cases["split"].value_counts().to_dict() == {"val": 4, "test": 4}
    for row in cases.to_dict("records"):
        found = np.asarray(nibabel.load(run / "masks" / f"{row['case']}.nii.gz").dataobj) == 1
        true = np.asarray(nibabel.load(row["path"].replace("scan", "mask")).dataobj) == 1
        assert row["dice"] == pytest.approx(2 * (found & true).sum() / (found.sum() + true.sum()))
        assert row["true_ml"] == pytest.approx(true.sum() * 3 / 1000)
    metrics = json.loads((run / "metrics.json").read_text())
    test = metrics["splits"]["test"]
    assert test["metrics"]["dice"]["value"] == pytest.approx(cases.loc[cases["split"] == "test", "dice"].mean())
    assert test["structures"]["blob"]["dice"]["value"] == test["metrics"]["dice"]["value"]


class Dies(callbacks.Callback):
    order = callbacks.SaveProgress.order + 1

    def after_epoch(self):
        raise KeyboardInterrupt


def dies_after_an_epoch(chosen):
    scans = labelled_scans(chosen)
    with RunFolder.opened(chosen) as folder:
        folder.begin()
        Trial(scans, fitted_preprocessing(chosen), cbs=[Dies()])(chosen, folder.path)


def test_a_run_that_died_goes_on_as_if_it_had_not(run, blob_scans, tmp_path):
    """The recipe's own file is all that is needed."""
    again = recipe(blob_scans, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        dies_after_an_epoch(again)
    resumed = finetune(load_recipe("finetune", tmp_path / "run" / "recipe.toml"), resume=True)
    own, other = (pd.read_csv(r / "history.csv").to_numpy() for r in (run, resumed))
    np.testing.assert_allclose(own, other, rtol=1e-4)


class Full(callbacks.Callback):
    """Memory for so many patches at a time."""

    def __init__(self, most, network):
        self.most, self.hook = most, network.register_forward_pre_hook(self.look)

    def look(self, network, inputs):
        if len(inputs[0]) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.mark.parametrize("loss", ["dice_ce", "vis_mae"])
def test_patches_and_windows_too_many_for_memory_are_run_in_parts(blob_scans, tmp_path, caplog, loss):
    pytest.importorskip("monai")

    def trained(most):
        own = recipe(
            blob_scans, tmp_path, task={"loss": loss}, fit={"batch_size": 4, "optimiser": "sgd"}, patches={"steps": 2}
        )
        learn = Trial(labelled_scans(own), fitted_preprocessing(own)).learner(own, tmp_path)
        learn.add_cb(Full(most, learn.model))
        callbacks.seed_everything(0)
        with learn.no_bar(), learn.no_logging():
            learn.fit(1, 1e-2)
        return learn

    if loss == "vis_mae":  # its Dice is one over all patches
        with pytest.raises(SlivitError, match="not enough memory for 4 at once"):
            trained(1)
        return
    whole, parts = trained(4), trained(1)
    assert (parts.at_once, parts.windows_at_once) == (1, 1)
    assert "1 of its windows at once" in caplog.text
    for ours, theirs in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
    assert list(parts.recorder.values[0]) == pytest.approx(list(whole.recorder.values[0]), abs=1e-4)


def test_evaluation_writes_a_page_with_overlays(run, tmp_path):
    table = pd.read_csv(run / "split.csv").assign(scanner=lambda rows: np.where(rows.index % 2, "A", "B"))
    table.to_csv(tmp_path / "scanners.csv", index=False)
    options = ["testing.draws=20", "device=cpu", "testing.site=scanner"]
    chosen = evaluating.recipe_for(str(run), options, str(tmp_path / "scanners.csv"), tmp_path / "evaluation")
    folder = evaluating.run(chosen)
    page = (folder / "report" / "index.html").read_text()
    parts = ("figure-case-best", "figure-case-worst", "figure-box-dice", "figure-volume-1", "figure-subgroups-dice")
    for part in (*parts, "HD95", "Sites side by side"):
        assert part in page
    cases = pd.read_csv(folder / "cases.csv")
    assert len(cases) == 4
    groups = json.loads((folder / "metrics.json").read_text())["splits"]["test"]["subgroups"]["columns"]["scanner"]
    for name, group in groups.items():
        assert group["metrics"]["dice"]["value"] == pytest.approx(cases.loc[cases["scanner"] == name, "dice"].mean())


def test_a_scan_without_spacing_has_a_dice_and_no_distance(run, blob_scans, tmp_path):
    scan, mask = (np.asarray(nibabel.load(blob_scans.with_name(f"{n}33.nii")).dataobj) for n in ("scan", "mask"))
    for name, array in (("scan", scan.astype(np.uint16)), ("mask", mask)):
        tifffile.imwrite(tmp_path / f"{name}.tif", array.transpose(2, 1, 0), photometric="minisblack")
    pd.DataFrame([{"path": "scan.tif", "mask": "mask.tif", "patient": "p"}]).to_csv(tmp_path / "t.csv", index=False)
    chosen = evaluating.recipe_for(str(run), ["testing.draws=20"], str(tmp_path / "t.csv"), tmp_path / "e")
    (row,) = pd.read_csv(evaluating.run(chosen) / "cases.csv").to_dict("records")
    assert row["dice"] >= 0
    assert pd.isna(row["hd95"])
    assert pd.isna(row["true_ml"])
    assert "no spacing in mm" in row["notes"]
    assert "figure-case-best" in (tmp_path / "e" / "report" / "index.html").read_text()


@pytest.mark.slow
def test_one_bad_scan_and_one_bad_mask_stop_nothing(run, blob_scans, tmp_path):
    (tmp_path / "bad.nii").write_bytes(b"no scan at all")
    good = [blob_scans.with_name(f"scan{i}.nii") for i in (33, 35)]
    out = tmp_path / "volumes.csv"
    command = [sys.executable, "-m", "slivit", "predict", str(run), *map(str, good), str(tmp_path / "bad.nii")]
    done = subprocess.run([*command, "--out", str(out), "--device", "cpu"], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    table = pd.read_csv(out)
    assert list(table["error"].notna()) == [False, False, True]
    assert table["ml_blob"].notna().tolist() == [True, True, False]
    found = np.asarray(nibabel.load(tmp_path / "masks" / "scan33.nii.gz").dataobj)
    assert table["ml_blob"][0] == pytest.approx((found == 1).sum() * 3 / 1000)

    rows = pd.read_csv(blob_scans.with_name("masks.csv")).query("split == 'test'").drop(columns="split")
    rows["path"] = [str(blob_scans.with_name(p)) for p in rows["path"]]
    rows["mask"] = [str(blob_scans.with_name(p)) for p in rows["mask"]]
    nibabel.save(
        nibabel.Nifti1Image(np.full((24, 24, 6), 7, np.uint8), np.diag([1, 1, 3, 1.0])), bad := tmp_path / "m.nii"
    )
    rows.iloc[1, rows.columns.get_loc("mask")] = str(bad)
    rows.to_csv(tmp_path / "other.csv", index=False)
    chosen = evaluating.recipe_for(str(run), ["testing.draws=20"], str(tmp_path / "other.csv"), tmp_path / "e")
    folder = evaluating.run(chosen)
    cases = pd.read_csv(folder / "cases.csv")
    assert cases["error"].notna().tolist() == [False, True, False, False]
    assert json.loads((folder / "metrics.json").read_text())["splits"]["test"]["counts"]["mask"] == {
        "n": 3,
        "missing": 1,
    }


def test_without_a_place_for_masks_nothing_is_predicted(run, blob_scans):
    with pytest.raises(SlivitError, match="--out"):
        predicting.run(run, [str(blob_scans.with_name("scan33.nii"))])


def test_settings_that_would_do_nothing_are_refused(blob_scans, tmp_path):
    for changes, words in (
        ({"augmentation": {"flip_horizontal": True}}, r"augmentation.flip_horizontal.*\[patches\]"),
        ({"preprocessing": {"sampling": "middle"}}, "preprocessing.sampling"),
        ({"fit": {"monitor": "roc_auc"}}, "fit.monitor"),
        ({"fit": {"oversample": True}}, "oversample"),
        ({"testing": {"temperature": True}}, "temperature"),
    ):
        with pytest.raises(RecipeError, match=words):
            finetune(recipe(blob_scans, tmp_path / "run", **changes))
    plain = recipe(blob_scans, tmp_path / "run").model_dump() | {"task": {"kind": "binary", "targets": ["bright"]}}
    plain["fit"]["monitor"] = "valid_loss"
    with pytest.raises(RecipeError, match="patches is for a segmentation"):
        finetune(check_recipe(FinetuneRecipe, plain, "the tests"))


def test_a_network_of_vectors_is_refused(blob_scans, tmp_path):
    vectors = Model(name="resnet3d_18", slices=4, image_size=32)
    with pytest.raises(SlivitError, match=r"masks (is|are) needed here"):
        finetune(recipe(blob_scans, tmp_path / "run").model_copy(update={"model": vectors}))


@pytest.mark.slow
def test_two_runs_are_compared_scan_by_scan(run, blob_scans, tmp_path):
    other = finetune(recipe(blob_scans, tmp_path / "other", fit={"epochs": 1}))
    folder = comparing.run([str(run), str(other)], tmp_path / "compare", draws=20)
    found = json.loads((folder / "comparison.json").read_text())
    assert {t["method"] for t in found["comparisons"]} == {"paired bootstrap", "Wilcoxon over scans", "paired t-test"}
    assert {t["metric"] for t in found["comparisons"]} == {"dice"}
    own = pd.read_csv(run / "cases.csv").query("split == 'test'")["dice"].mean()
    assert found["methods"]["run"]["metrics"]["dice"]["value"] == pytest.approx(own)
    assert "dice/blob" in found["methods"]["run"]["metrics"]
    assert "<title>Comparison: blob" in (folder / "index.html").read_text()


@pytest.mark.slow
def test_a_curve_of_labels_is_of_dice(run, blob_scans, tmp_path):
    chosen = recipe(blob_scans, tmp_path / "unused", fit={"epochs": 1})
    made = study.run(curve.curve_study(chosen, tmp_path / "curve", [0.5, 1.0], [0]), processes=0)
    found = json.loads((made.folder / "study.json").read_text())
    assert found["settings"]["metrics"] == ["dice"]
    assert [cell["train_scans"] for cell in found["cells"]] == [12, 6]


def test_an_export_segments_as_the_run_does_and_other_formats_are_refused(run, blob_scans, tmp_path):
    exporting.run(run, tmp_path / "shared")
    scan = str(blob_scans.with_name("scan33.nii"))
    for model, name in ((run, "own"), (tmp_path / "shared", "other")):
        predicting.run(model, [scan], tmp_path / name / "volumes.csv", workers=0)
    own, other = (nibabel.load(tmp_path / n / "masks" / "scan33.nii.gz").get_fdata() for n in ("own", "other"))
    assert (own == other).all()
    card = (tmp_path / "shared" / "README.md").read_text()
    assert "image-segmentation" in card
    assert "the scan's own voxels" in card
    with pytest.raises(SlivitError, match="use --format safetensors"):
        exporting.run(run, tmp_path / "onnx", format="onnx")


@pytest.mark.slow
def test_of_several_channels_the_one_that_tells_is_found(tmp_path):
    """The mask is a ball that is bright in the second channel; the first one has another ball."""
    rng, table = np.random.default_rng(0), []
    grid = np.indices((16, 16, 8))
    for number in range(12):
        balls = [((grid - rng.integers(4, 12, 3)[:, None, None, None] * [[[[1]]], [[[1]]], [[[0.5]]]]) ** 2).sum(0) < 10
                 for _ in range(2)]  # fmt: skip
        row = {"patient": number, "split": "train" if number < 8 else "val" if number < 10 else "test"}
        for name, ball in zip(("t1", "flair"), balls, strict=True):
            row[name] = f"{name}_{number}.nii"
            image = rng.normal(100, 10, ball.shape) + 100 * ball
            nibabel.save(nibabel.Nifti1Image(image.astype(np.int16), np.eye(4)), tmp_path / row[name])
        row["mask"] = f"mask_{number}.nii"
        nibabel.save(nibabel.Nifti1Image(balls[1].astype(np.uint8), np.eye(4)), tmp_path / row["mask"])
        table.append(row)
    pd.DataFrame(table).to_csv(tmp_path / "masks.csv", index=False)
    chosen = recipe(
        tmp_path / "masks.csv",
        tmp_path / "run",
        data={"channels": ["t1", "flair"]},
        model={"slices": 8, "image_size": 16, "filters": [8, 16], "in_chans": 2},
        patches={"steps": 40},
        fit={"epochs": 2},
    )
    cases = pd.read_csv(finetune(chosen) / "cases.csv")
    assert cases["dice"].min() > 0.6
    assert len(list((tmp_path / "run" / "masks").iterdir())) == 4


def test_a_network_of_slices_is_measured_on_volumes(blob_scans, tmp_path):
    chosen = recipe(blob_scans, tmp_path / "run", fit={"epochs": 1}, patches={"steps": 2})
    chosen = chosen.model_copy(update={"model": Model(name="swin_unet", **model_spec("swin_unet").small)})
    cases = pd.read_csv(finetune(chosen) / "cases.csv")
    assert cases["error"].isna().all()
    assert nibabel.load(tmp_path / "run" / "masks" / "scan33.nii.gz").shape == (24, 24, 6)


def test_a_finished_run_is_measured_again_but_not_at_another_tolerance(run, blob_scans, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    changed = recipe(blob_scans, tmp_path / "run", testing={"draws": 30, "level": 0.8})
    settings = json.loads((finetune(changed, resume=True) / "metrics.json").read_text())["settings"]
    assert (settings["draws"], settings["level"]) == (30, 0.8)
    with pytest.raises(RecipeError, match="use slivit evaluate"):
        finetune(recipe(blob_scans, tmp_path / "run", testing={"tolerance_mm": 3.0}), resume=True)


@pytest.fixture(scope="module")
def folded(blob_scans, tmp_path_factory):
    """Two folds of a run, which died in the second one and went on."""
    out = tmp_path_factory.mktemp("folds") / "run"
    chosen = recipe(blob_scans, out, data={"folds": 2}, fit={"epochs": 1})
    finetune(chosen)
    before = pd.read_csv(out / "cases.csv")
    for file in ("cases.csv", "metrics.json", "checkpoint/config.json", "copies/fold_1/metrics.json"):
        (out / file).unlink()
    first = (out / "copies" / "fold_0" / "metrics.json").stat().st_mtime_ns
    finetune(chosen, resume=True)
    assert (out / "copies" / "fold_0" / "metrics.json").stat().st_mtime_ns == first
    pd.testing.assert_frame_equal(pd.read_csv(out / "cases.csv"), before)
    return out


def test_folds_segment_every_case_once_by_who_never_saw_its_patient(folded):
    cases = pd.read_csv(folded / "cases.csv")
    assert set(cases["split"]) == {"test"}
    assert len(cases) == cases["case"].nunique() == 20
    single = [pd.read_csv(folded / "copies" / f"fold_{fold}" / "cases.csv").query("split == 'test'") for fold in (0, 1)]
    for fold, own in enumerate(single):
        seen = pd.read_csv(folded / "copies" / f"fold_{fold}.csv").query("split != 'test'")["patient"]
        assert not set(seen) & set(own["patient"])
    columns = ["path", "dice", "hd95", "predicted_ml", "true_ml"]
    pooled = pd.concat(single)[columns].sort_values("path", ignore_index=True)
    pd.testing.assert_frame_equal(cases[columns].sort_values("path", ignore_index=True), pooled)
    assert {p.name for p in (folded / "masks").iterdir()} == {f"{name}.nii.gz" for name in cases["case"]}
    assert slivit.Run(folded).metrics["splits"]["test"]["scans"] == 20


def test_the_cases_of_folds_have_a_page_without_a_prediction(folded, tmp_path):
    with pytest.raises(RecipeError, match=r"has seen all of its scans.*cases\.csv"):
        evaluating.recipe_for(str(folded), [], None, tmp_path / "unused")
    csv = folded / "cases.csv"
    folder = evaluating.run_table(csv, evaluating.testing_for(["testing.draws=20"], str(csv)), tmp_path / "evaluation")
    page = (folder / "report" / "index.html").read_text()
    assert "20 scans of 20 patients" in page
    assert "figure-case-worst" in page
    assert not (folder / "masks").exists()
    own, again = (json.loads((place / "metrics.json").read_text()) for place in (folded, folder))
    assert own == again
    with pytest.raises(RecipeError, match="are at 1 mm"):
        evaluating.run_table(csv, Testing(tolerance_mm=2.0), tmp_path / "other")
    shutil.copy(csv, tmp_path / "cases.csv")
    with pytest.raises(RecipeError, match="as a part of its run"):
        evaluating.run_table(tmp_path / "cases.csv", Testing(), tmp_path / "other")


@pytest.mark.parametrize("task", [TASK, TASK | {"regions": {"whole": [1]}}], ids=["labels", "regions"])
def test_a_prediction_averages_the_probabilities_of_seeds(blob_scans, tmp_path, task):
    chosen = recipe(blob_scans, tmp_path / "run", task=task, fit={"epochs": 1, "seeds": 2})
    own = pd.read_csv(finetune(chosen) / "cases.csv")
    assert own["split"].value_counts().to_dict() == {"val": 4, "test": 4}
    kept = slivit.load_checkpoint(tmp_path / "run")
    members = [slivit.load_checkpoint(tmp_path / "run" / "copies" / f"seed_{seed}").model for seed in (0, 1)]
    assert kept.model.spec.size == members[0].spec.size
    x = torch.randn(2, 1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        called = [kept.task.activation(m(x), None, None) for m in (kept.model, *members)]
    assert (called[1] - called[2]).abs().max() > 0.01
    torch.testing.assert_close(called[0], (called[1] + called[2]) / 2, rtol=1e-4, atol=1e-5)
    predicting.run(tmp_path / "run", [str(blob_scans.with_name("scan33.nii"))], tmp_path / "out" / "volumes.csv",
                   precision="float32")  # fmt: skip
    masks = [nibabel.load(tmp_path / place / "masks" / "scan33.nii.gz").get_fdata() for place in ("run", "out")]
    assert (masks[0] == masks[1]).all()


def test_of_two_seeds_a_fold_both_segment_what_they_never_saw(blob_scans, tmp_path):
    chosen = recipe(
        blob_scans, tmp_path / "run", data={"folds": 2}, patches={"steps": 1}, fit={"epochs": 1, "seeds": 2}
    )
    finetune(chosen)
    cases = pd.read_csv(tmp_path / "run" / "cases.csv")
    assert len(cases) == cases["path"].nunique() == 20
    scan = cases.query("fold == 1").iloc[0]
    of_fold = average_of([tmp_path / "run" / "copies" / f"fold_1_seed_{seed}" for seed in (0, 1)], chosen.task)
    engine = Engine(replace(slivit.load_checkpoint(tmp_path / "run"), model=of_fold), "cpu")
    found = segment(engine, {"path": scan["path"]}).masks[0]
    assert found.sum() * 3 / 1000 == pytest.approx(scan["predicted_ml"])
    assert len(slivit.load_checkpoint(tmp_path / "run").model.backbone) == 4
