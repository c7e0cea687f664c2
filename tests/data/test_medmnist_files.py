"""MedMNIST's official files: known by name and sum, found, and downloaded whole or not at all."""

import hashlib

import pytest

from slivit.data.medmnist_files import fetch_medmnist, official_files, official_md5
from slivit.errors import ManifestError


def test_names_and_sums():
    assert official_md5("adrenalmnist3d.npz") == "bbd3c5a5576322bc4cdfea780653b1ce"
    assert official_md5("adrenalmnist3d_64.npz") == "17721accfe9fb005146a47d33bc54b2f"
    assert official_md5("adrenalmnist3d_128.npz") is None
    assert official_md5("pneumoniamnist_rebuilt.npz") is None
    sums = [md5 for sizes in official_files().values() for md5 in sizes.values()]
    assert len(official_files()) == 18
    assert len(set(sums)) == 12 * 4 + 6 * 2
    assert all(len(bytes.fromhex(md5)) == 16 for md5 in sums)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ManifestError, match=r"data\.download"):
        fetch_medmnist("nodulemnist3d", tmp_path)
    with pytest.raises(ManifestError, match='Did you mean "nodulemnist3d"'):
        fetch_medmnist("nodulemnist", tmp_path, download=True)
    with pytest.raises(ManifestError, match=r"has nodulemnist3d at 28 and 64 pixels a side, not 65"):
        fetch_medmnist("nodulemnist3d@65", tmp_path, download=True)


def test_a_download_is_the_official_file_or_nothing(tmp_path):
    record, root = tmp_path / "record", tmp_path / "root"
    record.mkdir()
    with pytest.raises(ManifestError, match="cannot be downloaded"):
        fetch_medmnist("nodulemnist3d", root, download=True, record=record.as_uri())
    (record / "nodulemnist3d.npz").write_bytes(b"another file")
    with pytest.raises(ManifestError, match=hashlib.md5(b"another file").hexdigest()):
        fetch_medmnist("nodulemnist3d", root, download=True, record=record.as_uri())
    assert list(root.iterdir()) == []


@pytest.mark.real_data
def test_the_official_file_arrives(real_data, tmp_path):
    record = (real_data / "medmnist").as_uri()
    file = fetch_medmnist("adrenalmnist3d", tmp_path, download=True, record=record)
    assert file == fetch_medmnist("adrenalmnist3d", tmp_path)
    assert hashlib.md5(file.read_bytes()).hexdigest() == official_md5(file.name)
