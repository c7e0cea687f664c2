import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from slivit.data.blocks import volume_dataloaders
from slivit.data.manifest import read_manifest
from slivit.data.preprocessing import Preprocessing
from slivit.errors import CheckpointError, ModelError, SlivitError, WriteError
from slivit.models.registry import create_model
from slivit.predict.engine import predict_table
from slivit.targets.task import Task
from slivit.train import callbacks
from slivit.train.learner import MixUp, find_lr, parameter_groups, scheduled, volume_learner
from slivit.train.metrics import EpochMetric
from slivit.train.recipe import Fit

SMALL = {"backbone": "test_resnet", "slices": 4, "image_size": 32, "stride": 16, "vit_dim": 16, "vit_depth": 1,
         "vit_heads": 2, "dim_head": 8, "mlp_dim": 16}  # fmt: skip
BINARY = Task(kind="binary", targets=("bright",))


def make(csv, tmp_path, task=BINARY, seed=0, model=None, **options):
    manifest = read_manifest(csv, task)
    manifest = manifest.with_task(task.fitted(manifest.rows("train")))
    callbacks.seed_everything(seed)
    model = model or create_model("slivit", manifest.task.out_dim, **SMALL)
    settings = Preprocessing(size=model.spec.size)
    dls = volume_dataloaders(manifest, model.spec, settings, batch_size=8, device="cpu")
    options.setdefault("fit", Fit(precision="float32"))
    return volume_learner(dls, model, manifest.task, path=tmp_path, **options), manifest, settings


def fit(learn, tmp_path, epochs=3, start=0, extra=()):
    best = callbacks.KeepBest("valid_loss")
    cbs = [callbacks.SeedEpochs(0), best, callbacks.SaveProgress(tmp_path, 1e-3), *extra]
    with learn.no_bar(), learn.no_logging():
        learn.first_epoch = start
        learn.fit_one_cycle(epochs, 1e-3, cbs=cbs)
    return best


class Die(callbacks.Callback):
    """Kill the run at the start of an epoch."""

    def __init__(self, epoch):
        self.at = epoch

    def before_epoch(self):
        if self.epoch == self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize("average", [False, True])
def test_a_killed_run_goes_on_to_the_same_weights_and_losses(blob_scans, tmp_path, average):
    def extra():
        return [callbacks.StopEarly("valid_loss", 5), *([callbacks.AverageWeights(0.9)] if average else [])]

    whole, *_ = make(blob_scans, tmp_path)
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    best = fit(whole, tmp_path / "whole", extra=extra())
    killed, *_ = make(blob_scans, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fit(killed, tmp_path / "killed", extra=[*extra(), Die(2)])
    state = callbacks.read_progress(tmp_path / "killed" / "progress.pt")
    assert state["epoch"] == 2
    resumed, *_ = make(blob_scans, tmp_path, seed=99)
    again = fit(resumed, tmp_path / "killed", start=2, extra=extra())
    np.testing.assert_allclose(
        [v[:2] for v in resumed.recorder.values], [v[:2] for v in whole.recorder.values], rtol=1e-5
    )
    assert again.best_epoch == best.best_epoch
    for key, value in whole.model.state_dict().items():
        assert torch.allclose(value, resumed.model.state_dict()[key], atol=1e-6), key


def test_a_damaged_progress_file_is_told(tmp_path):
    with pytest.raises(CheckpointError, match="nothing to resume"):
        callbacks.read_progress(tmp_path / "progress.pt")
    (tmp_path / "progress.pt").write_bytes(b"not a file of torch")
    with pytest.raises(CheckpointError, match="start the run anew"):
        callbacks.read_progress(tmp_path / "progress.pt")


def test_the_best_epoch_is_restored(blob_scans, tmp_path):
    learn, *_ = make(blob_scans, tmp_path)
    best = fit(learn, tmp_path)
    losses = [v[1] for v in learn.recorder.values]
    assert best.best_epoch == int(np.argmin(losses))
    assert learn.validate()[0] == pytest.approx(min(losses), rel=1e-4)


@pytest.mark.parametrize(("monitor", "falls"), [("valid_loss", True), ("mae", True), ("roc_auc", False), ("r2", False)])
def test_direction_of_monitors(monitor, falls):
    assert (callbacks.better(monitor) is np.less) is falls
    assert callbacks.StopEarly(monitor).comp is callbacks.better(monitor)


def test_early_stopping_stops_a_falling_monitor_after_its_best(blob_scans, tmp_path):
    learn, *_ = make(blob_scans, tmp_path)
    values = iter([5.0, 4.0, 3.0, 4.0, 5.0, 2.0])
    learn.metrics = [EpochMetric("mae", lambda y, p: next(values))]
    best = callbacks.KeepBest("mae")
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(6, 1e-4, cbs=[best, callbacks.StopEarly("mae", patience=2)])
    assert [v[2] for v in learn.recorder.values] == [5, 4, 3, 4, 5]
    assert best.best_epoch == 2


@pytest.mark.parametrize(
    "task",
    [
        BINARY,
        Task(kind="multiclass", targets=("grade",)),
        Task(kind="multilabel", targets=("bright", "both")),
        Task(kind="regression", targets=("size",), unit="mm"),
        Task(kind="regression", targets=("size", "bright"), loss="huber"),
    ],
)
def test_learner_and_predictor_agree_and_never_give_logits(blob_scans, tmp_path, task):
    learn, manifest, settings = make(blob_scans, tmp_path, task)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(1, 1e-3)
        predictions, targets = learn.get_preds()
    table = predict_table(learn.model, manifest.rows("val"), manifest.task, settings, batch_size=3, device="cpu")
    found = table[list(manifest.task.prediction_columns)].to_numpy()
    np.testing.assert_allclose(found, predictions.numpy().reshape(found.shape), atol=1e-4)
    assert len(table) == len(manifest.rows("val")) == len(targets)
    if task.kind != "regression":
        assert ((found >= 0) & (found <= 1)).all()
    if task.kind == "multiclass":
        np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)


