"""A prediction that is shared out: every scan once, and a process that dies costs the scan of which it died."""

import pytest

from slivit.checkpoint import load_checkpoint
from slivit.data.scan_reading import ScanRef
from slivit.errors import SlivitError
from slivit.machines import Died, Machines
from slivit.predict.command import _check_seen, _processes
from slivit.predict.engine import Engine
from slivit.predict.parts import Loaded, predict_parts, rows_of


class Fragile(Machines):
    """Machines with two places whose processes die of the fourth scan."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def once(self, function, part):
        self.sizes.append(len(part.refs))
        if any("scan3" in ref.name for ref in part.refs):
            raise Died("the process was killed (signal 9)")
        return function(part)


@pytest.fixture
def refs(blob_scans):
    paths = [str(blob_scans.parent / f"scan{i}.nii") for i in range(9)]
    return [ScanRef(path, path) for path in paths]


def assert_same(found, expected):
    """The same rows; probabilities but for what other batches change in the last bits."""
    assert sorted(found) == sorted(expected)
    for number, row in expected.items():
        assert found[number] == row | {"prob_bright": pytest.approx(row["prob_bright"], abs=1e-6)}


def test_rows_are_those_of_one_process_and_a_death_is_told(blob_run, refs):
    expected = dict(rows_of(Engine(load_checkpoint(blob_run), "cpu", batch_size=2, precision="float32"), refs))
    loaded = Loaded(str(blob_run), device="cpu", batch_size=2, precision="float32")
    assert_same(dict(predict_parts(Machines(), loaded, refs)), expected)
    machines = Fragile()
    found = dict(predict_parts(machines, loaded, refs))
    assert machines.sizes == [3, 3, 3, 1, 1, 1], "the part is read again scan by scan"
    assert "scan3.nii: could not be predicted: the process was killed" in found[3].pop("error")
    del found[3], expected[3]
    assert_same(found, expected)


def test_several_gpus_are_used_for_many_scans_and_an_archive_stays_here(monkeypatch, refs, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert [_processes(None, "auto", 100), _processes(None, "auto", 3), _processes(None, "cpu", 100)] == [2, 0, 0]
    assert _processes(3, "auto", 5) == 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert _processes(None, "auto", 100) == 0
    _check_seen(refs, "auto")
    packed = [ScanRef("sent.zip/scan0.nii", refs[0].path)]
    _check_seen(packed, "")
    with pytest.raises(SlivitError, match=r"sent.zip/scan0.nii: lies in an archive.*unpack it"):
        _check_seen(packed, "auto")
