"""The register of models: a name, what goes in, where it comes from, and how to build it."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from torch import Tensor, nn

from slivit.errors import ModelError, nearest, one_of
from slivit.plugins import load_plugins
from slivit.settings import call_checked, settings_of

if TYPE_CHECKING:
    from torch import nn

Layout = Literal["tiled", "volume", "clip"]
Output = Literal["vector", "mask"]
Factory = TypeVar("Factory", bound=Callable[..., Any])

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
NORMALISATION = ("mean", "std")
COVARIATES = "covariates"


@dataclass(frozen=True)
class ModelSpec:
    """What a model takes and where it comes from.

    Args:
        name: the name under which it is registered.
        input: "tiled" (B, C, S*H, W), "volume" (B, C, S, H, W) with one channel as a rule, or "clip" (B, 3, S, H, W).
        size: (S, H, W): slices, rows and columns that it takes.
        mean: per channel, of values scaled to [0, 1]; its length is the number of channels.
        std: per channel, as `mean`.
        output: "vector" (B, out_dim), or "mask" (B, out_dim, S, H, W): logits of every voxel, of (B, C, S*H, W) input
            (B, out_dim, S*H, W).
        source: the paper or page that defines the network.
        licence: the licence of the published weights, or of the definition where there are none.
        weights: what a user must download to start from published weights; empty where there are none.
        parameters: of the network at its default size with one output.
        small: arguments that make the smallest sensible instance, for tests.
        args: the arguments with which this instance was created.

    Example:
        >>> slivit.create_model("slivit", 1, backbone="resnet10t", slices=4, image_size=32, stride=16).spec.size
        (4, 32, 32)
    """

    name: str
    input: Layout
    size: tuple[int, int, int]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    output: Output = "vector"
    source: str = ""
    licence: str = ""
    weights: str = ""
    parameters: int = 0
    small: Mapping[str, Any] = field(default_factory=dict)
    args: Mapping[str, Any] = field(default_factory=dict)

    @property
    def channels(self) -> int:
        """The number of input channels."""
        return len(self.mean)

    @property
    def takes(self) -> str:
        """The input layout, and whether masks come out, in words."""
        return self.input if self.output == "vector" else f"{self.input}, gives masks"

    def batch_shape(self, batch: int = 1) -> tuple[int, ...]:
        """The shape of a batch of `batch` scans as the model takes it."""
        slices, height, width = self.size
        if self.input == "tiled":
            return batch, self.channels, slices * height, width
        return batch, self.channels, slices, height, width


_FACTORIES: dict[str, tuple[ModelSpec, Callable[..., Any]]] = {}


def register_model(
    name: str | None = None, *, input: Layout, size: tuple[int, int, int], **spec: Any
) -> Callable[[Factory], Factory]:
    """Register a factory `(out_dim, **args) -> nn.Module`, or a class that takes these, under its own name or `name`.

    The module it returns must have `.backbone` and `.head` (parameters outside both count as the integrator, or the
    decoder of a network that segments), and may
    have `.input_size`, an (S, H, W) that overrides `size` for that instance, `.normalisation`, a (mean, std) that
    overrides those, and `.in_chans`, its number of channels:
    1 instead of three has the mean and std of the three on average, several instead of one repeat those of the one.
    `create_model` holds its arguments to their annotations, such as `slices: Count` (see `slivit.settings`). What
    several factories share can be one argument whose type is a dataclass: recipes set its fields.

    Args:
        name: the registered name; the function's by default. A class is given one.
        input: see `ModelSpec`.
        size: see `ModelSpec`.
        **spec: the other fields of `ModelSpec`.

    Example:
        >>> class Mean(torch.nn.Module):
        ...     def __init__(self, out_dim):
        ...         super().__init__()
        ...         self.backbone, self.head = torch.nn.AdaptiveAvgPool3d(1), torch.nn.Linear(1, out_dim)
        ...
        ...     def forward(self, x):
        ...         return self.head(self.backbone(x).flatten(1))
        >>> @slivit.register_model(input="volume", size=(4, 32, 32), mean=(0.0,), std=(1.0,), licence="MIT")
        ... def mean_of_all(out_dim):
        ...     return Mean(out_dim)
        >>> slivit.create_model("mean_of_all", 2)(torch.zeros(1, 1, 4, 32, 32)).shape
        torch.Size([1, 2])
    """

    def keep(factory: Factory) -> Factory:
        key = name or factory.__name__
        if key in _FACTORIES:
            raise ValueError(f"model {key!r} is registered twice")
        _FACTORIES[key] = (ModelSpec(name=key, input=input, size=size, **spec), factory)
        return factory

    return keep


def _load_families() -> None:
    """Import every module of this package, so that its models are registered; names with an underscore are helpers."""
    package = importlib.import_module("slivit.models")
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"slivit.models.{module.name}")
    load_plugins()


def _load_family(name: str) -> None:
    """Import the module of this package that defines a model of that name, and where none does, all of them."""
    for file in sorted(Path(__file__).parent.glob("[!_]*.py")):
        if re.search(rf'^def {name}\(|^@register_model\(\s*"{name}"', file.read_text("utf-8"), re.MULTILINE):
            importlib.import_module(f"slivit.models.{file.stem}")
    if name not in _FACTORIES:
        _load_families()


def list_models(input: Layout | None = None, output: Output | None = None) -> list[str]:
    """The names of all registered models, sorted; only those of one input layout or output where it is given.

    Example:
        >>> "slivit" in slivit.list_models()
        True
    """
    _load_families()
    return sorted(
        name for name, (spec, _) in _FACTORIES.items() if input in (None, spec.input) and output in (None, spec.output)
    )


def model_spec(name: str) -> ModelSpec:
    """The specification of a registered model, at its default size.

    Raises:
        ModelError: no model of that name; the nearest one is named.

    Example:
        >>> slivit.model_spec("r3d_18").input
        'clip'
    """
    if name not in _FACTORIES:
        _load_family(name)
    if name not in _FACTORIES:
        raise ModelError(
            f'model "{name}" is not registered.{nearest(name, _FACTORIES)} There are {one_of(list_models())}.'
        )
    return _FACTORIES[name][0]


def create_model(name: str, out_dim: int, **args: Any) -> nn.Module:
    """Create a registered model with random weights.

    Args:
        name: one of `list_models()`.
        out_dim: the number of outputs (logits, or standardised values of a regression).
        **args: the model's own arguments; `mean` and `std`, one number each of values in [0, 1], for another
            normalisation than the model's own; and `covariates`, how many numbers a scan its head reads beside the
            slices: the model is called as `model(x, covariates)` then.

    Returns:
        A module with `.spec` (a `ModelSpec` whose `size` is this instance's), `.backbone` and `.head`.

    Raises:
        ModelError: an unknown name or argument, or a value that the model does not take.

    Example:
        >>> model = slivit.create_model("slivit", out_dim=1, backbone="resnet10t", slices=4, image_size=32, stride=16)
        >>> model(torch.zeros(2, 3, 4 * 32, 32)).shape
        torch.Size([2, 1])
    """
    spec = model_spec(name)
    factory = _FACTORIES[name][1]
    if out_dim < 1:
        raise ModelError(f"{name}: out_dim must be at least 1, got {out_dim}")
    allowed = [p for p in settings_of(factory) if p != "out_dim"]
    own = {key: value for key, value in args.items() if key in allowed or key not in (*NORMALISATION, COVARIATES)}
    for key in own:
        if key not in allowed:
            raise ModelError(f'{name} takes no argument "{key}".{nearest(key, allowed)} It takes {one_of(allowed)}.')
    model = call_checked(name, factory, out_dim, **own)
    if COVARIATES not in allowed and args.get(COVARIATES):
        _join(name, model, spec, args[COVARIATES])
    size = tuple(getattr(model, "input_size", spec.size))
    model.spec = replace(spec, size=size, args=dict(args))
    if published := getattr(model, "normalisation", None):
        model.spec = spec = replace(model.spec, mean=published[0], std=published[1])
    channels = getattr(model, "in_chans", spec.channels)
    if channels == 1 < spec.channels:
        model.spec = replace(model.spec, mean=(fmean(spec.mean),), std=(fmean(spec.std),))
    elif spec.channels == 1 < channels:
        model.spec = replace(model.spec, mean=spec.mean * channels, std=spec.std * channels)
    model.spec = replace(model.spec, **_normalisation(name, args, model.spec.channels))
    return model


def _join(name: str, model: nn.Module, spec: ModelSpec, count: Any) -> None:
    """Put covariates before the head."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise ModelError(f"{name}: covariates is how many numbers there are, a whole number, got {count!r}")
    if spec.output != "vector":
        raise ModelError(f"{name} gives masks; covariates are read before the head of a prediction a scan")
    from slivit.models._covariates import join_covariates

    join_covariates(model, count)


def takes_argument(name: str, argument: str) -> bool:
    """Whether a registered model has an argument of this name."""
    model_spec(name)
    return argument in settings_of(_FACTORIES[name][1])


def argument_defaults(name: str) -> dict[str, Any]:
    """A registered model's own arguments that have a default, with it."""
    model_spec(name)
    parameters = settings_of(_FACTORIES[name][1]).values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _normalisation(name: str, args: Mapping[str, Any], channels: int) -> dict[str, tuple[float, ...]]:
    """The fields of a specification that replace a model's own normalisation."""
    fields = {}
    for key in (k for k in NORMALISATION if k in args):
        value = args[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or (key == "std" and value <= 0):
            raise ModelError(f"{name}: {key} is one number{' above 0' * (key == 'std')}, got {value!r}")
        fields[key] = (float(value),) * channels
    return fields


def spec_of(model: Any) -> ModelSpec:
    """The specification of a model made by `create_model`.

    Raises:
        ModelError: a model made in another way; say what it takes by giving it a `.spec`.
    """
    spec = getattr(model, "spec", None)
    if not isinstance(spec, ModelSpec):
        raise ModelError(
            f"{type(model).__name__} has no .spec (a slivit.ModelSpec); make models with slivit.create_model"
        )
    return spec


def check_output(model: Any, wanted: Output) -> None:
    """Raise ModelError where a registered model gives another output than is needed.

    Args:
        model: made by `create_model`.
        wanted: "vector" or "mask".
    """
    spec = spec_of(model)
    if spec.output != wanted:
        needed, given = ("a vector a scan is", "masks") if wanted == "vector" else ("masks are", "a vector a scan")
        raise ModelError(
            f"{spec.name} gives {given}; {needed} needed here. Such models are {one_of(list_models(output=wanted))}."
        )


def check_tiled(x: Tensor, name: str, size: tuple[int, int, int]) -> None:
    """Raise ModelError where `x` is not (B, 3, S*H, W)."""
    slices, height, width = size
    if x.ndim != 4 or tuple(x.shape[1:]) != (3, slices * height, width):
        raise ModelError(
            f"{name} takes (B, 3, {slices * height}, {width}): {slices} slices of {height} x {width} pixels, tiled "
            f"from top to bottom; got {tuple(x.shape)}"
        )


def check_volume(x: Tensor, name: str, channels: int, size: tuple[int, int, int]) -> None:
    """Raise ModelError where `x` is not (B, channels, S, H, W)."""
    if x.ndim != 5 or tuple(x.shape[1:]) != (channels, *size):
        slices, height, width = size
        raise ModelError(
            f"{name} takes (B, {channels}, {slices}, {height}, {width}): channels, slices, rows and columns; "
            f"got {tuple(x.shape)}"
        )
