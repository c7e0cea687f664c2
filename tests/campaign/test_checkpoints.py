"""Checkpoints made to do harm: without end, of the wrong kind, with code in them. None runs, hangs or fills memory."""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_mutants import _outcome

from slivit.checkpoint import file_checksum
from slivit.models._weights import read_weights
from slivit.predict.opening import open_checkpoint

MEMORY = 1 << 30
Case = tuple[str, Callable[[Path], None]]
NUMBERS = (10**9, 10**6, 65_536, 60_000, 2048, 0, -1, "4", 4.5, None, True, [4], {}, 1e308, 10**400)
ARGUMENTS = ("slices", "image_size", "vit_dim", "vit_depth", "vit_heads", "dim_head", "mlp_dim", "stride")
BACKBONES = (
    "nope",
    "hf-hub:a/b",
    "local-dir:/etc",
    "../x",
    "vit_giant_patch14_dinov2",
    "convnext_xxlarge",
    "",
    "x" * 10**6,
)
BACKBONE_ARGS: tuple[Any, ...] = (
    {"act_layer": "nope"}, {"norm_layer": "nope"}, {"layers": [60_000]}, {"layers": [1000] * 4},
    {"block_args": {"x": 1}}, {"channels": [65_536] * 999}, {"in_chans": 1}, {"stem_width": 65_536}, [1], "x",
    {"a": {"b": [[[]]]}},
    {"checkpoint_path": "/etc/passwd"}, {"pretrained": True}, {"pretrained_cfg": {"file": "/etc/passwd"}},
)  # fmt: skip
PREPROCESSING = (
    ("size", [10**9, 4, 4]), ("size", [4, 10**6, 32]), ("size", None), ("size", [0, 1, 1]), ("size", [8, 32, 32]),
    ("resize", [10**9, 1]), ("flips", ["horizontal"] * 40), ("window", [1e308, -1]), ("reader", [1]),
)  # fmt: skip
TEXTS = {
    "nested": lambda t: '{"a":' * 200_000 + "1" + "}" * 200_000,
    "nested lists": lambda t: t.replace('"vit_dim": 16', '"vit_dim": ' + "[" * 900 + "]" * 900),
    "infinite": lambda t: t.replace('"vit_dim": 16', '"vit_dim": Infinity'),
    "too large": lambda t: t.replace('"vit_dim": 16', '"vit_dim": 1e999'),
    "digits": lambda t: t.replace('"vit_dim": 16', '"vit_dim": ' + "1" * 5000),
    "long": lambda t: '"' + "a" * 20_000_000 + '"',
    "empty": lambda t: "",
    "null": lambda t: "null",
    "bytes": lambda t: "\0" * 100,
}


class Bomb:
    """Leaves a mark where it is opened as a pickle."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


def _config(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        values = json.loads((folder / "config.json").read_text())
        change(values)
        (folder / "config.json").write_text(json.dumps(values))

    return apply


def _weights(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        file = folder / "model.safetensors"
        save_file(change(load_file(file)), file)
        _config(lambda c: c.update(sha256=file_checksum(file)))(folder)

    return apply


def _text(change: Callable[[str], str]) -> Callable[[Path], None]:
    return lambda folder: _write(folder / "config.json", change((folder / "config.json").read_text()))


def _write(file: Path, text: str) -> None:
    file.write_text(text)


def cases() -> Iterator[Case]:
    """All of them, with their names; each must be refused."""
    for key in ARGUMENTS:
        for value in NUMBERS:
            yield f"{key} {str(value)[:9]}", _config(lambda c, k=key, v=value: c["model"]["args"].update({k: v}))
    for name in BACKBONES:
        yield f"backbone {name[:9]}", _config(lambda c, n=name: c["model"]["args"].update(backbone=n))
    for i, args in enumerate(BACKBONE_ARGS):
        yield f"backbone_args {i}", _config(lambda c, a=args: c["model"]["args"].update(backbone_args=a))
    for key in ("format", "model", "task", "preprocessing", "training", "sha256"):
        for value in (None, "x", [], [1], {"x": 1}, 7):
            if (key, value) not in (("training", {"x": 1}), ("task", None)):
                yield f"{key} {value}", _config(lambda c, k=key, v=value: c.update({k: v}))
    for key, value in PREPROCESSING:
        yield f"preprocessing {key}", _config(lambda c, k=key, v=value: c["preprocessing"].update({k: v}))
    for name, change in TEXTS.items():
        yield f"text {name}", _text(change)
    for dtype in (torch.int8, torch.uint8, torch.float16, torch.bfloat16, torch.float64):
        yield f"weights {dtype}", _weights(lambda w, d=dtype: {k: v.to(d) for k, v in w.items()})
    yield "weights more", _weights(lambda w: {**w, "more": torch.zeros(1)})
    yield "weights fewer", _weights(lambda w: dict(list(w.items())[1:]))
    yield "weights of zero length", _weights(lambda w: {k: v[:0] if v.ndim else v for k, v in w.items()})


def _judge(folder: Path, told: Path) -> None:
    """Open one in a process with little memory; never comes back."""
    used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY, -1))
    told.write_text(_outcome(open_checkpoint, folder))
    os._exit(0)


@pytest.mark.slow
def test_no_hostile_checkpoint_is_opened(tiny_slivit, tmp_path, capsys):
    import slivit

    model = slivit.create_model("slivit", 1, **tiny_slivit)
    task = slivit.Task(kind="binary", targets=("bright",))
    whole = slivit.save_checkpoint(tmp_path / "whole", model, task, slivit.Preprocessing(size=model.spec.size))
    open_checkpoint(whole)
    unchanged = {f"{key} {tiny_slivit[key]}" for key in ARGUMENTS}
    outcomes = {}
    for name, harm in cases():
        folder = tmp_path / "hostile"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        harm(folder)
        told = tmp_path / "told.txt"
        told.write_text("died")
        pid = os.fork()
        if pid == 0:
            try:
                _judge(folder, told)
            finally:
                os._exit(1)
        os.waitpid(pid, 0)
        outcomes[name] = told.read_text()
    wrong = {n: o for n, o in outcomes.items() if o != "refused" and n not in unchanged}
    with capsys.disabled():
        print(f"\n{len(outcomes)} hostile checkpoints: {dict(Counter(outcomes.values()))}")
    assert wrong == {}
    assert len(outcomes) >= 150


@pytest.mark.parametrize("name", ["model.pkl", "model.pt", "model.pth", "model.bin", "model.ckpt", "model.safetensors"])
def test_no_code_of_a_pickle_runs(tmp_path, name):
    mark, file = tmp_path / "ran", tmp_path / "shared" / name
    file.parent.mkdir()
    file.write_bytes(pickle.dumps(Bomb(mark)))
    torch.save({"a": Bomb(mark)}, file.with_name(f"zip_{name}"))
    (file.parent / "predict.py").write_text(f"open({str(mark)!r}, 'w')")
    for path in (file, file.with_name(f"zip_{name}"), file.parent):
        for read in (read_weights, open_checkpoint):
            assert _outcome(read, path) == "refused"
    assert not mark.exists()
