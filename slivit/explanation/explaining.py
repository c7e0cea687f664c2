"""A model and a scan (or one of the windows into which the model cut it) in, why it predicts what it does out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from slivit.checkpoint import Checkpoint
from slivit.data.preprocessing import Preprocessing
from slivit.errors import nearest, one_of
from slivit.explanation.attention import attention_cells
from slivit.explanation.gradcam import grad_cam, resize_cells
from slivit.explanation.occlusion import Fill, Progress, occlude
from slivit.explanation.predicting import ExplainError, engine_of, number_of, predict_with_evidence, target_or
from slivit.explanation.result import METHODS, TITLES, Attribution, Explanation
from slivit.explanation.scan import SeenScan, see_scan
from slivit.predict.engine import Engine
from slivit.targets.task import Task
from slivit.volume import Volume


def explain(
    checkpoint: str | Path | Checkpoint | nn.Module,
    scan: str | Path | Volume,
    *,
    target: str | None = None,
    methods: Sequence[str] | None = None,
    fill: Fill = "mean",
    task: Task | None = None,
    preprocessing: Preprocessing | None = None,
    device: str = "auto",
    batch_size: int = 8,
    progress: Progress | None = None,
    covariates: Mapping[str, Any] | None = None,
) -> Explanation:
    """Say which slices of a scan a prediction rests on, and where in them.

    Args:
        checkpoint: a run or checkpoint folder, what `load_checkpoint` returned, or a model made by `create_model`.
        scan: anything that `read_volume` takes, or a whole volume. Of a scan that is cut into windows, the window is
            explained that speaks most for the target.
        target: the output to explain: a target, or a class of a multiclass task. By default the one that the model
            finds most likely, or the first one of a regression.
        methods: of "occlusion", "rollout" and "gradcam"; None for all that are defined for the model.
        fill: by what occlusion replaces a slice; see `slivit.explanation.occlude`.
        task: the fitted task, where a model is given.
        preprocessing: with its size set, where a model is given.
        device: "auto", "cpu", "cuda", ...
        batch_size: scans that occlusion predicts at a time; it predicts one for each slice.
        progress: is called with how many of how many predictions of the occlusion are done.
        covariates: what is known of the scan beside its slices, by column, for a model that reads such: {"age": 61}.
            They stay as they are whatever is done to the slices. The geometry is read from the scan.

    Returns:
        The slices with their scores, maps over them, and the prediction.

    Raises:
        CheckpointError: no checkpoint there, or a damaged one.
        ReadError: the scan cannot be read.
        ExplainError: an unknown target or method, or a method that is not defined for the model.

    Example:
        >>> explanation = slivit.explain("runs/mine", "scans/0001")  # doctest: +SKIP
        >>> explanation.ranking("occlusion")[:3], explanation.save("why")  # doctest: +SKIP
    """
    engine = engine_of(checkpoint, task=task, preprocessing=preprocessing, device=device, batch_size=batch_size)
    seen = seen_by(engine, scan, target, covariates)
    return explain_seen(engine, seen, target=target, methods=methods, fill=fill, progress=progress)


def explain_seen(
    engine: Engine,
    scan: SeenScan,
    *,
    target: str | None = None,
    methods: Sequence[str] | None = None,
    fill: Fill = "mean",
    progress: Progress | None = None,
) -> Explanation:
    """As `explain`, for an engine and a scan that are in memory."""
    _check_methods(methods or ())
    with engine.holding([scan.columns]):
        return _explained(engine, scan, target, methods, fill, progress)


def _explained(
    engine: Engine,
    scan: SeenScan,
    target: str | None,
    methods: Sequence[str] | None,
    fill: Fill,
    progress: Progress | None,
) -> Explanation:
    predicted, _ = predict_with_evidence(engine, torch.from_numpy(scan.stack)[None])
    predictions = dict(engine.called(predicted).iloc[0])
    if not np.isfinite([float(predictions[column]) for column in engine.task.prediction_columns]).all():
        raise ExplainError(f"{scan.source}: the model's output is not a number for this scan, so nothing explains it")
    chosen = target_or(engine.task, target, predictions)
    attributions: dict[str, Attribution] = {}
    skipped: dict[str, str] = {}
    for method in METHODS if methods is None else methods:
        try:
            if method == "occlusion":
                now = float(predictions[engine.task.prediction_columns[number_of(engine.task, chosen)]])
                attributions[method] = _occlusion(engine, scan, chosen, now, fill, progress)
            else:
                attributions[method] = _mapped(engine, scan, chosen, method)
            _check_finite(attributions[method])
        except ExplainError as error:
            if methods is not None:
                raise
            skipped[method] = str(error)
            attributions.pop(method, None)
    return Explanation(scan, engine.task, chosen, predictions, attributions, skipped, fill)


def _check_methods(methods: Sequence[str]) -> None:
    for method in methods:
        if method not in METHODS:
            raise ExplainError(f'there is no method "{method}".{nearest(method, METHODS)} There are {one_of(METHODS)}.')


def _check_finite(result: Attribution) -> None:
    values = [result.scores, *result.more.values(), *(() if result.maps is None else (result.maps,))]
    if not all(np.isfinite(v).all() for v in values):
        raise ExplainError(f"{TITLES[result.method]} of this model gives what is not a number for this scan")


def _occlusion(
    engine: Engine, scan: SeenScan, target: str, now: float, fill: Fill, progress: Progress | None
) -> Attribution:
    occlusion = occlude(engine, scan, target, fill=fill, progress=progress)
    more = {"without": occlusion.without, "change": now - occlusion.without}
    return Attribution("occlusion", occlusion.evidence, None, more)


def _mapped(engine: Engine, scan: SeenScan, target: str, method: str) -> Attribution:
    """A method that gives cells over the model's slices, for each mirrored view of a prediction."""
    stack = torch.from_numpy(scan.stack)
    views = []
    for axes in engine.views:
        views.append(_cells(engine, stack.flip(axes), target, method).flip(axes))
    cells = torch.stack(views).mean(0)
    by_slice = cells.sum((1, 2)) if method == "rollout" else cells.mean((1, 2))
    maps = cells.numpy() if cells.shape[1:].numel() > 1 else None
    return Attribution(method, _by_number(scan, by_slice.double().numpy(), method), maps, {})


