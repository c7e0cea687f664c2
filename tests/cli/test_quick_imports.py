"""Commands import what they use; what they left out is there, whole, once it is asked for."""

import subprocess
import sys

import pytest

PREDICT = """
import sys
from slivit.cli import app, quick_imports
quick_imports.install()
from slivit.checkpoint import save_checkpoint
from slivit.data.preprocessing import Preprocessing
from slivit.models.registry import create_model, model_spec
from slivit.targets.task import Task
model = create_model("slivit", 1, **model_spec("slivit").small)
save_checkpoint(sys.argv[1] + "/run", model, Task(kind="binary", targets=("y",)), Preprocessing(size=model.spec.size))
app(["predict", sys.argv[1] + "/run", sys.argv[2], "--device", "cpu"], standalone_mode=False)
begun = "fastai sklearn matplotlib scipy.stats torch._dynamo.utils torch._inductor"
begun += " pydicom torchvision.models timm.models.beit timm.data.loader huggingface_hub.hf_api"
begun += " slivit.models.dino3d"
print([name for name in begun.split() if name in sys.modules])
"""
LATER = """
import sys
from slivit.cli import quick_imports
quick_imports.install()
import timm.models.resnet, torch

assert "timm.models.beit" not in sys.modules
with torch.device("meta"):
    assert (2.0 * torch.ones(3)).shape == (3,)  # torch says that the compiler is not for this
    assert torch.nn.Conv2d(2, 3, 3)(torch.ones(1, 2, 8, 8)).shape == (1, 3, 6, 6)
assert "torch._dynamo" in sys.modules
import torch.export.graph_signature as once
assert once is sys.modules["torch.export.graph_signature"]
assert once.ExportGraphSignature is torch.export.ExportGraphSignature
assert "torch._dynamo.utils" not in sys.modules
import timm, timm.data
import torchvision
from torchvision.ops.roi_align import is_compile_supported
assert timm.__version__ and len(timm.list_models()) > 1000 and callable(timm.data.create_loader)
assert timm.models.resnet is sys.modules["timm.models.resnet"] and "timm.models.beit" in sys.modules
assert is_compile_supported("cpu") in (True, False)
doubled = torch.compile(lambda y: 2 * y, backend="eager")(torch.ones(3))
assert torch.equal(doubled, torch.full((3,), 2.0))
assert torch._dynamo.disable.__module__.startswith("torch._dynamo")
with torch.device("meta"):
    assert (2.0 * torch.ones(3)).shape == (3,)
from torch._subclasses.fake_tensor import FakeTensorMode
with FakeTensorMode():
    fake = torch.nn.Conv2d(2, 3, 3)(torch.ones(1, 2, 8, 8))[:, :, None].unsqueeze(0).sum()
assert fake.shape == ()
import nibabel.nifti1
assert nibabel.nifti1.pdcm.dataset.Dataset is __import__("pydicom").Dataset
import sympy
assert isinstance(sympy.Symbol("x"), sympy.Basic) and sympy.Basic.__module__ == "sympy.core.basic"
exported = torch.export.export(torch.nn.Linear(2, 1), (torch.ones(1, 2),))
assert exported.module()(torch.ones(1, 2)).shape == (1, 1)
print("whole")
"""


def run(code, *args):
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=True).stdout


def test_prediction_imports_no_more_than_it_uses(tmp_path, blob_scans):
    assert run(PREDICT, str(tmp_path), str(blob_scans.parent / "scan0.nii")).splitlines()[-1] == "[]"


@pytest.mark.slow
def test_what_was_left_out_comes_when_it_is_asked_for():
    assert run(LATER).strip() == "whole"
