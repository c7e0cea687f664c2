"""The preprocessing that travels with a model is the one that its scans were read with, for every setting."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slivit.data.preprocessing import Preprocessing, preprocess
from slivit.data.windows import Windows
from slivit.sharing import standalone
from slivit.sharing.texts import described_preprocessing
from slivit.targets.decision import Decision, Threshold
from slivit.targets.task import Task
from slivit.volume import Volume

KINDS = (np.uint8, np.int16, np.uint16, np.float32, np.float64)


def scan(shape, kind, seed):
    rng = np.random.default_rng(seed)
    array = (rng.normal(100, 60, shape) + 20 * rng.random()).clip(0, 250).astype(kind)
    if np.issubdtype(kind, np.floating) and seed % 2:
        array[0, 0, 0] = np.nan
    return array


SAMPLING = ["even", "middle", "resample", "linspace", "linspace_middle"]


@st.composite
def cases(draw):
    slices = draw(st.integers(1, 6))
    height, width = draw(st.integers(4, 12)), draw(st.integers(4, 12))
    windows = draw(st.booleans())
    sampling = "even" if windows else draw(st.sampled_from(SAMPLING))
    ends = {
        "window": draw(st.sampled_from([None, (50.0, 150.0)])),
        "stretch": draw(st.sampled_from([None, (2.0, 98.0)])),
    }
    more = {"resize": draw(st.sampled_from([None, (height + 3, width + 2)]))}
    more["windows"] = Windows(stride=draw(st.integers(0, slices))) if windows else None
    more["fit"] = draw(st.sampled_from(["stretch", "pad"]))
    between = draw(st.sampled_from([0, 1.3, 4])) if sampling == "even" and not windows else 0
    more["spacing"] = draw(st.sampled_from([None, (between, 0, 0), (between, 0.7, 1.9)]))
    more["interpolation"] = draw(st.sampled_from(["area", "bilinear"]))
    more["shuffle_slices"] = None if windows else draw(st.sampled_from([None, 0, 3]))
    if not windows:
        rules = ({}, {"threshold": 110, "margin": 0}, {"threshold": 70, "unit": "percent", "least": 0.4, "margin": 1})
        more["foreground"] = draw(st.sampled_from([None, *rules]))
    if draw(st.booleans()) and not ends["window"] and not ends["stretch"]:
        more["wrap"] = True
    p = Preprocessing(
        size=(slices, height, width), sampling=sampling, short=draw(st.sampled_from(["repeat", "pad"])), **ends, **more
    )
    shape = draw(st.integers(1, 9)), draw(st.integers(3, 16)), draw(st.integers(3, 16))
    return p, scan(shape, draw(st.sampled_from(KINDS)), draw(st.integers(0, 9)))


@pytest.mark.filterwarnings("ignore:made up", "ignore:preprocessing.wrap")
@settings(max_examples=150, deadline=None)
@given(cases())
def test_every_pixel_is_the_same(case):
    p, array = case
    plain = p.model_dump(mode="json")
    spacing = (2.5, 0.8, 1.1) if p.spacing or array.shape[0] % 2 else None
    own = preprocess(Volume(array, spacing, "made up"), p)
    assert own.shape[1:] == p.size[1:]
    np.testing.assert_array_equal(standalone.preprocess(array, plain, spacing), own)
    described_preprocessing(plain)


def test_windows_are_cut_and_put_together_alike():
    import torch

    array = scan((11, 8, 8), np.uint8, 0)
    for windows in (Windows(stride=2), Windows(stride=3, score="mean"), Windows(score="top_k", k=2)):
        p = Preprocessing(size=(4, 8, 8), windows=windows, stretch=None)
        stack = torch.from_numpy(preprocess(Volume(array, None, "made up"), p))
        own = np.concatenate([part.numpy() for part in windows.cut(stack, 4, 2)])
        np.testing.assert_array_equal(np.concatenate(list(standalone.batches(array, p.model_dump(mode="json")))), own)
        scores = torch.rand(len(own), 3, generator=torch.Generator().manual_seed(0)).double()
        combined = standalone.combined(scores.numpy(), windows.model_dump())
        np.testing.assert_allclose(combined, windows.aggregate(scores).numpy())


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel"])
def test_calls_and_temperature_are_those_of_the_decision(kind):
    import pandas as pd

    classes = ("a", "b", "c")
    task = Task(kind=kind, targets=classes[:2] if kind == "multilabel" else ("x",),
                classes=classes if kind == "multiclass" else ())  # fmt: skip
    thresholds = {} if kind == "multiclass" else {task.targets[0]: Threshold(value=0.3)}
    decision = Decision(temperature=1.7, thresholds=thresholds)
    rng = np.random.default_rng(0)
    for p in rng.dirichlet(np.ones(3), 20):
        p = p[: task.out_dim]
        settings = {"preprocessing": {}, "outputs": list(task.prediction_columns), "task": task.model_dump(mode="json"),
                    "operating_point": decision.model_dump(mode="json")}  # fmt: skip
        found = standalone.finish(p[None], settings)
        table = decision.apply(pd.DataFrame([dict(zip(task.prediction_columns, p, strict=True))]), task).iloc[0]
        for name, value in found.items():
            assert value == (table[name] if isinstance(value, str) else pytest.approx(table[name]))
