"""Checkpoints: weights as safetensors, everything else that a prediction needs as JSON. No pickles."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slivit.checkpoint.adapters import described_adapter, frozen_state, is_stored
from slivit.checkpoint.config import FORMAT, parse_config
from slivit.data.preprocessing import Preprocessing
from slivit.errors import CheckpointError, SlivitError
from slivit.files import whole_folder, write_json, write_tensors
from slivit.models._lora import Lora, adapt_backbone, is_adapted, kept_state, share_backbone
from slivit.models.registry import create_model, list_models, spec_of
from slivit.parallel import is_main
from slivit.plugins import load_plugins, way_to
from slivit.targets.decision import Decision
from slivit.targets.task import Task

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)

WEIGHTS, CONFIG = "model.safetensors", "config.json"
_NO_HEAD = (
    "holds a pre-trained backbone and no head, so it predicts nothing yet; fine-tune a model that starts from it "
    "(model.weights in a recipe)"
)


@dataclass(frozen=True)
class Checkpoint:
    """A model that is loaded, with all that goes with it: the one holder of a model, whatever is done with it.

    It lives beside the functions that read and write it, and `slivit.predict.engine.Engine` runs it.

    Args:
        model: the network with its weights, in evaluation mode.
        trained_for: what it predicts; None for a backbone whose head is random.
        preprocessing: how scans are brought into its input.
        training: how it came about: recipe, seed, counts of scans, the chain of checkpoints it started from.
        path: the folder it was read from.
        operating_point: how its probabilities become calls, where that was fixed (`store_operating_point`).
        origin: where its weights come from, where no folder of a checkpoint says so, as plain values.

    Example:
        >>> checkpoint = slivit.load_checkpoint("runs/mine")
        >>> checkpoint.task.targets
        ('bright',)
    """

    model: nn.Module
    trained_for: Task | None
    preprocessing: Preprocessing
    training: Mapping[str, Any] = field(default_factory=dict)
    path: Path = Path()
    operating_point: Decision | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)

    @property
    def task(self) -> Task:
        """What it predicts.

        Raises:
            CheckpointError: it holds no trained head.
        """
        if self.trained_for is None:
            raise CheckpointError(f"{self.path}: {_NO_HEAD}")
        return self.trained_for

    @property
    def slices(self) -> int:
        """How many slices of a scan its network sees at once."""
        return self.preprocessing.size[0] if self.preprocessing.size else 1

    def _repr_html_(self) -> str:
        return _shown_checkpoint(self)


def _shown_checkpoint(checkpoint: Checkpoint) -> str:
    """What Jupyter shows of a checkpoint."""
    from slivit.display import facts

    spec, training = spec_of(checkpoint.model), checkpoint.training
    scans = ", ".join(f"{n} {split}" for split, n in training.get("scans", {}).items())
    started = training.get("started_from", {})
    point, task = checkpoint.operating_point, checkpoint.trained_for
    calls = "" if point is None else ", ".join(f"{t} at {p.value:.3g}" for t, p in point.thresholds.items())
    rows = {
        "model": f"{spec.name}, {sum(p.numel() for p in checkpoint.model.parameters()) / 1e6:.1f} M parameters",
        "input": f"{spec.input}, {' x '.join(map(str, checkpoint.preprocessing.size or ()))}",
        "predicts": "" if task is None else f"{', '.join(task.targets)} ({task.kind})",
        "trained on": scans,
        "started from": started.get("folder") or started.get("file", ""),
        "calls": calls,
    }
    return facts(f"Checkpoint {checkpoint.path}", rows)


def package_versions() -> dict[str, str]:
    """The versions of the packages that a result depends on."""
    names = ("slivit", "torch", "torchvision", "fastai", "timm", "transformers", "numpy", "scikit-learn", "pydicom")
    return {name: v for name in names if (v := _version(name))}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def save_checkpoint(
    folder: str | Path,
    model: nn.Module,
    task: Task,
    preprocessing: Preprocessing,
    training: Mapping[str, Any] | None = None,
) -> Path:
    """Write a checkpoint folder, whole or not at all: `model.safetensors` and `config.json`.

    Args:
        folder: where to; what lies there is replaced.
        model: from `create_model` (its `.spec` says how to build it again).
        task: the fitted task.
        preprocessing: with its size set.
        training: plain values to keep in `config.json` under "training".

    Returns:
        The folder.

    Example:
        >>> task = slivit.Task(kind="binary", targets=("bright",))
        >>> model = slivit.create_model("image_classifier", out_dim=1, backbone="resnet10t", image_size=32, stride=16)
        >>> settings = slivit.Preprocessing(size=model.spec.size)
        >>> folder = slivit.save_checkpoint("runs/saved", model, task, settings, {"note": "an example"})
        >>> sorted(file.name for file in folder.iterdir())
        ['config.json', 'model.safetensors']
    """
    folder = Path(folder)
    spec = spec_of(model)
    with whole_folder(folder) as partial:
        write_tensors(partial / WEIGHTS, kept_state(model))
        config = {
            "format": FORMAT,
            "model": {"name": spec.name, "out_dim": task.out_dim, "args": dict(spec.args)},
            "task": task.model_dump(mode="json"),
            "preprocessing": preprocessing.model_dump(mode="json"),
            "training": dict(training or {}),
            "versions": package_versions(),
            "plugins": load_plugins(),
            "sha256": file_checksum(partial / WEIGHTS),
        }
        write_json(partial / CONFIG, config | (described_adapter(model) if is_adapted(model) else {}))
    return folder


def save_backbone(
    folder: str | Path,
    model: nn.Module,
    preprocessing: Preprocessing,
    training: Mapping[str, Any] | None = None,
    extra: Mapping[str, nn.Module] | None = None,
) -> Path:
    """Write a checkpoint that holds a pre-trained backbone and no trained head, whole or not at all.

    Of several processes all must call it, as each may hold a share of the weights; the main one writes.

    Args:
        folder: where to; what lies there is replaced.
        model: from `create_model`; its `.backbone` is kept.
        preprocessing: with its size set.
        training: plain values to keep in `config.json` under "training".
        extra: further modules, each kept as `NAME.safetensors`, such as the decoder of a masked autoencoder.

    Returns:
        The folder; give it as `model.weights` to a recipe, or to `load_backbone`.

    Example:
        >>> model = slivit.create_model("image_classifier", 1, backbone="resnet10t", image_size=32, stride=16)
        >>> folder = slivit.save_backbone("runs/backbone", model, slivit.Preprocessing(size=model.spec.size))
        >>> slivit.load_encoder(folder).model.spec.name
        'image_classifier'
    """
    folder, spec = Path(folder), spec_of(model)
    backbone = _tensors(model.get_submodule("backbone"), "backbone.")
    others = {name: _tensors(module) for name, module in (extra or {}).items()}
    if not is_main():
        return folder
    with whole_folder(folder) as partial:
        write_tensors(partial / WEIGHTS, backbone)
        for name, tensors in others.items():
            write_tensors(partial / f"{name}.safetensors", tensors)
        config = {
            "format": FORMAT,
            "model": {"name": spec.name, "out_dim": 1, "args": dict(spec.args)},
            "task": None,
            "preprocessing": preprocessing.model_dump(mode="json"),
            "training": dict(training or {}),
            "versions": package_versions(),
            "plugins": load_plugins(),
            "sha256": file_checksum(partial / WEIGHTS),
        }
        write_json(partial / CONFIG, config)
    return folder


def load_encoder(path: str | Path, device: str = "cpu") -> Checkpoint:
    """Read a checkpoint for its backbone alone: one of a trained model, or one that holds nothing else.

    Args:
        path: a checkpoint folder, or a run folder that holds one in `checkpoint/`.
        device: where the weights go.

    Returns:
        The model; its head is random where the checkpoint holds a backbone alone, and `trained_for` is None then.

    Raises:
        CheckpointError: as `load_checkpoint`.

    Example:
        >>> slivit.load_encoder("runs/mine").model.spec.name
        'slivit'
    """
    from slivit.models._weights import load_backbone

    folder = checkpoint_folder(path)
    config = read_config(folder)
    if config["task"] is not None:
        return load_checkpoint(folder, device)
    model = _build(config, folder, lambda name: name.startswith("backbone."))
    load_backbone(model, folder)
    return _loaded(model.to(device), config, folder)


def _tensors(module: nn.Module, prefix: str = "") -> dict[str, Any]:
    from slivit.parallel import whole

    return {prefix + k: whole(v.detach()).cpu().contiguous().clone() for k, v in module.state_dict().items()}


def load_checkpoint(path: str | Path, device: str = "cpu", *, backbone: str | Path | Checkpoint = "") -> Checkpoint:
    """Read a checkpoint; nothing but its folder is needed, and the backbone of one that holds adapters alone.

    Args:
        path: a checkpoint folder, or a run folder that holds one in `checkpoint/`.
        device: where the weights go.
        backbone: of adapters: a file, folder or name of its weights, or another checkpoint whose backbone both then
            share; where it was loaded from when they were trained, where absent.

    Raises:
        CheckpointError: no checkpoint there, a damaged or changed file, a model that this version does not know, or
            weights that do not fit it.

    Example:
        >>> checkpoint = slivit.load_checkpoint("runs/mine")
        >>> table = slivit.predict_table(
        ...     checkpoint.model, [{"path": "scan0.nii"}], checkpoint.task, checkpoint.preprocessing, device="cpu"
        ... )
        >>> list(table.columns)
        ['path', 'prob_bright', 'notes']
    """
    from safetensors.torch import load_file

    from slivit.models._weights import load_strictly

    folder = checkpoint_folder(path)
    config = read_config(folder)
    if config["task"] is None:
        raise CheckpointError(f"{folder}: {_NO_HEAD}")
    model = _build(config, folder, is_stored(config)).to(device)
    state = frozen_state(model, config, folder, backbone) | load_file(folder / WEIGHTS, device=device)
    load_strictly(model, state, str(folder / WEIGHTS), _what(config))
    if isinstance(backbone, Checkpoint) and config.get("adapter"):
        share_backbone(model, backbone.model)
    return _loaded(model, config, folder)


def _loaded(model: nn.Module, config: Mapping[str, Any], folder: Path) -> Checkpoint:
    """The checkpoint of a folder, whose weights are in the model already."""
    task = Task(**config["task"]) if config["task"] else None
    preprocessing = Preprocessing(**config["preprocessing"])
    decision = Decision(**config["operating_point"]) if config.get("operating_point") else None
    return Checkpoint(model.eval(), task, preprocessing, config["training"], folder, decision)


def store_operating_point(path: str | Path, decision: Decision | None) -> Path:
    """Write how probabilities become calls into a checkpoint's `config.json`; the weights stay as they are.

    Args:
        path: a checkpoint folder, or a run folder that holds one.
        decision: fixed on validation data; None takes away what stood there.

    Returns:
        The checkpoint folder.

    Raises:
        CheckpointError: no checkpoint there.
    """
    folder = checkpoint_folder(path)
    write_json(
        folder / CONFIG, {**read_config(folder), "operating_point": decision and decision.model_dump(mode="json")}
    )
    return folder


def checkpoint_folder(path: str | Path) -> Path:
    """The folder of a checkpoint, given by itself or by the run that holds it."""
    path = Path(path)
    for folder in (path, path / "checkpoint"):
        if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file():
            return folder
    raise CheckpointError(f"{path}: no checkpoint; a checkpoint or run folder holds {CONFIG} and {WEIGHTS}")


def read_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of a checkpoint folder, every value of it checked (see `slivit.checkpoint.config`)."""
    return parse_config(folder / CONFIG)