def test_metrics_of_training_are_those_of_the_predictions(blob_scans, tmp_path):
    learn, manifest, settings = make(blob_scans, tmp_path)
    fit(learn, tmp_path, epochs=1)
    table = predict_table(learn.model, manifest.rows("val"), manifest.task, settings, device="cpu")
    value = dict(zip(learn.recorder.metric_names[1:], learn.recorder.values[-1], strict=False))["roc_auc"]
    assert value == pytest.approx(roc_auc_score(table["target_bright"], table["prob_bright"]), abs=1e-6)


def test_regression_predicts_in_the_unit_of_the_target(blob_scans, tmp_path):
    learn, manifest, settings = make(blob_scans, tmp_path, Task(kind="regression", targets=("size",)))
    table = predict_table(learn.model, manifest.rows("test"), manifest.task, settings, device="cpu")
    assert abs(table["pred_size"].mean() - np.mean([r["size"] for r in manifest.rows("train")])) < 3


def test_find_lr_leaves_the_weights_alone(blob_scans, tmp_path):
    learn, *_ = make(blob_scans, tmp_path)
    before = {k: v.clone() for k, v in learn.model.state_dict().items()}
    assert 1e-6 < find_lr(learn, steps=20) < 10
    for key, value in learn.model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_parameter_groups_hold_every_parameter_once():
    model = create_model("slivit", 1, **SMALL)
    groups = parameter_groups(model)
    assert sorted(id(p) for g in groups for p in g) == sorted(id(p) for p in model.parameters())
    with pytest.raises(ModelError, match=r"has no module \.backbone"):
        parameter_groups(torch.nn.Linear(2, 2))


def test_the_rates_of_the_backbone(blob_scans, tmp_path):
    learn, *_ = make(blob_scans, tmp_path)
    assert learn.peak(1e-3) == 1e-3
    learn, *_ = make(blob_scans, tmp_path, fit=Fit(backbone_lr=0.1))
    np.testing.assert_allclose(learn.peak(1e-3), [1e-4, 1e-3, 1e-3])


@pytest.mark.parametrize("backbone", ["test_resnet", "test_convnext"])
def test_layer_decay_scales_block_by_block_and_holds_every_parameter_once(blob_scans, tmp_path, backbone):
    model = create_model("slivit", 1, **SMALL | {"backbone": backbone, "stride": 16 if "resnet" in backbone else 32})
    learn, *_ = make(blob_scans, tmp_path, model=model, fit=Fit(layer_decay=0.5, precision="float32"))
    learn.create_opt()
    names = {id(p): name for name, p in model.named_parameters()}
    found = [[names[id(p)] for p in group] for group in learn.opt.param_lists]
    assert sorted(n for group in found for n in group) == sorted(names.values())
    np.testing.assert_allclose(learn.rates, 0.5 ** np.arange(len(found))[::-1])
    assert any(n.startswith("backbone.stem") or n.startswith("backbone.conv1") for n in found[0])
    assert {"class_token", "head.weight"} <= set(found[-1])
    assert len({n for group in found[1:-1] for n in group if not n.startswith("backbone.")}) == 0


