"""Every option of data, fit, testing and logging under every kind of training: honoured, or refused in time."""

import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from slivit.data.recipe import Data
from slivit.errors import SlivitError
from slivit.evaluate.recipe import Testing
from slivit.recipe import check_recipe, recipe_class, runner
from slivit.ssl.recipe import PretextFit
from slivit.train.recipe import Fit, Logging

TASK = {"kind": "binary", "targets": ["bright"]}
KINDS = {
    "finetune": ("finetune", {}),
    "pretrain": ("pretrain", {"method": "supervised"}),
    "windows": ("finetune", {"preprocessing": {"windows": {"stride": 2}}}),
    "mixed": ("mixed", {"method": "mixed"}),
    "selfsupervised": ("selfsupervised", {"method": "simclr", "model": {"name": "image_classifier"}}),
}
LABELLED = ("finetune", "pretrain", "windows", "mixed")
ALL = (*LABELLED, "selfsupervised")
ONE = ("finetune", "pretrain", "windows")

# For each option: a value that is not its default, the trainings that honour it, and what else it needs there.
DATA = {
    "manifest": ("other.csv", ALL, {}),
    "importer": ("folders", ALL, {"manifest": "a_folder"}),
    "importer_options": ({"seed": 3}, ALL, {"manifest": "a_folder"}),
    "test_manifest": ("test.csv", LABELLED, {}),
    "root": ("scans", ALL, {}),
    "download": (True, ALL, {"manifest": "medmnist:pneumoniamnist"}),
    "columns": ({"patient": "subject"}, ALL, {}),
    "where": ({"site": ["A"]}, ALL, {}),
    "fractions": ((0.6, 0.2, 0.2), LABELLED, {}),
    "split_seed": (3, LABELLED, {}),
    "val_from_train": (0.2, LABELLED, {}),
    "train_fraction": (0.5, LABELLED, {}),
    "workers": (0, ALL, {}),
    "cache": ("cache", ALL, {}),
    "cache_gb": (1.0, ALL, {"cache": "cache"}),
    "channels": (("first", "second"), ALL, {}),
    "also": (("more.csv",), LABELLED, {}),
    "fraction_seed": (3, LABELLED, {"train_fraction": 0.5}),
    "folds": (3, ONE, {}),
    "align": ("resample", (), {}),
    "slice_labels": ({"column": "slices"}, ("windows",), {}),
}
FIT = {
    "epochs": (3, LABELLED, {}),
    "lr": ([1e-3, 1e-4], LABELLED, {}),
    "schedule": ("constant", LABELLED, {}),
    "batch_size": (3, LABELLED, {}),
    "optimiser": ("sgd", LABELLED, {}),
    "betas": ((0.9, 0.95), LABELLED, {}),
    "eps": (1e-8, LABELLED, {}),
    "layer_decay": (0.9, LABELLED, {}),
    "mixup": (0.2, LABELLED, {}),
    "seeds": (2, ONE, {}),
    "adapt": ("lora", (), {}),
    "lora": ({"rank": 4}, (), {"adapt": "lora"}),
    "oversample": (True, ONE, {}),
    "weight_decay": (0.1, LABELLED, {}),
    "warmup": (0.1, LABELLED, {}),
    "patience": (0, LABELLED, {}),
    "monitor": ("roc_auc", ONE, {}),
    "backbone_lr": (0.1, LABELLED, {}),
    "freeze_backbone": (True, LABELLED, {}),
    "label_smoothing": (0.1, LABELLED, {}),
    "average_weights": (0.9, LABELLED, {}),
    "precision": ("bfloat16", LABELLED, {}),
    "checkpoint_activations": (True, LABELLED, {}),
    "compile": (True, LABELLED, {}),
    "device": ("cpu", LABELLED, {}),
}
PRETEXT_FIT = {
    "epochs": (3, {}),
    "lr": (0.1, {}),
    "batch_size": (3, {}),
    "accumulate": (2, {}),
    "optimiser": ("sgd", {}),
    "betas": ((0.9, 0.95), {}),
    "weight_decay": (0.1, {}),
    "weight_decay_end": (0.4, {}),
    "schedule": ("one_cycle", {}),
    "warmup": (3, {}),
    "lr_end": (1e-5, {}),
    "layer_decay": (0.9, {}),
    "patch_lr": (0.2, {}),
    "clip": (3.0, {}),
    "keep_at": ((0.5, 0.9), {}),
    "precision": ("bfloat16", {}),
    "checkpoint_activations": (True, {}),
    "shards": (True, {}),
    "device": ("cpu", {}),
}
TESTING = {
    "level": (0.95, LABELLED, {}),
    "draws": (20, LABELLED, {}),
    "by_patient": (True, LABELLED, {}),
    "stratified": (True, LABELLED, {}),
    "batch_size": (2, LABELLED, {}),
    "precision": ("float32", LABELLED, {}),
    "operating_point": ("youden", LABELLED, {}),
    "temperature": (True, LABELLED, {}),
    "subgroups": (("site",), LABELLED, {}),
    "bands": ({"age": (40.0,)}, LABELLED, {"subgroups": ["age"]}),
    "reference": ({"site": "A"}, LABELLED, {"subgroups": ["site"]}),
    "site": ("site", LABELLED, {}),
    "readers": (__file__, ONE, {}),
    "pictures": (3, (), {}),
    "baselines": (False, LABELLED, {}),
    "targets": (("bright",), (), {}),
    "penalty_mm": (5.0, (), {}),
    "tolerance_mm": (2.0, (), {}),
}
LOGGING = {
    "tracker": ("mlflow", ALL, {}),
    "project": ("mine", ALL, {"tracker": "mlflow"}),
    "offline": (True, ALL, {"tracker": "wandb"}),
    "store": ("sqlite:///m.db", ALL, {"tracker": "mlflow"}),
    "checkpoint": (False, ALL, {"tracker": "mlflow"}),
}
TABLES = {"data": DATA, "fit": FIT, "testing": TESTING, "logging": LOGGING}


