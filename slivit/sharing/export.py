"""Write a model for other people: weights or graph, config, card, checksums and a program that predicts."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any, Literal, get_args

import numpy as np

from slivit import __version__
from slivit.checkpoint import CONFIG, WEIGHTS, Checkpoint, read_config
from slivit.data.preprocessing import preprocess
from slivit.data.scan_reading import ScanRef
from slivit.errors import SlivitError, install_command, nearest, one_of
from slivit.files import whole_folder, write_json, write_tensors, write_text
from slivit.models._lora import kept_state
from slivit.models._stored import BF16, narrowed
from slivit.models.registry import spec_of
from slivit.predict.sums import sha256, write_sums
from slivit.sharing import checking, reading, serving, standalone
from slivit.sharing.card import write_card
from slivit.sharing.checking import Difference
from slivit.sharing.notes import CardNotes
from slivit.sharing.texts import preprocessing_page
from slivit.targets.covariates import width_of
from slivit.volume import Volume

Format = Literal["safetensors", "onnx", "torch-export"]
FORMATS: tuple[str, ...] = get_args(Format)
CARD, PREPROCESSING, EXAMPLE = "README.md", "preprocessing.json", "example.npz"
MOST_SCANS = 8
PATHS = frozenset(
    (
        "out",
        "manifest",
        "test_manifest",
        "root",
        "cache",
        "weights",
        "folder",
        "file",
        "source",
        "readers",
        "pretrained",
        "start",
    )
)
"""The keys that name files and folders."""
_ABSOLUTE = re.compile(r"(?<![:/\\\w.])(?:[A-Za-z]:)?(?:[\\/][^\s\\/:,;\"']+)+[\\/]")


@dataclass(frozen=True)
class Options:
    """How a model is exported.

    Args:
        format: "safetensors" for slivit, "onnx" for any runtime, "torch-export" for torch alone.
        bf16: large weights in bfloat16: half the size, a small difference.
        notes: what its makers write on the card.
        tolerance: the largest difference allowed: of a probability, or in spreads of the target.
        scans: real scans to compare on; made-up ones where there are none.
        most: scans that are compared.
    """

    format: Format = "safetensors"
    bf16: bool = False
    notes: CardNotes = field(default_factory=CardNotes)
    tolerance: float | None = None
    scans: Sequence[ScanRef] = ()
    most: int = MOST_SCANS


@dataclass(frozen=True)
class Exported:
    """An export.

    Args:
        folder: where it lies.
        difference: from the original.
        fingerprint: the SHA-256 of its `SHA256SUMS`: publish it, so that others can tell that the model is yours.
    """

    folder: Path
    difference: Difference
    fingerprint: str


def check_format(name: str) -> None:
    """Raise where `name` is no format.

    Raises:
        SlivitError: with the formats that there are.
    """
    if name not in FORMATS:
        raise SlivitError(f'--format "{name}" is not known.{nearest(name, FORMATS)} There are {one_of(FORMATS)}.')


def export(
    checkpoint: Checkpoint, out: str | Path, options: Options, metrics: Mapping[str, Any] | None = None
) -> Exported:
    """Write a model for other people, whole or not at all.

    Args:
        checkpoint: the model.
        out: the folder; what lies there is replaced.
        options: the format, and what the card says.
        metrics: the run's `metrics.json`, for the card.

    Raises:
        SlivitError: a format that is not known, or for which a package is missing.
        CheckpointError: a model that cannot be brought into that format, or that computes something else there.
    """
    check_format(options.format)
    if options.format != "safetensors" and checkpoint.preprocessing.planes:
        raise SlivitError(
            f"--format {options.format}: the program that goes with it takes slices of one plane, and this model sees "
            f"{len(checkpoint.preprocessing.planes)}; use --format safetensors"
        )
    if options.format != "safetensors" and not checkpoint.preprocessing.rounded:
        raise SlivitError(
            f"--format {options.format}: the program that goes with it gives slices of 8 bits, and this model takes "
            "them unrounded (preprocessing.rounded = false); use --format safetensors"
        )
    if checkpoint.task.dense and options.format != "safetensors":
        raise SlivitError(
            f"--format {options.format}: the model segments, and its windows are laid over scans and its masks brought "
            "to their voxels by slivit; use --format safetensors"
        )
    limit = checking.check_tolerance(options.tolerance, options.bf16)
    original = serving.run_engine(checkpoint)
    with whole_folder(out) as folder:
        exported = _write_model(checkpoint, folder, options)
        difference = _compared(original, exported, checkpoint, options)
        checking.refuse(difference, limit)
        config = _config(checkpoint, folder, options, difference)
        write_json(folder / CONFIG, config)
        _write_program(folder, original, checkpoint, config, options.format)
        name = Path(out).resolve().name
        spec = spec_of(checkpoint.model)
        card = write_card(config, spec, metrics, options.notes, format=options.format, difference=difference, name=name)
        write_text(folder / CARD, card)
        fingerprint = write_sums(folder)
    return Exported(Path(out), difference, fingerprint)


def _write_model(checkpoint: Checkpoint, folder: Path, options: Options) -> serving.Predict:
    """Write the model, and return a function that runs what was written."""
    if options.format == "safetensors":
        return _write_weights(checkpoint, folder, options.bf16)
    if options.format == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            serving.needed(package)
    served = serving.Served(checkpoint).eval()
    count = width_of(checkpoint.task.inputs)
    program = serving.program_of(served, _shape(checkpoint), bf16=options.bf16, covariates=count)
    if options.format == "onnx":
        serving.write_onnx(program, folder / serving.ONNX)
        return serving.run_onnx(folder / serving.ONNX)
    serving.write_pt2(program, folder / serving.PT2)
    standalone.check_no_pickles(folder / serving.PT2)
    return serving.run_pt2(folder / serving.PT2)


def _write_weights(checkpoint: Checkpoint, folder: Path, bf16: bool) -> serving.Predict:
    from copy import deepcopy

    from safetensors.torch import load_file

    from slivit.models._weights import load_strictly

    state = kept_state(checkpoint.model)
    write_tensors(folder / WEIGHTS, {name: narrowed(w) if bf16 else w for name, w in state.items()})
    again = deepcopy(checkpoint.model).cpu()
    frozen = {name: w for name, w in again.state_dict().items() if name not in state}
    load_strictly(again, frozen | load_file(folder / WEIGHTS), str(folder / WEIGHTS), "just written")
    return serving.run_engine(replace(checkpoint, model=again))


def _compared(
    original: serving.Predict, exported: serving.Predict, checkpoint: Checkpoint, options: Options
) -> Difference:
    """How what was written differs from the original, from the scans' files to the predictions."""
    scans = checking.readable(options.scans, checkpoint, options.most)
    preprocessing = checkpoint.preprocessing.model_dump(mode="json")
    stacks = [stack for _, stack in scans] or [_example(checkpoint)[1]]
    differences = checking.compare(original, exported, stacks, checkpoint)
    alone = options.format != "safetensors"
    pixels = checking.check_preprocessing(scans, preprocessing) if alone else None
    return checking.difference(differences, checkpoint.task, real=bool(scans), pixels=pixels)


