"""Lines that torch.onnx cannot take are written anew, and give the same numbers at every size."""

import numpy as np
import pytest
import torch
from torch import nn

from mlc.errors import SourceError
from mlc.exporting.fourier import inverse_by_products
from mlc.exporting.quotients import quotients_of_sizes
from mlc.exporting.settled import settled
from mlc.runtimes.onnxruntime import open_session
from mlc.types import Target
from mlc.workspace import Workspace
from tests.exporting import exported, one_registry  # noqa: F401 - a fixture for all of this file

pytestmark = pytest.mark.needs_onnxruntime


@pytest.fixture
def workspace(tmp_path):
    with Workspace(tmp_path) as made:
        yield made


class Of(nn.Module):
    """A function of one tensor as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def assert_alike(net, *arrays):
    """The exported model gives what the original gives."""
    with Workspace() as room, open_session(room.save(net.model, "again"), Target(), optimize=False) as session:
        for array in arrays:
            ours, theirs = session.run({"x": array})["output"], net.original.run({"x": array})["output"]
            assert ours.dtype == theirs.dtype
            np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize(("dtype", "number"), [("int64", 1.0), ("int64", -3.5), ("int32", 0.25)])
def test_integers_taken_from_a_number_are_cast_first(workspace, dtype, number):
    net = exported(workspace, Of(lambda x: (number - x) * 10), None, f"x={dtype}[batch=1..5,n=1..9] in -4..9")
    drawn = np.random.default_rng(0).integers(-4, 9, (3, 7), endpoint=True).astype(dtype)
    assert_alike(net, drawn, drawn[:1, :1])


def test_an_integer_taken_from_an_integer_stays_one(workspace):
    net = exported(workspace, Of(lambda x: 1 - x), None, "x=int64[batch=1..5,n=1..9] in 0..9")
    assert_alike(net, np.arange(6).reshape(2, 3))


def test_an_assert_over_a_whole_mask_is_no_obstacle(workspace):
    def checked(x):
        torch._assert_async(torch._is_all_true(x < 1e6))
        return x * 2

    net = exported(workspace, Of(checked), None, "x=float32[batch=1..5,n=1..9]")
    assert_alike(net, np.random.default_rng(0).standard_normal((3, 7)).astype(np.float32))


class Counted(nn.Module):
    """A row of ones for each sample, however many there are."""

    def forward(self, x):
        return torch.cat([x, torch.ones(len(x), 1, x.shape[2])], 1)


def test_the_length_of_a_tensor_is_a_size_in_a_trace_alone(workspace):
    net = exported(workspace, Counted(), None, "x=float32[batch=1..5,n=1..9,2]")
    assert_alike(net, *(np.ones((batch, n, 2), np.float32) for batch, n in ((1, 1), (3, 4), (5, 9))))
    assert "len" not in globals()


@pytest.mark.parametrize("axis", [1, 0, -1, -3])
def test_an_axis_is_inserted_into_complex_numbers(workspace, axis):
    def turned(x):
        angles = torch.polar(torch.ones_like(x), x).unsqueeze(axis)
        return torch.view_as_real(angles * angles)

    net = exported(workspace, Of(turned), None, "x=float32[batch=1..5,n=1..9]")
    assert_alike(net, np.random.default_rng(0).standard_normal((3, 7)).astype(np.float32))


@pytest.mark.parametrize("rounding", ["trunc", "floor"])
def test_a_quotient_of_a_size_is_a_size(workspace, rounding):
    def halved(x):
        half = torch.div(x.shape[1], 2, rounding_mode=rounding)
        return x.reshape(x.shape[0], half, 2).sum(2)

    net = exported(workspace, Of(halved), None, "x=float32[batch=1..5,n=2..16/2]")
    assert_alike(net, *(np.random.default_rng(n).standard_normal((2, n)).astype(np.float32) for n in range(2, 17, 2)))


def test_a_quotient_of_tensors_is_torchs_own():
    own, number = torch.div, torch.tensor([-7.0, 7.0])
    with quotients_of_sizes():
        assert torch.equal(torch.div(number, 2, rounding_mode="trunc"), own(number, 2, rounding_mode="trunc"))
        assert torch.equal(torch.div(7, 2, rounding_mode="floor"), own(7, 2, rounding_mode="floor"))
        assert torch.equal(torch.div(number, 2), own(number, 2))
    assert torch.div is own


@pytest.mark.parametrize("times", [2, 5])
def test_a_remainder_by_a_size_is_taken_at_every_size(workspace, times):
    module = Of(lambda x: x + torch.arange(x.shape[1]) * times % x.shape[1])
    net = exported(workspace, module, None, "x=float32[batch=1..5,n=1..16]")
    assert_alike(net, *(np.zeros((2, n), np.float32) for n in range(1, 17)))


class Routed(nn.Module):
    """Sets its own head to the dtype of its input first."""

    def __init__(self, dtype):
        super().__init__()
        self.head, self.dtype = nn.Linear(4, 3), dtype

    def forward(self, x):
        self.head = self.head.to(self.dtype)
        return self.head(x.to(self.dtype)).float()


def test_a_module_that_is_set_to_the_dtype_that_it_has_exports(workspace):
    net = exported(workspace, Routed(torch.float32), None, "x=float32[rows=1..5,4]")
    assert_alike(net, np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32))


def test_a_module_that_is_set_to_another_dtype_is_never_left_as_it_is(workspace):
    with settled():
        module = nn.Linear(2, 2)
        assert module.to("cpu").weight.dtype == torch.float32
        assert module.to(torch.float64).weight.dtype == torch.float64
        assert module.to(torch.zeros((), dtype=torch.float32)).weight.dtype == torch.float32
    with pytest.raises(SourceError):
        exported(workspace, Routed(torch.float64), None, "x=float32[rows=1..5,4]")


@pytest.mark.parametrize(("norm", "axis"), [(None, 1), ("ortho", -1), ("forward", 1), ("backward", -1)])
def test_the_inverse_fourier_transform_of_any_length_is_right_at_every_length(workspace, norm, axis):
    def filtered(x):
        spectrum = torch.fft.rfft(x, dim=axis, norm=norm)
        return torch.fft.irfft(spectrum * 0.5 + 0.25, n=x.shape[axis], dim=axis, norm=norm)

    shape = "batch=1..3,length=1..21,2" if axis == 1 else "batch=1..3,2,length=1..21"
    net = exported(workspace, Of(filtered), None, f"x=float32[{shape}]")
    draw = np.random.default_rng(0)
    sizes = [(2, n, 2) if axis == 1 else (2, 2, n) for n in range(1, 22)]
    assert_alike(net, *(draw.standard_normal(size).astype(np.float32) for size in sizes))


def test_a_transform_of_known_length_is_torchs_own():
    spectrum = torch.fft.rfft(torch.randn(3, 9))
    own = torch.fft.irfft
    with inverse_by_products():
        assert torch.equal(torch.fft.irfft(spectrum, 9), own(spectrum, 9))
    assert torch.fft.irfft is own
