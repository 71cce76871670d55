"""Grids, roots and branches of models whose sizes vary: torch.export by itself fixes the size, or stops."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.exporting import assert_alike, exported
from tests.models_for_export import Of

pytestmark = pytest.mark.needs_onnxruntime


class Coordinates(nn.Module):
    """A convolution that is told where it is: Liu and others, CoordConv (2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        batch, _, height, width = x.shape
        rows, columns = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
        own = (each.expand(batch, 1, height, width) for each in (rows, columns))
        return self.conv(torch.cat([x, *own], 1))


def test_grids_of_coordinates(workspace):
    net = exported(workspace, Coordinates(), None, "x=float32[batch=1..3,1,h=4..9,w=4..9]")
    assert_alike(workspace, net, *(np.ones((n, 1, h, w), np.float32) for n, h, w in ((1, 4, 9), (3, 7, 5))))


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("name", ["hann", "hamming", "blackman", "bartlett"])
def test_windows_of_any_length(workspace, name, periodic):
    def windowed(x):
        return x * getattr(torch, f"{name}_window")(x.shape[1], periodic)

    net = exported(workspace, Of(windowed), None, "x=float32[batch=1..3,n=3..9]")
    assert_alike(workspace, net, *(np.ones((2, n), np.float32) for n in (3, 5, 8)), atol=1e-6)


@pytest.mark.parametrize(
    "window",
    [
        lambda: torch.hamming_window(6),
        lambda: torch.hamming_window(6, False, 0.6, 0.3),
        lambda: torch.kaiser_window(6),
        lambda: torch.kaiser_window(6, periodic=False, beta=8.0),
    ],
)
def test_windows_of_a_fixed_length(workspace, window):
    net = exported(workspace, Of(lambda x: x * window()), None, "x=float32[batch=1..3,6]")
    assert_alike(workspace, net, np.ones((2, 6), np.float32), atol=1e-6)


def test_rolled_by_a_size(workspace):
    def rolled(x):
        return torch.roll(x, x.shape[1] // 2, 1) - x.roll((-x.shape[0], x.shape[1] - 1), (0, 1)) + x.roll(1, 1)

    exported(workspace, Of(lambda x: x[:, :0].roll(x.shape[0], 1)), None, "x=float32[n=1..5,3]")
    net = exported(workspace, Of(rolled), None, "x=float32[n=1..5,m=2..9]")
    values = np.arange(35, dtype=np.float32).reshape(5, 7)
    assert_alike(workspace, net, values, values[:1, :2], values[:3, :5])


def test_windows_of_attention_padded_by_a_remainder(workspace):
    def windowed(x):
        more = (-x.shape[1]) % 4
        return functional.pad(x, (0, 0, 0, more)).view(-1, 4, 3).mean(1).view(x.shape[0], -1, 3)

    net = exported(workspace, Of(windowed), None, "x=float32[batch=1..3,n=1..20,3]")
    values = np.random.default_rng(0).standard_normal((3, 20, 3)).astype(np.float32)
    assert_alike(workspace, net, *(values[:size, :n] for size, n in ((1, 1), (2, 4), (3, 9), (3, 20))))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * torch.linspace(-1, 1, x.shape[-1]),
        lambda x: x * torch.linspace(0, 5, x.shape[-1], dtype=torch.float64).float(),
        lambda x: torch.fft.rfft(x).abs() * torch.fft.rfftfreq(x.shape[-1], 0.1),
        lambda x: x * torch.fft.fftfreq(x.shape[-1]),
        lambda x: x / math.sqrt(x.shape[-1]),
        lambda x: x * math.log(x.shape[-1]) / math.log(512),
        lambda x: x + math.log2(x.shape[-1]),
        lambda x: x + math.log(x.shape[-1] / 2 + 1) + math.log(x.shape[-1], 3) - math.log10(x.shape[-1]),
        lambda x: x * math.exp(-x.shape[-1] / 20) + math.cos(2 * math.pi / x.shape[-1]) - math.sin(x.shape[-1]),
        lambda x: x + math.sqrt(x.shape[-1] / 3),
        lambda x: x + torch.tensor([[math.log(x.shape[-1])], [x.shape[0] / 2]]).sum() * torch.tensor([2.0, 1]).max(),
        lambda x: x + x.new_tensor([math.exp(-x.shape[-1]), 3]).sum() + torch.tensor([x.shape[0], 2]).sum(),
        lambda x: x.sum() * math.log(x.shape[-1]),
        lambda x: x / torch.as_tensor(list(x.shape), dtype=torch.float32).max(),
        lambda x: x + x.new_tensor([x.shape[1], 0.5]).sum(),
    ],
    ids=[
        "linspace",
        "linspace, double",
        "rfftfreq",
        "fftfreq",
        "sqrt",
        "log",
        "log2",
        "logarithms of fractions and to a base",
        "a power and an angle",
        "the root of a fraction",
        "a tensor of logarithms",
        "another of powers",
        "log beside a number",
        "as_tensor",
        "new_tensor",
    ],
)
def test_functions_of_a_size(workspace, function):
    net = exported(workspace, Of(function), None, "x=float32[batch=1..3,t=1..20]")
    assert_alike(
        workspace, net, *(np.linspace(-1, 2, 2 * n, dtype=np.float32).reshape(2, n) for n in (1, 2, 7, 20)), rtol=1e-4
    )


