"""Exports: what they hold, that they compute the same, and that they are refused where they do not."""

import ast
import hashlib
import json
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from slivit.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from slivit.cli import app
from slivit.data.preprocessing import Preprocessing
from slivit.errors import CheckpointError, SlivitError
from slivit.models.registry import create_model, model_spec
from slivit.predict.sums import check_sums
from slivit.sharing import command as stage
from slivit.sharing import serving, standalone
from slivit.sharing.checking import example_volume
from slivit.sharing.export import Options, export
from slivit.targets.task import Task


@pytest.fixture(scope="module")
def exports(blob_run, tmp_path_factory):
    """One export of each kind."""
    folder = tmp_path_factory.mktemp("exports")
    notes = folder / "notes.toml"
    notes.write_text('licence = "cc-by-nc-4.0"\nintended_use = "Finding bright blobs."\nlimits = "Blobs alone."\n')
    return {
        "safetensors": stage.run(blob_run, folder / "safetensors", notes=notes, most=2),
        "bf16": stage.run(blob_run, folder / "bf16", bf16=True, most=4),
        "onnx": stage.run(blob_run, folder / "onnx", format="onnx", bf16=True, most=4),
        "torch-export": stage.run(blob_run, folder / "torch-export", format="torch-export", most=4),
    }


def config_of(exported):
    return json.loads((exported.folder / "config.json").read_text())


