"""What the page works on, without a page."""

import re
import shutil
from itertools import pairwise

import numpy as np
import pytest

from slivit.checkpoint import load_checkpoint, save_checkpoint
from slivit.errors import ReadError
from slivit.explanation import ExplainError
from slivit.models.registry import create_model
from slivit.predict.engine import Engine, predict_table
from slivit.viewer import neighbours as module
from slivit.viewer.bench import Bench, Stopped
from slivit.viewer.neighbours import cosines
from slivit.viewer.pictures import coloured, heat_png, slice_png
from slivit.viewer.record import Record
from slivit.viewer.server import ViewError, address, bind


@pytest.fixture(scope="module")
def bench(runs):
    return Bench(runs("binary"))


def own_copy(run, folder):
    """A copy of a run whose files a test may change, without features of training scans."""
    return shutil.copytree(run, folder / "run", ignore=shutil.ignore_patterns("neighbours.npz"))


def test_a_scan_is_predicted_as_the_command_does(bench, scans):
    opened = bench.open_row(3)
    assert opened.row["path"] == scans["path"][3]
    model = bench.checkpoint
    expected = predict_table(model.model, [{"path": scans["path"][3]}], model.task, model.preprocessing)
    assert opened.predictions["prob_bright"] == pytest.approx(expected["prob_bright"][0], abs=1e-6)
    assert opened.predictions["call_bright"] == int(expected["prob_bright"][0] >= 0.4)
    assert bench.truth(opened) == {"bright": scans["bright"][3]}


def test_an_explanation_is_computed_once_and_can_be_stopped(bench):
    opened = bench.open_row(0)

    def stop(done, total):
        raise Stopped

    with pytest.raises(Stopped):
        bench.explain(opened, "bright", "occlusion", stop)
    found = bench.explain(opened, "bright", "occlusion")
    assert bench.explain(opened, "bright", "occlusion", stop) is found
    assert bench.explain(opened, "bright", "gradcam") is not found
    with pytest.raises(ExplainError):
        bench.explain(opened, "dark", "occlusion")


def test_dropped_files_are_one_scan_or_the_slices_of_one(bench, scans, tmp_path):
    import cv2

    one, many, bad = (tmp_path / name for name in ("one", "many", "bad"))
    for folder in (one, many, bad):
        folder.mkdir()
    shutil.copy(scans["path"][5], one)
    assert bench.open_files(one).predictions == bench.open_row(5).predictions
    for i in range(7):
        cv2.imwrite(str(many / f"{i}.png"), np.full((32, 32), 30 * i, np.uint8))
    assert bench.open_files(many).scan.shape == (7, 32, 32)
    (bad / "notes.txt").write_text("no scan")
    with pytest.raises(ReadError, match=r"notes\.txt"):
        bench.open_files(bad)


def test_without_a_manifest_and_a_split_there_is_nothing_to_choose(runs, tmp_path):
    shutil.copytree(runs("binary") / "checkpoint", tmp_path / "shared")
    bench = Bench(tmp_path / "shared")
    assert bench.rows == []
    assert bench.neighbours.rows == []
    assert "metrics.json" in bench.record.sentence("bright", 0.5)
    assert bench.record.figure("bright", 0.5) is None


def test_the_nearest_training_scans(runs, scans, monkeypatch, tmp_path):
    run = own_copy(runs("binary"), tmp_path)
    bench = Bench(run)
    training = scans[scans["split"] == "train"]
    assert bench.neighbours.missing == len(training)
    bench.neighbours.build()
    assert bench.neighbours.missing == 0
    opened = bench.open_row(0)
    own, *others = bench.neighbours.nearest(opened.features, count=30)
    assert own.row["path"] == opened.row["path"]
    assert own.similarity == pytest.approx(1, abs=1e-5)
    assert bench.neighbours.thumbnail(own.number).shape == (module.SIDE, module.SIDE)
    assert len(others) == len(training) - 1
    assert all(a.similarity >= b.similarity for a, b in pairwise(others))
    without = bench.neighbours.nearest(opened.features, count=30, but=opened.row["path"])
    assert [n.row["path"] for n in without] == [n.row["path"] for n in others]
    monkeypatch.setattr(Engine, "head_input", None)  # a new start computes nothing
    again = Bench(run)
    assert again.neighbours.missing == 0
    assert [n.row["path"] for n in again.neighbours.nearest(opened.features, but=opened.row["path"])] == [
        n.row["path"] for n in others[:6]
    ]


