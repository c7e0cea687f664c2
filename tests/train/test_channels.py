"""Scans of several channels, from the table to the exported model: one channel alone tells."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

import slivit
from slivit.errors import ManifestError, RecipeError, SlivitError
from slivit.evaluate import command as evaluation
from slivit.predict.command import run as predict
from slivit.recipe import check_recipe
from slivit.train.recipe import FinetuneRecipe
from slivit.train.run import run

NAMES = ("t1", "t2", "flair")
SHAPE = (16, 16, 6)


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    """48 scans of three files each; a bright block in `t2` is the answer, those in the others mean nothing."""
    folder = tmp_path_factory.mktemp("sequences")
    rng = np.random.default_rng(5)
    rows = []
    for number in range(48):
        row = {"patient": f"P{number}", "ill": number % 2, "split": ("train", "train", "val", "test")[number // 2 % 4]}
        blocks = {"t1": rng.integers(2), "t2": row["ill"], "flair": rng.integers(2)}
        array = rng.normal(100, 10, (3, *SHAPE))
        for channel, name in enumerate(NAMES):
            array[channel, 4:12, 4:12, 1:5] += 60 * blocks[name]
            row[name] = f"{name}/{number}.nii.gz"
            (folder / name).mkdir(exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array[channel].astype(np.int16), np.eye(4)), folder / row[name])
        nibabel.save(
            nibabel.Nifti1Image(array.transpose(1, 2, 3, 0).astype(np.int16), np.eye(4)), folder / f"{number}.nii"
        )
        rows.append({"path": f"{number}.nii", **row})
    pd.DataFrame(rows).drop(columns="path").to_csv(folder / "scans.csv", index=False)
    pd.DataFrame(rows).drop(columns=list(NAMES)).to_csv(folder / "four.csv", index=False)
    return folder


def recipe(scans: Path, out: Path, *, table: str = "scans.csv", **changes):
    values = {
        "out": str(out),
        "data": {"manifest": str(scans / table), "workers": 0, "channels": NAMES},
        "task": {"kind": "binary", "targets": ["ill"]},
        "model": {"name": "resnet3d_18", "slices": 4, "image_size": 16, "depths": [1, 1, 1, 1], "width": 8,
                  "in_chans": 3},
        "preprocessing": {"stretch": False, "window": [50, 250], "flips": ["horizontal"]},
        "augmentation": {"flip_horizontal": True},
        "fit": {"epochs": 8, "lr": 0.01, "batch_size": 8, "device": "cpu", "precision": "float32", "patience": 0},
        "testing": {"precision": "float32", "draws": 20, "baselines": False},
    }  # fmt: skip
    for key, value in changes.items():
        section, _, name = key.partition("__")
        values[section] = values[section] | {name: value}
    return check_recipe(FinetuneRecipe, values, "a test")


@pytest.fixture(scope="module")
def trained(scans, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    cache = tmp_path_factory.mktemp("cache") / "slices"
    return run(recipe(scans, out, data__cache=str(cache)))


def test_the_channel_that_tells_is_learnt_and_the_others_are_not(scans, trained):
    table = pd.read_csv(trained / "predictions.csv")
    tested = table[table["split"] == "test"]
    assert (
        tested.loc[tested["target_ill"] == 1, "prob_ill"].min()
        > tested.loc[tested["target_ill"] == 0, "prob_ill"].max()
    )
    checkpoint = slivit.load_checkpoint(trained)
    assert checkpoint.preprocessing.channels == NAMES
    row = tested.iloc[0]
    stack = slivit.load_slices(row["path"], checkpoint.preprocessing)
    assert stack.shape == (3, 4, 16, 16)
    for channel, name in enumerate(NAMES):
        alone = slivit.load_slices(str(scans / row[name]), checkpoint.preprocessing.model_copy(update={"channels": ()}))
        np.testing.assert_array_equal(stack[channel], alone)


def test_predictions_of_a_run_are_those_of_new_tables_and_addresses(scans, trained, tmp_path):
    known = pd.read_csv(trained / "predictions.csv")
    known = known[known["split"] == "test"].reset_index(drop=True)
    table = pd.read_csv(scans / "scans.csv")
    table = table[table["split"] == "test"].drop(columns=["split", "ill"])
    table = table[["patient", "flair", "t1", "t2"]]  # columns count by their names, not by their order
    table.to_csv(scans / "new.csv", index=False)
    by_table = predict(trained, [str(scans / "new.csv")], progress=False, precision="float32", workers=0)
    by_address = predict(trained, known["path"].tolist(), progress=False, precision="float32", workers=0)
    for found in (by_table, by_address):
        assert (found["error"] == "").all()
        np.testing.assert_allclose(found["prob_ill"], known["prob_ill"], atol=1e-5)
    assert by_table["flair"].tolist() == [str(scans / path) for path in table["flair"]]
    (tmp_path / "wrong.csv").write_text(f"path,patient\n{scans / 't1/3.nii.gz'},P\n")
    refused = predict(trained, [str(tmp_path / "wrong.csv")], progress=False, precision="float32", workers=0)
    assert "has 1 channel, and 3 are taken: t1, t2, flair" in refused["error"][0]


def test_a_four_dimensional_file_gives_the_same(scans, trained):
    checkpoint = slivit.load_checkpoint(trained)
    settings = checkpoint.preprocessing.model_copy(update={"reader": {"channel": "all"}})
    rows = [{"path": str(scans / f"{number}.nii")} for number in (6, 7)]
    found = slivit.predict_table(checkpoint.model, rows, checkpoint.task, settings, device="cpu")
    known = pd.read_csv(trained / "predictions.csv").set_index("patient")["prob_ill"]
    np.testing.assert_allclose(found["prob_ill"], known[["P6", "P7"]], atol=1e-5)


def test_evaluation_reads_the_run_s_own_rows_and_other_tables(scans, trained):
    checkpoint = slivit.load_checkpoint(trained)
    own, other = (
        evaluation.evaluation_rows(evaluation.recipe_for(str(trained), [], manifest, None), checkpoint)[1].frame
        for manifest in (None, str(scans / "scans.csv"))
    )
    assert own["path"].tolist() == other["path"].tolist()
    assert own["path"].iloc[0] == " | ".join(str(scans / f"{name}/6.nii.gz") for name in NAMES)


@pytest.mark.slow
def test_the_exported_program_predicts_what_the_run_predicts(trained, tmp_path, capsys):
    from slivit.sharing import standalone
    from slivit.sharing.command import run as export

    export(trained, tmp_path / "shared", format="torch-export")
    known = pd.read_csv(trained / "predictions.csv").iloc[-1]
    done = subprocess.run(
        [sys.executable, tmp_path / "shared/predict.py", known["path"]], capture_output=True, text=True, check=True
    )
    assert float(done.stdout.split("'prob_ill': ")[1].strip("}\n ")) == pytest.approx(known["prob_ill"], abs=1e-4)
    standalone.check_example(tmp_path / "shared")
    assert capsys.readouterr().out == "example.npz: 0 pixels differ\n"
    assert "t1, t2, flair" in (tmp_path / "shared/PREPROCESSING.md").read_text()


def test_explanations_and_the_page_know_channels(trained):
    from slivit.viewer.bench import Bench

    bench = Bench(trained, device="cpu")
    opened = bench.open_row(len(bench.rows) - 1)
    known = pd.read_csv(trained / "predictions.csv").iloc[-1]
    assert opened.predictions["prob_ill"] == pytest.approx(known["prob_ill"], abs=1e-5)
    assert opened.name == "47.nii.gz, 47.nii.gz, 47.nii.gz"
    np.testing.assert_array_equal(opened.scan.shown, opened.scan.stack[0])
    found = bench.explain(opened, "ill", "occlusion")
    assert len(found.attributions["occlusion"].scores) == 4
    assert bench.explain(opened, "ill", "gradcam").attributions["gradcam"].scores.shape == (4,)


def test_channels_that_do_not_fit_are_errors_before_training(scans, tmp_path):
    for changes, said in (
        ({"model__in_chans": 1}, "takes 1 channel, and the scans have 3. Set model.in_chans to 3"),
        ({"model__in_chans": 4}, "takes 4 channels, and the scans have 3"),
        ({"data__channels": ("t1", "t2")}, "takes 3 channels, and the scans have 2"),
        ({"data__channels": (), "model__in_chans": 2, "table": "four.csv"}, "takes 2 channels, and scans have one"),
    ):
        with pytest.raises(SlivitError, match=said):
            run(recipe(scans, tmp_path / "run", **changes))
    with pytest.raises(RecipeError, match="two columns of paths or more"):
        run(recipe(scans, tmp_path / "run", data__channels=("t1",)))
    with pytest.raises(ManifestError, match='column "t3" is missing'):
        run(recipe(scans, tmp_path / "run", data__channels=("t1", "t2", "t3")))
    with pytest.raises(SlivitError, match="has 3 channels, and 2 are taken"):
        run(recipe(scans, tmp_path / "run", data__channels=(), table="four.csv", model__in_chans=2,
                   preprocessing__reader={"channel": "all"}))  # fmt: skip