@pytest.mark.parametrize(
    ("fit", "momentum"),
    [
        (Fit(epochs=2, schedule="cosine", warmup=0.25, betas=(0.9, 0.999), eps=1e-8), 0.9),
        (Fit(epochs=2, optimiser="sgd", schedule="poly", warmup=0.25), 0.9),
        (Fit(epochs=2), 0.95),
        (Fit(epochs=2, betas=(0.8, 0.9)), 0.8),
        (Fit(epochs=2, optimiser="sgd", schedule="constant"), 0.9),
    ],
)
def test_the_optimiser_and_the_schedule_are_those_of_the_recipe(blob_scans, tmp_path, fit, momentum):
    learn, *_ = make(blob_scans, tmp_path, fit=fit.model_copy(update={"precision": "float32"}))
    with learn.no_bar(), learn.no_logging():
        scheduled(learn, fit, 1e-3)()
    rates, hypers = learn.recorder.lrs, learn.opt.hypers
    assert hypers[0]["mom"] == pytest.approx(momentum, abs=0.03)
    if fit.optimiser == "adamw":
        assert (hypers[0]["sqr_mom"], hypers[0]["eps"]) == (fit.betas[1], fit.eps)
    if fit.schedule == "cosine":
        assert max(rates) == pytest.approx(1e-3, rel=0.1)
        assert rates[0] < 1e-4 < rates[-1] < 2e-4
    if fit.schedule == "poly":
        steps = len(rates)
        later = [1e-3 * (1 - (n / steps - 0.25) / 0.75) ** 0.9 for n in range(steps) if n / steps > 0.25]
        assert rates[-len(later) :] == pytest.approx(later, rel=1e-3)
        assert rates[0] < rates[1] < 1e-3


def test_mixup_mixes_scans_and_losses_with_the_same_share(blob_scans, tmp_path):
    learn, *_ = make(blob_scans, tmp_path, fit=Fit(mixup=0.4, precision="float32"))
    seen = {}

    class Look(callbacks.Callback):
        order, run_valid = 1000, False

        def before_batch(self):
            mixer = next(c for c in self.learn.cbs if isinstance(c, MixUp))
            seen.setdefault("shares", []).append(mixer.share)

        def after_loss(self):
            mixer = next(c for c in self.learn.cbs if isinstance(c, MixUp))
            parts = [self.learn.loss_func(self.pred, y) for y in (self.yb[0], self.yb[0][mixer.pairs])]
            expected = mixer.share * parts[0] + (1 - mixer.share) * parts[1]
            torch.testing.assert_close(self.learn.loss_grad, expected)

    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-3, cbs=[Look()])
    assert len(set(seen["shares"])) > 1


def test_training_options_that_would_do_nothing_are_refused():
    for wrong in (
        {"optimiser": "sgd", "eps": 1e-8},
        {"freeze_backbone": True, "layer_decay": 0.5},
        {"layer_decay": 0.5, "backbone_lr": 0.1},
    ):
        with pytest.raises(ValueError, match="leave"):
            Fit(**wrong)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_convnext"])
def test_a_frozen_backbone_does_not_move(blob_scans, tmp_path, backbone):
    model = create_model("slivit", 1, **SMALL | {"backbone": backbone, "stride": 16 if "resnet" in backbone else 32})
    learn, *_ = make(blob_scans, tmp_path, model=model, fit=Fit(freeze_backbone=True))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-2)
    moved = {k.partition(".")[0] for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert "backbone" not in moved, "statistics and weights of normalisation layers are part of it"
    assert "head" in moved


def test_a_backbone_that_is_thawed_trains_again(blob_scans, tmp_path):
    learn, *_ = make(blob_scans, tmp_path, fit=Fit(freeze_backbone=True))
    before = {k: v.clone() for k, v in learn.model.backbone.state_dict().items()}
    learn.unfreeze()
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-2)
    after = learn.model.backbone.state_dict()
    assert not any(torch.equal(before[k], after[k]) for k in before if k.endswith(("conv1.weight", "running_mean")))


