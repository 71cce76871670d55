"""Branches and loops that ask for values: those that follow from the module alone are taken, all others refused."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from mlc.errors import SourceError
from mlc.runtimes.onnxruntime import open_session
from mlc.types import Target
from tests.exporting import exported

pytestmark = pytest.mark.needs_onnxruntime

EXPERTS, WIDTH = 4, 3


def assert_alike(workspace, net, *arrays):
    """The exported model gives what the original gives."""
    with open_session(workspace.save(net.model, "again"), Target(), optimize=False) as session:
        for array in arrays:
            ours, theirs = session.run({"x": array})["output"], net.original.run({"x": array})["output"]
            np.testing.assert_allclose(ours, theirs, atol=2e-5)


class Settled(nn.Module):
    """Branches, paddings and slices by buffers."""

    probabilities: torch.Tensor
    stride: torch.Tensor

    def __init__(self):
        super().__init__()
        self.register_buffer("probabilities", torch.tensor([1.0, 0.0]))
        self.register_buffer("stride", torch.tensor(2))

    def forward(self, x):
        for place in range(2):
            x = x * 3 if self.training or self.probabilities[place] > 0 else x + 1
        rest = 5 - self.stride
        paddings: Any = (self.stride, rest)
        if rest > 2:
            x = functional.pad(x, paddings, mode="reflect")
        return x[:, self.stride : -int(rest)] * float(rest)


def test_a_branch_on_a_buffer_is_taken_as_the_module_takes_it(workspace):
    net = exported(workspace, Settled(), None, "x=float32[batch=1..5,n=4..9]")
    assert_alike(workspace, net, *(np.random.default_rng(n).standard_normal((3, n)).astype(np.float32) for n in (4, 9)))


class Overwritten(nn.Module):
    """A flag that begins as a buffer's value, and is then one of the input's."""

    flag: torch.Tensor

    def __init__(self, write):
        super().__init__()
        self.register_buffer("flag", torch.tensor([1.0, 2.0]))
        self.write = write

    def forward(self, x):
        flag = self.flag * 2
        self.write(flag, x)
        return x * 2 if flag[0] > 0 else x


@pytest.mark.parametrize(
    "write",
    [
        lambda flag, x: flag.__setitem__(0, x.sum()),
        lambda flag, x: flag.view(-1)[:1].copy_(x.sum()),
        lambda flag, x: torch.add(flag, x.sum(), out=flag),
        lambda flag, x: flag.__iadd__(x.sum()),
        lambda flag, x: flag[: len(x)].copy_(x[:2]),
        lambda flag, x: flag.data[: len(x)].copy_(x[:2]),
        lambda flag, x: torch.fill_(input=flag, value=x.sum()),
        lambda flag, x: torch._foreach_copy_([flag], [x[:2]]),
        lambda flag, x: torch.ops.aten.copy_.default(flag, x[:2]),
        lambda flag, x: torch.vmap(lambda part: part.copy_(x.sum()))(flag),
        lambda flag, x: functional.batch_norm(x[:, None].expand(-1, 2), flag, torch.ones(2), training=True),
        lambda flag, x: functional.instance_norm(x.expand(1, 2, -1), flag, torch.ones(2)),
        lambda flag, x: functional.embedding(x.long(), flag[:, None], max_norm=0.1),
    ],
)
def test_a_value_that_an_input_is_written_into_is_not_known(workspace, write):
    with pytest.raises(SourceError) as refused:
        exported(workspace, Overwritten(write), None, "x=float32[batch=2..5]")
    assert "hangs on the values of its inputs at test_export_values.py" in refused.value.message
    assert "flag[0] > 0" in refused.value.message


def test_how_many_places_of_a_buffer_hold_is_no_obstacle(workspace):
    class Chosen(nn.Module):
        mask: torch.Tensor

        def __init__(self):
            super().__init__()
            self.register_buffer("mask", torch.tensor([True, False, True]))

        def forward(self, x):
            return x[:, self.mask.nonzero().squeeze(1)]

    net = exported(workspace, Chosen(), None, "x=float32[batch=1..5,3]")
    assert_alike(workspace, net, np.arange(9, dtype=np.float32).reshape(3, 3))


class Experts(nn.Module):
    """The two best of four experts for each row, by a loop over those that any row was sent to."""

    def __init__(self):
        super().__init__()
        self.router, self.experts = nn.Linear(WIDTH, EXPERTS), EXPERTS
        self.weight = nn.Parameter(torch.randn(EXPERTS, WIDTH, WIDTH))
        self.heads = nn.ModuleDict({f"head_{place}": nn.Linear(WIDTH, WIDTH) for place in range(EXPERTS)})

    def routed(self, x):
        return self.router(x).softmax(-1).topk(2)

    def forward(self, x):
        weights, chosen = self.routed(x)
        mask = functional.one_hot(chosen, num_classes=self.experts).permute(2, 1, 0)
        sums = torch.zeros_like(x)
        hit = torch.greater(mask.sum(dim=(-1, -2)), 0).nonzero()
        for expert in hit:
            with torch.no_grad():
                place, rows = torch.where(mask[expert].squeeze(0))
            of_rows = self.heads[f"head_{expert[0]}"](x[None, rows].reshape(-1, WIDTH)) * weights[rows, place, None]
            sums.index_add_(0, rows, of_rows)
        return sums


class SpareExperts(Experts):
    """Experts with one plane more in the mask, for rows that are sent to none."""

    def forward(self, x):
        weights, chosen = self.router(x).softmax(-1).topk(2)
        sums = torch.zeros_like(x)
        mask = functional.one_hot(chosen, num_classes=self.experts + 1)
        mask = mask.permute(2, 1, 0)
        hit = (mask.sum(dim=(-1, -2)) > 0).nonzero()
        for expert in hit:
            expert = expert[0]  # noqa: PLW2901 - as such loops are written
            if expert == self.experts:
                continue
            place, rows = torch.where(mask[expert])
            sums.index_add_(0, rows, (x[rows] @ self.weight[expert]) * weights[rows, place, None])
        return sums


class SharedExpert(Experts):
    """Four experts, and as the last one that only few rows are sent to."""

    def __init__(self):
        super().__init__()
        self.router = nn.Linear(WIDTH, EXPERTS + 1)
        self.weight = nn.Parameter(torch.randn(EXPERTS + 1, WIDTH, WIDTH))
        with torch.no_grad():
            self.router.bias[EXPERTS] = -9
            self.router.weight[EXPERTS] = 3

    def forward(self, x):
        weights, chosen = self.router(x).softmax(-1).topk(1)
        sums = torch.zeros_like(x)
        mask = functional.one_hot(chosen, num_classes=self.experts + 1).permute(2, 1, 0)
        hit = torch.greater(mask.sum(dim=(-1, -2)), 0).nonzero()
        for expert in hit:
            place, rows = torch.where(mask[expert].squeeze(0))
            sums.index_add_(0, rows, (x[rows] @ self.weight[expert[0]]) * weights[rows, place, None])
        return sums


@pytest.mark.parametrize("kind", [Experts, SpareExperts])
def test_a_loop_over_the_experts_that_were_chosen_is_one_over_all(workspace, kind):
    net = exported(workspace, kind(), None, f"x=float32[rows=1..9,{WIDTH}]")
    draw = np.random.default_rng(0)
    assert_alike(workspace, net, *(draw.standard_normal((rows, WIDTH)).astype(np.float32) for rows in (1, 2, 8)))


def test_an_expert_that_no_compared_row_was_sent_to_is_kept(workspace):
    torch.manual_seed(0)
    net = exported(workspace, SharedExpert(), None, f"x=float32[rows=1..9,{WIDTH}]")
    assert_alike(workspace, net, np.full((2, WIDTH), 9, np.float32))


def test_a_plane_of_transformers_for_tokens_that_no_expert_takes_is_left_out(workspace):
    dbrx = pytest.importorskip("transformers.models.dbrx", exc_type=ImportError)
    sizes = {"hidden_size": WIDTH, "ffn_hidden_size": 5, "moe_num_experts": EXPERTS}
    theirs = dbrx.modeling_dbrx.DbrxExperts(dbrx.configuration_dbrx.DbrxFFNConfig(**sizes))
    torch.manual_seed(0)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)

    class Routed(Experts):
        def forward(self, x):
            weights, chosen = self.router(x).softmax(-1).topk(2)
            return theirs(x[:, None], chosen, weights)[:, 0]

    module = Routed()
    module.theirs = theirs
    net = exported(workspace, module, None, f"x=float32[rows=1..9,{WIDTH}]")
    assert_alike(workspace, net, np.random.default_rng(0).standard_normal((5, WIDTH)).astype(np.float32))


class Counting(Experts):
    """Each round doubles what was added before: rounds that add nothing count too."""

    def forward(self, x):
        weights, chosen = self.routed(x)
        mask = functional.one_hot(chosen, num_classes=self.experts).permute(2, 1, 0)
        sums = torch.zeros_like(x)
        hit = torch.greater(mask.sum(dim=(-1, -2)), 0).nonzero()
        for expert in hit:
            place, rows = torch.where(mask[expert].squeeze(0))
            sums = sums * 2
            sums.index_add_(0, rows, x[rows] * weights[rows, place, None])
        return sums


class Last(Experts):
    """What the last round computed is read behind the loop."""

    def forward(self, x):
        _, chosen = self.routed(x)
        mask = functional.one_hot(chosen, num_classes=self.experts).permute(2, 1, 0)
        sums = torch.zeros_like(x)
        hit = torch.greater(mask.sum(dim=(-1, -2)), 0).nonzero()
        for expert in hit:
            _, rows = torch.where(mask[expert].squeeze(0))
            sums.index_add_(0, rows, x[rows])
        return sums * rows.shape[0]


class Everywhere(Experts):
    """Each round adds to rows that its expert did not select."""

    def forward(self, x):
        _, chosen = self.routed(x)
        mask = functional.one_hot(chosen, num_classes=self.experts).permute(2, 1, 0)
        sums, all_rows = torch.zeros_like(x), torch.arange(x.shape[0])
        hit = torch.greater(mask.sum(dim=(-1, -2)), 0).nonzero()
        for expert in hit:
            _, rows = torch.where(mask[expert].squeeze(0))
            sums.index_add_(0, all_rows, x + x[rows].sum())
        return sums


class Elsewhere(Experts):
    """Each round adds to the rows that were not sent to its expert."""

    def forward(self, x):
        _, chosen = self.routed(x)
        mask = functional.one_hot(chosen, num_classes=self.experts).permute(2, 1, 0)
        sums = torch.zeros_like(x)
        hit = torch.greater(mask.sum(dim=(-1, -2)), 0).nonzero()
        for expert in hit:
            _, rows = torch.where(mask[expert].squeeze(0) == 0)
            sums.index_add_(0, rows, x[rows])
        return sums


class Named(Experts):
    """Rounds like those that may run over all, written so that it is not seen."""

    def forward(self, x):
        _, chosen = self.routed(x)
        mask = functional.one_hot(chosen, num_classes=self.experts).permute(2, 1, 0)
        sums = torch.zeros_like(x)
        hit = torch.greater(mask.sum(dim=(-1, -2)), 0).nonzero()
        for expert in hit:
            _, rows = torch.where(mask[expert].squeeze(0))
            sums.index_add_(0, index=rows, source=x[rows])
        return sums


class Signed(Experts):
    """A plane of which some rows take away what others add is none that no row was sent to."""

    def forward(self, x):
        _, chosen = self.routed(x)
        mask = functional.one_hot(chosen, num_classes=self.experts).permute(2, 1, 0) * x[:, 0].sign().long()
        sums = torch.zeros_like(x)
        hit = torch.greater(mask.sum(dim=(-1, -2)), 0).nonzero()
        for expert in hit:
            _, rows = torch.where(mask[expert].squeeze(0))
            sums.index_add_(0, rows, x[rows])
        return sums


class Widened(Experts):
    """The mask changes after it was seen which experts have a row."""

    def forward(self, x):
        _, chosen = self.routed(x)
        mask = functional.one_hot(chosen, num_classes=self.experts).permute(2, 1, 0)
        sums = torch.zeros_like(x)
        hit = torch.greater(mask.sum(dim=(-1, -2)), 0).nonzero()
        mask[..., 0] = 1
        for expert in hit:
            _, rows = torch.where(mask[expert].squeeze(0))
            sums.index_add_(0, rows, x[rows])
        return sums


class Shifting(Experts):
    """Each round writes into a tensor of all rounds."""

    def forward(self, x):
        _, chosen = self.routed(x)
        mask = functional.one_hot(chosen, num_classes=self.experts).permute(2, 1, 0)
        sums, shift = torch.zeros_like(x), torch.zeros_like(x[0])
        hit = torch.greater(mask.sum(dim=(-1, -2)), 0).nonzero()
        for expert in hit:
            _, rows = torch.where(mask[expert].squeeze(0))
            once = shift.add_(x.mean(0))
            sums.index_add_(0, rows, x[rows] + once)
        return sums


@pytest.mark.parametrize("kind", [Counting, Last, Everywhere, Elsewhere, Named, Signed, Widened, Shifting])
def test_a_loop_whose_empty_rounds_count_is_refused(workspace, kind):
    with pytest.raises(SourceError) as refused:
        exported(workspace, kind(), None, f"x=float32[rows=1..9,{WIDTH}]")
    assert "hangs on the values of its inputs at test_export_values.py" in refused.value.message
    assert "for expert in hit:" in refused.value.message


def test_a_function_of_math_on_a_size_is_named(workspace):
    class Doubling(nn.Module):
        def forward(self, x):
            for _ in range(math.ceil(math.log2(x.shape[0] + 1))):
                x = x * 2
            return x

    with pytest.raises(SourceError) as refused:
        exported(workspace, Doubling(), None, "x=float32[n=1..8,4]")
    assert "hangs on math." in refused.value.message
    assert "fix that dim" in refused.value.hint
