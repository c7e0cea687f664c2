"""The main job on made-up scans, from nothing to a tested model and a prediction."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from slivit.files import write_text
from slivit.recipe import finetune, load_recipe, pretrain

log = logging.getLogger(__name__)


def run(out: str | Path, *, seed: int = 0, overwrite: bool = False) -> dict[str, Any]:
    """Make scans, pre-train on 2D images, fine-tune on volumes, evaluate, predict, and say where it all lies.

    Args:
        out: a new folder, or one that an earlier demo made, with `overwrite`.
        seed: of the scans and of the training.
        overwrite: replace an earlier demo.

    Returns:
        The metrics of the test volumes.
    """
    from slivit.evaluate import command as evaluate
    from slivit.phantoms import make_phantoms
    from slivit.predict import command as predict

    out = Path(out)
    log.info("1/5 making OCT images and volumes with known answers in %s", out)
    make_phantoms("oct2d", out / "oct2d", n=800, seed=seed, overwrite=overwrite)
    make_phantoms("oct", out / "oct", n=200, seed=seed + 1, overwrite=overwrite)
    log.info("2/5 pre-training a convolutional network on the 2D images: four classes")
    pretrain(_recipe("pretrain", out, seed), overwrite=overwrite)
    log.info("3/5 fine-tuning SLIViT on the volumes: drusen or not")
    finetune(_recipe("finetune", out, seed), overwrite=overwrite)
    log.info("4/5 evaluating the checkpoint on the test volumes")
    by_patient = ["testing.by_patient=true"]
    evaluated = evaluate.run(evaluate.recipe_for(str(out / "finetuned"), by_patient, None, None), overwrite=overwrite)
    log.info("5/5 predicting two scans as if they were new")
    scans = [str(p) for p in sorted((out / "oct" / "scans").iterdir())[:2]]
    predict.run(out / "finetuned", scans, out / "new_scans.csv", overwrite=overwrite)
    metrics = json.loads((evaluated / "metrics.json").read_text("utf-8"))["splits"]["test"]
    write_text(out / "README.txt", _where(out))
    log.info("%s", _where(out))
    return metrics


def run_masks(out: str | Path, *, seed: int = 0, overwrite: bool = False) -> dict[str, Any]:
    """Make scans with masks, train a network that segments, evaluate, segment two scans, and say where it all lies.

    Args:
        out: a new folder, or one that an earlier demo made, with `overwrite`.
        seed: of the scans and of the training.
        overwrite: replace an earlier demo.

    Returns:
        The metrics of the test scans.
    """
    from slivit.evaluate import command as evaluate
    from slivit.phantoms import make_phantoms
    from slivit.predict import command as predict

    out = Path(out)
    log.info("1/4 making brain MRI of two sequences, with the masks of a tumour, in %s", out)
    table = make_phantoms("brain", out / "brain", seed=seed, overwrite=overwrite)
    log.info("2/4 training a 3D U-Net")
    folders = [f"out={json.dumps(str(out / 'masks'))}", f"data.manifest={json.dumps(str(table))}", f"seed={seed}"]
    finetune(load_recipe("finetune", "demo_masks", folders), overwrite=overwrite)
    log.info("3/4 evaluating it on the test scans")
    evaluated = evaluate.run(evaluate.recipe_for(str(out / "masks"), (), None, None), overwrite=overwrite)
    log.info("4/4 segmenting two scans as if they were new")
    write_text(
        some := table.with_name("new_scans.csv"), "".join(table.read_text("utf-8").splitlines(keepends=True)[:3])
    )
    new = out / "new_scans"
    predict.run(out / "masks", [str(some)], new / "volumes.csv", overwrite=overwrite)
    log.info("Model: %s; evaluation: %s; masks of new scans: %s", out / "masks", evaluated, new / "masks")
    metrics: dict[str, Any] = json.loads((evaluated / "metrics.json").read_text("utf-8"))["splits"]["test"]
    return metrics


def _recipe(stage: Any, out: Path, seed: int) -> Any:
    """The shipped demo recipe, with its folders under `out`."""
    folders = {
        "pretrain": {"out": "pretrained", "data.manifest": "oct2d/manifest.csv"},
        "finetune": {"out": "finetuned", "data.manifest": "oct/manifest.csv", "model.weights": "pretrained"},
    }
    overrides = [f"{key}={json.dumps(str(out / folder))}" for key, folder in folders[stage].items()]
    return load_recipe(stage, "demo", [*overrides, f"seed={seed}"])


def _where(out: Path) -> str:
    return (
        f"Scans: {out / 'oct'} (volumes), {out / 'oct2d'} (2D images)\n"
        f"Pre-trained backbone: {out / 'pretrained'}\n"
        f"Fine-tuned model: {out / 'finetuned'} (checkpoint, predictions.csv, metrics.json, history.csv, log.txt)\n"
        f"Evaluation: {out / 'finetuned' / 'evaluation'}\n"
        f"Predictions for new scans: {out / 'new_scans.csv'}\n"
        f"Try it yourself: slivit predict {out / 'finetuned'} {out / 'oct' / 'scans' / 'scan_0003'}\n"
    )