def test_bfloat16_trains_on_a_cpu_and_float16_is_refused(blob_scans, tmp_path):
    learn, *_ = make(blob_scans, tmp_path, fit=Fit(precision="bfloat16"))
    fit(learn, tmp_path, epochs=1)
    assert np.isfinite(learn.recorder.values[-1][0])
    assert all(p.dtype == torch.float32 for p in learn.model.parameters())
    with pytest.raises(SlivitError, match="needs a GPU"):
        make(blob_scans, tmp_path, fit=Fit(precision="float16"))


def test_a_loss_that_is_not_a_number_stops_the_run(blob_scans, tmp_path):
    learn, *_ = make(blob_scans, tmp_path)
    with torch.no_grad():
        learn.model.head.weight.fill_(float("nan"))
    with pytest.raises(SlivitError, match="loss became nan in epoch 0"), learn.no_bar(), learn.no_logging():
        learn.fit(1, cbs=callbacks.StopOnNaN())


def test_a_scan_that_cannot_be_read_is_recorded_or_raised(blob_scans, tmp_path):
    learn, manifest, settings = make(blob_scans, tmp_path)
    bad = tmp_path / "bad.nii"
    bad.write_bytes(b"\0" * 400)
    rows = [{"path": manifest.rows("test")[0]["path"]}, {"path": str(bad)}]
    table = predict_table(learn.model, rows, manifest.task, settings, on_error="record", device="cpu")
    assert table["error"][0] == ""
    assert "bad.nii" in table["error"][1]
    assert pd.isna(table["prob_bright"][1])
    assert np.isfinite(table["prob_bright"][0])
    with pytest.raises(SlivitError, match=r"bad\.nii"):
        predict_table(learn.model, rows, manifest.task, settings, device="cpu")


def test_predictions_do_not_depend_on_the_batch_and_flips_average(blob_scans, tmp_path):
    learn, manifest, settings = make(blob_scans, tmp_path)
    rows = manifest.rows("test")
    one, many = (
        predict_table(learn.model, rows, manifest.task, settings, batch_size=b, device="cpu")["prob_bright"]
        for b in (1, 8)
    )
    np.testing.assert_allclose(one, many, atol=1e-5)
    views = settings.model_copy(update={"flips": ("horizontal",)})
    flipped = predict_table(learn.model, rows, manifest.task, views, device="cpu")
    assert not np.allclose(flipped["prob_bright"], one)


def test_views_are_all_combinations_of_mirrorings():
    from slivit.predict.engine import mirror_axes

    assert mirror_axes(()) == [()]
    assert mirror_axes(("horizontal",)) == [(), (-1,)]
    assert len({tuple(sorted(v)) for v in mirror_axes(("horizontal", "vertical", "slices"))}) == 8


def test_results_and_single_predictions_are_shown_in_words(blob_scans, tmp_path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    learn, manifest, _ = make(blob_scans, tmp_path, Task(kind="multiclass", targets=("grade",)))
    with learn.no_bar(), learn.no_logging():
        learn.show_results(max_n=3)
        decided, index, probabilities = learn.predict(manifest.rows("test")[0])
    titles = [a.get_title() for a in plt.gcf().axes if a.images]
    assert len(titles) == 3
    assert all("predicted: " in t for t in titles)
    assert decided == manifest.task.classes[int(index)]
    assert probabilities.sum() == pytest.approx(1, abs=1e-5)
    plt.close("all")


def test_a_monitor_that_is_not_defined_stops_the_run_after_its_first_epoch(blob_scans, tmp_path):
    table = pd.read_csv(blob_scans)
    table["path"] = [str(blob_scans.parent / name) for name in table["path"]]
    table[(table["split"] != "val") | (table["bright"] == 1)].to_csv(tmp_path / "one.csv", index=False)
    learn, *_ = make(tmp_path / "one.csv", tmp_path)
    with (
        pytest.raises(SlivitError, match=r"roc_auc is not a number.*one class alone"),
        learn.no_bar(),
        learn.no_logging(),
    ):
        learn.fit(3, cbs=callbacks.KeepBest("roc_auc"))
    assert len(learn.recorder.values) == 1


def test_space_is_asked_for_before_the_first_epoch(tmp_path, monkeypatch):
    model = torch.nn.Linear(1000, 250)
    save = callbacks.SaveProgress(tmp_path, 1e-3)
    save.learn = SimpleNamespace(model=model, cbs=[], first_epoch=0)
    save.model = model
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=9_100_000))
    save.before_fit()  # 1 MB of weights: eight of them in two files of progress, and one in the checkpoint, with biases
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=8_000_000))
    with pytest.raises(WriteError, match=r"training needs 9\.0 MB, and 8\.0 MB are free there"):
        save.before_fit()
