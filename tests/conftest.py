"""Shared fixtures: where the real scans and the golden numbers lie, and a seed for every test."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


def _folder(variable: str, fallback: Path) -> Path | None:
    folder = Path(os.environ.get(variable, fallback))
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real scans, or a skip with the reason."""
    folder = _folder("SLIVIT_REAL_DATA", ROOT.parent / "shared" / "data")
    if folder is None:
        pytest.skip("real scans are absent: set SLIVIT_REAL_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of golden numbers, or a skip with the reason."""
    folder = _folder("SLIVIT_REFERENCE", ROOT.parent / "shared" / "reference")
    if folder is None:
        pytest.skip("golden numbers are absent: set SLIVIT_REFERENCE to their folder")
    return folder


@pytest.fixture(scope="module", autouse=True)
def without_pdf():
    """Figures are drawn as SVG alone: PDF takes longest, and tests/report looks at it."""
    from matplotlib.figure import Figure

    draw = Figure.savefig
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda self, *a, **k: k.get("format") == "pdf" or draw(self, *a, **k))
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def blob_scans(tmp_path_factory) -> Path:
    """A manifest of 40 small NIfTI volumes; `bright` = 1 has a bright blob in one slice, `size` is its radius.

    `masks.csv` has the scans with a blob, with masks of it.
    """
    import nibabel
    import pandas as pd

    folder = tmp_path_factory.mktemp("blobs")
    generator = np.random.default_rng(7)
    rows, columns = np.mgrid[:24, :24]
    table = []
    for i in range(40):
        bright, size = i % 2, 2 + (i * 7 % 5)
        array = generator.normal(100, 20, (24, 24, 6))
        centre = generator.integers(8, 16, 2)
        if bright:
            mask = np.zeros(array.shape, np.uint8)
            mask[(rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= size**2, 1 + i % 4] = 1
            array += 150 * mask
            nibabel.save(nibabel.Nifti1Image(mask, np.diag([1, 1, 3, 1.0])), folder / f"mask{i}.nii")
        nibabel.save(nibabel.Nifti1Image(array.astype(np.int16), np.diag([1, 1, 3, 1.0])), folder / f"scan{i}.nii")
        split = "train" if i < 24 else "val" if i < 32 else "test"
        table.append({"path": f"scan{i}.nii", "patient": f"P{i}", "split": split, "bright": bright, "size": size})
    frame = pd.DataFrame(table)
    frame["grade"] = frame["size"].map(lambda s: "low" if s < 4 else "high")
    frame["both"] = (frame["size"] > 3).astype(int)
    frame.to_csv(folder / "scans.csv", index=False)
    masks = frame.loc[frame["bright"] == 1, ["path", "patient", "split"]]
    masks.assign(mask=masks["path"].str.replace("scan", "mask")).to_csv(folder / "masks.csv", index=False)
    return folder / "scans.csv"


@pytest.fixture(scope="session")
def made_up_predictions():
    """A function (kind, n, seed) -> (table, task): predictions beside answers, with splits, sites, sexes and ages."""
    import pandas as pd

    from slivit.targets.task import Task

    def make(kind, n=120, seed=0):
        rng = np.random.default_rng(seed)
        noise = rng.normal(size=(n, 4))
        table = pd.DataFrame({"path": [f"/scans/s{i:04d}.nii" for i in range(n)],
                              "patient": [f"P{i // 2:04d}" for i in range(n)],
                              "split": np.where(np.arange(n) < n // 3, "val", "test"),
                              "site": rng.choice(["Haifa", "London"], n), "sex": rng.choice(["F", "M"], n),
                              "age": rng.integers(30, 90, n), "notes": ""})  # fmt: skip
        sigmoid = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
        if kind == "regression":
            y = rng.normal(58, 10, n)
            answers = {"target_LVEF": y, "pred_LVEF": 58 + 0.7 * (y - 58) + 4 * noise[:, 0]}
            return table.assign(**answers), Task(kind=kind, targets=("LVEF",), unit="%", center=(58.0,), spread=(10.0,))
        if kind == "multiclass":
            classes = ("CNV", "DME", "drusen", "normal")
            y = rng.integers(0, 4, n)
            p = np.exp(noise + 2 * np.eye(4)[y])
            p /= p.sum(axis=1, keepdims=True)
            table["target_label"] = [classes[i] for i in y]
            return table.assign(**dict(zip([f"prob_{c}" for c in classes], p.T, strict=True))), Task(
                kind=kind, targets=("label",), classes=classes
            )
        names = ("drusen",) if kind == "binary" else ("DRV", "SHRF", "HRF", "hDC", "GA")
        y = (rng.random((n, len(names))) < 0.4).astype(float)
        p = sigmoid(np.resize(noise, (n, len(names))) + 1.8 * y - 1)
        if kind == "multilabel":
            y[rng.random(y.shape) < 0.1] = np.nan
        answers = {f"target_{t}": y[:, i] for i, t in enumerate(names)}
        answers |= {f"prob_{t}": p[:, i] for i, t in enumerate(names)}
        return table.assign(**answers), Task(kind=kind, targets=names)

    return make


@pytest.fixture(scope="session")
def tiny_slivit() -> dict:
    """The arguments of a SLIViT that trains in seconds; do not change them."""
    return {"backbone": "test_resnet", "slices": 4, "image_size": 32, "stride": 16, "vit_dim": 16, "vit_depth": 1,
            "vit_heads": 2, "dim_head": 8, "mlp_dim": 16}  # fmt: skip


@pytest.fixture(scope="session")
def blob_run(blob_scans, tiny_slivit, tmp_path_factory) -> Path:
    """A tiny SLIViT fine-tuned for one epoch on `blob_scans`, with an operating point; do not change it."""
    from slivit.recipe import check_recipe, finetune
    from slivit.train.recipe import FinetuneRecipe

    recipe = {
        "out": str(tmp_path_factory.mktemp("blobs") / "run"),
        "data": {"manifest": str(blob_scans), "workers": 0},
        "task": {"kind": "binary", "targets": ["bright"]},
        "model": {**tiny_slivit, "backbone": "test_convnext"},
        "fit": {"epochs": 1, "lr": 1e-3, "device": "cpu", "precision": "float32"},
        "testing": {"draws": 20, "operating_point": "youden", "precision": "float32", "baselines": False},
    }
    return finetune(check_recipe(FinetuneRecipe, recipe, "the tests"))


@pytest.fixture(scope="session")
def tiny_recipe(tiny_slivit):
    """A function that writes a recipe of fine-tuning a tiny SLIViT to find blobs; changes are by dotted keys."""

    def write(folder, manifest, **changes):
        import json

        from slivit.files import write_text

        values = {
            "out": str(folder / "run"),
            "data.manifest": str(manifest),
            "data.workers": 0,
            "task.kind": "binary",
            "task.targets": ["bright"],
            "fit.epochs": 2,
            "fit.lr": 1e-3,
            "fit.precision": "float32",
            "testing.precision": "float32",
            "testing.draws": 20,
            "testing.baselines": False,
            **{f"model.{key}": value for key, value in tiny_slivit.items()},
            **changes,
        }
        file = folder / "tiny.toml"
        write_text(file, "\n".join(f"{key} = {json.dumps(value)}" for key, value in values.items()))
        return file

    return write
