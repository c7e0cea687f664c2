"""nnU-Net's data set, commands and masks: written, called in order, read back."""

import json
import shutil
import sys

import nibabel
import numpy as np
import pandas as pd
import pytest
import tifffile

import slivit
from slivit.errors import RecipeError
from slivit.experiments import nnunet
from slivit.recipe import check_recipe
from slivit.train.recipe import FinetuneRecipe

# A stand-in for nnU-Net's three commands: it checks its data set, and answers with the masks it was given to learn.
STAND_IN = """#!{python}
import json, os, pathlib, sys
raw, made = (pathlib.Path(os.environ["nnUNet_" + n], "Dataset001_slivit") for n in ("raw", "preprocessed"))
told = json.loads((raw / "dataset.json").read_text())
assert len(list((raw / "labelsTr").iterdir())) == told["numTraining"]
name, options = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
print(name, *options, file=open("{log}", "a"))
if name.endswith("preprocess"):
    made.mkdir()
elif name.endswith("train"):
    if pathlib.Path("{log}.fail").exists():
        sys.exit("no GPU")
    (split,) = json.loads((made / "splits_final.json").read_text())
    assert {{f.name.split(".")[0] for f in (raw / "labelsTr").iterdir()}} == {{*split["train"], *split["val"]}}
else:
    truth, to = pathlib.Path("{truth}"), pathlib.Path(options[options.index("-o") + 1])
    for file in pathlib.Path(options[options.index("-i") + 1]).glob("*_0000.nii.gz"):
        name = file.name.removesuffix("_0000.nii.gz") + ".nii.gz"
        (to / name).write_bytes((truth / name).read_bytes())
"""


