"""3DINO from the command line: both stages of pre-training by the shipped recipes, and a fine-tuning from them."""

import json

import pytest
from typer.testing import CliRunner

from slivit.cli import app
from slivit.phantoms import make_phantoms

NETWORK = ["model.dim=16", "model.depth=2", "model.heads=2"]
SMALL = [
    *NETWORK, "data.workers=0", "images.min_slices=8", "pretext.small_crops=2", "pretext.prototypes=32",
    "pretext.patch_prototypes=32", "pretext.head_hidden=16", "pretext.bottleneck=8", "fit.precision=float32",
    "fit.batch_size=4", "fit.epochs=1", "fit.device=cpu",
]  # fmt: skip


def command(*args):
    done = CliRunner().invoke(app, [str(arg) for arg in args])
    assert done.exit_code == 0, done.output


def sizes(large, small):
    return [f"model.slices={large}", f"model.image_size={large}", f"model.position_size={large}",
            f"pretext.large_size={large}", f"pretext.small_size={small}"]  # fmt: skip


@pytest.mark.slow
def test_two_stages_of_pretraining_and_a_fine_tuning(tmp_path):
    manifest = make_phantoms("ct", tmp_path / "ct", n=10)
    first, second, tuned = (tmp_path / name for name in ("first", "second", "tuned"))
    command("pretrain", "dino3d", f"data.manifest={manifest}", f"out={first}", *SMALL, *sizes(32, 16))
    kept = first / "kept" / "0.9"
    starts = [f"model.weights={kept}", f"pretext.heads={kept}"]
    command("pretrain", "dino3d_highres", f"data.manifest={manifest}", f"out={second}", *SMALL, *sizes(48, 32), *starts)
    (tmp_path / "tune.toml").write_text(
        f'out = "{tuned}"\n[data]\nmanifest = "{manifest}"\nworkers = 0\n'
        '[task]\nkind = "binary"\ntargets = ["nodule"]\n[model]\nname = "dino3d_vit_large"\n'
        "[fit]\nepochs = 1\nlr = 1e-3\n[testing]\ndraws = 20\n"
    )
    command("finetune", tmp_path / "tune.toml", f"model.weights={second}", *NETWORK, *sizes(48, 32)[:3])
    chain = json.loads((tuned / "checkpoint" / "config.json").read_text())["training"]["started_from"]
    assert chain["folder"] == str(second)
    assert chain["started_from"]["folder"] == str(kept)
    assert "test" in json.loads((tuned / "metrics.json").read_text())["splits"]
