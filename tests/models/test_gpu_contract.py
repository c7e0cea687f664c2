"""Every network on a card that is made up: what would be left on the processor fails here, and not at a user's.

PyTorch's `FakeTensorMode` keeps of a tensor its shape, its type and its device, and knows for every operation what
comes out. An operation on tensors of two devices is an error, as on a card. The backward pass asks for a real one.
"""

from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map

from slivit.data.augmentation import Augmentation
from slivit.data.blocks import TensorSlices, batch_transforms
from slivit.data.layout import to_input
from slivit.data.preprocessing import Preprocessing
from slivit.models.registry import create_model, list_models, model_spec
from slivit.ssl import create_pretext, list_pretexts
from slivit.targets.loss import TaskLoss
from slivit.targets.task import Task
from slivit.train.metrics import task_metrics

TASK = Task(kind="binary", targets=("bright",))
RECURRENT = ("lrcn",)
"""Networks whose recurrent layers ask the card itself what it can do, so that a made-up one does not serve."""


def moved(module):
    """Give a module's parameters and buffers to the card; any other tensor that it holds stays where it is."""
    for part in module.modules():
        for name, tensor in [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]:
            on_card = torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")
            learnt = isinstance(tensor, torch.nn.Parameter)
            setattr(part, name, torch.nn.Parameter(on_card, requires_grad=False) if learnt else on_card)
    return module.eval()


def a_card_can_be_made_up():
    """Whether this torch gives a tensor of values a made-up card: older ones ask for its driver."""
    try:
        with FakeTensorMode():
            return torch.zeros(1, device="cuda").new_tensor([1.0]).device.type == "cuda"
    except RuntimeError:
        return False


@pytest.mark.skipif(not a_card_can_be_made_up(), reason=f"torch {torch.__version__} makes up no card")
@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda'")
@pytest.mark.parametrize("name", [name for name in list_models() if name not in RECURRENT])
def test_every_network_computes_on_a_card(name):
    model, loss = create_model(name, 1, **model_spec(name).small), TaskLoss(TASK)
    spec = model.spec
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        model, loss = moved(model), moved(loss)
        stacks = torch.zeros(2, *spec.size, dtype=torch.uint8, device="cuda")
        x = to_input(stacks, spec.input, spec.mean, spec.std)
        output = model(x)
        assert x.device.type == output.device.type == "cuda"
        if output.ndim == 2:
            assert loss(output, torch.zeros(2, 1, device="cuda")).device.type == "cuda"
            assert loss.activation(output).device.type == "cuda"


def test_what_is_left_on_the_processor_is_an_error():
    class Forgetful(torch.nn.Module):
        def forward(self, x):
            return x + torch.arange(3)

    with FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(RuntimeError, match="device"):
        moved(Forgetful())(torch.zeros(3, device="cuda"))


