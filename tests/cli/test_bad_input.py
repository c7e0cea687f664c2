"""Bad input, as a user meets it on the command line: a clear sentence with the file, status 2, nothing half written."""

import errno
import os
import shutil
import signal
import sys
import time
from contextlib import contextmanager

import nibabel
import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from slivit.cli import app
from slivit.cli.common import ENDING, ROOM, user_errors


def told(*args):
    done = CliRunner().invoke(app, [str(a) for a in args])
    assert done.exit_code == 2, (done.output, done.exception)
    assert "Traceback" not in done.output
    return done.output


@pytest.fixture
def finetune(tiny_recipe):
    """A function (folder, csv, *overrides) that fine-tunes, which must end in a message and leave no run."""

    def run(folder, csv, *overrides):
        recipe = tiny_recipe(folder, csv, **{"task.targets": ["y"], "fit.epochs": 1})
        output = told("finetune", recipe, *overrides)
        assert not (folder / "run" / "checkpoint").exists()
        assert not (folder / "run" / "metrics.json").exists()
        return output

    return run


@pytest.fixture
def scans(tmp_path):
    """Twelve NIfTI files and a table of them."""
    generator = np.random.default_rng(0)
    for i in range(12):
        image = nibabel.Nifti1Image(generator.integers(0, 99, (8, 8, 4)).astype(np.int16), np.eye(4))
        nibabel.save(image, tmp_path / f"s{i}.nii.gz")
    split = ["train"] * 6 + ["val"] * 3 + ["test"] * 3
    rows = {"path": [f"s{i}.nii.gz" for i in range(12)], "patient": [f"P{i}" for i in range(12)], "split": split}
    frame = pd.DataFrame({**rows, "y": [0, 1] * 6})
    frame.to_csv(tmp_path / "scans.csv", index=False)
    return frame


def test_missing_and_empty_manifest(tmp_path, finetune):
    assert "nowhere.csv" in finetune(tmp_path, tmp_path / "nowhere.csv")
    (tmp_path / "empty.csv").write_text("")
    assert "empty.csv" in finetune(tmp_path, tmp_path / "empty.csv", "--overwrite")


def test_all_problems_of_a_manifest_in_one_error(scans, tmp_path, finetune):
    scans.loc[1, "patient"] = "P10"
    scans.loc[2, "path"] = "gone.nii.gz"
    scans.loc[3, "y"] = 7
    scans.loc[5, "path"] = "s4.nii.gz"
    scans.to_csv(tmp_path / "bad.csv", index=False)
    said = finetune(tmp_path, tmp_path / "bad.csv")
    for part in ("bad.csv", "P10", "gone.nii.gz", "7", "s4.nii.gz"):
        assert part in said


@pytest.mark.parametrize(("target", "kind"), [("word", "regression"), ("word", "binary"), ("many", "binary")])
def test_a_target_of_the_wrong_kind(scans, tmp_path, target, kind, finetune):
    scans.assign(word=list("abcdefghijkl"), many=range(12)).to_csv(tmp_path / "bad.csv", index=False)
    said = finetune(tmp_path, tmp_path / "bad.csv", f"task.targets=['{target}']", f"task.kind={kind}")
    assert target in said


@pytest.mark.parametrize("workers", [0, 2])
def test_a_cut_scan_is_named_when_training_meets_it(scans, tmp_path, workers, finetune):
    path = tmp_path / "s4.nii.gz"
    path.write_bytes(path.read_bytes()[:60])
    said = finetune(tmp_path, tmp_path / "scans.csv", f"data.workers={workers}")
    assert "s4.nii.gz" in said
    assert "Caught" not in said


def test_a_4d_nifti_asks_for_a_frame(scans, tmp_path, finetune):
    nibabel.save(nibabel.Nifti1Image(np.zeros((8, 8, 4, 3), np.int16), np.eye(4)), tmp_path / "s2.nii.gz")
    said = finetune(tmp_path, tmp_path / "scans.csv")
    assert "s2.nii.gz" in said
    assert "frame" in said


@pytest.mark.real_data
def test_two_series_in_one_folder_are_listed(scans, tmp_path, real_data, finetune):
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for series in ("CT", "PET"):
        for file in (real_data / "ibsi_sts_008" / "dicom" / series).iterdir():
            shutil.copy(file, mixed / f"{series}_{file.name}")
    scans.loc[0, "path"] = "mixed"
    scans.to_csv(tmp_path / "scans.csv", index=False)
    said = finetune(tmp_path, tmp_path / "scans.csv")
    assert "mixed" in said
    assert "series" in said


