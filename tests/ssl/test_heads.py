"""The head between 3DINO's network and its losses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from slivit.errors import ModelError
from slivit.ssl.heads import DinoHead


def test_the_head_is_lightly_s_and_reads_released_names() -> None:
    modules = pytest.importorskip("lightly.models.modules", reason="lightly is a development dependency")
    theirs = modules.DINOProjectionHead(12, 20, 6, 32)
    theirs.last_layer.weight_g.data.uniform_(0.5, 2)
    state = {f"mlp.{key.removeprefix('layers.')}": value for key, value in theirs.layers.state_dict().items()}
    state |= {f"last_layer.{key}": value for key, value in theirs.last_layer.state_dict().items()}
    head = DinoHead(12, 32, hidden=20, bottleneck=6)
    head.load_state_dict(state)
    tokens = torch.randn(2, 5, 12)
    torch.testing.assert_close(head(tokens), theirs(tokens.flatten(0, 1)).unflatten(0, (2, 5)))


def test_the_head_has_the_sizes_of_the_paper() -> None:
    with torch.device("meta"):
        head = DinoHead(1024)
    linear = [layer for layer in head.mlp if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in linear] == [2048, 2048, 256]
    assert head.last_layer.weight.shape == (65_536, 256)
    small = DinoHead(8, 16, hidden=8, bottleneck=4)
    torch.testing.assert_close(small.last_layer.weight.norm(dim=1), torch.ones(16))
    assert small(torch.randn(50, 8)).abs().max() <= 1
    with pytest.raises(ModelError, match="at least 1"):
        DinoHead(8, layers=0)
