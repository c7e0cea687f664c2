"""What a training costs is counted right and told once, and nothing of the training changes."""

import logging
import re

import torch
from torch import nn

from slivit.recipe import finetune, load_recipe
from slivit.train.pace import operations


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
