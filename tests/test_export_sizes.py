"""What torch takes for granted of sizes is evaluated at every legal one: proven, compared, or refused with its line."""

import logging
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from mlc.dims import named
from mlc.errors import MlcError, SourceError
from mlc.exporting import export
from mlc.exporting.cache import Cache
from mlc.exporting.errors import SizesError, tracing_error
from mlc.exporting.frames import user_frame
from mlc.exporting.guards import Guard, GuardLog
from mlc.exporting.sides import FEW, doubted_sizes
from mlc.probes import references
from mlc.recipe import parse_inputs
from mlc.runtimes.onnxruntime import open_session
from mlc.sources.load import load
from mlc.sources.silence import silent
from mlc.types import Target
from mlc.workspace import Workspace
from tests.exporting import exported
from tests.models_for_export import Of

pytestmark = pytest.mark.needs_onnxruntime


class Neighbours(nn.Module):
    """Each step beside the one before and after it, of one step beside nothing."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(12, 5)

    def forward(self, tokens):
        after = functional.pad(tokens[:, 1:], [0, 0, 0, 1])
        before = functional.pad(tokens[:, :-1], [0, 0, 1, 0])
        return self.inner(torch.cat([after, tokens, before], 2))


class Shifted(nn.Module):
    """Relative positions by the shift of TransformerXL: a reshape with a width that another size gives."""

    def forward(self, scores):
        b, n, m = scores.shape
        shifted = scores.reshape(b, m, n)[:, 1:].reshape(b, n, m - 1)
        return shifted[:, :, :n].softmax(-1)


class AtOne(nn.Module):
    """A branch for one size, with what that branch gives."""

    def __init__(self, size, factor):
        super().__init__()
        self.size, self.factor = size, factor

    def forward(self, rows):
        return rows * self.factor if rows.shape[0] == self.size else rows + rows


class Padded(nn.Module):
    """Steps put together by twos: an odd number gets one more, which another path takes away again."""

    def forward(self, steps):
        missing = steps.shape[1] % 2
        if missing:
            steps = functional.pad(steps, (0, 0, 0, 1))
        return steps.unflatten(1, (steps.shape[1] // 2, 2)).mean(2)


def answers_alike(net, name, shape):
    """Whether the exported model gives what the original gives on fresh inputs of a shape."""
    values = np.random.default_rng(7).standard_normal(shape).astype(np.float32)
    with Workspace() as room, open_session(room.save(net.model, "again"), Target(), optimize=False) as session:
        ours, theirs = session.run({name: values})["output"], net.original.run({name: values})["output"]
    return ours.shape == theirs.shape and np.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(("name", "low", "high"), [("length", 1, 24), ("steps", 2, 40)])
def test_a_guard_that_one_harmless_size_breaks_is_put_off_and_that_size_compared(workspace, name, low, high):
    net = exported(workspace, AtOne(high, 2), None, f"rows=float32[{name}={low}..{high},width=2..5]")
    (note,) = [note for note in net.artifact.origin.notes if "guards put off" in note]
    assert f"{name}={high}" in note
    assert "test_export_sizes.py" in note
    assert sum(sizes[name] == high for sizes in net.sizes) > 1
    assert all(check.held for check in net.checks)
    assert all(answers_alike(net, "rows", (length, 4)) for length in range(low, high + 1))


def test_neighbours_are_one_way_at_every_size(workspace):
    net = exported(workspace, Neighbours(), None, "tokens=float32[batch=1..4,length=1..24,4]")
    assert all(answers_alike(net, "tokens", (3, length, 4)) for length in range(1, 25))


@pytest.mark.parametrize("size", [3, 7, 11])
def test_a_branch_at_one_size_that_computes_the_same_is_compared_there(workspace, size):
    net = exported(workspace, AtOne(size, 2), None, "rows=float32[batch=1..12,3]")
    assert {"batch": size} in net.sizes
    assert all(answers_alike(net, "rows", (batch, 3)) for batch in range(1, 13))


@pytest.mark.parametrize(("size", "factor"), [(4, 3), (9, -2), (12, 2.1)])
def test_a_branch_at_one_size_that_computes_otherwise_is_refused_with_size_and_line(workspace, size, factor):
    with pytest.raises(SourceError) as refused:
        exported(workspace, AtOne(size, factor), None, "rows=float32[batch=1..12,3]")
    assert f"such as batch={size}" in refused.value.message
    assert "rows.shape[0] == self.size" in refused.value.message


class OneAndLong(nn.Module):
    """A branch for one row that is long: torch takes it for granted that no size is 1."""

    def forward(self, x):
        return x * 3 if x.shape[0] == 1 and x.shape[1] > 20 else x * 2


def test_a_branch_at_one_where_another_size_is_large_is_refused_with_both(workspace):
    with pytest.raises(MlcError, match="b=1, n=64"):
        exported(workspace, OneAndLong(), None, "x=float32[b=1..4,n=2..64]")


@pytest.mark.parametrize(("name", "high"), [("length", 41), ("n", 200)])
def test_a_guard_that_half_of_the_sizes_break_is_refused_with_the_first_of_them(workspace, name, high):
    with pytest.raises(SourceError) as refused:
        exported(workspace, Padded(), None, f"steps=float32[batch=1..3,{name}=2..{high},4]")
    assert re.search(rf"such as {name}=[34], because of test_export_sizes.py:\d+ in forward", refused.value.message)
    assert f"declare {name}=2..{high // 2 * 2}/2" in refused.value.hint


def test_guards_are_heard_where_logging_is_disabled(workspace):
    with silent(), pytest.raises(SourceError, match="such as batch=9, because of test_export_sizes"):
        exported(workspace, AtOne(9, 5), None, "rows=float32[batch=1..12,3]")
    assert logging.root.manager.disable == 0


def test_a_doubt_is_kept_with_the_export_and_compared_again(workspace, tmp_path):
    original = load(AtOne(7, 2), parse_inputs(["rows=float32[batch=1..12,3]"]), None)
    answers, _ = references(original, None, 0)
    cache = Cache(tmp_path / "cache")
    fresh, first = export(original, answers, workspace, cache=cache)
    taken, second = export(original, answers, workspace, cache=cache)
    assert any("came from the cache" in note for note in taken.origin.notes)
    assert [check.sizes for check in first] == [check.sizes for check in second]
    assert len(first) > len(answers)
    assert not any("came from the cache" in note for note in fresh.origin.notes)


# ---------------------------------------------------------------- guards, one by one

INPUTS = parse_inputs(["x=float32[batch=1..6,n=2..30/4,3]", "y=float32[batch,total=batch+n]"])


def heard(*texts):
    """A log with these guards on the axes of INPUTS: s0 is batch, s1 is n, s2 their sum."""
    log = GuardLog()
    log.sources = {"s0": ("0", 0), "s1": ("x", 1), "s2": ("1", 1)}
    log.guards = [Guard(text, f"line {index}") for index, text in enumerate(texts)]
    return log


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("Ne(s0, 3)", lambda batch, n: batch != 3),
        ("Eq(Mod(s1, 4), 2)", lambda batch, n: n % 4 == 2),
        ("s1 >= 7", lambda batch, n: n >= 7),
        ("Eq(((4*s1 - 1)//s1), 3)", lambda batch, n: (4 * n - 1) // n == 3),
        ("(s0 > 1) & (Min(s0, s1) <= 4)", lambda batch, n: batch > 1 and min(batch, n) <= 4),
        ("Ne(s2, 12)", lambda batch, n: batch + n != 12),
        ("Eq(Max(s0, 2, s1), s1)", lambda batch, n: max(batch, 2, n) == n),
        ("CeilToInt(IntTrueDiv(s1, 3)) < 9", lambda batch, n: -(-n // 3) < 9),
    ],
)
def test_a_guard_is_evaluated_at_every_legal_size(text, holds):
    roots = named(INPUTS)
    legal = {name: range(dim.low, dim.high + 1, dim.step) for name, dim in roots.items()}
    wrong = {(batch, n) for batch in legal["batch"] for n in legal["n"] if not holds(batch, n)}
    broken = heard(text).broken(INPUTS)
    if not wrong:
        assert broken == []
        return
    (one,) = broken
    found = {
        (batch, n)
        for sizes in one.sizes
        for batch in ([sizes["batch"]] if "batch" in sizes else legal["batch"])
        for n in ([sizes["n"]] if "n" in sizes else legal["n"])
    }
    assert found == wrong


def test_what_cannot_be_evaluated_is_never_taken_for_held():
    (one,) = heard("Eq(Unheard(s0), 1)").broken(INPUTS)
    assert one.sizes is None
    assert doubted_sizes(heard("Eq(Unheard(s0), 1)"), INPUTS, {"batch": 2, "n": 6}) is None


def test_more_sizes_than_can_be_looked_at_are_never_taken_for_held():
    inputs = parse_inputs(["x=float32[a=1..60000,b=1..60000]"])
    log = GuardLog({"s0": ("0", 0), "s1": ("0", 1)}, [Guard("s0 + s1 > 1", "")])
    assert doubted_sizes(log, inputs, {"a": 2, "b": 2}) is None


def test_a_log_that_heard_nothing_proves_nothing():
    assert doubted_sizes(GuardLog(), INPUTS, {"batch": 2, "n": 6}) is None
    assert doubted_sizes(heard(), INPUTS, {"batch": 2, "n": 6}) == ()


def test_sizes_that_follow_from_values_are_left_to_the_comparison():
    assert heard("Eq(u0, s0)").broken(INPUTS) == []


def test_only_a_few_sizes_are_compared_one_by_one():
    inputs = parse_inputs(["x=float32[n=1..100]"])
    traced = {"n": 50}
    few, more = (GuardLog({"s0": ("0", 0)}, [Guard(f"s0 > {most}", "")]) for most in (FEW, FEW + 1))
    assert doubted_sizes(few, inputs, traced) == tuple({"n": size} for size in range(1, FEW + 1))
    assert doubted_sizes(more, inputs, traced) is None


def test_a_library_is_pointed_at_where_no_line_is_the_users():
    library = (str(Path(np.__file__).parents[1] / "models" / "modeling.py"), 12, "forward", "  x = x.reshape(1)")
    tracer = (torch.__file__, 3, "reshape", "pass")
    mine = (__file__, 5, "step", "model(x)")
    assert user_frame([library, tracer]) == "modeling.py:12 in forward: `x = x.reshape(1)`"
    assert user_frame([mine, library, tracer]) == f"{Path(__file__).name}:5 in step: `model(x)`"
    assert user_frame([tracer]) == ""


class Windows(nn.Module):
    """Windows of four by four, as of Swin: an image is padded to whole ones, and cut again."""

    def forward(self, image):
        batch, high, wide, width = image.shape
        padded = functional.pad(image, (0, 0, 0, (4 - wide % 4) % 4, 0, (4 - high % 4) % 4))
        rows, columns = padded.shape[1] // 4, padded.shape[2] // 4
        windows = padded.view(batch, rows, 4, columns, 4, width).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, width)
        mixed = windows.softmax(1).view(batch, rows, columns, 4, 4, width)
        whole = mixed.permute(0, 1, 3, 2, 4, 5).reshape(batch, rows * 4, columns * 4, width)
        return whole[:, :high, :wide]


def test_how_a_value_lies_in_memory_is_no_way_of_its_own(workspace):
    net = exported(workspace, Windows(), None, "image=float32[batch=1..3,high=8..30,wide=8..30,2]")
    assert not any("compared" in note for note in net.artifact.origin.notes)
    with open_session(workspace.save(net.model, "again"), Target()) as session:
        for high, wide in ((8, 8), (9, 12), (12, 9), (30, 29)):
            image = {"image": np.random.default_rng(0).normal(size=(2, high, wide, 2)).astype(np.float32)}
            np.testing.assert_allclose(session.run(image)["output"], net.original.run(image)["output"], atol=1e-6)


def test_guards_are_put_off_where_a_dim_is_two_at_most(workspace):
    unfolded = Of(lambda x: functional.unfold(x[:, None], (3, 2), padding=1))
    assert exported(workspace, unfolded, None, "x=float32[batch=1..2,6,n=6..30]").outputs == ["output"]


def test_the_shift_of_relative_positions_holds_at_every_size(workspace):
    net = exported(workspace, Shifted(), None, "scores=float32[batch=1..3,n=1..16,total=n+n]")
    assert all(re.search("guards put off|", note) is not None for note in net.artifact.origin.notes)
    assert all(answers_alike(net, "scores", (2, n, 2 * n)) for n in range(1, 17))


PAST = ("past=float32[past=1..9,3]", "new=float32[new=1..9,3]", "mask=float32[total=past+new]")


class Summed(nn.Module):
    """What a mask over old and new steps becomes where their number is asked for."""

    def __init__(self, asked):
        super().__init__()
        self._asked = asked

    def forward(self, past, new, mask):
        return past.sum() + new.sum() + (mask * 2 if self._asked(mask.shape[0]) else mask * 3)


@pytest.mark.parametrize(("asked", "least"), [(lambda n: n == 7, 7), (lambda n: n % 8 == 3, 3), (lambda n: n < 4, 2)])
def test_a_guard_on_a_sum_of_dims_is_evaluated_at_all_sizes(workspace, asked, least):
    with pytest.raises(SizesError) as refused:
        exported(workspace, Summed(asked), None, *PAST)
    assert f"all of total=2..18, such as total={least} (" in refused.value.message
    assert "in forward: `return past.sum() + new.sum()" in refused.value.message
    assert refused.value.hint == "narrow past and new, or make that line independent of the size"


@pytest.mark.parametrize("asked", [lambda n: 5000 < n < 5100, lambda n: (n & 1024) == 1024], ids=["between", "a bit"])
def test_a_guard_on_a_sum_of_many_sizes_is_no_less_one(workspace, asked):
    wide = [spec.replace("1..9", "1..8192") for spec in PAST]
    with pytest.raises(SizesError, match=r"all of total=2\.\.16384"):
        exported(workspace, Summed(asked), None, *wide)


def test_that_a_sum_is_the_sum_of_its_terms_is_no_question_of_sizes():
    inputs = parse_inputs(["x=float32[past=1..8192]", "y=float32[new=1..8192]", "z=float32[total=past+new]"])
    sources = {"s0": ("0", 0), "s1": ("1", 0), "s2": ("2", 0)}
    assert GuardLog(sources, [Guard("Eq(s2, s0 + s1)", "")]).broken(inputs) == []
    (unknown,) = GuardLog(sources, [Guard("Eq(s2, s0 + 2*s1)", "")]).broken(inputs)
    assert unknown.sizes is None
    (least,) = GuardLog(sources, [Guard("Ne(s2, 2)", "")]).broken(inputs)
    assert least.sizes == ({"past": 1, "new": 1},)


def test_a_guard_on_a_sum_of_dims_that_changes_nothing_is_compared(workspace):
    class Even(nn.Module):
        def forward(self, past, new, mask):
            return past.sum() + new.sum() + (mask + mask if mask.shape[0] == 18 else mask * 2)

    net = exported(workspace, Even(), None, *PAST)
    assert {"past": 9, "new": 9} in net.sizes
    assert any("but those compared one by one: past=9, new=9" in note for note in net.artifact.origin.notes)


class Strided(nn.Module):
    """A convolution of large steps before a recurrent layer: of two short inputs both give one step."""

    def __init__(self):
        super().__init__()
        self.steps = nn.Conv1d(3, 4, 8, stride=8, padding=4)
        self.layer = nn.LSTM(4, 5, batch_first=True)

    def forward(self, x):
        return self.layer(self.steps(x).transpose(1, 2))[0]


@pytest.mark.parametrize(
    ("module", "shape"), [(Strided(), ("batch", None, 5)), (Of(lambda x: x[:, 0, :5] * 2), ("batch", None))]
)
def test_the_sizes_of_outputs_are_those_that_were_seen(workspace, module, shape):
    net = exported(workspace, module, None, "x=float32[batch=1..3,3,n=2..64]")
    (output,) = net.artifact.signature.outputs
    assert output.dims == shape
    assert net.shape("output")[1] not in {"1", "n"}


def test_a_range_that_holds_nothing_is_not_suggested():
    axis = "L['tensors'][0].size()[0]"
    text = (
        f"Constraints violated (n)!\n  - Not all values of n = {axis} hold.\nSuggested fixes:\n  n = Dim('n', max=3)\n"
    )
    refused = tracing_error(RuntimeError(text), parse_inputs(("x=float32[n=16..64]",)), GuardLog())
    assert refused.hint == "narrow the range of that dim"


# ---------------------------------------------------------------- sizes at which forward goes another way


class Halved(nn.Module):
    """Means of two steps beside a convolution of stride two: of an odd number of steps the latter gives one more."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Conv1d(4, 4, 3, stride=2, padding=1)

    def forward(self, steps):
        means = steps.unfold(1, 2, 2).mean(-1)
        return means + self.inner(steps.mT).mT[:, : means.shape[1]]


