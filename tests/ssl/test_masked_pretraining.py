"""Masked pre-training by the command line, from slices of volumes to a volume model that starts from its backbone."""

import json

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from slivit.cli import app

SWIN = "backbone_args = {{ patch_size = 2, window_size = 4, embed_dim = 8, depths = {depths}, num_heads = [1, 2, 4] }}"
PRETRAIN = """
method = "swin_mae"
out = "{out}"
[data]
manifest = "{csv}"
workers = 0
[model]
name = "slice_swin"
image_size = 32
slices = 1
{swin}
[pretext]
unit = 4
[pictures]
every = 1
count = 2
[fit]
epochs = 2
lr = 1e-3
batch_size = 8
warmup = 1
"""
FINETUNE = """
out = "{out}"
[data]
manifest = "{csv}"
workers = 0
[task]
kind = "binary"
targets = ["label"]
[model]
name = "{name}"
image_size = 32
slices = 3
weights = "{weights}"
{swin}
[fit]
epochs = 1
lr = 1e-5
batch_size = 4
[testing]
draws = 10
"""


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """(folder, manifest, finished run) of a Swin MAE on the slices of twelve volumes."""
    folder, rng = tmp_path_factory.mktemp("masked"), np.random.default_rng(0)
    lines = ["path,patient,split,label"]
    for i in range(12):
        volume = rng.integers(0, 120 + 120 * (i % 2), (3, 32, 32), dtype=np.uint8)
        tifffile.imwrite(folder / f"{i}.tif", volume, photometric="minisblack")
        lines.append(f"{i}.tif,{i},{('train', 'val', 'test')[i // 2 % 3]},{i % 2}")
    (folder / "scans.csv").write_text("\n".join(lines))
    run(folder, "pretrain", PRETRAIN, out=folder / "mae", swin=SWIN.format(depths=[2, 2, 2]))
    return folder, folder / "mae"


def run(folder, stage, text, expect=0, **values):
    path = folder / f"{values['out'].name}.toml"
    path.write_text(text.format(csv=folder / "scans.csv", **values))
    done = CliRunner().invoke(app, [stage, str(path)])
    assert done.exit_code == expect, (done.output, done.exception)
    return done.output


def test_the_run_keeps_backbone_decoder_and_pictures(pretrained):
    _, out = pretrained
    assert {p.name for p in (out / "pictures").iterdir()} == {"epoch_001.png", "epoch_002.png"}
    with Image.open(out / "pictures" / "epoch_002.png") as image:
        assert image.height > image.width  # three rows, two columns
    backbone = load_file(out / "checkpoint" / "model.safetensors")
    assert all(name.startswith("backbone.") for name in backbone)
    decoder = load_file(out / "checkpoint" / "decoder.safetensors")
    assert decoder["pixels.weight"].shape == (4, 8)
    assert len(pd.read_csv(out / "history.csv")) == 2


def test_a_deeper_volume_model_starts_from_it(pretrained):
    folder, out = pretrained
    swin = 'grow = true\nintegrator = "attention"\n' + SWIN.format(depths=[2, 4, 2])
    run(folder, "finetune", FINETUNE, out=folder / "deep", name="slice_swin", weights=out, swin=swin)
    log = (folder / "deep" / "log.txt").read_text()
    assert "left at random: layers.1.blocks.2, layers.1.blocks.3" in log
    start = load_file(out / "checkpoint" / "model.safetensors")
    tuned = load_file(folder / "deep" / "checkpoint" / "model.safetensors")
    assert all(np.allclose(tuned[name], tensor, atol=1e-3) for name, tensor in start.items())
    config = json.loads((folder / "deep" / "checkpoint" / "config.json").read_text())
    assert config["training"]["started_from"]["stage"] == "pretrain"


def test_a_wrong_backbone_is_told_with_both_architectures_and_keys(pretrained):
    folder, out = pretrained
    told = run(folder, "finetune", FINETUNE, expect=2, out=folder / "wrong", name="slivit", weights=out,
               swin='backbone = "convnext_atto"\nvit_depth = 1')  # fmt: skip
    for part in ("a Swin Transformer was given", "convnext_atto", "stages.0.blocks.0", "layers.0.blocks.0"):
        assert part in " ".join(told.split())
