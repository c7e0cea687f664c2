import pandas as pd
import pytest

from slivit.data.recipe import Data
from slivit.data.sources import load_manifest
from slivit.errors import ManifestError
from slivit.targets.task import Task

BINARY = Task(kind="binary", targets=("bright",))


def test_a_split_is_made_where_there_is_none(blob_scans, tmp_path):
    scans = pd.read_csv(blob_scans).drop(columns="split")
    scans.to_csv(tmp_path / "s.csv", index=False)
    data = Data(manifest=str(tmp_path / "s.csv"), root=str(blob_scans.parent))
    manifest = load_manifest(data, BINARY)
    assert manifest.splits == ("train", "val", "test")
    again = load_manifest(data, BINARY)
    assert (manifest.frame["split"] == again.frame["split"]).all()
    other = load_manifest(data.model_copy(update={"split_seed": 1}), BINARY)
    assert (manifest.frame["split"] != other.frame["split"]).any()


def test_val_is_drawn_from_train_on_request(blob_scans, tmp_path):
    scans = pd.read_csv(blob_scans)
    scans["split"] = scans["split"].replace("val", "train")
    scans.to_csv(tmp_path / "s.csv", index=False)
    data = Data(manifest=str(tmp_path / "s.csv"), root=str(blob_scans.parent))
    with pytest.raises(ManifestError, match="val"):
        load_manifest(data, BINARY)
    manifest = load_manifest(data.model_copy(update={"val_from_train": 0.25}), BINARY)
    before = scans.loc[scans["split"] == "test", "path"]
    assert len(manifest.rows("test")) == len(before)
    assert len(manifest.rows("val")) == 8


def test_several_manifests_are_one_whose_patients_are_apart(blob_scans, tmp_path):
    scans = pd.read_csv(blob_scans)
    scans["path"] = [str(blob_scans.parent / p) for p in scans["path"]]
    scans[:20].to_csv(tmp_path / "a.csv", index=False)
    scans[20:].assign(patient=scans["patient"][:20].to_numpy()).to_csv(tmp_path / "c.csv", index=False)
    data = Data(manifest=str(tmp_path / "a.csv"), also=(str(tmp_path / "c.csv"),))
    manifest = load_manifest(data, BINARY)
    assert len(manifest) == 40
    assert manifest.frame["patient"].nunique() == 2 * scans["patient"][:20].nunique()
    with pytest.raises(ManifestError, match=r"a\.csv"):
        load_manifest(data.model_copy(update={"also": (str(tmp_path / "a.csv"),)}), BINARY)


def test_an_external_test_set_replaces_the_own_one(blob_scans, tmp_path):
    scans = pd.read_csv(blob_scans)
    scans["path"] = [str(blob_scans.parent / p) for p in scans["path"]]
    scans[scans["split"] != "test"].to_csv(tmp_path / "own.csv", index=False)
    external = scans[scans["split"] == "test"].drop(columns="split")
    external.to_csv(tmp_path / "external.csv", index=False)
    data = Data(manifest=str(tmp_path / "own.csv"), test_manifest=str(tmp_path / "external.csv"))
    manifest = load_manifest(data, BINARY)
    assert {r["path"] for r in manifest.rows("test")} == set(external["path"])
    external.assign(patient=scans.loc[0, "patient"]).to_csv(tmp_path / "external.csv", index=False)
    with pytest.raises(ManifestError, match="P0"):
        load_manifest(data, BINARY)


def test_less_training_data_is_nested(blob_scans):
    data = Data(manifest=str(blob_scans))
    paths = []
    for fraction in (0.25, 0.5, 1.0):
        manifest = load_manifest(data.model_copy(update={"train_fraction": fraction}), BINARY)
        paths.append({r["path"] for r in manifest.rows("train")})
        assert len(manifest.rows("test")) == 8
    assert paths[0] < paths[1] < paths[2]


@pytest.mark.real_data
def test_medmnist_by_file_and_by_name(real_data):
    task = Task(kind="binary", targets=("label",))
    by_file = load_manifest(Data(manifest=str(real_data / "medmnist" / "adrenalmnist3d.npz")), task)
    assert [len(by_file.rows(s)) for s in ("train", "val", "test")] == [1188, 98, 298]
    by_name = load_manifest(Data(manifest="medmnist:adrenalmnist3d@64", root=str(real_data / "medmnist")), task)
    assert [len(by_name.rows(s)) for s in ("train", "val", "test")] == [1188, 98, 298]
