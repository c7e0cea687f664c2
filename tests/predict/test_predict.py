"""Prediction as a collaborator asks for it: folders, archives, manifests, bad scans, and runs that were killed."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from slivit.checkpoint import load_checkpoint
from slivit.cli import app
from slivit.errors import SlivitError
from slivit.predict import command as predict
from slivit.predict.engine import predict_table


def command(*args, expect=0):
    done = CliRunner().invoke(app, ["predict", *map(str, args)])
    assert done.exit_code == expect, (done.output, done.exception)
    return done.output


@pytest.fixture
def scans(blob_scans, tmp_path):
    """Six readable scans, and one that is cut short."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for i in range(6):
        shutil.copy(blob_scans.parent / f"scan{i}.nii", folder)
    (folder / "scan9.nii").write_bytes((folder / "scan0.nii").read_bytes()[:500])
    return folder


def table_at(path):
    return pd.read_csv(path, keep_default_na=False).set_index("path")


def test_folder_archive_and_manifest_give_what_predict_table_gives(blob_run, blob_scans, scans, tmp_path):
    (scans / "scan9.nii").unlink()
    full = ("--precision", "float32")
    command(blob_run, scans, "-o", tmp_path / "folder.csv", "--batch-size", "4", *full)
    packed = shutil.make_archive(str(tmp_path / "sent"), "zip", scans)
    command(blob_run, packed, "-o", tmp_path / "zip.csv", *full)
    command(blob_run, blob_scans, "-o", tmp_path / "manifest.csv", "--workers", "2", *full)
    loaded = load_checkpoint(blob_run)
    rows = [{"path": str(scans / f"scan{i}.nii")} for i in range(6)]
    expected = predict_table(loaded.model, rows, loaded.task, loaded.preprocessing)["prob_bright"].to_numpy()
    for name in ("folder", "zip", "manifest"):
        found = pd.read_csv(tmp_path / f"{name}.csv")
        np.testing.assert_allclose(found["prob_bright"][:6], expected, atol=1e-6)
        assert set(found["call_bright"]) <= {0, 1}
        assert not (tmp_path / f"{name}.csv.part").exists()
    manifest = pd.read_csv(tmp_path / "manifest.csv")
    assert len(manifest) == 40
    assert {"patient", "split", "target_bright", "grade"} <= set(manifest)
    assert list(pd.read_csv(tmp_path / "zip.csv")["path"]) == [f"{packed}/scan{i}.nii" for i in range(6)]


def test_a_bad_scan_is_told_and_tried_again(blob_run, scans, tmp_path):
    out = tmp_path / "p.csv"
    said = command(blob_run, scans, "-o", out, expect=1)
    assert "1 of 7 scans could not be predicted" in said
    table = table_at(out)
    bad = table.loc[str(scans / "scan9.nii")]
    assert (bad["prob_bright"], bad["call_bright"]) == ("", "")
    assert "scan9.nii" in bad["error"]
    assert (table["error"] != "").sum() == 1
    shutil.copy(scans / "scan0.nii", scans / "scan9.nii")
    assert "7 of 7 scans predicted" in command(blob_run, scans, "-o", out, "--resume")
    again = table_at(out)
    assert again.loc[str(scans / "scan9.nii"), "prob_bright"] == again.loc[str(scans / "scan0.nii"), "prob_bright"]


def test_a_killed_run_goes_on(blob_run, scans, tmp_path, monkeypatch):
    from slivit.predict.journal import Journal

    out, add, count = tmp_path / "p.csv", Journal.add, iter(range(99))

    def killed(self, ref, row):
        if next(count) == 3:
            self._file.write('{"key": "half a row')
            self._file.flush()
            raise KeyboardInterrupt
        add(self, ref, row)

    monkeypatch.setattr(Journal, "add", killed)
    command(blob_run, scans, "-o", out, expect=130)
    assert not out.exists()
    monkeypatch.setattr(Journal, "add", add)
    assert "--resume" in command(blob_run, scans, "-o", out, expect=2)
    before = [json.loads(line) for line in (tmp_path / "p.csv.part").read_text().splitlines()[1:4]]
    seen = []
    monkeypatch.setattr(Journal, "add", lambda self, ref, row: (seen.append(ref.key), add(self, ref, row)))
    command(blob_run, scans, "-o", out, "--resume", expect=1)
    assert len(seen) == 4
    assert not {row["key"] for row in before} & set(seen)
    table = pd.read_csv(out)
    assert list(table["path"]) == [str(scans / f"scan{i}.nii") for i in (0, 1, 2, 3, 4, 5, 9)]
    assert table["path"].is_unique


