"""What is mended in a model is mended in its branches and in the bodies of its loops too."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch._higher_order_ops import while_loop
from torch.nn import functional

import mlc
from mlc.errors import SourceError
from tests.exporting import assert_alike, exported
from tests.models_for_export import Of

pytestmark = pytest.mark.needs_onnxruntime

BRANCHING = torch.cond
"""As ``from torch import cond`` has it."""

SPEC = "x=float32[n=1..9,3]"

LARGE = 20_000_003


def drawn(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def whole(x):
    return (x * 9).long()


def scattered(x, kind, include_self):
    return x.scatter_reduce(1, x.abs().mul(5).long() % 3, x * 2, kind, include_self=include_self)


MENDED = {
    "a difference of integers": lambda x: (1.5 - whole(x)) * 1.0,
    "a remainder": lambda x: x % 0.1,
    "a remainder by a size": lambda x: x + torch.arange(3) % x.shape[0],
    "a remainder in place": lambda x: (x * 1).remainder_(0.3),
    "integers, divided and rounded down": lambda x: whole(x) // 4 * 1.0,
    "rounded towards zero": lambda x: torch.div(whole(x), -4, rounding_mode="trunc") * 1.0,
    "a quotient, rounded down": lambda x: torch.div(x, 0.1, rounding_mode="floor"),
    "the logarithm of a sigmoid": lambda x: x.sigmoid().log(),
    "parts of an axis": lambda x: x + torch.cat([x, x]).chunk(2)[1],
    "a bound of integers": lambda x: whole(x).relu().float(),
    "integers, rounded": lambda x: whole(x).floor().float(),
    "a product of integers": lambda x: x + (whole(x) + LARGE).prod(1, keepdim=True) % 7,
    "a mean by a divisor": lambda x: functional.avg_pool2d(x[None, None], (1, 3), divisor_override=2)[0, 0] + x,
    "a diagonal": lambda x: x + (1 / x[:, :2].relu()).nan_to_num(9).diagonal(0, 0, 1).sum(),
    "rows that are reduced by index": lambda x: x.index_reduce(1, torch.arange(2), x[:, :2] * 3, "amax"),
    "few indices": lambda x: x.scatter(1, whole(x[:, :1]).abs() % 3, x * 2),
    "a mean of what is scattered": lambda x: scattered(x, "mean", include_self=True),
    "a mean of what is scattered alone": lambda x: scattered(x, "mean", include_self=False),
    "a slope in the middle": functional.rrelu,
    "an idle squeeze": lambda x: torch.cat([x, x]).squeeze(0)[: x.shape[0]] * 2,
    "all of a mask": lambda x: x + torch._is_all_true(x > 0),
    "the mean of nothing": lambda x: x * 0 + x[x[:, 0] > 0].mean(),
    "a running maximum": lambda x: x.cummax(1)[0],
    "a running product": lambda x: x.cumprod(1),
    "a tensor of numbers": lambda x: x * torch.tensor([1.5, -2.0, 0.1]),
    "one of the same number": lambda x: x[:, torch.tensor([[0, 0]] * 3)].sum(2) + torch.tensor([True] * 3),
    "a tensor of one number": lambda x: x - torch.tensor(0.3),
    "two views of one tensor": lambda x: x @ (x.T @ x),
    "an inverse": lambda x: x @ torch.linalg.inv(x.mT @ x + torch.ones(3, 3).tril() * 9),
    "sizes that are resized to": lambda x: functional.interpolate(x.T[None], size=32)[0].T.contiguous()[: x.shape[0]],
}


@pytest.mark.parametrize("what", MENDED)
@pytest.mark.filterwarnings("ignore:index_reduce:UserWarning")
def test_in_a_branch(workspace, what):
    def branching(x):
        return torch.cond(x.sum() > 0, lambda x: MENDED[what](x) * 2, lambda x: x - 1, (x,))

    net = exported(workspace, Of(branching), None, SPEC)
    ones = np.ones((4, 3), np.float32)
    arrays = (drawn(1, 3), drawn(2, 3), drawn(8, 3))
    assert_alike(workspace, net, *arrays, *(abs(array) for array in arrays), ones, -ones, ones * 40)


def sampled(x, **settings):
    return functional.grid_sample(x[None, None], torch.stack([x, x], -1)[None], align_corners=False, **settings)[0, 0]


@pytest.mark.parametrize("opset", [18, 20, 23])
def test_operators_that_another_opset_has_otherwise(workspace, opset):
    def changed(x):
        spectrum = torch.fft.fft(x, dim=0).abs() + torch.fft.ifft(torch.fft.rfft(x, dim=1)).abs()[:, :1]
        return (spectrum + sampled(x) + sampled(x, mode="bicubic") + sampled(x, mode="nearest")).contiguous()

    def branching(x):
        return torch.cond(x.sum() > 0, lambda x: changed(x) * 2, lambda x: x - 1, (x,))

    net = exported(workspace, Of(branching), None, SPEC, opset=opset)
    assert_alike(workspace, net, *(abs(drawn(n, 3)) for n in (1, 2, 8)), -np.ones((2, 3), np.float32), atol=1e-5)


IN_LOOPS = (
    "a remainder",
    "a bound of integers",
    "a mean of what is scattered",
    "integers, divided and rounded down",
    "a running maximum",
    "a running product",
    "a tensor of numbers",
    "one of the same number",
    "a tensor of one number",
)


@pytest.mark.parametrize("what", IN_LOOPS)
def test_in_the_bodies_of_loops(workspace, what):
    def looped(x):
        def thrice(_count, x):
            return _count + 1, MENDED[what](x) * 0.5 + 1

        def step(state, _row):
            return MENDED[what](state) * 0.5 + 1, state.sum() + 0.0

        _, repeated = while_loop(lambda count, _x: count < 3, thrice, (torch.tensor(0), x.clone()))
        scanned, sums = torch.ops.higher_order.scan(step, [x.clone()], [x[:1].expand(3, 3).clone()], ())
        return repeated, scanned, sums

    net = exported(workspace, Of(looped), None, SPEC)
    assert_alike(workspace, net, drawn(1, 3), drawn(2, 3), drawn(8, 3), atol=1e-5)


def test_in_a_branch_of_a_branch(workspace):
    def inner(x):
        return torch.cond(x.max() > 1, lambda x: x % 0.1, lambda x: x * 1, (x,))

    net = exported(workspace, Of(lambda x: torch.cond(x.sum() > 0, inner, lambda x: x - 1, (x,))), None, SPEC)
    assert_alike(workspace, net, *(drawn(n, 3) * sign for n in (1, 2, 8) for sign in (1, -1)))


def test_under_another_name_also_beside_vmap(workspace):
    """Such a branch is not compiled, but traced."""

    def net(x):
        def inner(x):
            return BRANCHING(x.max() > 1, lambda x: x * 2, lambda x: x - 3, (x,))

        chosen = BRANCHING(x.sum() > 0, inner, lambda x: x - 1, (x,))
        return torch.vmap(lambda row: row % 0.3)(chosen * 3)

    again = exported(workspace, Of(net), None, SPEC)
    assert_alike(workspace, again, *(drawn(n, 3) * sign for n in (1, 2, 8) for sign in (1, -1)), atol=1e-5)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_tensor_of_numbers_in_a_branch_beside_vmap(workspace, compiled):
    def net(x):
        cond = torch.cond if compiled else BRANCHING
        chosen = cond(x.sum() > 0, lambda x: x * torch.tensor([1.5, -2.0, 0.1]), lambda x: x - 1, (x,))
        return torch.vmap(lambda row: row * 2)(chosen)

    again = exported(workspace, Of(net), None, SPEC)
    assert_alike(workspace, again, *(drawn(n, 3) * sign for n in (1, 2, 8) for sign in (1, -1)))


def test_vmap_in_a_branch_is_refused_with_a_way_out(workspace):
    def net(x):
        return torch.cond(x.sum() > 0, lambda x: torch.vmap(lambda row: row * 2)(x) + 1, lambda x: x - 1, (x,))

    with pytest.raises(SourceError, match=r"write that line for the whole batch, without torch\.vmap"):
        exported(workspace, Of(net), None, SPEC)


def test_in_a_branch_in_the_body_of_a_loop(workspace):
    def turned(count, x):
        return count + 1, torch.cond(x.sum() > 0, lambda x: x * torch.tensor([0.5, 2, 1]), lambda x: 0.5 - x, (x,))

    net = exported(
        workspace, Of(lambda x: while_loop(lambda n, _x: n < 3, turned, (torch.tensor(0), x))[1]), None, SPEC
    )
    assert_alike(workspace, net, *(drawn(n, 3) * sign for n in (1, 2, 8) for sign in (1, -1)))


def test_a_large_tensor_that_is_made_in_a_branch_is_named():
    numbers = list(range(2000))

    def branching(x):
        return torch.cond(x.sum() > 0, lambda x: x + torch.tensor(numbers).sum(), lambda x: x - 1, (x,))

    with pytest.raises(SourceError, match=r"2,000 numbers is made in a branch or a loop at test_export_branches.py:"):
        mlc.export(mlc.load(Of(branching), inputs=[SPEC]))


DRAWING = """
import transformers  # with it torch asks during a trace
import mlc, torch
from torch import nn

class Draws(nn.Module):
    def forward(self, x):
        return torch.cond(x.sum() > 1e9, lambda x: x + torch.randn_like(x), lambda x: x * 2, (x,))

try:
    mlc.export(mlc.load(Draws(), inputs=["x=float32[n=1..4,3]"]))
except mlc.MlcError as error:
    print(error.message)
with torch.device("meta"):
    print(*(each.device.type for each in (torch.tensor([]), torch.arange(3), torch.zeros(2), torch.full((2,), 1.0))))
"""


def test_what_torch_keeps_of_its_functions_is_what_they_are():
    """It asks once in a process which functions make tensors: of ours in their places a device would change nothing."""
    pytest.importorskip("transformers")
    done = subprocess.run([sys.executable, "-c", DRAWING], capture_output=True, text=True, check=True)
    told, made = done.stdout.splitlines()
    assert told.startswith("the model is random")
    assert made == "meta meta meta meta"