def test_a_backbone_of_another_architecture_names_both(scans, tmp_path, finetune):
    import timm
    from safetensors.torch import save_file

    save_file(timm.create_model("test_convnext").state_dict(), tmp_path / "other.safetensors")
    said = finetune(tmp_path, tmp_path / "scans.csv", f"model.weights={tmp_path / 'other.safetensors'}")
    assert "other.safetensors" in said
    assert "ConvNeXt" in said
    assert "test_resnet" in said


@pytest.mark.parametrize("cut", [0, 10, 200])
def test_a_cut_checkpoint(tmp_path, cut):
    (tmp_path / "model.safetensors").write_bytes(b"x" * cut)
    (tmp_path / "config.json").write_text("{" * cut)
    assert str(tmp_path) in told("predict", tmp_path, tmp_path / "scan.nii")


def test_a_run_that_never_began_is_not_in_the_way(scans, finetune, tmp_path):
    for _ in range(2):
        assert "nowhere: there is no such weight file" in finetune(
            tmp_path, tmp_path / "scans.csv", "model.weights=nowhere"
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", [("phantoms", "oct", "{}", "-n", 1), ("check", "{scans}", "--out", "{}")])
def test_an_output_within_a_file_is_told(tmp_path, blob_scans, command):
    (tmp_path / "file").write_text("")
    out = str(tmp_path / "file" / "out")
    given = [str(part).replace("{scans}", str(blob_scans)).replace("{}", out) for part in command]
    assert "lies in a file" in " ".join(told(*given).split())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every file name is text")
def test_names_that_are_no_text_and_names_that_are_too_long(tmp_path, blob_run, scans):
    latin = tmp_path / "latin" / os.fsdecode(b"sc\xe4n.nii")
    latin.parent.mkdir()
    shutil.copy(tmp_path / "s0.nii.gz", latin)
    assert r"sc\udce4n.nii" in told("predict", blob_run, latin.parent, "--device", "cpu")
    picture = tmp_path / "classes" / os.fsdecode(b"h\xe4ll") / "a.png"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"")
    assert "is not UTF-8" in told("manifest", "folders", tmp_path / "classes", tmp_path / "classes.csv")
    long = tmp_path / ("x" * 300)
    for command in (["check", f"{long}.csv"], ["predict", blob_run, f"{long}.nii"], ["finetune", f"{long}.toml"]):
        assert "too long" in told(*command)
    assert "holds a null byte" in told("finetune", "small_scans", 'out="a\\u0000b"', "data.manifest=x.csv")


def test_what_the_system_refuses_is_said_in_its_words(capsys):
    for error in (
        OSError(errno.ENOSPC, "No space left on device"),
        PermissionError(errno.EACCES, "Denied", "/scans/a"),
        MemoryError("10 GB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: 9"),
    ):
        with pytest.raises(typer.Exit) as end, user_errors():
            raise error
        assert end.value.exit_code == 2
    assert capsys.readouterr().err.splitlines() == [
        "slivit: what is printed or read: No space left on device",
        "slivit: /scans/a: Denied",
        f"slivit: {ROOM}: 10 GB",
        f"slivit: {ROOM}: DefaultCPUAllocator: can't allocate memory: 9",
    ]
    with pytest.raises(FileNotFoundError), user_errors():
        raise FileNotFoundError(errno.ENOENT, "a bug", "/a")


@contextmanager
def closing(closed):
    try:
        yield
        signal.sigtimedwait([], 1)
    finally:
        closed.append(True)


@pytest.mark.skipif(os.name == "nt", reason="signals end a process there")
@pytest.mark.parametrize("number", ENDING)
def test_signals_that_ask_to_end_are_told_and_close_what_is_open(capsys, number):
    closed, before = [], signal.signal(number, signal.SIG_DFL)  # nohup has a signal ignored
    try:
        with pytest.raises(typer.Exit) as end, user_errors("call it again"), closing(closed):
            os.kill(os.getpid(), number)
    finally:
        handler = signal.signal(number, before)
    assert (end.value.exit_code, closed) == (128 + number, [True])
    assert capsys.readouterr().err == f"slivit: stopped by {number.name}; call it again\n"
    assert handler == signal.SIG_DFL


class Dropped:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.skipif(os.name == "nt", reason="signals end a process there")
def test_a_signal_that_comes_where_python_drops_what_is_raised_is_heard_again(capsys):
    def work():
        Dropped()
        time.sleep(5)

    with pytest.raises(typer.Exit) as end, user_errors():
        work()
    assert end.value.exit_code == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "slivit: stopped by SIGTERM\n"


@pytest.mark.skipif(os.name == "nt", reason="there are no hang-ups there")
def test_a_process_that_ignores_hang_ups_goes_on(capsys):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with user_errors():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert capsys.readouterr().err == ""