def _build(config: Mapping[str, Any], folder: Path, stored: Callable[[str], bool] = bool) -> nn.Module:
    """The network that a config describes, for the weights beside it; they are compared before memory is taken.

    Raises:
        CheckpointError: weights that were changed, or a config that describes another network or none.
    """
    from slivit.models._stored import check_stored

    if file_checksum(folder / WEIGHTS) != config["sha256"]:
        raise CheckpointError(f"{folder / WEIGHTS}: its checksum is not the one in {CONFIG}; the file was changed")
    described = config["model"]
    _check_plugins(config, folder)
    args = {k: v for k, v in described.get("args", {}).items() if k != "pretrained"}

    def build() -> nn.Module:
        model = create_model(described["name"], described["out_dim"], **args)
        size, prepared = spec_of(model).size, tuple(config["preprocessing"]["size"])
        if size != prepared:
            raise CheckpointError(f"{folder / CONFIG}: preprocessing.size is {prepared}, and the model takes {size}")
        if adapter := config.get("adapter"):
            adapt_backbone(model, Lora(**adapter["lora"]), adapter["start"])
        return model

    try:
        check_stored(folder / WEIGHTS, build, config.get("weights"), _what(config), stored)
        return build()
    except CheckpointError:
        raise
    except SlivitError as error:
        raise CheckpointError(f"{folder / CONFIG}: {error}") from error
    except Exception as error:  # whatever a library says of arguments that no network of ours was made with
        lines = str(error).strip().splitlines()[:1]
        raise CheckpointError(
            f"{folder / CONFIG}: no {described['name']} can be made of these arguments ({type(error).__name__}: "
            f"{''.join(lines)[:200]})"
        ) from error


def _check_plugins(config: Mapping[str, Any], folder: Path) -> None:
    """Say which plugins a model needs that is not known here; none is loaded because a checkpoint names it."""
    wanted, here = config.get("plugins", {}), load_plugins()
    missing = {plugin: made for plugin, made in wanted.items() if plugin not in here}
    if missing and (name := config["model"]["name"]) not in list_models():
        raise CheckpointError(f'{folder}: there is no model "{name}" here. {way_to(missing)}')
    for plugin, made in wanted.items():
        if here.get(plugin, made) != made:
            log.warning("%s: was made with %s %s; %s is installed", folder, plugin, made, here[plugin])


def _what(config: Mapping[str, Any]) -> str:
    return f"{CONFIG} describes a {config['model']['name']}"


def file_checksum(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
