"""What the page's server answers, without a browser: list, scans in their own space, notes, drops, comparisons."""

import asyncio
import json
import shutil
import time
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("starlette")
nibabel = pytest.importorskip("nibabel")

from slivit.checkpoint import load_checkpoint  # noqa: E402
from slivit.data.table import read_shown  # noqa: E402
from slivit.explanation.outputs import overlay_array  # noqa: E402
from slivit.viewer.bench import OPENED, Bench, Stopped  # noqa: E402
from slivit.viewer.desk import Desk  # noqa: E402
from slivit.viewer.jobs import PATIENCE, Job, Jobs  # noqa: E402
from slivit.viewer.nifti import map_bytes, nifti_bytes, place_of, read_mask  # noqa: E402
from slivit.viewer.opinions import check_runs, distinct_names, is_run, judged, read_calls, sort_out  # noqa: E402
from slivit.viewer.panels import masks_of  # noqa: E402
from slivit.viewer.server import ViewError  # noqa: E402
from slivit.viewer.thumbnails import Thumbnails  # noqa: E402
from slivit.viewer.web import application  # noqa: E402
from slivit.volume import Volume  # noqa: E402


@pytest.fixture(scope="module")
def desk(run):
    return Desk([Bench(run)])


@pytest.fixture(scope="module")
def ask(desk):
    app = application(desk)

    def ask(path, verb="GET", body=b"", kind="application/json", **query):
        sent = []
        scope = {"type": "http", "method": verb, "path": path, "raw_path": path.encode(), "root_path": "",
                 "query_string": urlencode(query).encode(), "headers": [(b"content-type", kind.encode())],
                 "http_version": "1.1", "scheme": "http", "server": ("127.0.0.1", 80), "client": None}  # fmt: skip

        async def receive():
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message):
            sent.append(message)

        asyncio.run(app(scope, receive, send))
        data = b"".join(m.get("body", b"") for m in sent)
        status = sent[0]["status"]
        return status, json.loads(data) if dict(sent[0]["headers"])[b"content-type"] == b"application/json" else data

    return ask


def test_the_worklist_says_of_every_scan_what_the_runs_files_say(ask, run, scans):
    status, found = ask("/api/worklist")
    assert status == 200
    table = read_shown(run / "predictions.csv").set_index("path")
    assert len(found["rows"]) == len(scans)
    for row in found["rows"]:
        if row["key"] not in table.index:
            assert (row["value"], row["call"], row["flag"]) == (None, "", "")
            continue
        known = table.loc[row["key"]]
        assert row["value"] == pytest.approx(known["prob_bright"], rel=1e-4)
        truth, call = int(known["target_bright"]), int(known["call_bright"])
        assert row["flag"] == ("right" if truth == call else "missed" if truth else "false alarm")
        assert 0 <= row["unsure"] <= 1
    bins = json.loads((run / "metrics.json").read_text())["splits"]["test"]["reliability"]["bright"]["mass"]
    shown = [row for row in found["rows"] if row["observed"]]
    assert shown
    for row in shown:
        value = row["value"]
        near = [b["observed"]["value"] for b in bins if b["n"] and b["low"] - 1e-5 <= value <= b["high"] + 1e-5]
        assert any(row["observed"][0] == pytest.approx(share, abs=1e-4) for share in near)
    assert ask("/api/worklist", target="dark")[0] == 422


def test_two_runs_and_a_reader_are_compared(runs, run, scans, tmp_path):
    first = Bench(run)
    second = Bench(runs("binary"))
    second.known = {
        k: {**row, "prob_bright": 1 - row["prob_bright"], "call_bright": 1} for k, row in first.known.items()
    }
    calls = tmp_path / "calls.csv"
    pd.DataFrame({"path": scans["path"][30:33], "reader": "Dr. B", "bright": [0, 1, 0]}).to_csv(calls, index=False)
    found = Desk([first, second], read_calls(calls, first)).worklist("bright")
    assert found["runs"] == ["run", "my_binary", "Dr. B"]
    for row in (r for r in found["rows"] if r["value"] is not None):
        other = row["others"][0][0]
        assert other == pytest.approx(1 - row["value"], abs=1e-4)
        assert row["spread"] == pytest.approx(np.std([row["value"], other]), abs=1e-4)
        said = {row["call"], "1", *([row["others"][1][1]] if row["others"][1][1] else [])}
        assert row["differ"] == (len(said) > 1)
    assert [r["others"][1] for r in found["rows"]][30:33] == [[None, "0"], [None, "1"], [None, "0"]]
    with pytest.raises(ViewError, match="one task"):
        Desk([first, Bench(runs("regression"))])


