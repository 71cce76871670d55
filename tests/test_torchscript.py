# mypy: disable-error-code="operator,assignment"
# TorchScript reads comments that begin with type: by itself, so that none can stand in a forward.
"""TorchScript modules: converted where torch can, compared with themselves, left as they were found."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mlc.errors import SourceError, UsageError
from mlc.recipe import parse_inputs
from mlc.sources.load import load
from tests.exporting import exported

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit")
"""torch says of TorchScript itself that its days are counted."""

CONVERTER = r"torch._export.converter.TS2EPConverter"


def script(module):
    return torch.jit.script(module)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout())
        self.head = nn.Linear(4, 5)

    def forward(self, image):
        return self.head(self.parts(image).mean((2, 3)))


class Options(nn.Module):
    """Arguments with defaults, one of them a tensor that may be left out, and outputs by name."""

    def forward(self, x: torch.Tensor, scale: float = 2.0, mask: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        y = x * scale
        if mask is not None:
            y = y * mask
        return {"y": y, "more": y + 1}


class Loop(nn.Module):
    def forward(self, x: torch.Tensor):
        y = x[0]
        for row in range(x.shape[0]):
            y = y + x[row]
        return y


class Large(nn.Module):
    def forward(self, x: torch.Tensor):
        if x.shape[0] > 4:
            return x * 10
        return x


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x):
        self.count += 1
        return x + self.count


@pytest.mark.parametrize("traced", [True, False])
def test_a_module_with_dims_that_vary(workspace, traced):
    module = Small().eval()
    made = torch.jit.trace(module, torch.randn(2, 3, 8, 8)) if traced else script(module)
    case = exported(workspace, made, None, "image=float32[batch=1..4,3,h=8..12,8]")
    assert case.shape("image") == ["batch", "3", "h", "8"]
    assert case.artifact.signature.outputs[0].dims == ("batch", 5)
    image = torch.randn(3, 3, 9, 8)
    np.testing.assert_array_equal(case.original.run({"image": image.numpy()})["output"], module(image).detach().numpy())
    assert case.artifact.origin.exporter.startswith(CONVERTER)


def test_arguments_with_defaults_and_outputs_by_name(workspace):
    case = exported(workspace, script(Options()), None, "x=float32[n=1..4,3]")
    assert (case.inputs, case.outputs) == (["x"], ["y", "more"])
    case = exported(workspace, script(Options()), None, "x=float32[n=1..4,3]", "mask=float32[n,3]")
    assert case.inputs == ["x", "mask"]


def test_the_users_module_stays_as_it_was(workspace):
    module = script(Counting())
    exported(workspace, module, torch.randn(2, 3))
    assert module.training
    assert module.count.item() == 0


def test_a_frozen_module(workspace):
    exported(workspace, torch.jit.freeze(script(Small().eval())), None, "image=float32[2,3,8,8]")


def test_a_loop_that_hangs_on_a_size_names_the_operator(workspace):
    with pytest.raises(SourceError, match=f"{CONVERTER} cannot convert the operator prim::Loop") as caught:
        exported(workspace, script(Loop()), None, "x=float32[n=1..4,3]")
    assert "give the Python module" in caught.value.hint


def test_a_branch_that_hangs_on_a_size(workspace):
    with pytest.raises(SourceError, match=f"n cannot vary: {CONVERTER} fixed axis 0 of x at 2"):
        exported(workspace, script(Large()), None, "x=float32[n=1..8,3]")


def test_an_input_without_a_spec():
    with pytest.raises(UsageError, match="the input 'image' of Small has neither an example nor a spec"):
        load(script(Small()))


def test_the_modules_own_error_names_it():
    with pytest.raises(SourceError, match="the module Small raised RuntimeError"):
        load(script(Small()), parse_inputs(["image=float32[2,4,8,8]"]))


@pytest.mark.filterwarnings("ignore:torch.tensor results are registered as constants")
def test_the_digest_follows_weights_code_and_constants():
    class Plus(nn.Module):
        def __init__(self, constant: float, *, twice: bool = False):
            super().__init__()
            self.constant, self.twice = constant, twice

        def forward(self, x):
            return x * (2 if self.twice else 1) + torch.tensor([self.constant, 1.0])

    x = torch.ones(2)
    made = [torch.jit.trace(one, x) for one in (Plus(1), Plus(2), Plus(1, twice=True))]
    assert len({load(one, (), x).digest for one in made}) == len(made)
    again = torch.jit.trace(Plus(1), x)
    assert load(again, (), x).digest == load(made[0], (), x).digest