def _example(checkpoint: Checkpoint) -> tuple[Any, Any]:
    """A made-up scan, and its slices."""
    *channels, slices, _, _ = _shape(checkpoint)
    volume = checking.example_volume(slices, *channels)
    return volume, preprocess(Volume(volume, standalone.EXAMPLE_SPACING, "the example"), checkpoint.preprocessing)


def _config(checkpoint: Checkpoint, folder: Path, options: Options, difference: Difference) -> dict[str, Any]:
    """The checkpoint's config for other people: without the paths of this machine."""
    config = without_paths(read_config(checkpoint.path))
    config["model"]["args"].pop("pretrained", None)
    config["training"].pop("folder", None)
    model = {"safetensors": WEIGHTS, "onnx": serving.ONNX, "torch-export": serving.PT2}[options.format]
    config["export"] = {
        "format": options.format,
        "file": model,
        "slivit": __version__,
        "from_sha256": config["sha256"],
        "largest_difference": difference.largest,
        "scans": difference.scans,
        "real_scans": difference.real,
    }
    config["sha256"] = sha256(folder / model)
    if options.format != "safetensors":
        config.pop("adapter", None)  # a graph holds the backbone too
    return config | ({"weights": BF16} if options.bf16 else {})


def _write_program(
    folder: Path, original: serving.Predict, checkpoint: Checkpoint, config: Mapping[str, Any], format: str
) -> None:
    """`predict.py`, and for a model that runs without slivit all that it needs."""
    here = Path(__file__).parent
    name = "masks" if checkpoint.task.dense else format
    shutil.copyfile(here / f"predict_{name}.py.j2", folder / "predict.py")
    if format == "safetensors":
        return
    shutil.copyfile(standalone.__file__, folder / "preprocess.py")
    shutil.copyfile(reading.__file__, folder / "reading.py")
    write_json(folder / PREPROCESSING, _described(checkpoint, config))
    write_text(folder / "PREPROCESSING.md", preprocessing_page(config["preprocessing"], serving.INPUT, serving.OUTPUT))
    volume, slices = _example(checkpoint)
    predicted = checking.predicted(original, slices, checkpoint)
    example: dict[str, Any] = {"volume": volume, "slices": slices, "prediction": predicted}
    if checkpoint.task.inputs:
        example["covariates"] = checking.example_covariates(checkpoint)
    np.savez_compressed(folder / EXAMPLE, **example)


def _shape(checkpoint: Checkpoint) -> tuple[int, ...]:
    """(S, H, W) of the slices that go into a graph, or (C, S, H, W)."""
    settings = checkpoint.preprocessing
    channels = (len(settings.channels),) if settings.channels else ()
    return *channels, *(settings.size or (1, 1, 1))


def _described(checkpoint: Checkpoint, config: Mapping[str, Any]) -> dict[str, Any]:
    """What `preprocess.py` reads."""
    outputs = list(checkpoint.task.prediction_columns)
    return {
        "model": config["export"]["file"],
        "input": {"name": serving.INPUT, "shape": ["batch", *_shape(checkpoint)], "dtype": "uint8"},
        "output": {"name": serving.OUTPUT, "shape": ["batch", len(outputs)], "dtype": "float32"},
        "outputs": outputs,
        "preprocessing": config["preprocessing"],
        "install": install_command(),
        "task": config["task"],
        "operating_point": config.get("operating_point"),
    }


def without_paths(value: Any, key: str = "") -> Any:
    """Plain values with the last part of each path alone: folders tell of people, projects and machines.

    Args:
        value: as in `config.json`.
        key: under which it stands.
    """
    if isinstance(value, dict):
        return {k: without_paths(v, k) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(v, key) for v in value]
    if not isinstance(value, str):
        return value
    if key in PATHS and "://" not in value and not re.search(r"\s", value):
        return PureWindowsPath(PurePath(value).name).name
    return _ABSOLUTE.sub("", value)
