"""Run folders that the code wrote at f943ac0 (`tests/runs_f943ac0`) still open, measure, go on and give way.

They were made by `slivit finetune` and `slivit pretrain` on 12 made-up scans; of the mixture of two sets the checkpoint
and the recipe alone are kept. Paths in the tables were shortened to /data.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch

import slivit
from slivit.checkpoint import load_encoder, read_config
from slivit.errors import RecipeError
from slivit.evaluate.tables import read_predictions
from slivit.experiments.run_state import run_state
from slivit.folder import clear
from slivit.models._weights import load_backbone
from slivit.recipe import load_recipe

OLD = Path(__file__).parent / "runs_f943ac0"


@pytest.fixture
def old(tmp_path):
    shutil.copytree(OLD, tmp_path / "old")
    return tmp_path / "old"


def test_a_fine_tuned_run_opens_and_predicts():
    checkpoint = slivit.load_checkpoint(OLD / "finetuned")
    assert checkpoint.task.targets == ("bright",)
    assert checkpoint.operating_point.rule == "youden"
    assert checkpoint.preprocessing.size == (4, 32, 32)
    with torch.no_grad():
        assert checkpoint.model(torch.zeros(1, 3, 4 * 32, 32)).isfinite().all()
    run = slivit.Run(OLD / "finetuned")
    assert run.finished
    assert (len(run.predictions), len(run.history), run.recipe["fit"]["lr"]) == (6, 2, 1e-3)
    read_predictions(OLD / "finetuned" / "predictions.csv", checkpoint.task)


@pytest.mark.parametrize("name", ["finetuned", "selfsupervised", "mixture"])
def test_its_backbone_is_a_start(name):
    encoder = load_encoder(OLD / name)
    model = slivit.create_model(encoder.model.spec.name, 2, **encoder.model.spec.args)
    load_backbone(model, OLD / name)
    first, second = (m.backbone.state_dict() for m in (encoder.model, model))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_finished_run_is_known_as_that(old):
    for stage, name in (("finetune", "finetuned"), ("pretrain", "selfsupervised")):
        recipe = load_recipe(stage, old / name / "recipe.toml", [f"out={json.dumps(str(old / name))}"])
        assert run_state(recipe) == "done"
        with pytest.raises(RecipeError, match="the run is finished"):
            getattr(slivit, stage)(recipe, resume=True)
        with pytest.raises(RecipeError, match="is not empty"):
            getattr(slivit, stage)(recipe)


def test_it_is_measured_again_under_other_options_and_nothing_is_trained(old):
    run = old / "finetuned"
    kept = {p: p.read_bytes() for p in (run / "predictions.csv", run / "checkpoint" / "model.safetensors")}
    changes = [f"out={json.dumps(str(run))}", "testing.draws=30", "testing.level=0.8", "testing.operating_point=''"]
    recipe = load_recipe("finetune", run / "recipe.toml", changes)
    assert run_state(recipe) == "died"
    assert slivit.finetune(recipe, resume=True) == run
    assert json.loads((run / "metrics.json").read_text())["settings"]["level"] == 0.8
    assert read_config(run / "checkpoint")["operating_point"] is None
    assert all(p.read_bytes() == content for p, content in kept.items())
    assert run_state(recipe) == "done"


def test_it_gives_way_to_a_new_run_as_a_whole(old):
    (old / "finetuned" / "evaluation").mkdir()
    (old / "finetuned" / "mine.txt").touch()
    clear(old / "finetuned")
    assert [p.name for p in (old / "finetuned").iterdir()] == ["mine.txt"]
