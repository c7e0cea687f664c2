"""A model as others run it: preprocessed slices in, predictions out, in one graph with an open batch size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from slivit.checkpoint import Checkpoint
from slivit.errors import CheckpointError, SlivitError, install_command
from slivit.files import torch_file
from slivit.models._covariates import held
from slivit.models._stored import narrowed
from slivit.models.registry import spec_of
from slivit.predict.engine import Engine, mirror_axes

Array = npt.NDArray[Any]
Predict = Callable[..., Array]
"""(B, S, H, W) uint8, or (B, C, S, H, W) of several channels, and (B, k) covariates -> (B, outputs) float32."""

INPUT, COVARIATES, OUTPUT = "slices", "covariates", "prediction"
ONNX, PT2 = "model.onnx", "model.pt2"
_OPSET = 18
_LARGEST_ONNX = 1_900_000_000  # bytes; protobuf ends at 2 GiB


class Served(nn.Module):
    """Slices to predictions: layout, normalisation, network, mirrored views and activation.

    Args:
        checkpoint: the model with its task and its preprocessing.
    """

    scale: Tensor
    shift: Tensor
    center: Tensor
    spread: Tensor

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        spec, task = spec_of(checkpoint.model), checkpoint.task
        self.network, self.task, self.tiled = checkpoint.model, task, spec.input == "tiled"
        self.axes = mirror_axes(checkpoint.preprocessing.flips)
        mean, std = torch.tensor(spec.mean), torch.tensor(spec.std)
        # Buffers rather than constants: torch.export cannot keep tensors that are made inside of forward.
        self.register_buffer("scale", (1 / (255 * std)).view(1, -1, 1, 1, 1))
        self.register_buffer("shift", (-mean / std).view(1, -1, 1, 1, 1))
        self.register_buffer("center", torch.tensor(task.center or (0.0,)))
        self.register_buffer("spread", torch.tensor(task.spread or (1.0,)))

    def forward(self, slices: Tensor, covariates: Tensor | None = None) -> Tensor:
        """(B, S, H, W) or (B, C, S, H, W) uint8 -> (B, outputs): probabilities, or values in the target's unit."""
        known = () if covariates is None else (covariates,)
        views = [self._view(slices.flip(axes) if axes else slices, known) for axes in self.axes]
        return torch.stack(views).mean(0)

    def _view(self, slices: Tensor, known: tuple[Tensor, ...]) -> Tensor:
        slices = slices if slices.ndim == 5 else slices.unsqueeze(1)
        x = slices.float() * self.scale + self.shift
        outputs = self.network(x.flatten(2, 3) if self.tiled else x, *known).float()
        return self.task.activation(outputs, self.center, self.spread)


class Widened(nn.Module):
    """A network whose large weights are kept in bfloat16 and computed with in float32.

    Args:
        served: the network; its weights are rounded where `is_large` says so.
    """

    def __init__(self, served: nn.Module) -> None:
        super().__init__()
        self._inner = [served]  # in a list, so that its own weights are not kept a second time
        self._names: dict[str, str] = {}
        for name, tensor in served.state_dict().items():
            kept = name.replace(".", "__")
            self._names[name] = kept
            self.register_buffer(kept, narrowed(tensor))

    def forward(self, slices: Tensor, covariates: Tensor | None = None) -> Tensor:
        """As the network's own."""
        inputs = (slices,) if covariates is None else (slices, covariates)
        weights = {name: getattr(self, kept) for name, kept in self._names.items()}
        wide = {n: w.float() if w.dtype == torch.bfloat16 else w for n, w in weights.items()}
        return torch.func.functional_call(self._inner[0], wide, inputs)


def program_of(
    served: Served, size: tuple[int, ...], *, bf16: bool = False, covariates: int = 0
) -> torch.export.ExportedProgram:
    """Trace a network into a graph with an open batch size.

    Args:
        served: on the CPU, in evaluation mode.
        size: (S, H, W), or (C, S, H, W).
        bf16: keep large weights in bfloat16.
        covariates: how many numbers a scan it reads beside the slices.

    Raises:
        CheckpointError: the network cannot be traced.
    """
    example = torch.zeros(2, *size, dtype=torch.uint8), *[torch.zeros(2, covariates)] * bool(covariates)
    module = Widened(served).eval() if bf16 else served.eval()
    batch = torch.export.Dim("batch", min=1, max=4096)
    try:
        with torch.no_grad(), _quiet():
            return torch.export.export(module, example, dynamic_shapes=({0: batch},) * len(example))
    except (RuntimeError, torch._dynamo.exc.TorchDynamoException, ValueError) as error:
        name, why = type(served.network).__name__, str(error).splitlines()[0]
        raise CheckpointError(
            f"{name} cannot be traced by torch.export ({why}); export it with --format safetensors"
        ) from error


def write_pt2(program: torch.export.ExportedProgram, path: Path) -> None:
    """Write a graph of torch.export; its weights are plain bytes, and nothing in it is pickled."""
    program._example_inputs = None  # the only part that torch would pickle
    with torch_file(path) as file:
        torch.export.save(program, file)


def write_onnx(program: torch.export.ExportedProgram, path: Path) -> None:
    """Write a graph as ONNX, in one file.

    Raises:
        CheckpointError: a model that is too large for one file, or that has no form in ONNX.
    """
    try:
        with torch.no_grad(), _quiet():
            written = torch.onnx.export(
                program,
                input_names=[INPUT, COVARIATES][: len(program.graph_signature.user_inputs)],
                output_names=[OUTPUT],
                opset_version=_OPSET,
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise CheckpointError(f"the model has no form in ONNX ({str(error).splitlines()[0]})") from error
    if written is None:
        raise CheckpointError("torch.onnx gave no model")
    weights = sum(w.nbytes for w in (i.const_value for i in written.model.graph.initializers.values()) if w is not None)
    if weights > _LARGEST_ONNX:
        raise CheckpointError(f"{weights / 1e9:.1f} GB of weights do not fit into one ONNX file; export with --bf16")
    written.save(path, external_data=False)


def needed(module: str) -> Any:
    """A package of the extra `export`.

    Raises:
        SlivitError: it is not installed.
    """
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        raise SlivitError(f"ONNX needs the package {module}: {install_command('export')}") from error


def run_onnx(path: Path) -> Predict:
    """A function that runs an ONNX file."""
    session = needed("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda *inputs: np.asarray(session.run(None, dict(zip((INPUT, COVARIATES), inputs, strict=False)))[0])


def run_engine(checkpoint: Checkpoint) -> Predict:
    """A function that runs a model as `slivit predict` does, in float32 on the CPU: what exports are held against."""
    engine = Engine(checkpoint, "cpu")
    if checkpoint.task.dense:
        return lambda slices: np.asarray(engine.predict_patch(torch.from_numpy(slices)).numpy())

    def run(slices: Array, *known: Array) -> Array:
        with held(engine.model, torch.from_numpy(known[0])) if known else nullcontext():
            return np.asarray(engine.predict(torch.from_numpy(slices)).numpy())

    return run


def run_module(module: Callable[..., Tensor]) -> Predict:
    """A function that runs a module of torch on the CPU."""

    def run(*inputs: Array) -> Array:
        with torch.inference_mode():
            return np.asarray(module(*map(torch.from_numpy, inputs)).numpy())

    return run


def run_pt2(path: Path) -> Predict:
    """A function that runs a file of torch.export that this process wrote itself."""
    return run_module(torch.export.load(path).module())


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters warn about their own insides."""
    import logging
    import warnings

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
