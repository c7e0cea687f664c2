"""Segmentation as a kind of task: what it refuses, and how values become numbers of labels and back."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

import slivit
from slivit.errors import ManifestError

BRATS = {"necrosis": 1, "edema": 2, "enhancing": 4}
REGIONS = {"TC": (1, 4), "WT": (1, 2, 4), "ET": (4,)}


def segmentation(**fields):
    return slivit.Task(**{"kind": "segmentation", "labels": BRATS} | fields)


def test_outputs_are_the_labels_with_background_or_the_regions():
    assert segmentation().outputs == ("background", "necrosis", "edema", "enhancing")
    assert segmentation().structures == ("necrosis", "edema", "enhancing")
    task = segmentation(regions=REGIONS)
    assert task.outputs == task.structures == ("TC", "WT", "ET")
    assert task.members == ((1, 3), (1, 2, 3), (3,))
    assert slivit.Task.model_validate(task.model_dump(mode="json")) == task


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"labels": {"a": 0}}, "0 is the background"),
        ({"labels": {"a": 1, "b": 1}}, "different values"),
        ({"labels": {"background": 1}}, "needs no label"),
        ({"labels": {"a/b": 1}}, "files are called so"),
        ({"labels": {"a": 2**31}}, "numbers of 32 bits"),
        ({"ignore": 2}, "one of the labels"),
        ({"regions": {"x": (3,)}}, "no label has"),
        ({"regions": {"x": ()}}, "is empty"),
        ({"targets": ("a", "b")}, "targets"),
        ({"loss": "l1"}, "loss"),
        ({"class_weights": "balanced"}, "class_weights"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, words):
    with pytest.raises(ValidationError, match=words):
        segmentation(**fields)


def test_a_loss_of_masks_is_refused_for_other_kinds():
    with pytest.raises(ValidationError, match="belongs to segmentation"):
        slivit.Task(kind="regression", targets=("a",), loss="dice")


def test_values_become_numbers_and_values_again():
    task = segmentation(ignore=255)
    values = np.array([[0, 1], [2, 4], [255, 0]], np.int16)
    assert task.numbered(values).tolist() == [[0, 1], [2, 3], [255, 0]]
    assert task.values(np.array([0, 1, 2, 3], np.uint8)).tolist() == [0, 1, 2, 4]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0, 3.0], "does not declare"),
        ([0, 0.5], "whole numbers"),
        ([-1, 0], "does not declare"),
        ([0, np.nan], "whole numbers"),
        ([0, np.inf], "whole numbers"),
    ],
)
def test_values_that_are_not_declared_and_fractions_are_refused(values, words):
    with pytest.raises(ManifestError, match=words):
        segmentation().numbered(np.array(values))


def test_the_rounding_of_a_scale_factor_and_values_of_16_bits_are_no_error():
    task = segmentation(labels={"a": 1, "b": 300, "c": 65535})
    slope = np.float32(1 / 255)
    assert task.numbered(np.array([0, 255, 76500], np.float32) * slope).tolist() == [0, 1, 2]
    assert task.numbered(np.array([0.0, 0.99999, 299.9999])).tolist() == [0, 1, 2]
    assert task.numbered(np.array([0, 65535, 300], np.uint16)).tolist() == [0, 3, 2]
    assert task.values(np.array([3, 2, 1], np.uint8)).tolist() == [65535, 300, 1]


def test_regions_are_painted_from_the_largest_where_labels_can_tell_them():
    assert segmentation(regions=REGIONS).label_of_regions() == {"WT": 2, "TC": 1, "ET": 4}
    assert segmentation(regions={"a": (1, 2), "b": (4,)}).label_of_regions() is None


def test_what_is_called_and_what_is_true_agree_for_certain_logits():
    numbers = torch.tensor([[[0, 1, 2, 3]]])
    for task in (segmentation(), segmentation(regions=REGIONS)):
        true = task.truths(numbers)
        logits = true.float() * 20 - 10
        if not task.regions:
            logits = torch.cat([(numbers == 0)[:, None].float() * 20 - 10, logits], 1)
        assert (task.called(logits) == true).all()
        assert float(task.criterion(logits, numbers, None)) < 0.01


def test_the_loss_of_ignored_voxels_is_none():
    task = segmentation(ignore=9)
    logits, numbers = torch.randn(1, 4, 2, 3, 3), torch.randint(0, 4, (1, 2, 3, 3))
    numbers[0, 0] = 255
    other = logits.clone()
    other[:, :, 0] = torch.randn(4, 3, 3)
    assert task.criterion(logits, numbers, None) == task.criterion(other, numbers, None)
