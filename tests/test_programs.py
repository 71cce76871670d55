"""Programs of torch.export: their own dims are the ranges, specs keep to them, and what is written agrees with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import Dim

from mlc.errors import SourceError, UsageError
from mlc.recipe import parse_inputs
from mlc.runtimes.onnxruntime import open_session
from mlc.sources.load import load
from mlc.types import OutputSpec, Target
from tests import models_for_export as models
from tests.exporting import exported


@torch.no_grad()
def program(module, *args, dims=None, **kwargs) -> torch.export.ExportedProgram:
    return torch.export.export(module.eval(), args, kwargs or None, dynamic_shapes=dims)


def linear(low=1, high=16) -> torch.export.ExportedProgram:
    return program(nn.Linear(3, 2), torch.randn(4, 3), dims=({0: Dim("batch", min=low, max=high)},))


class Many(nn.Module):
    """Nested inputs, one that is fixed, one by keyword, and outputs of which some are no tensors."""

    def forward(self, x, states, flag=True, mask=None, *, scale):
        y = x * scale["a"] + states[0]
        return {"y": y if flag else x, "rest": (states[1] + 1, 3, None)}


def many() -> torch.export.ExportedProgram:
    args = (torch.randn(4, 2), (torch.ones(2), torch.ones(5)), True, None)
    dims = {
        "x": {0: Dim("rows", min=2, max=9)}, "states": (None, {0: Dim.DYNAMIC}), "flag": None, "mask": None,
        "scale": {"a": None},
    }  # fmt: skip
    return program(Many(), *args, dims=dims, scale={"a": torch.ones(2)})


class Joined(nn.Module):
    def forward(self, x, y, z):
        return torch.cat([x, y]) + z


def joined() -> torch.export.ExportedProgram:
    return program(Joined(), torch.ones(4), torch.ones(5), torch.ones(9), dims=({0: Dim.AUTO},) * 3)


class Rows(nn.Module):
    def forward(self, x):
        return x.reshape(-1, 8).sum(0)


def stepped() -> torch.export.ExportedProgram:
    return program(Rows(), torch.randn(16), dims=({0: 8 * Dim("rows", min=1, max=8)},))


def dims_of(original, name) -> list[tuple[str | None, int, int, int]]:
    (spec,) = [spec for spec in original.signature.inputs if spec.name == name]
    return [(dim.name, dim.low, dim.high, dim.step) for dim in spec.dims]


# dims


def test_the_programs_own_dims_are_the_ranges(workspace):
    case = exported(workspace, linear())
    assert dims_of(case.original, "input") == [("input_0", 1, 16, 1), (None, 3, 3, 1)]
    assert case.artifact.signature.outputs == (OutputSpec("output", "float32", ("input_0", 2)),)
    assert case.sizes == [{"input_0": size} for size in (4, 1, 16, 3)]
    assert case.shape("input") == ["input_0", "3"]
    assert set(case.model.graph.initializers) >= {"weight", "bias"}


def test_a_range_without_a_lower_end_starts_at_one():
    dims = ({0: Dim("batch", max=16)},)
    assert dims_of(load(program(nn.Linear(3, 2), torch.randn(4, 3), dims=dims)), "input")[0][1] == 1


def test_nested_arguments_and_outputs_have_the_names_of_modules(workspace):
    case = exported(workspace, many(), None, "states.1=float32[n=1..6]")
    assert case.inputs == ["x", "states.0", "states.1", "scale.a"]
    assert case.outputs == ["y", "rest.0"]
    assert dims_of(case.original, "x")[0] == ("x_0", 2, 9, 1)
    assert "the argument flag = True is fixed in the model" in case.original.notes
    assert "outputs that are no tensors are left out: rest.1 (int)" in case.original.notes


def test_specs_narrow_and_fix_dims_and_the_example_follows(workspace):
    narrow = load(linear(), parse_inputs(["input=float32[b=1..3,3]"]))
    assert narrow.example["input"].shape == (2, 3)
    fixed = exported(workspace, linear(), None, "input=float32[1,3]")
    assert (fixed.shape("input"), fixed.shape("output")) == (["1", "3"], ["1", "2"])
    assert fixed.artifact.signature.outputs[0].dims == (1, 2)


def test_torchs_own_lower_end_of_two_may_be_passed_by():
    open_ended = program(nn.Linear(3, 2), torch.randn(4, 3), dims=({0: Dim.DYNAMIC},))
    assert dims_of(load(open_ended, parse_inputs(["input=float32[b=1..8,3]"])), "input")[0] == ("b", 1, 8, 1)


def test_sums_and_steps(workspace):
    case = exported(workspace, joined(), None, "x=float32[p=2..4]", "y=float32[q=2..3]", "z=float32[r=p+q]")
    assert case.artifact.signature.outputs[0].dims == ("r",)
    own = load(joined(), parse_inputs(["x=float32[p=2..4]", "y=float32[q=2..3]"])).signature.inputs[2].dims[0]
    assert (own.low, own.high, set(own.terms)) == (4, 7, {"p", "q"})
    assert load(joined(), parse_inputs(["x=float32[3]", "y=float32[4]"])).example["z"].shape == (7,)
    assert dims_of(load(stepped()), "x") == [("x_0", 16, 64, 8)]
    assert load(stepped(), parse_inputs(["x=float32[n=32..64/16]"])).signature.inputs[0].dims[0].step == 16


@pytest.mark.parametrize(
    ("make", "specs", "message", "hint"),
    [
        (many, (), "how large the axis 0 of the input states.1 may be", "--input 'states.1=float32[states_1_0=1..64]'"),
        (linear, ("y=float32[2,3]",), "the model has no input 'y', it has input", ""),
        (linear, ("input=float64[b=1..8,3]",), "says that input is float64, but the model takes float32", ""),
        (linear, ("input=float32[b=1..8]",), "gives input 1 axis, but the model's has 2: [s", ""),
        (linear, ("input=float32[b=1..8,4]",), "the model fixes axis 1 of input at 3; the spec says 4", "write 3"),
        (linear, ("input=float32[b=1..8,c=2..3]",), "the model fixes axis 1 of input at 3", "write 3"),
        (linear, ("input=float32[b=1..32,3]",), "takes 1..16 at axis 0 of input; the spec says b=1..32", "narrow"),
        (linear, ("input=float32[17,3]",), "takes 1..16 at axis 0 of input; the spec says 17", "narrow"),
        (lambda: linear(low=4), ("input=float32[b=2..8,3]",), "takes 4..16 at axis 0 of input", "wider"),
        (
            joined,
            ("x=float32[p=2..4]", "y=float32[q=2..3]", "z=float32[r=4..7]"),
            " where the spec says r=4..7",
            "fit",
        ),
        (joined, ("x=float32[3]", "y=float32[q=2..4]"), "in the program, which no spec can say", "numbers"),
        (joined, ("x=float32[p=1..4]", "y=float32[q=1..4]", "z=float32[r=p+q]"), "takes 4 or more at axis 0 of z", ""),
        (stepped, ("x=float32[n=16..64]",), "takes axis 0 of x in steps of 8; the spec says n=16..64", "n=16..64/8"),
        (stepped, ("x=float32[20]",), "takes axis 0 of x in steps of 8; the spec says 20", "another size"),
        (stepped, ("x=float32[n=16..80/8]",), "takes 16..64 at axis 0 of x", "narrow"),
    ],
)
def test_specs_that_contradict_the_program(make, specs, message, hint):
    with pytest.raises(UsageError) as caught:
        load(make(), parse_inputs(specs))
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_axes_of_one_size_have_one_dim():
    dims = ({0: Dim("b", max=9)},)
    two = program(models.Pair(), torch.ones(4, 3), torch.ones(4, 3), dims=dims * 2)
    assert [spec.dims[0].name for spec in load(two).signature.inputs] == ["a_0", "a_0"]
    assert [dim.dims[0].name for dim in load(two, parse_inputs(["a=float32[n=1..4,3]"])).signature.inputs] == ["n", "n"]
    with pytest.raises(UsageError, match=r"have one size in the program; the specs say n=1\.\.4 and m=1\.\.4"):
        load(two, parse_inputs(["a=float32[n=1..4,3]", "b=float32[m=1..4,3]"]))


def test_a_guard_that_no_range_says_is_the_programs_own_error():
    own = program(Rows(), torch.randn(16), dims=({0: Dim.AUTO},))
    with pytest.raises(SourceError, match=r"does not hold at n=\d+: the module ExportedProgram raised .* % 8 == 0"):
        load(own, parse_inputs(["x=float32[n=16..64]"]))


# examples


def test_the_users_example_takes_the_place_of_the_programs():
    image = np.full((2, 3), 5, np.float32)
    np.testing.assert_array_equal(load(linear(), (), image).example["input"], image)
    shown = {"x": torch.ones(3, 2), "states": (torch.ones(2), torch.ones(3)), "scale": {"a": torch.ones(2)}}
    original = load(many(), parse_inputs(["states.1=float32[n=1..6]"]), shown)
    assert original.example["x"].shape == (3, 2)


def test_a_program_without_an_example_is_run_on_what_its_dims_say():
    bare = linear()
    bare.example_inputs = None
    assert load(bare).example["input"].shape == (2, 3)


# what cannot be


def test_a_number_as_input():
    class Times(nn.Module):
        def forward(self, x, n: int):
            return x * n

    with pytest.raises(SourceError, match="the program takes n, which is no tensor"):
        load(program(Times(), torch.ones(4), 5, dims=(None, Dim.DYNAMIC)))


@pytest.mark.parametrize("module", [nn.Dropout(), nn.BatchNorm1d(3)])
def test_a_program_in_training_mode(module):
    trained = torch.export.export(module.train(), (torch.randn(4, 3),))
    with pytest.raises(SourceError, match="exported in training mode: aten::") as caught:
        load(trained)
    assert "model.eval()" in caught.value.hint


class Chosen(nn.Module):
    """The mean of what is chosen, which may be nothing, and a number beside it."""

    def forward(self, input):  # noqa: A002 - the name of a function of Python's, which a copied graph gives no node
        return input[input[:, 0] > 0].mean(0), 3


def test_what_torch_onnx_writes_otherwise_is_mended_in_a_copy(workspace):
    own = program(Chosen(), torch.ones(4, 3), dims=({0: Dim("rows", min=1, max=9)},))
    before = str(own.graph)
    case = exported(workspace, own)
    none = {"input": -np.ones((5, 3), np.float32)}
    with open_session(workspace.save(case.model, "again"), Target()) as session:
        (mean,) = session.run(none).values()
    assert np.isnan(mean).all()
    assert str(own.graph) == before


def test_an_operator_without_a_counterpart(workspace):
    with pytest.raises(SourceError, match=r"the operator aten\.mode at models_for_export\.py"):
        exported(workspace, program(models.Mode(), torch.randn(4, 3)))


def test_an_opset_that_cannot_be_written(workspace):
    with pytest.raises(UsageError, match="opset 12 cannot be written"):
        exported(workspace, linear(), opset=12)


def test_weights_that_are_no_numbers():
    module = nn.Linear(3, 2)
    with torch.no_grad():
        module.weight[0, 1] = float("nan")
    with pytest.raises(SourceError, match=r"the weight weight holds NaN in 1 of 6 elements, first at \[0, 1\]"):
        load(program(module, torch.randn(4, 3)))


# what is written


def test_state_and_inputs_that_change_are_as_they_were(workspace):
    class Changing(nn.Module):
        count: torch.Tensor

        def __init__(self):
            super().__init__()
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x):
            self.count += 1
            x.add_(1)
            return x * 2, self.count, x.shape[0]

    case = exported(workspace, program(Changing(), torch.randn(4, 3), dims=({0: Dim("b", max=6)},)))
    assert case.inputs == ["x"]
    assert case.outputs == ["output.0", "output.1"]
    assert any(note.startswith("forward changes count: frozen") for note in case.original.notes)


def test_tied_weights_branches_and_unused_inputs(workspace):
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.tied = models.Tied()

        def forward(self, ids, unused):
            x = self.tied(ids)
            return torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x * 2, (x,)), ids

    ids = torch.arange(12).reshape(4, 3)
    case = exported(workspace, program(Branch(), ids, torch.ones(2), dims=({0: Dim("b", max=5)}, None)))
    assert case.inputs == ["ids", "unused"]
    assert case.shape("ids") == ["ids_0", "3"]


def test_the_digest_follows_weights_code_and_constants():
    class Plus(nn.Module):
        def __init__(self, constant, *, twice=False):
            super().__init__()
            self.linear = nn.Linear(3, 3)
            nn.init.ones_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)
            self.constant, self.twice = torch.full((3,), float(constant)), twice

        def forward(self, x):
            return self.linear(x) * (2 if self.twice else 1) + self.constant

    made = [program(Plus(1), torch.ones(2, 3)), program(Plus(2), torch.ones(2, 3))]
    made += [program(Plus(1, twice=True), torch.ones(2, 3))]
    assert len({load(one).digest for one in made}) == len(made)
    assert load(made[0]).digest == load(made[0]).digest == load(program(Plus(1), torch.ones(2, 3))).digest
    assert load(made[0]).source == f"python:{load(made[0]).digest}"
