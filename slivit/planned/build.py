"""The ensemble as one model: its tables fitted on all scans, its networks those of the folds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from slivit.planned.frozen import load_frozen
from slivit.planned.jobs import job_of
from slivit.planned.networks import Candidate
from slivit.planned.plan import Plan, kinds_of
from slivit.planned.scans import Scans
from slivit.targets.covariates import width_of
from slivit.targets.task import Task
from slivit.train.table_models import TableModel, fit_table

if TYPE_CHECKING:
    from slivit.models.ensemble import Ensemble

Array = npt.NDArray[Any]


def build_ensemble(
    plan: Plan,
    work: Scans,
    features: Mapping[str, Array],
    weights: Mapping[str, float],
    temperatures: Mapping[str, float],
) -> Ensemble:
    """Put the chosen members into one network.

    Args:
        plan: of the run.
        work: its scans.
        features: of these scans, by name.
        weights: of the members, by name.
        temperatures: of the members, by name.
    """
    import torch

    from slivit.models.registry import create_model
    from slivit.train.copies import activation_of

    task = work.task
    tables = {
        name: fit_table(kind, work.widths(features, chosen), work.table(features, chosen), work.y, task, plan.seed)
        for name, kind, chosen in kinds_of(plan)
        if name in weights
    }
    candidates = {c.name: c for c in plan.candidates if c.name in weights}
    count = width_of(task.inputs)
    described = [tables[n].described if n in tables else _described(candidates[n], plan, count) for n in weights]
    read = [f for f in plan.frozen if any(f.feature in d.get("features", ()) for d in described)]
    slices, side, _ = plan.preprocessing.size or (1, 1, 1)
    model: Any = create_model(
        "ensemble",
        task.out_dim,
        slices=slices,
        image_size=side,
        in_chans=max(1, len(plan.preprocessing.channels)),
        covariates=count,
        members=[{**d, "title": name} for d, name in zip(described, weights, strict=True)],
        activation=activation_of(task),
        frozen=[{"feature": f.feature, "name": f.model, "args": f.args, "planes": f.planes} for f in read],
    )
    with torch.no_grad():
        model.head.weights.copy_(torch.tensor(list(weights.values())))
        for network, frozen in zip(model.frozen, read, strict=True):
            network.load_state_dict(load_frozen(frozen).state_dict())
        model.temperatures.copy_(torch.tensor([temperatures[name] for name in weights]))
        for member, name in zip(model.backbone, weights, strict=True):
            _fill(member, tables.get(name), candidates.get(name), plan, task)
    return model.eval()


def _described(candidate: Candidate, plan: Plan, covariates: int) -> dict[str, Any]:
    args = candidate.args | ({"covariates": covariates} if covariates else {})
    return {"kind": "network", "name": candidate.model, "args": args, "copies": len(plan.fold_numbers)}


def _fill(member: Any, table: TableModel | None, candidate: Candidate | None, plan: Plan, task: Task) -> None:
    """Give a member its weights: those of its table, or of the networks of all folds."""
    import torch

    from slivit.train.copies import fill_copies

    if table is not None:
        member.load_state_dict({name: torch.as_tensor(value) for name, value in table.tensors.items()})
    if candidate is not None:
        fill_copies(member, [job_of(plan, candidate, fold).folder for fold in plan.fold_numbers], task)