class Filled(nn.Module):
    """Steps put together by fours, and back: what was cut off is padded, unless nothing was."""

    def forward(self, steps):
        long = functional.avg_pool1d(steps.mT, 4).repeat_interleave(4, dim=2).mT
        if long.shape[1] < steps.shape[1]:
            long = functional.pad(long, (0, 0, 0, steps.shape[1] - long.shape[1]))
        return long + steps


class SmallAtFirst(nn.Module):
    """Two convolutions of stride two, which leave one step of the fewest."""

    def __init__(self):
        super().__init__()
        self.inner = nn.ModuleList(nn.Conv1d(4, 4, 5, stride=2) for _ in range(2))
        self.outer = nn.Linear(4, 4)

    def forward(self, steps):
        long = steps.mT
        for part in self.inner:
            long = part(long)
        return self.outer(long.mT)


class Hidden(nn.Module):
    """An even number of steps goes another way, which gives the same but at one size of all."""

    def forward(self, steps):
        if steps.shape[1] % 2 == 1:
            return steps * 2
        return steps * 3 if steps.shape[1] == 22 else steps + steps


@pytest.mark.parametrize(("kind", "low"), [(Halved, 4), (Filled, 9), (SmallAtFirst, 16)])
def test_every_way_is_traced_and_one_graph_is_right_for_all(workspace, kind, low):
    net = exported(workspace, kind(), None, f"steps=float32[batch=1..3,n={low}..60,4]")
    assert any("guards put off" in note for note in net.artifact.origin.notes)
    assert all(answers_alike(net, "steps", (1 + n % 3, n, 4)) for n in range(low, 61))


def test_what_the_other_way_decides_itself_is_compared_too(workspace):
    with pytest.raises(SourceError, match="because of test_export_sizes"):
        exported(workspace, Hidden(), None, "steps=float32[batch=1..4,n=3..60,4]")


class HiddenInBoth(nn.Module):
    """Odd rows go another way, which gives something else where the columns are a multiple of seven."""

    def forward(self, x):
        if x.shape[0] % 2 == 1:
            return x * 3 if x.shape[1] % 7 == 0 else x + x
        return x * 2


def test_a_way_that_two_dims_decide_is_compared_where_it_is_taken(workspace):
    with pytest.raises(SourceError, match="because of test_export_sizes"):
        exported(workspace, HiddenInBoth(), None, "x=float32[n=2..30,m=2..30]")


class OddIsTheSame(nn.Module):
    """An odd number of rows goes another way to the same."""

    def forward(self, x):
        return x * 2 if x.shape[0] % 2 == 1 else x + x


def test_the_other_way_is_not_traced_at_a_size_that_torch_takes_for_a_constant(workspace):
    net = exported(workspace, OddIsTheSame(), None, "x=float32[n=0..60,2]")
    assert any("in one of 2 traces" in note for note in net.artifact.origin.notes)
