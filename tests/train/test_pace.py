"""What a training costs is counted right and told once, and nothing of the training changes."""

import logging
import re

import pytest
import torch
from torch import nn

from slivit.errors import SlivitError
from slivit.models.registry import create_model, model_spec
from slivit.recipe import finetune, load_recipe
from slivit.targets.task import Task
from slivit.train.callbacks import seed_everything
from slivit.train.learner import volume_learner
from slivit.train.pace import Beforehand, operations
from slivit.train.recipe import Fit

BATCH = 4
TASK = Task(kind="binary", targets=("bright",))


def test_operations_are_those_of_the_whole_batch_and_the_model_stays_as_it_was():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(), nn.Linear(256, 2)
    )
    model.train()
    model[1].eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    torch.manual_seed(0)
    counted = operations(model, (torch.rand(5, 3, 8, 8),))
    assert counted == 5 * 2 * (64 * 4 * 27 + 256 * 2)  # multiplications and additions
    assert [m.training for m in model] == [True, False, True, True, True]
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    next_number = torch.rand(1)
    torch.manual_seed(0)
    torch.rand(5, 3, 8, 8)
    assert torch.equal(torch.rand(1), next_number)


def test_one_line_tells_what_a_training_costs(blob_scans, tmp_path, caplog, tiny_recipe):
    recipe = load_recipe("finetune", str(tiny_recipe(tmp_path, blob_scans)), ["fit.batch_size=8"])
    with caplog.at_level(logging.INFO, "slivit"):
        finetune(recipe)
    told = [r.message for r in caplog.records if "million parameters" in r.message]
    assert len(told) == 1
    pattern = r"million parameters, [\d.e+-]+ GFLOPs a step, [\d.e+]+ scans a second \(\d+% of the time"
    assert re.search(pattern, told[0])


def trained(folder, free=None, **options):
    """A learner after one epoch of two batches, and its weights."""
    from fastai.data.core import DataLoader, DataLoaders

    seed_everything(0)
    model = create_model("slivit", 1, **model_spec("slivit").small)
    rows = [(torch.rand(model.spec.batch_shape(1)[1:]), torch.tensor([float(i % 2)])) for i in range(2 * BATCH)]
    loaders = [DataLoader(rows, bs=BATCH) for _ in range(2)]
    fit = Fit(**{"precision": "float32", "optimiser": "sgd"} | options)
    learn = volume_learner(DataLoaders(*loaders, device=torch.device("cpu")), model, TASK, fit, path=folder, seed=1)
    look = Beforehand(free=free)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-2, cbs=[look])
    return learn, torch.cat([p.detach().flatten() for p in learn.model.parameters()])


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A training that has memory enough, what it told, and the bytes that a step needs: (learner, weights, bytes)."""
    heard = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())
    logger = logging.getLogger("slivit.train.pace")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    learn, weights = trained(tmp_path_factory.mktemp("plain"))
    logger.removeHandler(handler)
    (line,) = [text for text in heard if text.startswith("a step on 4 scans needs")]
    needed, steady = (1e9 * float(n) for n in re.findall(r"([\d.e-]+) GB", line)[:2])
    return learn, weights, needed, steady


def test_what_is_kept_is_what_autograd_keeps(plain):
    learn, _, needed, steady = plain
    assert learn.at_once == 0
    assert steady == pytest.approx(3 * sum(p.nbytes for p in learn.model.parameters()), rel=0.1)
    kept, weights = {}, {p.untyped_storage().data_ptr() for p in learn.model.parameters()}

    def note(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    x = torch.rand(learn.model.spec.batch_shape(BATCH))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        output = learn.model.train()(x)
    assert output.requires_grad
    assert needed - steady == pytest.approx(sum(n for place, n in kept.items() if place not in weights), rel=0.2)


def test_a_batch_that_will_not_fit_is_taken_in_parts_from_the_start(plain, tmp_path, caplog):
    _, weights, needed, steady = plain
    learn, same = trained(tmp_path, free=round(1.15 * (steady + 0.6 * (needed - steady))))
    assert learn.at_once == 2
    assert torch.allclose(weights, same, atol=1e-6)
    assert "memory does not do" not in caplog.text


def test_what_cannot_work_is_refused_with_the_numbers(plain, tmp_path):
    steady = plain[3]
    with pytest.raises(SlivitError, match=r"1 at once needs [\d.e-]+ GB .* and [\d.e-]+ GB are free: lower the batch"):
        trained(tmp_path, free=round(0.5 * steady))


def test_nothing_random_changes(plain, tmp_path):
    assert torch.equal(plain[1], trained(tmp_path)[1])