def test_values_are_far_off_and_classes_wrong(runs):
    for kind, target, flags in (
        ("regression", "size", {"far off", "near"}),
        ("multiclass", "grade", {"right", "wrong"}),
    ):
        bench = Bench(runs(kind))
        rows = [r for r in Desk([bench]).worklist(target)["rows"] if r["flag"]]
        assert {r["flag"] for r in rows} <= flags
        assert rows
        if kind == "regression":
            assert all(r["error"] == pytest.approx(abs(r["value"] - float(r["truth"])), rel=1e-3) for r in rows)
            far = [r["error"] for r in rows if r["flag"] == "far off"]
            assert min(far) >= max(r["error"] for r in rows if r["flag"] == "near")
    task = load_checkpoint(runs("multiclass")).task
    said = judged(task, None, "grade", {"prob_high": 0.2, "prob_low": 0.8})
    assert (said.value, said.call) == (0.8, "low")


def test_runs_of_one_name_are_called_by_what_differs_in_their_paths():
    study = [("seed_0", Path(f"/s/runs/slivit/{start}/seed_0")) for start in ("random", "oct2d")]
    assert distinct_names(study) == ["random", "oct2d"]
    assert distinct_names([*study, ("Dr. A", Path("/s/runs/slivit/random/seed_0"))])[2] == "Dr. A"
    assert distinct_names([("a", Path("/x/a")), ("b", Path("/y/b"))]) == ["a", "b"]
    assert len(set(distinct_names([("r", Path("/x/r")), ("r", Path("/x/r/r"))]))) == 2


def test_what_is_looked_at_is_told_apart(run, scans, tmp_path):
    study = tmp_path / "study"
    shutil.copytree(run, study / "runs" / "slivit")
    with pytest.raises(ViewError, match=r"holds 1 runs; give it alone.*runs/slivit"):
        check_runs([study])
    check_runs([run, run / "checkpoint"])
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "best.toml").touch()
    with pytest.raises(ViewError, match=r"keeps no weights.*slivit finetune .*best\.toml"):
        check_runs([tmp_path / "sweep"])
    assert [is_run(folder) for folder in (run, run / "checkpoint", study)] == [True, True, False]
    csv = tmp_path / "scans.csv"
    csv.write_text("path\n")
    assert sort_out([csv, study]) == (csv, [study])
    with pytest.raises(ViewError, match="--readers"):
        sort_out([csv, run / "split.csv"])
    with pytest.raises(ViewError, match="no such"):
        sort_out([tmp_path / "gone"])


def values_at(image, points):
    """The voxels at places in mm."""
    inside = nibabel.affines.apply_affine(np.linalg.inv(image.affine), points)
    return np.asarray(image.dataobj)[tuple(np.rint(inside).astype(int).T)]


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, 1), (1, -1, -1)])
@pytest.mark.parametrize("order", [(2, 1, 0), (0, 2, 1), (1, 0, 2)])
def test_the_scan_is_served_in_its_own_space(rng, signs, order, tmp_path):
    array = rng.integers(-900, 900, (7, 9, 11)).astype(np.int16)
    affine = np.eye(4)
    affine[:3, :3] = np.diag([2.0, 3.0, 4.0])[:, list(order)] * np.array(signs)
    affine[:3, 3] = (5, -7, 9)
    volume = Volume(array, (1.0, 1.0, 1.0), "made up", affine)
    served = nibabel.Nifti1Image.from_bytes(nifti_bytes(array, affine, None))
    index = rng.integers(0, array.shape, (20, 3))
    np.testing.assert_array_equal(values_at(served, nibabel.affines.apply_affine(affine, index)), array[tuple(index.T)])
    place = place_of(volume)
    seen = nibabel.as_closest_canonical(served)  # as the viewer turns it: right, front, head
    along = np.moveaxis(np.asarray(seen.dataobj), place["axis"], 0)
    along = along[::-1] if place["flipped"] else along
    assert along.shape[0] == len(array)
    for number in (0, 3, 6):
        assert sorted(along[number].ravel()) == sorted(array[number].ravel())
    assert place["hu"]


