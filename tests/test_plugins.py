"""Packages that add to this one: the template of `docs/plugin` is installed, and used as a user would."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECIPE = """
out = "runs/cubes"
plugins = ["slivit-cubes"]
data = {manifest = "cubes", importer = "cubes", workers = 1}
task = {kind = "binary", targets = ["bright"]}
model = {name = "cube_net"}
fit = {epochs = 1, batch_size = 4, precision = "float32"}
"""
USED = """
import json, torch, slivit
from slivit.plugins import load_plugins, name_plugins
assert "cube_net" not in slivit.list_models()
name_plugins(["slivit_cubes.scans"])
assert load_plugins() == {"slivit-cubes": "0.1.0"}
manifest = slivit.make_phantoms("cubes", "cubes", n=6)
scan = slivit.read_volume(next(manifest.parent.glob("*/*.cube")), select=lambda depth: [3, 1])
assert scan.shape == (2, 16, 16) and scan.depth == 16
task = slivit.Task(kind="binary", targets=("bright",))
model = slivit.create_model("cube_net", 1)
folder = slivit.save_checkpoint("saved", model, task, slivit.Preprocessing(size=model.spec.size))
assert json.loads((folder / "config.json").read_text())["plugins"] == {"slivit-cubes": "0.1.0"}
assert slivit.load_checkpoint(folder).model.spec.name == "cube_net"
classifier = slivit.create_model("image_classifier", 1, backbone="resnet10t", image_size=32, stride=16)
pretext = slivit.create_pretext("mirrored", classifier)
views, target = pretext.views(torch.zeros(2, 1, 32, 32, dtype=torch.uint8))
assert pretext.loss(pretext.model(views), target) >= 0
"""

OPENED = """
import sys, slivit
try:
    slivit.load_checkpoint("saved")
finally:
    print("slivit_cubes" in sys.modules)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the template installed, as pip installs it."""
    source, target = (tmp_path_factory.mktemp(name) for name in ("source", "site"))
    shutil.copytree(ROOT / "docs" / "plugin", source, dirs_exist_ok=True)  # building writes beside the source
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(source)], check=True)
    return target


@pytest.fixture
def run(site, tmp_path):
    """Run Python, or the program, where the template is installed."""

    def run(*args, **environment):
        others = {k: v for k, v in os.environ.items() if k != "SLIVIT_PLUGINS"}
        paths = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
        env = {**others, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment}
        return subprocess.run([sys.executable, *args], cwd=tmp_path, env=env, capture_output=True, text=True)

    return run


@pytest.mark.slow
def test_a_plugin_is_used_where_it_is_named_and_nowhere_else(run):
    listed = run("-m", "slivit", "list", "plugins")
    assert "models, importers, pretexts, readers, phantoms (not loaded" in listed.stdout
    used = run("-c", USED)
    assert used.returncode == 0, used.stderr
    script = (
        "import sys, slivit\ntry:\n slivit.load_checkpoint('saved')\nfinally:\n print('slivit_cubes' in sys.modules)"
    )
    refused = run("-c", script)
    assert refused.stdout.strip() == "False"
    assert 'there is no model "cube_net" here' in refused.stderr
    assert "--plugin slivit-cubes, SLIVIT_PLUGINS=slivit-cubes, or plugins = ['slivit-cubes']" in refused.stderr


def test_a_plugin_that_is_not_installed(run):
    wanted = run("-m", "slivit", "--plugin", "slivit-cube", "list", "formats")
    assert wanted.returncode == 2
    assert 'plugin "slivit-cube" is not installed. Did you mean "slivit-cubes"?' in wanted.stderr
    assert "Traceback" not in wanted.stderr


@pytest.mark.slow
def test_from_the_command_line_to_an_export(run, tmp_path):
    (tmp_path / "cubes.toml").write_text(RECIPE)
    assert run("-m", "slivit", "--plugin", "slivit-cubes", "phantoms", "cubes", "cubes").returncode == 0
    trained = run("-m", "slivit", "finetune", "cubes.toml", "--quiet")
    assert trained.returncode == 0, trained.stderr
    made = run("-m", "slivit", "export", "runs/cubes", "shared", SLIVIT_PLUGINS="slivit-cubes")
    assert made.returncode == 0, made.stderr
    assert json.loads((tmp_path / "shared" / "config.json").read_text())["plugins"] == {"slivit-cubes": "0.1.0"}
    assert "pip install slivit-cubes" in (tmp_path / "shared" / "README.md").read_text()
    assert run("-m", "slivit", "predict", "shared", "cubes/bright", "-o", "p.csv").returncode == 2
    done = run("-m", "slivit", "--plugin", "slivit-cubes", "predict", "shared", "cubes/bright", "-o", "p.csv")
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 1 + len(list((tmp_path / "cubes/bright").iterdir()))
