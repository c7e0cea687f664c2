"""Every network on a card that is made up: what would be left on the processor fails here, and not at a user's.

PyTorch's `FakeTensorMode` keeps of a tensor its shape, its type and its device, and knows for every operation what
comes out. An operation on tensors of two devices is an error, as on a card. The backward pass asks for a real one.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from slivit.data.layout import to_input
from slivit.models.registry import create_model, list_models, model_spec
from slivit.targets.loss import TaskLoss
from slivit.targets.task import Task

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