TINY = {"embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 8}
TINY_SWIN = {"patch_size": 4, "window_size": 4, "embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2)}
VIT = ("slice_vit", {"slices": 1, "image_size": 32, "backbone_args": TINY})
SWIN = ("slice_swin", {"slices": 1, "image_size": 32, "backbone_args": TINY_SWIN})
TINY_3D = {"dim": 16, "depth": 2, "heads": 2, "slices": 32, "image_size": 32, "position_size": 32, "mask_token": True}
VOLUME = ("dino3d_vit_small", TINY_3D)
HEAD = {"prototypes": 8, "head_hidden": 8, "bottleneck": 4, "small_size": 16, "small_crops": 2}
PRETEXTS = {
    "simclr": (*VIT, {"hidden": 8, "projection": 4}),
    "dino": (*VIT, HEAD),
    "mae": (*VIT, {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}),
    "gmml": (*VIT, {}),
    "sit": (*VIT, {"hidden": 8, "projection": 4}),
    "simmim": (*SWIN, {"unit": 8}),
    "swin_mae": (*SWIN, {"unit": 8}),
    "dino3d": (*VOLUME, {**HEAD, "large_size": 32, "patch_prototypes": 8}),
    "monai_vit": ("monai_vit", dict(model_spec("monai_vit").small), {"projection": 8}),
}
READS_BACK = {"mae": "the number of visible patches", "dino3d": "that of masked ones", "sit": "its two losses",
              "monai_vit": "the losses of validation"}  # fmt: skip
"""Methods that read a number from the card, of which a made-up one has none: their views alone are looked at."""


def devices(value):
    return {leaf.device.type for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)}


def on_card(value, device="cuda"):
    made = lambda leaf: torch.zeros(leaf.shape, dtype=leaf.dtype, device=device)  # noqa: E731
    return tree_map(lambda leaf: made(leaf) if isinstance(leaf, torch.Tensor) else leaf, value)


def batch_of(name, pretext, model):
    """What the reading processes give for two items, of a size that differs from the model's."""
    if pretext.load is None:
        return torch.zeros(2, 1, 48, 48, dtype=torch.uint8)
    side = model.spec.size[-1]
    if name == "monai_vit":
        return torch.zeros(2, 1, 1, *model.spec.size)
    item = {"large": torch.rand(2, 1, *(side,) * 3), "small": torch.rand(2, 1, *(16,) * 3), "noise": torch.rand(2, 8)}
    return pretext.collate([item, item])


def test_every_method_is_looked_at():
    assert set(PRETEXTS) == set(list_pretexts())


@pytest.mark.skipif(not a_card_can_be_made_up(), reason=f"torch {torch.__version__} makes up no card")
@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda'")
@pytest.mark.parametrize("name", PRETEXTS)
def test_every_method_makes_views_and_computes_on_a_card(name):
    """Random numbers are drawn on the processor, so views are made of tensors without values ("meta") beside those."""
    if name == "monai_vit":
        pytest.importorskip("monai")
    kind, args, options = PRETEXTS[name]
    model = create_model(kind, 1, **args)
    pretext = create_pretext(name, model, **options)
    inputs, targets = pretext.views(on_card(batch_of(name, pretext, model), "meta"))
    assert devices((inputs, targets)) == {"meta"}
    if name in READS_BACK:
        return
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        outputs = moved(pretext.model).train()(on_card(inputs))
        assert devices(outputs) == {"cuda"}
        assert pretext.loss(outputs, on_card(targets)).device.type == "cuda"


@pytest.mark.parametrize("resize", [None, (24, 24)])
def test_random_changes_of_a_batch_stay_on_its_device(resize):
    settings = Preprocessing(size=(4, 16, 16), resize=resize)
    changes = Augmentation(flip_horizontal=True, rotate=10, zoom=(0.9, 1.1), crop=(0.5, 1.0), shift_slices=1)
    batch = TensorSlices(torch.zeros(2, 4, *(resize or (16, 16)), dtype=torch.uint8, device="meta"))
    for transform in batch_transforms("tiled", settings, (0.5,) * 3, (0.2,) * 3, changes):
        batch = transform(batch, split_idx=0)
    assert batch.device.type == "meta"
    assert batch.shape == (2, 3, 64, 16)


@pytest.mark.skipif(not a_card_can_be_made_up(), reason=f"torch {torch.__version__} makes up no card")
@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", "regression"])
def test_metrics_gather_what_lies_on_a_card(kind):
    classes = {"multiclass": {"classes": ("a", "b", "c")}}.get(kind, {})
    task = Task(kind=kind, targets=("one", "two") if kind == "multilabel" else ("one",), **classes)
    if kind == "regression":
        task = task.fitted([{"one": 1.0}, {"one": 3.0}])
    loss = TaskLoss(task)
    with FakeTensorMode(allow_non_fake_inputs=True):
        loss = moved(loss)
        logits = torch.zeros(2, task.out_dim, device="cuda")
        y = torch.zeros(2, dtype=torch.int64, device="cuda") if kind == "multiclass" else torch.zeros_like(logits)
        assert loss(logits, y).device.type == "cuda"
        for metric in task_metrics(task):
            metric.accumulate(SimpleNamespace(pred=logits, y=y, yb=(y,), loss_func=loss))
            assert devices(metric.predictions) == {"cpu"}