@pytest.fixture
def commands(tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in (nnunet.PLAN, nnunet.TRAIN, nnunet.PREDICT):
        text = STAND_IN.format(python=sys.executable, log=tmp_path / "calls", truth=tmp_path / "truth")
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


LABELS = {"edema": 2, "core": 4}


def cases(folder):
    """Six scans with masks on turned axes, one of them a TIFF, which has no place."""
    rng, rows = np.random.default_rng(0), []
    turned = np.array([[0, 0, -2.0, 9], [0.7, 0, 0, -3], [0, 0.9, 0, 4], [0, 0, 0, 1]])
    for number, split in enumerate(("train", "train", "train", "val", "test", "test")):
        mask = rng.choice(np.array([0, 2, 4, 9], np.uint8), (6, 8, 10), p=[0.6, 0.2, 0.15, 0.05])
        scan = rng.normal(100, 20, mask.shape).astype(np.int16)
        ending = "tif" if number == 5 else "nii.gz"
        for name, array in (("scan", scan), ("mask", mask)):
            if ending == "tif":
                tifffile.imwrite(folder / f"{name}5.tif", array.astype(np.uint16), photometric="minisblack")
            else:
                nibabel.save(nibabel.Nifti1Image(array, turned), folder / f"{name}{number}.nii.gz")
        rows.append(
            {"path": f"scan{number}.{ending}", "mask": f"mask{number}.{ending}", "patient": number, "split": split}
        )
    pd.DataFrame(rows).to_csv(folder / "masks.csv", index=False)


def recipe(folder, **task):
    values = {
        "out": str(folder / "out"),
        "data": {"manifest": str(folder / "masks.csv"), "workers": 0},
        "task": {"kind": "segmentation", "labels": LABELS, "ignore": 9} | task,
        "fit": {"monitor": "dice"},
        "testing": {"draws": 10},
    }
    return check_recipe(FinetuneRecipe, values, "the tests")


REGIONS = {"core": (4,), "whole": (2, 4)}


@pytest.mark.parametrize("regions", [{}, REGIONS], ids=["labels", "regions"])
def test_the_masks_that_were_written_come_back_perfect(tmp_path, commands, regions):
    cases(tmp_path)
    chosen, how = recipe(tmp_path, regions=regions), nnunet.NnUNet(commands=str(commands), device="cpu")
    (part,) = nnunet.labelled_scans(chosen).parts
    everything = part.manifest.with_split(pd.Series("train", part.manifest.frame.index))
    whole = nnunet.Part("", part.data, everything, part.outputs)
    nnunet.write_dataset(whole, chosen.preprocessing, tmp_path / "raw")
    order = [name for path in [str(r["path"]) for r in part.rows("train", "val", "test")]
             for name, row in nnunet.named(whole).items() if str(row["path"]) == path]  # fmt: skip
    (tmp_path / "truth").mkdir()
    for number, name in enumerate(order):
        shutil.copy(tmp_path / "raw" / "labelsTr" / f"{name}.nii.gz", tmp_path / "truth" / f"case_{number:05d}.nii.gz")

    out = nnunet.run(chosen, tmp_path / "out", how)
    table = pd.read_csv(out / "cases.csv")
    assert (table["dice"] == 1).all()
    assert len(table) == 3 * 2
    assert table["hd95"].isna().sum() == 2  # the TIFF has no spacing
    told = json.loads((out / "nnunet" / "raw" / nnunet.NAME / "dataset.json").read_text())
    labels = {"whole": [1, 2], "core": [2]} if regions else {"edema": 1, "core": 2}
    assert told["labels"] == {"background": 0} | labels | {"ignore": 3}
    assert told.get("regions_class_order") == ([1, 2] if regions else None)
    raw = out / "nnunet" / "raw" / nnunet.NAME
    assert [len(list((raw / n).iterdir())) for n in ("imagesTr", "labelsTr", "imagesTs")] == [4, 4, 3]
    scan = nibabel.load(raw / "imagesTr" / "case_00000_0000.nii.gz")
    assert scan.get_data_dtype() == np.float32
    stored = nibabel.load(tmp_path / "scan0.nii.gz")
    assert sorted(scan.header.get_zooms()) == pytest.approx(sorted(stored.header.get_zooms()))
    assert sorted(np.asarray(scan.dataobj).ravel()) == sorted(np.asarray(stored.dataobj).ravel())
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [c.split()[0] for c in calls] == [nnunet.PLAN, nnunet.TRAIN, nnunet.PREDICT]
    nnunet.run(chosen, tmp_path / "out", how)  # all is done: nothing is called again
    assert (tmp_path / "calls").read_text().splitlines() == calls
    assert slivit.Task(**json.loads((out / "metrics.json").read_text())["task"]) == chosen.task


def test_a_command_that_fails_is_told_and_the_same_call_goes_on(tmp_path, commands):
    cases(tmp_path)
    (tmp_path / "truth").mkdir()
    chosen, how = recipe(tmp_path), nnunet.NnUNet(commands=str(commands))
    (tmp_path / "calls.fail").touch()
    with pytest.raises(RecipeError, match=r"nnUNetv2_train failed \(no GPU\); see .*log.txt"):
        nnunet.run(chosen, tmp_path / "out", how)
    (tmp_path / "calls.fail").unlink()
    with pytest.raises(RecipeError, match="nnUNetv2_predict failed"):  # there are no masks to answer with
        nnunet.run(chosen, tmp_path / "out", how)
    calls = [line.split()[0] for line in (tmp_path / "calls").read_text().splitlines()]
    assert calls == [nnunet.PLAN, nnunet.TRAIN, nnunet.TRAIN, nnunet.PREDICT]
    with pytest.raises(RecipeError, match="other scans or settings"):
        nnunet.run(chosen, tmp_path / "out", how.model_copy(update={"trainer": "nnUNetTrainer_5epochs"}))


def test_what_nnunet_cannot_do_is_said_before_anything_is_written(tmp_path):
    cases(tmp_path)
    for task, words in (
        ({"regions": {"a": (2, 4), "b": (2, 4)}}, "one map of labels"),
        ({}, "nnUNetv2_plan_and_preprocess is not in .*; install nnunetv2"),
    ):
        with pytest.raises(RecipeError, match=words):
            nnunet.run(recipe(tmp_path, **task), tmp_path / "out", nnunet.NnUNet(commands=str(tmp_path)))
    assert not (tmp_path / "out").exists()