def test_other_weights_make_all_features_anew(runs, tmp_path):
    run = own_copy(runs("binary"), tmp_path)
    Bench(run).neighbours.build()
    loaded = load_checkpoint(run)
    other = create_model("slivit", 1, **loaded.model.spec.args)
    save_checkpoint(run / "checkpoint", other, loaded.task, loaded.preprocessing)
    bench = Bench(run)
    assert bench.neighbours.missing == len(bench.neighbours.rows)
    (run / "neighbours.npz").write_bytes(b"cut short")
    assert Bench(run).neighbours.missing == len(bench.neighbours.rows)


def test_work_that_is_stopped_or_cannot_be_kept_is_not_lost(runs, tmp_path):
    run = own_copy(runs("binary"), tmp_path)
    bench = Bench(run)
    bench.neighbours.rows[1] = {**bench.neighbours.rows[1], "path": str(tmp_path / "gone.nii")}

    def stop(done, total):
        if done == 4:
            raise Stopped

    with pytest.raises(Stopped):
        bench.neighbours.build(stop)
    assert Bench(run).neighbours.missing == len(bench.neighbours.rows) - 3
    bench.neighbours.file = run / "split.csv" / "impossible.npz"
    bench.neighbours.build()
    assert (bench.neighbours.missing, bench.neighbours.unreadable) == (0, 1)
    assert bench.neighbours.nearest(bench.open_row(0).features)


def test_cosines_are_those_of_the_differences_from_the_mean(rng):
    table, one = rng.normal(size=(5, 3)).astype(np.float32), rng.normal(size=3).astype(np.float32)
    a, b = table - table.mean(0), one - table.mean(0)
    expected = [np.dot(x, b) / np.linalg.norm(x) / np.linalg.norm(b) for x in a]
    np.testing.assert_allclose(cosines(table, one), expected, rtol=1e-5)
    assert cosines(table[:1], one).tolist() == [0]


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_the_record_tells_what_became_of_such_predictions(runs, kind):
    bench = Bench(runs(kind))
    target = bench.checkpoint.task.outputs[0]
    table = bench.record.table
    assert set(table["split"]) == {"test"}
    value = float(table[bench.checkpoint.task.prediction_columns[0]].iloc[0])
    told = bench.record.sentence(target, value)
    if kind == "regression":
        error = (table["pred_size"] - table["target_size"]).abs().mean()
        assert f"off by {error:.2f} mm" in told
    else:
        assert re.search(r"Of \d+ test scans? with a probability from", told)
        assert "None of the" in bench.record.sentence(target, 2.0)
    figure = bench.record.figure(target, value)
    line = figure.axes[0].lines[-1]
    marked = line.get_ydata() if kind == "regression" else line.get_xdata()
    assert list(marked) == [value, value]


def test_a_record_at_another_temperature_is_not_shown(runs):
    from slivit.targets.decision import Decision

    bench = Bench(runs("binary"))
    record = Record.of(runs("binary"), bench.checkpoint.task, Decision(temperature=2.0))
    assert "temperature" in record.sentence("bright", 0.5)


def test_pictures(bench):
    opened = bench.open_row(1)
    found = bench.explain(opened, "bright", "gradcam")
    assert slice_png(opened.scan, 0).startswith(b"\x89PNG")
    assert slice_png(opened.scan, 0) != slice_png(opened.scan, 1)
    assert slice_png(opened.scan, 99) is None
    assert any(heat_png(found, "gradcam", n) for n in range(6))
    assert heat_png(bench.explain(opened, "bright", "rollout"), "rollout", 0) is None
    colours = coloured(np.array([[0, 1.0]], np.float32))
    assert colours[0, 0, 3] == 0
    assert colours[0, 1, 3] == 255


def test_a_port_that_is_taken_is_told():
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert address(taken) == f"http://127.0.0.1:{port}/"
        with pytest.raises(ViewError, match=rf"port {port} .*--port 0"):
            bind("127.0.0.1", port)
    with bind("127.0.0.1", port):
        pass
    with pytest.raises(ViewError, match="cannot be used"):
        bind("203.0.113.1", 0)
