"""Losses and teacher's targets: golden numbers, lightly's values, and the same result from several processes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from slivit.errors import ModelError
from slivit.ssl.losses.contrastive import found_by_teacher
from slivit.ssl.losses.dino import dino_loss, ibot_loss
from slivit.ssl.losses.koleo import koleo_loss
from slivit.ssl.losses.targets import SoftmaxCentring, sinkhorn_knopp

TOLERANCE = {"rtol": 1e-3, "atol": 1e-4}


def noise(count: int, rank: int) -> Tensor:
    index = torch.arange(count, dtype=torch.float64)
    values = torch.sin(index * 12.9898 + rank * 78.233) * 43758.5453
    return 2 * (values - torch.floor(values)) - 1


def logits(rows: int, rank: int) -> Tensor:
    return (3 * noise(rows * 32, rank)).reshape(rows, 32).float()


@pytest.fixture(scope="module")
def golden(reference: Path) -> dict[str, Any]:
    return json.loads((reference / "dino3d.json").read_text())["losses"]


@pytest.fixture
def lightly_loss() -> Any:
    return pytest.importorskip("lightly.loss", reason="lightly is a development dependency")


def test_sinkhorn_knopp_gives_the_reference_s_numbers(golden: dict[str, Any]) -> None:
    targets = sinkhorn_knopp(logits(6, 1), golden["teacher_temp"])
    for row in (0, 5):
        torch.testing.assert_close(targets[row], torch.tensor(golden[f"sinkhorn_row{row}"]), **TOLERANCE)
    masked = sinkhorn_knopp(logits(5, 4), golden["teacher_temp"])
    torch.testing.assert_close(masked[0], torch.tensor(golden["ibot"]["sinkhorn_row0"]), **TOLERANCE)


def test_centring_gives_the_reference_s_numbers(golden: dict[str, Any]) -> None:
    targets = SoftmaxCentring(32)(logits(6, 1), golden["teacher_temp"])
    torch.testing.assert_close(targets[0], torch.tensor(golden["softmax_center_row0"]), **TOLERANCE)


def test_dino_gives_the_reference_s_number(golden: dict[str, Any]) -> None:
    targets = sinkhorn_knopp(logits(6, 1), golden["teacher_temp"])
    loss = dino_loss([logits(6, 2), logits(6, 3)], [targets], golden["student_temp"])
    torch.testing.assert_close(loss.item(), golden["dino_two_students_one_teacher"], **TOLERANCE)


def test_ibot_gives_the_reference_s_number(golden: dict[str, Any]) -> None:
    targets = sinkhorn_knopp(logits(5, 4), golden["teacher_temp"])
    mask = torch.tensor(golden["ibot"]["mask"], dtype=torch.bool)
    loss = ibot_loss(logits(5, 5), targets, mask, golden["student_temp"])
    torch.testing.assert_close(loss.item(), golden["ibot"]["loss_masked"], **TOLERANCE)


def test_koleo_gives_the_reference_s_number(golden: dict[str, Any]) -> None:
    loss = koleo_loss(noise(8 * 16, 6).reshape(8, 16).float())
    torch.testing.assert_close(loss.item(), golden["koleo"]["loss"], **TOLERANCE)


def test_koleo_is_lightly_s(lightly_loss: Any) -> None:
    features = torch.randn(9, 12, generator=torch.Generator().manual_seed(0), requires_grad=True)
    ours, theirs = koleo_loss(features), lightly_loss.KoLeoLoss()(features)
    torch.testing.assert_close(ours, theirs)
    slopes = (torch.autograd.grad(loss, features)[0] for loss in (ours, theirs))
    torch.testing.assert_close(*slopes)


def test_dino_with_centring_is_lightly_s_over_two_steps(lightly_loss: Any) -> None:
    theirs, centring = lightly_loss.DINOLoss(output_dim=32, teacher_temp=0.05, student_temp=0.1), SoftmaxCentring(32)
    for step in range(2):
        teachers = [logits(4, 10 * step + view) for view in range(2)]
        students = [logits(4, 10 * step + view + 2) for view in range(5)]
        targets = [centring(view, 0.05) for view in teachers]
        # lightly leaves the pairs of the same view out and divides by the number of the others.
        pairs = [([students[s]], [targets[t]]) for t in range(2) for s in range(5) if s != t]
        ours = sum(dino_loss(*pair, temperature=0.1) for pair in pairs) / len(pairs)
        torch.testing.assert_close(ours, theirs(teachers, students), rtol=1e-4, atol=1e-4)
        centring.update(torch.cat(teachers))
        torch.testing.assert_close(centring.center, theirs.center[0])


def test_ibot_with_centring_is_lightly_s_over_two_steps(lightly_loss: Any) -> None:
    theirs = lightly_loss.IBOTPatchLoss(output_dim=32, teacher_temp=0.05, student_temp=0.1)
    centring, mask = SoftmaxCentring(32), torch.zeros(3, 8, dtype=torch.bool)
    mask[0, :3], mask[2, 2:7] = True, True
    for step in range(2):
        teacher, student = logits(8, 20 + step), logits(8, 30 + step)
        ours = ibot_loss(student, centring(teacher, 0.05), mask)
        torch.testing.assert_close(ours, theirs(teacher, student, mask.reshape(3, 2, 4)), rtol=1e-4, atol=1e-4)
        centring.update(teacher)


def test_views_are_summed_over_pairs() -> None:
    targets = [logits(4, rank).softmax(-1) for rank in (1, 2)]
    students = [logits(4, rank) for rank in (3, 4, 5)]
    whole = dino_loss(students, targets)
    pairs = [dino_loss([student], [target]) for student in students for target in targets]
    torch.testing.assert_close(whole, torch.stack(pairs).sum())
    entropy = -(targets[0] * targets[0].log()).sum(1).mean()
    torch.testing.assert_close(dino_loss([0.1 * targets[0].log()], targets[:1]), entropy)


def test_each_volume_counts_alike_and_one_without_masks_counts_as_none() -> None:
    mask = torch.tensor([[1, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]], dtype=torch.bool)
    student, teacher = logits(4, 1), logits(4, 2).softmax(-1)
    rows = F.cross_entropy(student / 0.1, teacher, reduction="none")
    torch.testing.assert_close(ibot_loss(student, teacher, mask), (rows[0] + rows[1:].mean()) / 3)
    nothing = torch.zeros(0, 32, requires_grad=True)
    empty = ibot_loss(nothing, sinkhorn_knopp(torch.zeros(0, 32), 0.07), torch.zeros_like(mask))
    empty.backward()
    assert empty.item() == 0
    with pytest.raises(ModelError, match=r"4 masked patches; got \(3, 32\)"):
        ibot_loss(student[:3], teacher[:3], mask)


def test_sinkhorn_knopp_uses_prototypes_evenly_and_ignores_a_shift() -> None:
    given = 0.1 * logits(64, 1)
    targets = sinkhorn_knopp(given, 0.07, iterations=30)
    torch.testing.assert_close(targets.sum(1), torch.ones(64))
    torch.testing.assert_close(targets.sum(0), torch.full((32,), 2.0), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(sinkhorn_knopp(given + 500, 0.07), sinkhorn_knopp(given, 0.07), rtol=1e-2, atol=1e-3)
    assert torch.equal(given, 0.1 * logits(64, 1))


def test_gradients_reach_the_student_alone() -> None:
    student, teacher = logits(4, 1).requires_grad_(), logits(4, 2).requires_grad_()
    for targets in (sinkhorn_knopp(teacher, 0.07), SoftmaxCentring(32)(teacher, 0.07)):
        assert not targets.requires_grad
        dino_loss([student], [targets]).backward()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


def test_losses_stay_in_float32_under_autocast() -> None:
    student, targets = logits(6, 2), sinkhorn_knopp(logits(6, 1), 0.07)
    mask = torch.ones(6, 1, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        values = dino_loss([student], [targets]), ibot_loss(student, targets, mask), koleo_loss(student)
    expected = dino_loss([student], [targets]), ibot_loss(student, targets, mask), koleo_loss(student)
    assert values == expected


def test_the_teacher_s_other_view_is_found_by_hand() -> None:
    student = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 3.0], [1.0, 0.0]], requires_grad=True)
    teacher = torch.eye(2).repeat(2, 1).requires_grad_()  # first views of two images, then their second ones
    found, missed = math.log(1 + math.exp(-5)), math.log(1 + math.exp(5))  # the second views have changed places
    loss = found_by_teacher(student, teacher, 0.2)
    assert loss.item() == pytest.approx(2 * 0.2 * (found + missed), rel=1e-5)
    loss.backward()
    assert student.grad is not None
    assert teacher.grad is None
    with pytest.raises(ModelError, match="two"):
        found_by_teacher(torch.zeros(3, 2), torch.zeros(3, 2))


def test_koleo_pushes_neighbours_apart_and_needs_two() -> None:
    features = torch.tensor([[1.0, 0.0], [0.99, 0.1], [-1.0, 0.0]], requires_grad=True)
    loss = koleo_loss(features)
    loss.backward()
    assert features.grad is not None
    assert koleo_loss(features - 0.01 * features.grad) < loss
    corners = koleo_loss(torch.tensor([[1.0, 0.0], [0.0, 3.0]])).item()
    assert math.isclose(corners, -math.log(math.sqrt(2)), rel_tol=1e-5)
    with pytest.raises(ModelError, match="at least 2 volumes"):
        koleo_loss(features[:1])


ROWS = (4, 2)


def one_of_two_processes(rank: int, folder: str) -> None:
    torch.set_num_threads(1)  # a forked process must not use its parent's pool of threads
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    mine = torch.split(logits(6, 1), ROWS)[rank]
    centring = SoftmaxCentring(32)
    centring.update(mine)
    torch.save({"targets": sinkhorn_knopp(mine, 0.07), "center": centring.center}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_targets_of_one(tmp_path: Path) -> None:
    context = torch.multiprocessing.get_context("fork")
    run = one_of_two_processes
    processes = [context.Process(target=run, args=(rank, str(tmp_path)), daemon=True) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    targets = torch.cat([part["targets"] for part in parts])
    torch.testing.assert_close(targets, sinkhorn_knopp(logits(6, 1), 0.07))
    for part in parts:
        torch.testing.assert_close(part["center"], 0.1 * logits(6, 1).mean(0, keepdim=True))
