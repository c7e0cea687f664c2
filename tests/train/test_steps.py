"""Where memory or a compiler does not do, training goes on in another way, to the same weights."""

import pytest
import torch
from fastai.callback.core import Callback

from slivit.data.blocks import volume_dataloaders
from slivit.data.manifest import read_manifest
from slivit.data.preprocessing import Preprocessing
from slivit.errors import ModelError, SlivitError
from slivit.models.registry import create_model, model_spec
from slivit.targets.task import Task
from slivit.train.callbacks import seed_everything
from slivit.train.learner import volume_learner
from slivit.train.recipe import Fit
from slivit.train.steps import Compiled, checkpoint_activations

COMPILED = ("slivit", "slice_vit", "resnet3d_18", "r3d_18", "dino3d_vit_small")
SMALL = dict(model_spec("slivit").small)  # LayerNorm alone: each scan by itself


class Full(Callback):
    """Memory for so many scans at a time; for `spared` where features are computed again."""

    def __init__(self, most, spared=0):
        self.most, self.spared = most, spared

    def after_pred(self):
        if self.training and len(self.pred) > (self.spared if self.learn.keeps_less is True else self.most):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def trained(csv, folder, cbs=(), batch_size=6, **options):
    task = Task(kind="binary", targets=("bright",))
    manifest = read_manifest(csv, task)
    manifest = manifest.with_task(task.fitted(manifest.rows("train")))
    seed_everything(0)
    model = create_model("slivit", 1, **SMALL)
    settings = Preprocessing(size=model.spec.size)
    dls = volume_dataloaders(manifest, model.spec, settings, batch_size=batch_size, device="cpu")
    fit = Fit(**{"precision": "float32", "optimiser": "sgd"} | options)
    learn = volume_learner(dls, model, manifest.task, fit, path=folder, seed=1, cbs=cbs)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-2)
    return learn


def weights(learn):
    return torch.cat([p.detach().flatten() for p in learn.model.parameters()])


@pytest.mark.parametrize("options", [{}, {"mixup": 0.4}, {"precision": "bfloat16"}], ids=str)
def test_a_batch_too_large_for_memory_is_trained_in_parts_to_the_same_weights(blob_scans, tmp_path, caplog, options):
    whole = trained(blob_scans, tmp_path, **options)
    parts = trained(blob_scans, tmp_path, [Full(2)], **options)
    assert parts.at_once == 2
    assert "memory does not do for 6 at once" in caplog.text
    near = 1e-6 if options.get("precision") != "bfloat16" else 1e-3
    assert torch.allclose(weights(whole), weights(parts), atol=near)
    assert list(parts.recorder.values[0]) == pytest.approx(list(whole.recorder.values[0]), abs=100 * near)


def test_one_scan_too_large_keeps_less_and_without_it_is_refused(blob_scans, tmp_path, caplog):
    learn = trained(blob_scans, tmp_path, [Full(0, spared=1)])
    assert learn.keeps_less is True
    assert learn.at_once == 1
    assert "computed again" in caplog.text
    with pytest.raises(SlivitError, match=r"not enough memory for 1 at once .* lower the batch size"):
        trained(blob_scans, tmp_path, [Full(0, spared=1)], checkpoint_activations=False)


def test_another_error_stays_an_error(blob_scans, tmp_path):
    class Broken(Callback):
        def after_pred(self):
            raise RuntimeError("sizes of tensors must match")

    with pytest.raises(RuntimeError, match="must match"):
        trained(blob_scans, tmp_path, [Broken()])


def test_checkpointing_keeps_less_for_the_same_gradient():
    def run(spares):
        torch.manual_seed(0)
        model = create_model("slivit", 1, **SMALL)
        if spares:
            checkpoint_activations(model)
        kept = []
        x = torch.rand(model.spec.batch_shape(1), generator=torch.Generator().manual_seed(0))
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.nbytes) or t, lambda t: t):
            loss = model.train()(x).sum()
        loss.backward()
        return sum(kept), torch.cat([p.grad.flatten() for p in model.parameters()])

    (all_kept, gradient), (less, again) = run(False), run(True)
    assert less < 0.8 * all_kept
    assert torch.allclose(gradient, again, atol=1e-6)
    with pytest.raises(ModelError, match="cannot compute its blocks anew"):
        checkpoint_activations(torch.nn.Linear(1, 1))


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n == "slivit" else pytest.mark.slow) for n in COMPILED])
def test_a_network_is_one_graph_for_the_compiler(name):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    model = create_model(name, 1, **model_spec(name).small).eval()
    x = torch.rand(model.spec.batch_shape(2))
    expected = model(x)
    model.compile(backend=backend, fullgraph=False)
    with torch.no_grad():
        assert torch.allclose(model(x), expected, atol=1e-5)
    assert len(graphs) == 1


@pytest.mark.slow
def test_a_compiled_network_trains_to_the_same_weights(blob_scans, tmp_path):
    plain = trained(blob_scans, tmp_path)
    compiled = trained(blob_scans, tmp_path, [Compiled("eager")])
    assert torch.allclose(weights(plain), weights(compiled), atol=1e-6)
    assert plain.model.state_dict().keys() == compiled.model.state_dict().keys()


def test_a_compiler_that_fails_ends_no_run(blob_scans, tmp_path, caplog):
    def broken(graph, inputs):
        raise ValueError("no such instruction")

    plain = trained(blob_scans, tmp_path)
    learn = trained(blob_scans, tmp_path, [Compiled(broken)])
    assert "goes on uncompiled" in caplog.text
    assert torch.allclose(weights(plain), weights(learn), atol=1e-6)
