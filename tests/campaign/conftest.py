"""The ground of the campaign: a few scans, recipes, a trained model, and the process that runs commands."""

from __future__ import annotations

import json
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))  # for the modules beside this one

from commands import Server

FIT = {"fit.device": "cpu", "fit.batch_size": 4, "data.workers": 0, "testing.draws": 5}


def _scans(folder: Path) -> None:
    import nibabel

    folder.mkdir(parents=True)
    rng = np.random.default_rng(5)
    table = []
    for i in range(12):
        voxels = rng.normal(100, 20, (20, 20, 5))
        voxels[5:12, 5:12, 1 + i % 3] += 150 * (i % 2)
        nibabel.save(nibabel.Nifti1Image(voxels.astype(np.int16), np.diag([1, 1, 3, 1.0])), folder / f"scan{i}.nii")
        split = ("train", "train", "val", "test")[i // 2 % 4] if i < 8 else "train"
        table.append({"path": f"scan{i}.nii", "patient": f"P{i}", "split": split, "bright": i % 2})
    pd.DataFrame(table).to_csv(folder / "scans.csv", index=False)


def _classes(folder: Path) -> None:
    rng = np.random.default_rng(6)
    for i in range(12):
        file = folder / ("dark", "light")[i % 2] / f"P{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((rng.integers(0, 100, (24, 24)) + 100 * (i % 2)).astype(np.uint8)).save(file)


def _toml(file: Path, values: dict[str, object]) -> None:
    file.write_text("\n".join(f"{key} = {json.dumps(value)}" for key, value in values.items()) + "\n")


def _recipes(ground: Path, slivit: dict[str, object]) -> None:
    model = {f"model.{key}": value for key, value in slivit.items()}
    labels = {"data.manifest": f"{ground}/scans/scans.csv", "task.kind": "binary", "task.targets": ["bright"]}
    base = {**labels, **FIT, **model, "fit.epochs": 2}
    _toml(ground / "fine.toml", {**base, "out": f"{ground}/fine", "fit.lr": 1e-3})
    _toml(ground / "rates.toml", {**base, "out": f"{ground}/rates", "fit.lr": [1e-3, 3e-3], "fit.epochs": 1})
    image = {"model.name": "image_classifier", "model.backbone": "resnet10t", "model.image_size": 32}
    pre = {**labels, **FIT, **image, "model.stride": 16, "fit.lr": 1e-3, "fit.epochs": 2, "out": f"{ground}/pre"}
    _toml(ground / "pre.toml", {**pre, "data.manifest": f"{ground}/pictures.csv"})
    space = {"type": "log", "low": 1e-4, "high": 1e-2}
    _toml(ground / "sweep.toml", {"out": f"{ground}/sweep", "recipe": f"{ground}/fine.toml", "trials": 3, "startup": 1})
    with (ground / "sweep.toml").open("a") as file:
        rate = ", ".join(f"{key} = {json.dumps(value)}" for key, value in space.items())
        file.write(f"space.'fit.lr' = {{ {rate} }}\n")


def _study(ground: Path) -> None:
    (ground / "study.toml").write_text(
        f"out = '{ground}/study'\nrecipe = '{ground}/fine.toml'\nseeds = [0, 1]\nset.fit.epochs = 1\n[models.slivit]\n"
    )


def _tables(ground: Path) -> None:
    rng = np.random.default_rng(7)
    for name in ("a", "b"):
        frame = pd.DataFrame({"path": [f"s{i}" for i in range(30)], "split": "test"})
        frame["target_bright"] = np.arange(30) % 2
        frame.assign(prob_bright=rng.random(30)).to_csv(ground / f"{name}.csv", index=False)


@pytest.fixture(scope="session")
def ground(tmp_path_factory, tiny_slivit) -> Path:
    """The folder in which all commands work."""
    folder = tmp_path_factory.mktemp("campaign") / "ground"
    _scans(folder / "scans")
    _classes(folder / "classes")
    pictures = sorted((folder / "classes").rglob("*.png"))
    rows = [{"path": str(p), "patient": p.stem, "split": ("train", "val", "test")[i // 2 % 3],
             "bright": int(p.parent.name == "light")} for i, p in enumerate(pictures)]  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "pictures.csv", index=False)
    with zipfile.ZipFile(folder / "scans.zip", "w") as archive:
        for i in range(6):
            archive.write(folder / "scans" / f"scan{i}.nii", f"scan{i}.nii")
    _recipes(folder, tiny_slivit)
    _tables(folder)
    _study(folder)
    return folder


@pytest.fixture(scope="session")
def server(ground, tmp_path_factory):
    """Runs commands; a trained model lies in the ground once it is there."""
    with Server(ground, tmp_path_factory.mktemp("scratch")) as made:
        done = made(("finetune", f"{ground}/fine.toml", f"out={ground}/trained", "fit.epochs=1"))
        assert done["status"] == 0, done["said"]
        yield made


@pytest.fixture
def clean(ground):
    """A function that takes away what a command made."""

    def clean(out: str) -> Path:
        path = ground / out
        for left in [path, *ground.glob(f".{path.stem}.*"), ground / f"{out}.part"]:
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
        return path

    return clean
