"""Half precision where there is a GPU."""

import pytest
import torch

from slivit.train.learner import half_precision


@pytest.mark.parametrize(
    ("device", "native", "expected"),
    [("cpu", True, "float32"), ("mps", True, "float32"), ("cuda", True, "bfloat16"), ("cuda", False, "float16")],
)
def test_auto_takes_what_the_device_has(monkeypatch, device, native, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert half_precision(device) == expected
