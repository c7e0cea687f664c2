"""A study, and its runs, written without training."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from slivit.experiments.recipe_study import StudyRecipe
from slivit.files import write_json, write_text
from slivit.recipe import resolved_toml


@pytest.fixture
def study_base(tiny_recipe, blob_scans, tmp_path):
    """A fine-tuning recipe that speaks of SLIViT and of weights."""
    changes = {"fit.epochs": 1, "testing.draws": 50, "model.weights": "some.pth"}
    return tiny_recipe(tmp_path, blob_scans, **changes)


@pytest.fixture
def make_study(study_base, tmp_path):
    """A study of two models, two initialisations, two shares and two seeds; changes by section."""

    def make(**changes):
        narrow = {"model": {"slices": 4, "image_size": 32, "width": 8}, "fit": {"batch_size": 2}}
        values = {
            "out": str(tmp_path / "study"),
            "recipe": str(study_base),
            "models": {"slivit": {"title": "SLIViT"}, "resnet3d_18": {"title": "3D ResNet", "set": narrow}},
            "starts": {"random": {}, "video": {"models": {"slivit": {"model": {"weights": "video.pth"}}}}},
            "fractions": [1.0, 0.25],
            "seeds": [0, 1],
            "exclude": [{"models": ["resnet3d_18"], "starts": ["video"], "why": "no such weights"}],
            "reference": {"model": "slivit", "start": "random"},
        }
        return StudyRecipe.model_validate(values | changes)

    return make


@pytest.fixture
def trained(monkeypatch, made_up_predictions):
    """Runs are written without training; (folder, resume) of each is kept. `fails` names folders that fail."""
    made, fails = [], {}

    def write(recipe, *, resume=False, overwrite=False):
        folder = Path(recipe.out)
        made.append(("/".join(folder.parts[-4:]), resume))
        write_text(folder / "recipe.toml", resolved_toml(recipe))
        if error := next((e for name, e in fails.items() if name in str(folder)), None):
            raise error
        table, _ = made_up_predictions("binary", n=90)
        noise = np.random.default_rng(recipe.seed).normal(size=90) * (1.2 - recipe.data.train_fraction)
        noise *= 0.2 if recipe.model.name == "slivit" else 0.8
        p = np.clip(table["prob_drusen"] + noise, 0, 1)
        table.assign(prob_drusen=p).to_csv(folder / "predictions.csv", index=False)
        rows = [{"patient": f"T{i}", "split": "train"} for i in range(round(40 * recipe.data.train_fraction))]
        pd.DataFrame(rows).to_csv(folder / "split.csv", index=False)
        write_text(folder / "metrics.json", "{}")
        config = {"format": 1, "sha256": "f" * 64, "task": None, "preprocessing": {"size": [4, 32, 32]}}
        config |= {"model": {"name": "slivit", "out_dim": 1}, "training": {"lr": 0.001}}
        write_json(folder / "checkpoint" / "config.json", config)
        (folder / "progress.pt").unlink(missing_ok=True)

    monkeypatch.setattr("slivit.train.run.run", write)
    monkeypatch.setattr("slivit.ssl.run.run", write)
    monkeypatch.setattr("slivit.experiments.study.check_networks", lambda jobs: None)
    monkeypatch.setattr(
        "slivit.experiments.study.compare_runs", lambda grid, states: Path(grid.recipe.out) / "study.html"
    )
    write.made, write.fails = made, fails
    return write
