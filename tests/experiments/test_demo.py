import json

import pandas as pd
import pytest


@pytest.mark.slow
def test_the_demo_learns_and_leaves_everything(tmp_path):
    from slivit.experiments.demo import run

    metrics = run(tmp_path / "demo")
    assert metrics["metrics"]["roc_auc"]["value"] >= 0.9
    table = pd.read_csv(tmp_path / "demo" / "new_scans.csv")
    assert table["prob_drusen"].between(0, 1).all()
    config = json.loads((tmp_path / "demo" / "finetuned" / "checkpoint" / "config.json").read_text())
    assert config["training"]["started_from"]["stage"] == "pretrain"


@pytest.mark.slow
def test_the_demo_with_masks_tells_oedema_and_core_apart(tmp_path):
    pytest.importorskip("monai")
    from slivit.experiments.demo import run_masks

    metrics = run_masks(tmp_path / "demo")
    assert metrics["structures"]["core"]["dice"]["value"] >= 0.6
    assert metrics["structures"]["oedema"]["dice"]["value"] >= 0.6
    assert len(list((tmp_path / "demo" / "new_scans" / "masks").iterdir())) == 2
