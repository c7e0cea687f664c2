"""Models that see windows of a scan: the window is explained that speaks most for the target."""

import numpy as np
import pytest
import torch

from slivit.checkpoint import Checkpoint
from slivit.data.windows import Windows
from slivit.explanation import explain
from slivit.targets.task import Task
from slivit.volume import Volume


@pytest.mark.parametrize("depth", [5, 17])
def test_the_window_with_the_highest_score_is_explained(checkpoint, network, settings, depth, tmp_path):
    windowed = settings.model_copy(update={"windows": Windows(stride=3)})
    model = Checkpoint(network().eval(), Task(kind="binary", targets=("bright",)), windowed)
    array = np.random.default_rng(1).integers(0, 256, (depth, 32, 32)).astype(np.uint8)
    found = explain(model, Volume(array, (3.0, 1.0, 1.0), "made up"))
    starts = windowed.windows.starts(depth, 5)
    single = [explain(checkpoint, Volume(array[s : s + 5], (3.0, 1.0, 1.0), "made up")) for s in starts]
    scores = [one.predictions["prob_bright"] for one in single]
    best = starts[int(np.argmax(scores))]
    assert found.scan.slices.tolist() == list(range(best, best + 5))
    assert found.predictions["prob_bright"] == pytest.approx(max(scores), abs=1e-6)
    assert f"slices {best} to {best + 4} is explained" in found.scan.notes[-1]
    torch.testing.assert_close(
        torch.from_numpy(found.attributions["occlusion"].scores),
        torch.from_numpy(single[int(np.argmax(scores))].attributions["occlusion"].scores),
    )
    assert (found.save(tmp_path / "why") / "sheet.png").is_file()
