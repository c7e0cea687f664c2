"""The device and the precision that it computes fast in."""

import pytest
import torch

from slivit.device import autocast, choose_device, choose_precision
from slivit.errors import SlivitError


@pytest.mark.parametrize(
    ("device", "native", "expected"),
    [
        ("cpu", True, "bfloat16"),
        ("cpu", False, "float32"),
        ("mps", True, "float32"),
        ("cuda", True, "bfloat16"),
        ("cuda", False, "float16"),
    ],
)
def test_auto_takes_what_the_device_has(monkeypatch, device, native, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: native)
    assert choose_precision("auto", torch.device(device)) == expected
    assert choose_precision("float32", torch.device(device)) == "float32"


@pytest.mark.parametrize(
    ("vendor", "amx", "expected"),
    [("GenuineIntel", False, "float32"), ("GenuineIntel", True, "bfloat16"), ("AuthenticAMD", False, "bfloat16")],
)
def test_the_products_of_intel_s_avx_512_are_no_reason_for_half_precision(monkeypatch, vendor, amx, expected):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr("slivit.device._processor", lambda fact: {"vendor_id": vendor}[fact])
    assert choose_precision("auto", torch.device("cpu")) == expected


def test_mistakes_are_told():
    with pytest.raises(SlivitError, match="needs a GPU"):
        choose_precision("float16", torch.device("cpu"))
    with pytest.raises(SlivitError, match="cannot be used"):
        choose_device("nothing")
    with pytest.raises(SlivitError, match="precision"):
        choose_precision("bf16", torch.device("cpu"))


def test_a_network_computes_in_the_precision_and_keeps_its_weights():
    layer, x = torch.nn.Linear(4, 2), torch.randn(3, 4)
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        with autocast(precision, torch.device("cpu")):
            assert layer(x).dtype == dtype
    assert layer.weight.dtype == torch.float32