def _cells(engine: Engine, stack: Tensor, target: str, method: str) -> Tensor:
    """(S, h, w) float32 of one view."""
    if method == "gradcam":
        return grad_cam(engine, stack, target)
    cells = attention_cells(engine.model, engine.input_of(stack[None])).float().cpu()
    along = stack.shape[-3] / len(cells)  # a token's part is shared by the slices that it spans
    return resize_cells(cells, (stack.shape[-3], *cells.shape[1:])) / along


def _by_number(scan: SeenScan, scores: npt.NDArray[np.float64], method: str) -> npt.NDArray[np.float64]:
    """Scores of the model's slices as scores of the scan's: copies of a slice are summed, or of Grad-CAM averaged."""
    place = {int(number): i for i, number in enumerate(scan.sampled)}
    sums, counts = np.zeros(len(place)), np.zeros(len(place))
    for number, score in zip(scan.slices, scores, strict=True):
        if int(number) in place:
            sums[place[int(number)]] += score
            counts[place[int(number)]] += 1
    return sums if method == "rollout" else sums / counts


def seen_by(
    engine: Engine, scan: str | Path | Volume, target: str | None = None, columns: Mapping[str, Any] | None = None
) -> SeenScan:
    """Read a scan as a model sees it; of a model that sees windows, the window that speaks most for the target.

    Args:
        engine: of the model.
        scan: anything that `read_volume` takes, or a whole volume.
        target: the output to explain; the likeliest of the scan where None.
        columns: what is known of it beside the slices, for a model that reads covariates.

    Returns:
        The model's slices; with windows, its notes say which window it is.

    Raises:
        ReadError: the scan cannot be read or sampled.
        ExplainError: an unknown target.
    """
    seen, windows = see_scan(scan, engine.settings, columns), engine.settings.windows
    if windows is None or engine.settings.size is None:
        return seen
    length = engine.settings.size[0]
    starts = windows.starts(seen.stack.shape[-3], length)
    cut = windows.cut(torch.from_numpy(seen.stack), length, engine.at_once)
    with engine.holding([seen.columns]):
        predictions, evidences = zip(*(predict_with_evidence(engine, batch) for batch in cut), strict=True)
    score = windows.aggregate(torch.cat(predictions))
    name = target_or(engine.task, target, dict(engine.called(score[None]).iloc[0]))
    evidence = torch.cat(evidences)[:, number_of(engine.task, name)]
    best = starts[int(evidence.argmax())]
    numbers = seen.slices[best : best + length]
    note = (
        f"the window of slices {numbers[0]} to {numbers[-1]} is explained: of {len(starts)} it speaks most for {name}"
    )
    return replace(seen, stack=seen.stack[..., best : best + length, :, :], slices=numbers, notes=(*seen.notes, note))