def checked(kind, section, options):
    """The recipe of a kind of training with options of a section; refused is an error."""
    stage, values = KINDS[kind]
    values = {"out": "run", **values}
    data = {"manifest": "scans.csv"} | (options if section == "data" else {})
    if section != "data":
        values[section] = options
    if kind == "mixed":
        plain = {"data": {"manifest": "scans.csv"}, "task": TASK}
        values["sets"] = {"first": {"data": data, "task": TASK}, "second": plain}
    else:
        values |= {"data": data} | ({} if kind == "selfsupervised" else {"task": TASK})
    recipe = check_recipe(recipe_class(stage), values, "the table")
    recipe.check()
    return recipe


@pytest.fixture(autouse=True)
def trackers(monkeypatch):
    """Whether a tracker is installed is not what is tested here."""
    import slivit.train.trackers

    monkeypatch.setattr(slivit.train.trackers, "need_package", lambda name: None)


CASES = [
    (kind, section, name, value, kind in honoured, needs)
    for section, table in TABLES.items()
    for name, (value, honoured, needs) in table.items()
    for kind in KINDS
    if not (section == "fit" and kind == "selfsupervised")
]


@pytest.mark.parametrize(("kind", "section", "name", "value", "honoured", "needs"), CASES)
def test_an_option_is_honoured_or_refused_before_training(kind, section, name, value, honoured, needs):
    if not honoured:
        with pytest.raises(SlivitError, match=f"{name}|unknown key .{section}"):
            checked(kind, section, needs | {name: value})
        return
    recipe = checked(kind, section, needs | {name: value})
    part = recipe.sets["first"].data if kind == "mixed" and section == "data" else getattr(recipe, section)
    assert getattr(part, name) != type(part).model_fields[name].get_default(call_default_factory=True)


@pytest.mark.parametrize("kind", KINDS)
def test_covariates_are_honoured_or_refused_before_training(kind, monkeypatch):
    monkeypatch.setitem(TASK, "covariates", ["age"])
    monkeypatch.setitem(KINDS["selfsupervised"][1], "task", TASK)
    if kind in ONE:
        assert checked(kind, "data", {}).task.covariates == ("age",)
        return
    with pytest.raises(SlivitError, match=r"task.covariates|unknown key .task"):
        checked(kind, "data", {})


@pytest.mark.parametrize("name", PRETEXT_FIT)
def test_self_supervision_takes_its_own_fit(name):
    value, needs = PRETEXT_FIT[name]
    recipe = checked("selfsupervised", "fit", needs | {name: value})
    assert getattr(recipe.fit, name) == value


@pytest.mark.parametrize(
    ("kind", "section", "options", "reason"),
    [
        ("finetune", "data", {"importer": "folders"}, "data.importer would do nothing: .* this is a table"),
        ("finetune", "data", {"importer_options": {"a": 1}}, "data.importer_options would do nothing"),
        ("finetune", "data", {"manifest": "a_folder", "columns": {"patient": "p"}}, "data.columns would do nothing"),
        ("finetune", "data", {"manifest": "a_folder", "root": "r"}, "data.root would do nothing"),
        ("pretrain", "data", {"download": True}, "data.download would do nothing"),
        ("mixed", "data", {"cache_gb": 1.0}, "sets.first: data.cache_gb would do nothing: there is no data.cache"),
        ("windows", "fit", {"schedule": "constant", "warmup": 0.1}, "warmup would do nothing"),
        ("finetune", "fit", {"freeze_backbone": True, "backbone_lr": 0.1}, "backbone_lr would do nothing"),
        ("finetune", "fit", {"monitor": "r2"}, "fit.monitor is r2, and for a binary task it is valid_loss or roc_auc"),
        ("finetune", "testing", {"bands": {"age": [3.0]}}, "testing.bands.*age.*subgroups"),
        ("finetune", "testing", {"reference": {"site": "A"}}, "testing.reference.*site.*subgroups"),
        ("selfsupervised", "fit", {"optimiser": "sgd", "betas": [0.9, 0.95]}, "betas are of AdamW"),
        ("selfsupervised", "fit", {"schedule": "one_cycle", "lr_end": 1e-5}, "lr_end would do nothing"),
        ("finetune", "logging", {"project": "mine"}, "project would do nothing without a tracker"),
        ("selfsupervised", "logging", {"checkpoint": False}, "checkpoint would do nothing without a tracker"),
    ],
)
def test_an_option_without_what_it_acts_on_is_refused(kind, section, options, reason):
    with pytest.raises(SlivitError, match=reason):
        checked(kind, section, options)


