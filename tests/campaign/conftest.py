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
        mask = np.zeros(voxels.shape, np.uint8)
        mask[5:12, 5:12, 1 + i % 3] = 1
        for name, values in (("scan", voxels.astype(np.int16)), ("mask", mask)):
            nibabel.save(nibabel.Nifti1Image(values, np.diag([1, 1, 3, 1.0])), folder / f"{name}{i}.nii")
        split = ("train", "train", "val", "test")[i // 2 % 4] if i < 8 else "train"
        table.append({"path": f"scan{i}.nii", "patient": f"P{i}", "split": split, "bright": i % 2})
    frame = pd.DataFrame(table)
    frame.to_csv(folder / "scans.csv", index=False)
    frame.assign(mask=[f"mask{i}.nii" for i in range(12)]).to_csv(folder / "masks.csv", index=False)


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


def _more_recipes(ground: Path) -> None:
    """Of segmentation, of pictures without labels, of two sets at once, and a plan."""
    fit = {**FIT, "fit.epochs": 2, "fit.lr": 1e-2}
    unet = {"model.name": "unet", "model.slices": 4, "model.image_size": 16, "model.filters": [4, 8], "model.units": 1}
    masks = {"data.manifest": f"{ground}/scans/masks.csv", "task.kind": "segmentation", "task.labels.blob": 1}
    windows = {"preprocessing.stretch": False, "preprocessing.window": [0, 350], "patches.steps": 2}
    _toml(ground / "masks.toml", {**fit, **unet, **masks, **windows, "fit.batch_size": 2, "out": f"{ground}/masks"})
    net = {"model.name": "image_classifier", "model.backbone": "resnet10t", "model.image_size": 32, "model.stride": 16}
    net |= {"model.backbone_args.channels": [8, 8, 16, 16], "model.backbone_args.stem_width": 8}
    simclr = {"method": "simclr", "images.slices": 1, "pretext.hidden": 16, "pretext.projection": 8, "fit.warmup": 1}
    plain = {key: value for key, value in fit.items() if not key.startswith("testing")}
    manifest = {"data.manifest": f"{ground}/pictures.csv"}
    _toml(ground / "ssl.toml", {**plain, **manifest, **net, **simclr, "out": f"{ground}/ssl"})
    sets = {f"sets.{name}.data.manifest": f"{ground}/pictures.csv" for name in ("light", "side")}
    sets |= {f"sets.{name}.data.workers": 0 for name in ("light", "side")}
    sets |= {"sets.light.task.kind": "binary", "sets.light.task.targets": ["bright"]}
    sets |= {"sets.side.task.kind": "multiclass", "sets.side.task.targets": ["side"]}
    plain = {key: value for key, value in fit.items() if not key.startswith("data")}
    _toml(ground / "mixed.toml", {"method": "mixed", **plain, **sets, **net, "out": f"{ground}/mixed"})


def _plan(ground: Path) -> None:
    args = "{ slices = 4, image_size = 32, width = 4, depths = [1, 1, 1, 1] }"
    (ground / "plan.toml").write_text(
        f'out = "elsewhere"\nsource = "{ground}/scans/scans.csv"\nminutes = 1.0\nfolds = 2\nkeep = 1\nworkers = 0\n'
        '[task]\nkind = "binary"\ntargets = ["bright"]\n[preprocessing]\nsize = [4, 32, 32]\n[augmentation]\n'
        f'[[baselines]]\nname = "histogram"\nfeatures = ["histogram"]\n[[candidates]]\nname = "quick"\n'
        f'model = "resnet3d_18"\nargs = {args}\nlr = 1e-2\nepochs = 1\nbatch_size = 8\n'
    )


def _archive(folder: Path) -> None:
    """A series of two slices of two patients each, as files of DICOM."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    folder.mkdir()
    for i in range(4):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
        meta.MediaStorageSOPInstanceUID = f"1.2.{i}"
        dataset = Dataset()
        dataset.file_meta, dataset.SOPClassUID, dataset.SOPInstanceUID = meta, CTImageStorage, f"1.2.{i}"
        dataset.SeriesInstanceUID, dataset.PatientID, dataset.Modality = f"1.{i // 2}", f"P{i // 2}", "CT"
        dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0, 0, i % 2], [1, 0, 0, 0, 1, 0]
        dataset.PixelSpacing, dataset.Rows, dataset.Columns = [1, 1], 8, 8
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
        dataset.PixelData = bytes(128)
        dataset.save_as(folder / f"{i}.dcm", enforce_file_format=True)


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
    rows = [{"path": str(p), "patient": p.stem, "split": ("train", "val", "test")[i // 2 % 3], "side": "AB"[i % 2],
             "bright": int(p.parent.name == "light")} for i, p in enumerate(pictures)]  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "pictures.csv", index=False)
    with zipfile.ZipFile(folder / "scans.zip", "w") as archive:
        for i in range(6):
            archive.write(folder / "scans" / f"scan{i}.nii", f"scan{i}.nii")
    _recipes(folder, tiny_slivit)
    _more_recipes(folder)
    _plan(folder)
    _tables(folder)
    _study(folder)
    _archive(folder / "archive")
    (folder / "weights").mkdir()
    (folder / "weights" / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture(scope="session")
def server(ground, tmp_path_factory):
    """Runs commands."""
    with Server(ground, tmp_path_factory.mktemp("scratch")) as made:
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