def test_doubtful_scans_are_told(blob_run, blob_scans, tmp_path):
    import nibabel

    array = np.asanyarray(nibabel.load(blob_scans.parent / "scan0.nii").dataobj)
    odd = {"short": (array[..., :3], 3.0), "bright": (array * 50, 3.0), "thin": (array, 1.0), "usual": (array, 3.0)}
    for name, (values, spacing) in odd.items():
        nibabel.save(nibabel.Nifti1Image(values, np.diag([1, 1, spacing, 1])), tmp_path / f"{name}.nii")
    table = predict.run(blob_run, [str(tmp_path)], progress=False).set_index("path")["warnings"]
    found = {name: table[str(tmp_path / f"{name}.nii")] for name in odd}
    assert "too few slices: 3" in found["short"]
    assert "intensities unlike" in found["bright"]
    assert "other spacing between slices" in found["thin"]
    assert found["usual"] == ""


def test_an_older_checkpoint_says_what_it_does_not_know(blob_run, scans, tmp_path, caplog):
    old = shutil.copytree(blob_run / "checkpoint", tmp_path / "old")
    config = json.loads((old / "config.json").read_text())
    del config["training"]["scans_range"]
    (old / "config.json").write_text(json.dumps(config))
    with caplog.at_level("WARNING"):
        table = predict.run(old, [str(scans / "scan0.nii")], progress=False)
    assert "does not say what its training scans were like" in caplog.text
    assert list(table["warnings"]) == [""]


def test_a_table_is_not_lost_by_accident(blob_run, scans, tmp_path):
    (tmp_path / "p.csv").write_text("mine")
    assert "--overwrite" in command(blob_run, scans, "-o", tmp_path / "p.csv", expect=2)
    assert (tmp_path / "p.csv").read_text() == "mine"
    command(blob_run, scans, "-o", tmp_path / "p.csv", "--overwrite", expect=1)
    with pytest.raises(SlivitError, match="--out"):
        predict.run(blob_run, [str(scans)], resume=True)


@pytest.mark.parametrize("option", [("--batch-size", "many"), ("--batch-size", "0"), ("--device", "cuda:9")])
def test_mistakes_end_with_status_2(blob_run, scans, option):
    command(blob_run, scans, *option, expect=2)


def test_without_memory_a_scan_fails_alone(blob_run, scans, monkeypatch):
    from slivit.predict.engine import Engine

    usual, seen = Engine.predict, []

    def small(self, stacks):
        if len(stacks) > 1:
            raise MemoryError
        seen.append(stacks)
        if len(seen) == 3:
            raise MemoryError
        return usual(self, stacks)

    monkeypatch.setattr(Engine, "predict", small)
    table = predict.run(blob_run, [str(scans)], batch_size=4, progress=False)
    assert [bool(e) for e in table["error"]] == [False, False, True, False, False, False, True]
    assert "not enough memory for the model" in table["error"][2]


def test_a_model_that_gives_no_number_is_told(blob_run, scans, monkeypatch):
    from slivit.predict.engine import Engine

    monkeypatch.setattr(Engine, "predict", lambda self, stacks: torch.full((len(stacks), 1), torch.nan))
    table = predict.run(blob_run, [str(scans / "scan0.nii")], progress=False)
    assert "not a number" in table["error"][0]
    assert np.isnan(table["prob_bright"][0])