def test_no_option_is_forgotten_here():
    sections = {"data": Data, "fit": Fit, "testing": Testing, "logging": Logging}
    for name, section in sections.items():
        assert set(TABLES[name]) == set(section.model_fields)
    assert set(PRETEXT_FIT) == set(PretextFit.model_fields)


def watched(section, reads):
    """A section that notes which of its options are read, by whom does not matter, but for its own check."""
    fields = frozenset(type(section).model_fields)

    class Watched(type(section)):
        def __getattribute__(self, name):
            if name in fields and not _in_a_check():
                reads.add(name)
            return super().__getattribute__(name)

        def model_dump(self, *, include=None, **options):
            reads.update(include or ())
            return super().model_dump(include=include, **options)

    return Watched.model_construct(**dict(section))


def _in_a_check():
    frame = sys._getframe(2)
    while frame:
        code = frame.f_code
        if code.co_name == "check" and Path(code.co_filename).name == "recipe.py":
            return True
        frame = frame.f_back
    return False


def scans(folder):
    rows = ["path,patient,bright,site"]
    for i in range(24):
        volume = np.random.default_rng(i).integers(0, 120, (4, 24, 24)).astype(np.uint8)
        volume[1, 8:14, 8:14] = 250 * (i % 2)
        tifffile.imwrite(folder / f"{i}.tif", volume, photometric="minisblack")
        rows.append(f"{i}.tif,P{i},{i % 2},{'AB'[i // 2 % 2]}")
    (folder / "scans.csv").write_text("\n".join(rows))
    return {"manifest": str(folder / "scans.csv"), "workers": 0, "cache": str(folder / "cache")}


TINY = {
    "name": "slivit",
    **{"backbone": "resnet10t", "slices": 4, "image_size": 32, "stride": 16, "vit_dim": 8, "vit_depth": 1},
    **{"vit_heads": 1, "dim_head": 8, "mlp_dim": 8},
    "backbone_args": {"channels": [4, 4, 8, 8], "stem_width": 8},
}
IMAGE = {"name": "image_classifier", "backbone": "resnet10t", "image_size": 32, "backbone_args": TINY["backbone_args"]}
SMALL_FIT = {"epochs": 1, "batch_size": 2, "device": "cpu"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_an_option_that_is_taken_is_read(kind, tmp_path):
    stage, values = KINDS[kind]
    data, model = scans(tmp_path), TINY if kind in ("finetune", "windows") else IMAGE
    values = {**values, "out": str(tmp_path / "run"), "model": model, "fit": SMALL_FIT}
    if kind == "windows":
        values["preprocessing"] = {"windows": {"stride": 4}}
    if kind == "mixed":
        values["sets"] = {name: {"data": data, "task": TASK} for name in ("first", "second")}
    else:
        values |= {"data": data} | ({} if kind == "selfsupervised" else {"task": TASK})
    if kind in LABELLED:
        values["testing"] = {"draws": 5, "subgroups": ["site"], "site": "site"}
        values["fit"] = SMALL_FIT | {"lr": [1e-3, 1e-4]}
    recipe = check_recipe(recipe_class(stage), values, "the table")
    reads = {name: set() for name in TABLES}
    sections = {name: watched(getattr(recipe, name), reads[name]) for name in TABLES if hasattr(recipe, name)}
    if kind == "mixed":
        sets = {
            name: part.model_copy(update={"data": watched(part.data, reads["data"])})
            for name, part in recipe.sets.items()
        }
        sections["sets"] = sets
    runner(recipe)(recipe.model_copy(update=sections))
    tables = dict(TABLES)
    if kind == "selfsupervised":
        tables["fit"] = {name: (value, ALL, needs) for name, (value, needs) in PRETEXT_FIT.items()}
    for section, table in tables.items():
        taken = {name for name, (_, honoured, needs) in table.items() if kind in honoured and not needs}
        assert taken <= reads[section], f"{section}: taken and never read: {sorted(taken - reads[section])}"
