"""Linear CKA: its properties, and the command."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from slivit.errors import SlivitError
from slivit.probing.similarity import linear_cka, summary_of


def test_cka_is_blind_to_turns_and_scales_and_sees_differences():
    torch.manual_seed(0)
    x, other = torch.randn(64, 12), torch.randn(64, 20)
    turned = x @ torch.linalg.qr(torch.randn(12, 12))[0] * 3 + 5
    assert linear_cka(x, turned) == pytest.approx(1)
    assert linear_cka(x, other) == pytest.approx(linear_cka(other, x))
    assert linear_cka(x, other) < 0.5 < linear_cka(x, torch.cat([x, 0.1 * other], 1))
    assert np.isnan(linear_cka(x, torch.ones(64, 3)))


def test_cka_is_that_of_centred_gram_matrices():
    torch.manual_seed(1)
    x, y = torch.randn(10, 4).double(), torch.randn(10, 6).double()
    centre = torch.eye(10).double() - 0.1
    one, two = (centre @ z @ z.mT @ centre for z in (x, y))
    assert linear_cka(x, y) == pytest.approx(float((one * two).sum() / (one.norm() * two.norm())))


def test_the_summary_is_over_slices_then_volumes():
    rng = np.random.default_rng(0)
    rows = [
        {"path": f"v{v}", "slice": s, "first": "a", "second": other, "cka": base + 0.01 * rng.random()}
        for v in range(6) for s in range(10) for other, base in (("b", 0.8), ("c", 0.4))
    ]  # fmt: skip
    found = summary_of(pd.DataFrame(rows))
    first = found["pairs"][0]
    values = [r["cka"] for r in rows if r["second"] == "b"]
    assert first["mean"] == pytest.approx(np.mean(values))
    assert first["top"] == pytest.approx(np.mean(sorted(values)[-3:]))
    assert found["tests"][0]["bonferroni"] == found["tests"][0]["p_value"] < 1e-6


def test_volumes_without_a_value_are_left_out_and_none_at_all_is_told():
    rows = [
        {"path": f"v{v}", "slice": 0, "first": "a", "second": other, "cka": np.nan if (v, other) == (0, "b") else v / 9}
        for v in range(4) for other in "bc"
    ]  # fmt: skip
    found = summary_of(pd.DataFrame(rows))
    assert found["pairs"][0]["mean"] == pytest.approx(2 / 9)
    assert found["tests"][0]["difference"] == 0
    with pytest.raises(SlivitError, match="a and b: no slice has features that differ"):
        summary_of(pd.DataFrame([{**row, "cka": np.nan} for row in rows]))


def test_the_command(blob_scans, tmp_path):
    from slivit.cli import app

    few = pd.read_csv(blob_scans)[:3]
    few["path"] = [str(blob_scans.parent / p) for p in few["path"]]
    few.to_csv(tmp_path / "few.csv", index=False)
    arguments = ["similarity", str(tmp_path / "few.csv"), "a=random", "b=random", "-o", str(tmp_path / "out"),
                 "--backbone", "test_convnext", "--slices", "2", "--image-size", "64"]  # fmt: skip
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, (done.output, done.exception)
    found = json.loads((tmp_path / "out" / "similarity.json").read_text())
    assert found["pairs"][0]["mean"] == pytest.approx(1, abs=1e-4)
    assert found["pairs"][0]["slices"] == 6
    assert (tmp_path / "out" / "similarity.png").stat().st_size > 5000
    assert CliRunner().invoke(app, arguments[:3]).exit_code == 2