def test_the_card_tells_what_others_must_know(exports):
    card = (exports["safetensors"].folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: slivit\nlicense: cc-by-nc-4.0\n")
    for part in ("Finding bright blobs.", "ROC AUC", "90% interval", "Blobs alone.", "Scans: train 24, val 8, test 8",
                 "by the rule youden", "percentile 2 and 98", "[fit]", "doi     = {10.1038", "| train | 24 |",
                 "largest difference from the original on 2 scans: 0", "1st percentile of intensities"):  # fmt: skip
        assert part in card, part
    from huggingface_hub import ModelCard

    data = ModelCard(card).data.to_dict()
    assert data["model-index"][0]["results"][0]["metrics"][0]["type"] == "roc_auc"
    empty = (exports["onnx"].folder / "README.md").read_text()
    assert "Not stated by the makers" in empty


def test_nothing_tells_of_the_machine(exports, blob_run):
    for made in exports.values():
        for file in made.folder.iterdir():
            if file.suffix in (".json", ".md", ".py"):
                assert str(blob_run.parent.parent) not in file.read_text()


def test_checksums_hold_and_the_fingerprint_is_theirs(exports):
    for made in exports.values():
        sums = (made.folder / "SHA256SUMS").read_bytes()
        assert hashlib.sha256(sums).hexdigest() == made.fingerprint
        check_sums(made.folder, made.fingerprint)
        assert "model." in sums.decode()


def test_real_scans_were_compared_and_the_difference_is_told(exports):
    for name, made in exports.items():
        assert made.difference.real
        assert made.difference.pixels == (0 if name in ("onnx", "torch-export") else None)
        assert config_of(made)["export"]["largest_difference"] == made.difference.largest
        assert made.difference.largest < (1e-2 if name in ("bf16", "onnx") else 1e-6)
    assert exports["bf16"].difference.largest > 0


def test_bf16_is_half_the_size_and_loads_strictly(exports, tmp_path):
    plain, half = (exports[n].folder / "model.safetensors" for n in ("safetensors", "bf16"))
    assert half.stat().st_size < 0.6 * plain.stat().st_size
    loaded = load_checkpoint(exports["bf16"].folder)
    assert {str(p.dtype) for p in loaded.model.parameters()} == {"torch.float32"}
    told = shutil.copytree(exports["bf16"].folder, tmp_path / "told")
    config = json.loads((told / "config.json").read_text())
    del config["weights"]
    (told / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="is stored as BF16, it must be float32"):
        load_checkpoint(told)


@pytest.mark.parametrize("name", ["onnx", "torch-export"])
def test_the_example_is_what_the_program_beside_it_computes(exports, name):
    folder = exports[name].folder
    settings = standalone.load_settings(folder)
    with np.load(folder / "example.npz", allow_pickle=False) as example:
        volume, slices, prediction = (example[k] for k in ("volume", "slices", "prediction"))
    np.testing.assert_array_equal(standalone.preprocess(volume, settings["preprocessing"]), slices)
    run = {"onnx": serving.run_onnx, "torch-export": serving.run_pt2}[name](folder / settings["model"])
    batch = np.concatenate(list(standalone.batches(volume, settings["preprocessing"])) * 5)
    outputs = run(batch)  # five at once: the batch size is open
    assert outputs.shape == (5, 1)
    np.testing.assert_allclose(outputs, np.tile(prediction, (5, 1)), atol=1e-2 if name == "onnx" else 1e-6)


def test_predict_py_needs_only_what_it_says(exports, tmp_path):
    folder = exports["onnx"].folder
    said = set(re.search(r"pip install ([^\n]*)", (folder / "predict.py").read_text())[1].split())
    imported = set()
    for file in ("predict.py", "preprocess.py", "reading.py"):
        imported |= {p.split()[-1] for p in re.findall(r'_needs\("[\w.]+", "(\w+)"\)', (folder / file).read_text())}
        for node in ast.parse((folder / file).read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                imported |= {(getattr(node, "module", None) or node.names[0].name).split(".")[0]}
    names = {"cv2": "opencv-python-headless"}
    assert {names.get(i, i) for i in imported} - set(sys.stdlib_module_names) - {"preprocess", "reading"} == said
    np.save(tmp_path / "scan.npy", example_volume(4))
    command = [sys.executable, str(folder / "predict.py"), str(tmp_path / "scan.npy")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": ""})
    assert done.returncode == 0, done.stderr
    assert "'prob_bright': 0." in done.stdout
    assert "'call_bright': " in done.stdout
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)
    assert all(len((made.folder / "predict.py").read_text().splitlines()) < 32 for made in exports.values())


def test_a_changed_graph_is_not_run(exports, tmp_path):
    folder = shutil.copytree(exports["onnx"].folder, tmp_path / "changed")
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(SystemExit, match=r"model\.onnx was changed"):
        standalone.load_settings(folder)


def test_torch_export_holds_no_pickle_and_one_that_does_is_not_opened(exports, tmp_path):
    path = exports["torch-export"].folder / "model.pt2"
    standalone.check_no_pickles(path)
    for name, content in [("m/data/sample_inputs/model.pt", b"\x80\x02."), ("m/data/constants/opaque_obj_0", b"\x80"),
                          ("m/data/aotinductor/model/x.so", b"\x7fELF")]:  # fmt: skip
        bad = tmp_path / f"{name.rsplit('/')[-1]}.pt2"
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(bad, "w") as target:
            for info in source.infolist():
                if not info.filename.endswith(name.partition("/")[2]):
                    target.writestr(info.filename, source.read(info))
            config = json.dumps({"config": {"x": {"path_name": "opaque_obj_0", "use_pickle": True}}})
            target.writestr(
                "m/data/constants/other_constants_config.json", config if "opaque" in name else '{"config": {}}'
            )
            target.writestr(name, content)
        with pytest.raises(SystemExit, match="could run foreign code"):
            standalone.check_no_pickles(bad)


@pytest.mark.parametrize(
    ("name", "kind", "format"),
    [
        ("vit3d", "regression", "torch-export"),
        pytest.param("r3d_18", "multiclass", "torch-export", marks=pytest.mark.slow),
        pytest.param("slivit", "multiclass", "onnx", marks=pytest.mark.slow),
        pytest.param("r3d_18", "regression", "onnx", marks=pytest.mark.slow),
    ],
)
def test_every_kind_of_model_becomes_one_graph(name, kind, format, tmp_path):
    task = Task(kind="regression", targets=("a", "b"), unit="mm", center=(5.0, 1.0), spread=(2.0, 3.0))
    if kind == "multiclass":
        task = Task(kind=kind, targets=("a",), classes=("x", "y", "z"))
    model = create_model(name, task.out_dim, **model_spec(name).small).eval()
    settings = Preprocessing(size=model.spec.size, flips=("slices",))
    made = save_checkpoint(tmp_path / "checkpoint", model, task, settings)
    found = export(load_checkpoint(made), tmp_path / "out", Options(format=format))
    assert found.difference.largest < 1e-5
    assert not found.difference.real
    assert "made-up scans" in (tmp_path / "out" / "README.md").read_text()


def test_an_export_that_computes_something_else_is_refused(blob_run, tmp_path, monkeypatch):
    monkeypatch.setattr(serving, "run_engine", lambda _: lambda slices, *_: np.full((len(slices), 1), next(values)))
    values = iter(np.linspace(0, 1, 99))
    done = CliRunner().invoke(app, ["export", str(blob_run), str(tmp_path / "out")])
    assert done.exit_code == 2
    assert "above the tolerance of 0.001" in done.output
    assert not (tmp_path / "out").exists()


def test_mistakes_are_told(blob_run, tmp_path, monkeypatch):
    with pytest.raises(SlivitError, match='Did you mean "onnx"'):
        stage.run(blob_run, tmp_path / "a", format="onx")
    with pytest.raises(SlivitError, match="holds the run itself"):
        stage.run(blob_run, blob_run.parent, overwrite=True)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "x").touch()
    with pytest.raises(SlivitError, match="holds no export"):
        stage.run(blob_run, tmp_path / "used", overwrite=True)
    (tmp_path / "used" / "SHA256SUMS").touch()
    with pytest.raises(SlivitError, match="--overwrite"):
        stage.run(blob_run, tmp_path / "used")
    (tmp_path / "n.toml").write_text('license = "mit"')
    with pytest.raises(SlivitError, match='Did you mean "licence"'):
        stage.run(blob_run, tmp_path / "a", notes=tmp_path / "n.toml")
    unrounded = load_checkpoint(blob_run)
    unrounded = replace(unrounded, preprocessing=unrounded.preprocessing.model_copy(update={"rounded": False}))
    with pytest.raises(SlivitError, match=r"takes them unrounded .* use --format safetensors"):
        export(unrounded, tmp_path / "a", Options(format="torch-export"))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(SlivitError, match=r"\[export\]"):
        stage.run(blob_run, tmp_path / "a", format="onnx")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["dino3d_vit_base", "echonet", "lrcn", "mvit_v1_b", "penet", "unimiss_tiny", "videomae"]
)
def test_other_families_become_graphs_too(name, tmp_path):
    model = create_model(name, 1, **model_spec(name).small).eval()
    task = Task(kind="binary", targets=("a",))
    made = save_checkpoint(tmp_path / "checkpoint", model, task, Preprocessing(size=model.spec.size))
    checkpoint = load_checkpoint(made)
    assert isinstance(checkpoint, Checkpoint)
    assert export(checkpoint, tmp_path / "out", Options(format="onnx")).difference.largest < 1e-5


@pytest.mark.slow
@pytest.mark.real_data
def test_onnx_on_real_scans(real_data, tmp_path):
    task = Task(kind="binary", targets=("a",))
    model = create_model("slivit", 1, **model_spec("slivit").small).eval()
    made = save_checkpoint(tmp_path / "checkpoint", model, task, Preprocessing(size=model.spec.size))
    scans = [str(real_data / "lung_ultrasound"), str(real_data / "ibsi_sts_008")]
    found = stage.run(made, tmp_path / "out", format="onnx", scans=scans)
    assert found.difference.scans >= 5
    assert found.difference.pixels == 0
    assert found.difference.largest < 1e-5
    assert pd.notna(found.difference.largest)