@pytest.mark.filterwarnings("ignore:Since version 1.3.0:UserWarning")
@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("volume", [True, False])
def test_the_points_of_images_of_any_size(workspace, align_corners, volume):
    def turned(x):
        sizes = [x.shape[0], 1, *x.shape[1:]] if volume else [*x.shape[:2], *x.shape[2:]]
        rank = 3 if volume else 2
        theta = x.mean((1, 2, 3)).view(-1, 1, 1) + torch.arange(rank * (rank + 1.0)).view(rank, rank + 1)
        return functional.affine_grid(theta, sizes, align_corners=align_corners)

    net = exported(workspace, Of(turned), None, "x=float32[batch=1..3,2,h=1..20,w=1..9]")
    draw = np.random.default_rng(0)
    arrays = [
        draw.standard_normal((batch, 2, h, w)).astype(np.float32) for batch, h, w in ((1, 1, 9), (2, 7, 1), (3, 20, 4))
    ]
    assert_alike(workspace, net, *arrays, atol=1e-5)


def test_a_size_that_is_cut_to_the_least_of_its_range(workspace):
    net = exported(workspace, Of(lambda x: x[:, :16, :8] * 2), None, "x=float32[batch=1..3,h=16..40,w=8..20]")
    assert_alike(workspace, net, *(np.ones((2, h, w), np.float32) for h, w in ((16, 8), (17, 9), (40, 8), (16, 20))))


class Ways(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        return torch.cond(x.sum() > 0, self.one, lambda x: self.other(x) * 2, (x,))


def test_a_branch_in_a_branch(workspace):
    def inner(x):
        return torch.cond(x.max() > 1, lambda x: x * 2, lambda x: -x, (x,))

    net = exported(
        workspace, Of(lambda x: torch.cond(x.sum() > 0, inner, lambda x: x + 1, (x,))), None, "x=float32[n=1..4]"
    )
    assert_alike(workspace, net, *(np.array(row, np.float32) for row in ([3], [0.5, 0.1], [-1, -2])))


def test_what_torch_compiles_afterwards_is_as_before(workspace):
    exported(workspace, Of(lambda x: x * math.log(x.shape[0] + 1)), None, "x=float32[n=1..4]")
    compiled = torch.compile(lambda x: x * math.log(2.0) + torch.linspace(0, 1, 3), fullgraph=True, backend="eager")
    assert torch.equal(compiled(torch.ones(3)), math.log(2.0) + torch.linspace(0, 1, 3))


def test_branches_that_read_weights(workspace):
    net = exported(workspace, Ways().eval(), None, "x=float32[batch=1..4,3]")
    assert_alike(workspace, net, np.ones((4, 3), np.float32), -np.ones((2, 3), np.float32))