def test_a_map_lies_over_the_scan(desk):
    opened = desk.main.open("3")
    found = desk.main.explain(opened, "bright", "gradcam")
    served = nibabel.Nifti1Image.from_bytes(map_bytes(found, "gradcam"))
    expected = overlay_array(found, "gradcam")
    grid = np.argwhere(expected > 0.3 * expected.max())[::7]
    shown = values_at(served, nibabel.affines.apply_affine(opened.scan.affine, grid))
    np.testing.assert_allclose(shown / 255, expected[tuple(grid.T)] / expected.max(), atol=1 / 255)


def test_pictures_and_explanations_over_http(ask, scans):
    status, facts = ask("/api/scan/3")
    assert (status, facts["name"], facts["shape"][0]) == (200, "scan3.nii", 6)
    answer, end = {}, time.monotonic() + 600
    assert ask("/api/scan/3/explain", target="bright", method="occlusion")[0] == 200
    while "scores" not in answer and time.monotonic() < end:
        _, answer = ask("/api/scan/3/explain", target="bright", method="occlusion")
    assert len(answer["scores"]) == len(answer["slices"]) == 6
    assert answer["slices"][int(np.argmax(answer["scores"]))] == answer["best"]
    assert not answer["map"]
    assert ask("/api/scan/3/heat/0", target="bright", method="occlusion")[0] == 204
    assert ask("/api/scan/3/slice/2")[1].startswith(b"\x89PNG")
    assert ask("/api/scan/3/slice/200")[0] == 204
    turned = nibabel.as_closest_canonical
    own, served = turned(nibabel.load(scans["path"][3])), ask("/api/scan/3/volume.nii")[1]
    served = turned(nibabel.Nifti1Image.from_bytes(served))
    np.testing.assert_array_equal(np.asarray(served.dataobj), np.asarray(own.dataobj))
    np.testing.assert_allclose(served.affine, own.affine, atol=1e-5)
    assert ask("/api/scan/3/explain", target="dark", method="gradcam")[1]["state"] == "failed"
    for path in ("/api/scan/999", "/api/scan/nothing", "/api/scan/3/map.nii"):
        assert ask(path)[0] == 422
    assert ask("/web/../bench.py")[0] == 404


def test_thumbnails_are_made_once_and_kept(desk, run):
    thumbnails, end = desk.thumbnails, time.monotonic() + 600
    while len(thumbnails.want([0, 1, 2])) < 3 and time.monotonic() < end:
        time.sleep(0.02)
    assert thumbnails.get(1).startswith(b"\xff\xd8")
    assert len(list((run / "thumbnails").glob("*.jpg"))) == 3
    again = Thumbnails(Bench(run))
    assert again.want([0, 1, 2]) == [0, 1, 2]
    assert again.get(2) == thumbnails.get(2)
    gone = Thumbnails(Bench(run))
    gone.bench.rows = [{**gone.bench.rows[0], "path": str(run / "gone.nii")}]
    while gone.want([0]) == [] and time.monotonic() < end:
        time.sleep(0.02)
    assert "gone.nii" in gone.failed[0]


def test_notes_are_kept_and_wrong_ones_refused(ask, run):
    said = {"scan": 5, "reviewer": "Dr. A", "verdict": "wrong label", "comment": "<b>no lesion</b>"}
    status, answer = ask("/api/reviews", "POST", json.dumps(said).encode())
    assert status == 200
    assert answer["reviews"][0]["comment"] == "<b>no lesion</b>"
    assert answer["summary"] == "1 label is doubted"
    for wrong in ({**said, "verdict": "maybe"}, {**said, "scan": 999}, {**said, "reviewer": ""}, {}, []):
        assert ask("/api/reviews", "POST", json.dumps(wrong).encode())[0] == 422
    assert len((run / "reviews.csv").read_text().splitlines()) == 2


def test_a_dropped_file_is_opened_and_nothing_of_it_stays(ask, scans, tmp_path):
    name, edge = "../../evil.nii", b"XX"
    data = Path(scans["path"][7]).read_bytes()
    head = f'Content-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    body = b"--" + edge + b"\r\n" + head + data + b"\r\n--" + edge + b"--\r\n"
    status, answer = ask("/api/drop", "POST", body, "multipart/form-data; boundary=XX")
    assert status == 200
    facts = ask(f"/api/scan/{answer['key']}")[1]
    assert facts["name"] == "evil.nii"
    assert nibabel.Nifti1Image.from_bytes(ask(f"/api/scan/{answer['key']}/volume.nii")[1]).shape == (24, 24, 6)
    assert ask("/api/drop", "POST", b"", "multipart/form-data; boundary=XX")[0] == 422


