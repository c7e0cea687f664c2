"""Models from strangers and from the hub: checked, offline, and without running anything of theirs."""

import json
import pickle
import shutil
from pathlib import Path

import pytest

import slivit
from slivit.checkpoint import load_checkpoint
from slivit.errors import CheckpointError, SlivitError
from slivit.sharing import command as stage
from slivit.sharing.hub import SharedModel

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def exported(blob_run, tmp_path_factory):
    return stage.run(blob_run, tmp_path_factory.mktemp("shared") / "model", most=1)


@pytest.fixture
def copy(exported, tmp_path):
    return shutil.copytree(exported.folder, tmp_path / "copy")


def scan_of(blob_scans, number=30):
    return blob_scans.parent / f"scan{number}.nii"


def test_a_folder_is_opened_and_predicts(exported, blob_run, blob_scans):
    model = slivit.from_pretrained(exported.folder, fingerprint=exported.fingerprint)
    assert model.task.targets == ("bright",)
    assert model.operating_point == load_checkpoint(blob_run).operating_point
    table = model.predict([scan_of(blob_scans), scan_of(blob_scans, 31)], precision="float32")
    assert list(table["path"]) == [str(scan_of(blob_scans)), str(scan_of(blob_scans, 31))]
    own = slivit.from_pretrained(blob_run).predict(scan_of(blob_scans), precision="float32")
    assert table["prob_bright"][0] == pytest.approx(own["prob_bright"][0], abs=1e-6)
    assert table["call_bright"].isin([0, 1]).all()
    assert "bright" in repr(model)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "predict.py"])
def test_a_changed_file_is_refused(copy, name):
    data = bytearray((copy / name).read_bytes())
    data[-3] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=f'"{name}" missing or changed'):
        slivit.from_pretrained(copy)


def test_files_that_were_changed_with_their_checksums_have_another_fingerprint(copy, exported):
    from slivit.predict.sums import write_sums

    config = json.loads((copy / "config.json").read_text())
    config["operating_point"]["thresholds"]["bright"]["value"] = 0.01
    (copy / "config.json").write_text(json.dumps(config))
    write_sums(copy)
    slivit.from_pretrained(copy)
    with pytest.raises(CheckpointError, match="it is another model"):
        slivit.from_pretrained(copy, fingerprint=exported.fingerprint)


def test_files_that_nobody_listed_are_refused(copy):
    (copy / "extra.safetensors").touch()
    with pytest.raises(CheckpointError, match="not in SHA256SUMS"):
        slivit.from_pretrained(copy)


def test_names_out_of_the_folder_are_refused(copy):
    with (copy / "SHA256SUMS").open("a") as file:
        file.write(f"{'0' * 64}  ../../etc/passwd\n")
    with pytest.raises(CheckpointError, match="outside of the model"):
        slivit.from_pretrained(copy)


class Bomb:
    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


def test_a_pickle_is_never_opened(tmp_path, monkeypatch, copy):
    monkeypatch.chdir(tmp_path)
    for name in ("export.pkl", "model.pth"):
        (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(CheckpointError, match="could run foreign code"):
            slivit.from_pretrained(tmp_path / name)
    only = tmp_path / "only"
    only.mkdir()
    shutil.copy(tmp_path / "export.pkl", only)
    with pytest.raises(CheckpointError, match="could run foreign code"):
        slivit.from_pretrained(only)
    (copy / "SHA256SUMS").unlink()
    (copy / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match="checksum"):
        slivit.from_pretrained(copy)
    assert not (tmp_path / "exploded").exists()


def test_a_config_cannot_make_other_files_be_opened(copy):
    (copy / "SHA256SUMS").unlink()
    config = json.loads((copy / "config.json").read_text())
    config["model"]["args"]["backbone_args"] = {"checkpoint_path": "evil.pth"}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="would open other files"):
        slivit.from_pretrained(copy)


def test_learners_are_not_pickled():
    from slivit.train.learner import VolumeLearner

    with pytest.raises(SlivitError, match="slivit export"):
        VolumeLearner.export(object.__new__(VolumeLearner), "export.pkl")


def test_a_model_of_another_kind_says_how_it_is_run(copy):
    (copy / "model.safetensors").rename(copy / "model.onnx")
    with pytest.raises(CheckpointError, match="ONNX"):
        slivit.from_pretrained(copy)


def hub_cache(folder, exported, name="somebody/blobs"):
    """What the hub's client leaves on disk after a download."""
    repo = folder / f"models--{name.replace('/', '--')}"
    shutil.copytree(exported.folder, repo / "snapshots" / COMMIT)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    (repo / "refs" / "v1").write_text(COMMIT)
    return folder


def test_what_was_fetched_before_is_opened_without_a_network(exported, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    cache = hub_cache(tmp_path / "hub", exported)
    for revision in (None, "v1", COMMIT):
        model = slivit.from_pretrained("hub:somebody/blobs", revision=revision, cache_dir=cache)
        assert COMMIT in str(model.checkpoint.path)
    assert SharedModel.from_pretrained("hub:somebody/blobs", cache_dir=cache).task.targets == ("bright",)
    with pytest.raises(CheckpointError, match="no model of that name at v2"):
        slivit.from_pretrained("hub:somebody/blobs", revision="v2", cache_dir=cache)
    with pytest.raises(CheckpointError, match="nobody/nothing"):
        slivit.from_pretrained("hub:nobody/nothing", cache_dir=cache)
    with pytest.raises(CheckpointError, match="is of a model on the hub"):
        slivit.from_pretrained(exported.folder, revision="v1")


def test_a_path_that_is_not_there_is_never_asked_for_on_the_hub(exported, tmp_path, monkeypatch):
    from huggingface_hub import constants

    from slivit.models import _hub

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    cache = hub_cache(tmp_path / "hub", exported, "runs/mine")  # it would be found there
    for opened in (slivit.from_pretrained, SharedModel.from_pretrained):
        with pytest.raises(CheckpointError, match="no such folder; a model on Hugging Face's hub is hub:runs/mine"):
            opened("runs/mine", cache_dir=cache)
    with pytest.raises(CheckpointError, match=r'"runs/mine"\. Weights on Hugging Face.s hub are somebody/NAME'):
        _hub.fetch_hugging_face("videomae", "somebody/published", "runs/mine")


def test_pushing_uploads_a_whole_export(blob_run, monkeypatch, tmp_path):
    """The hub's client is replaced; everything up to it is real."""
    from types import SimpleNamespace

    from huggingface_hub import hub_mixin

    class Api:
        def __init__(self, **_):
            pass

        def create_repo(self, repo_id, **options):
            assert options["private"] is True
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, folder_path, repo_id, revision, **_):
            shutil.copytree(folder_path, tmp_path / "uploaded")
            return f"https://hub/{repo_id}/commit/{revision}"

    monkeypatch.setattr(hub_mixin, "HfApi", Api)
    model = slivit.from_pretrained(blob_run)
    model.notes = slivit.sharing.notes.CardNotes(name="Blobs", licence="mit")
    assert model.push_to_hub("somebody/blobs", private=True, branch="v1").endswith("somebody/blobs/commit/v1")
    names = {p.name for p in (tmp_path / "uploaded").iterdir()}
    assert names == {"model.safetensors", "config.json", "README.md", "SHA256SUMS", "predict.py"}
    assert "# Blobs" in (tmp_path / "uploaded" / "README.md").read_text()
    again = slivit.from_pretrained(tmp_path / "uploaded")
    again.save_pretrained(tmp_path / "saved")
    slivit.from_pretrained(tmp_path / "saved")
