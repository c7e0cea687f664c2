"""A scan of a run in a notebook: a widget where ipyniivue is there and a kernel runs, still pictures elsewhere."""

import subprocess
import sys
from textwrap import dedent

import numpy as np
import pytest

import slivit
from slivit.data.readers import read_volume
from slivit.display import DEEP, planes_widget
from slivit.errors import SlivitError
from slivit.viewer import notebook


def test_a_run_shows_a_scan_with_its_explanation(runs, scans):
    run = notebook.view(runs("binary"), "scan3.nii", target=None, method="gradcam", device="cpu")
    shown = run._repr_mimebundle_()
    assert set(shown) == {"text/plain", "text/html"}  # no kernel runs here
    assert "probability of bright" in shown["text/html"]
    assert "data:image/png;base64," in shown["text/html"]
    assert planes_widget([]) is None
    again = notebook.view(runs("binary"), 3, target="bright", method="gradcam", device="cpu")
    assert again.said == run.said
    for wrong in ("scan333.nii", 999):
        with pytest.raises(SlivitError, match=r"no scan|no such scan"):
            notebook.view(runs("binary"), wrong, target=None, method="gradcam", device="cpu")


def test_a_volume_shows_itself(rng):
    volume = slivit.Volume(rng.normal(size=(DEEP, 8, 9)), (1.0, 1.0, 1.0), "made up", np.eye(4)[[2, 1, 0, 3]])
    assert set(volume._repr_mimebundle_()) == {"text/plain", "text/html"}


@pytest.mark.slow
def test_a_kernel_shows_a_widget(scans, tmp_path):
    pytest.importorskip("ipyniivue")
    pytest.importorskip("ipykernel")
    code = f"""
        import numpy as np, slivit, sys
        volume = slivit.Volume(np.zeros(({DEEP}, 8, 9), np.int16), (1.0, 1.0, 1.0), "made up", np.eye(4))
        given = volume._repr_mimebundle_()
        assert "application/vnd.jupyter.widget-view+json" in given, list(given)
        assert "text/html" in given
        flat = slivit.read_volume({scans["path"][0]!r})
        assert "application/vnd.jupyter.widget-view+json" not in flat._repr_mimebundle_()
        from slivit.display import VEIL
        from slivit.viewer.notebook import ViewedMasks
        from slivit.viewer.segments import CaseMasks
        mask = np.ones(volume.shape, np.uint8)
        masks = ViewedMasks(volume, CaseMasks({{"predicted": mask, "true": mask}}, [], []), "made up")
        choice, planes = masks.widget().children
        assert [layer.opacity for layer in planes.volumes] == [1, 0, VEIL]
        choice.value = "true"
        assert [layer.opacity for layer in planes.volumes] == [1, VEIL, 0]
        print("a widget")
    """
    runner = """
        import sys
        from jupyter_client.manager import start_new_kernel
        manager, client = start_new_kernel(kernel_name="python3")
        said = client.execute_interactive(sys.stdin.read(), output_hook=print, timeout=200)
        manager.shutdown_kernel(now=True)
        assert said["content"]["status"] == "ok", said["content"]
    """
    done = subprocess.run(
        [sys.executable, "-c", dedent(runner)], input=dedent(code), text=True, capture_output=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert read_volume(scans["path"][0]).shape[0] < DEEP