def test_masks_of_a_scan(tmp_path, rng):
    labels = rng.integers(0, 3, (4, 5, 6)).astype(np.uint8)
    for name in ("masks/case1.nii.gz", "truth.nii"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        nibabel.Nifti1Image(labels, np.diag([2.0, 1, 1, 1])).to_filename(tmp_path / name)
    row = {"path": str(tmp_path / "case1.nii.gz"), "patient": "P", "split": "test", "lesion": "truth.nii", "age": 3}
    found = masks_of(tmp_path, row)
    assert {k: v.name for k, v in found.items()} == {"predicted": "case1.nii.gz", "lesion": "truth.nii"}
    array, affine = read_mask(found["predicted"])
    np.testing.assert_array_equal(array, labels.transpose(2, 1, 0))
    np.testing.assert_array_equal(affine @ [0, 0, 1, 1], [2, 0, 0, 1])
    assert masks_of(tmp_path, {}) == {}


def test_a_map_of_a_scan_that_left_memory_is_made_anew(ask, desk):
    before = ask("/api/scan/4/heat/2", target="bright", method="gradcam")
    assert before[1].startswith(b"\x89PNG")
    opened = desk.main.open("4")
    for number in range(5, 5 + OPENED):
        desk.main.open(str(number))
    assert desk.main.open("4") is not opened
    assert ask("/api/scan/4/heat/2", target="bright", method="gradcam") == before
    assert ask("/api/scan/4/map.nii", target="bright", method="nothing")[0] == 422


def test_a_computation_that_nobody_asks_for_ends_and_begins_anew_when_asked_again():
    job = Job()
    job.asked = time.monotonic() - PATIENCE - 1
    with pytest.raises(Stopped):
        job.progress(1, 2)
    begun, jobs = [], Jobs()

    def work(progress):
        begun.append(1)
        if len(begun) == 1:
            raise Stopped

    assert jobs.ask("late", work, wait=30)["state"] == "running"
    assert jobs.ask("late", work, wait=30) == {"state": "done"}
    assert len(begun) == 2
    end = time.monotonic() + 30
    state = {"state": "running"}
    while state["state"] == "running" and time.monotonic() < end:
        state = jobs.ask("a", lambda progress: progress(1, 2), wait=0.1)
    assert state == {"state": "done"}


ODD = ("", "-1", "10**9", "99999999999999999999999", "nan", "\0", "../../etc/passwd", "bright", "🫀", "x" * 5000)
PLACES = ("/explain", "/place", "/neighbours", "/neighbour/0", "/neighbour/99999999999999999999", "/slice/0", "/heat/0")
PLACES += (
    "/slice/99999999999999999999",
    "/cut/0/0",
    "/cut/true/99999999999999999999",
    "/calibration.svg",
    "/volume.nii",
    "/map.nii",
    "/mask/0.nii",
    "",
)
BODIES = (b"", b"null", b"[]", b"{}", b'"x"', b"1e999", b"[" * 9000, b"\xff", b'{"verdict": []}', b'{"row": {}}',
          b'{"reviewer": 1, "verdict": "accept", "key": -1}', b'{"reviewer": "a", "verdict": "accept", "key": "99"}',
          b'{"reviewer": "\\ud800", "verdict": "accept", "key": "0", "comment": "x"}')  # fmt: skip


def test_whatever_is_asked_is_answered_with_a_status_and_no_failure(ask, desk, tmp_path):
    found = set()
    for number in range(400):
        rng = np.random.default_rng(number)
        key, target, method, row = (ODD[int(i)] for i in rng.integers(len(ODD), size=4))
        place = PLACES[number % len(PLACES)]
        key = "0" if number % 3 else key.replace("/", "")
        query = {k: v for k, v in {"target": target, "method": method, "run": row, "channel": row}.items() if v}
        found.add(ask(f"/api/scan/{key}{place}", **query)[0])
    for odd in ODD:
        found |= {ask("/api/worklist", target=odd)[0], ask("/api/thumbnails", rows=f"{odd},{odd}")[0]}
    for body in BODIES:
        status, _ = ask("/api/reviews", "POST", body)
        assert status == 422, body
    assert found <= {200, 204, 404, 422}, found
