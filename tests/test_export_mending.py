"""Lines that torch.onnx cannot take are written anew, and give the same numbers at every size."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Categorical, Distribution
from torch.nn import functional

from mlc.errors import SourceError
from mlc.exporting.distributions import unchecked_distributions
from mlc.exporting.errors import translation_error
from mlc.exporting.fourier import inverse_by_products
from mlc.exporting.quotients import quotients_of_sizes
from mlc.exporting.settled import settled
from mlc.runtimes.onnxruntime import open_session
from mlc.types import Target
from mlc.workspace import Workspace
from tests.exporting import exported
from tests.models_for_export import Of

pytestmark = pytest.mark.needs_onnxruntime


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


class Both(nn.Module):
    """Values and places of a function along an axis."""

    def __init__(self, function, axis):
        super().__init__()
        self.function, self.axis = function, axis

    def forward(self, x):
        values, places = self.function(x, self.axis)
        return values, places


@pytest.mark.parametrize("function", [torch.cummax, torch.cummin])
@pytest.mark.parametrize(("dtype", "axis"), [("float32", 1), ("float32", -1), ("int64", 0)])
def test_a_running_maximum_is_a_scan(workspace, function, dtype, axis):
    values = " in -3..3" if dtype == "int64" else ""
    net = exported(workspace, Both(function, axis), None, f"x={dtype}[batch=1..5,n=1..9,3]{values}")
    assert "Scan" in {node.op_type for node in net.model.graph}
    drawn = np.random.default_rng(0).integers(-3, 3, (4, 8, 3)).astype(dtype)  # with ties
    unknown = [np.where(drawn == 2, np.nan, drawn).astype(dtype)] if dtype == "float32" else []
    with open_session(workspace.save(net.model, "again"), Target(), optimize=False) as session:
        for array in (drawn, drawn[:1, :1], *unknown):
            ours = session.run({"x": array})
            for name, wanted in net.original.run({"x": array}).items():
                np.testing.assert_array_equal(ours[name], wanted)


def test_rows_are_multiplied_by_the_weight_of_their_group(workspace):
    pytest.importorskip("transformers.integrations.moe", exc_type=ImportError)
    weights = torch.randn(4, 3, 5)

    def grouped(x):
        """Rows sorted by their group, each times the weight of its own: a group may have no row."""
        group = (x.sum(-1) * 2).round().long().remainder(4)
        order = group.argsort(stable=True)
        ends = functional.one_hot(group, 4).sum(0).cumsum(0).to(torch.int32)
        return torch.ops.transformers.grouped_mm_fallback(x[order], weights, ends) + order[:, None]

    net = exported(workspace, Of(grouped), None, "x=float32[rows=1..9,3]")
    draw = np.random.default_rng(0)
    assert_alike(net, *(draw.standard_normal((rows, 3)).astype(np.float32) for rows in (1, 2, 9)))


@pytest.mark.parametrize("descending", [True, False])
def test_what_is_equal_stays_in_its_order(workspace, descending):
    module = Of(lambda x: torch.sort(x, dim=1, stable=True, descending=descending)[1])
    net = exported(workspace, module, None, "x=int64[rows=1..5,n=1..99,2] in 0..3")
    assert_alike(net, np.random.default_rng(0).integers(0, 4, (3, 70, 2)))


@pytest.mark.parametrize(
    "function",
    [
        lambda row: torch.outer(row, row).diagonal(),
        lambda row: row % 0.3,
        lambda row: row.cummax(0).values * row.std(),
        lambda row: row.sigmoid().log(),
        lambda row: torch.logcumsumexp(row, 0) + row.new_tensor([1.0, 2.0, 3.0]),
    ],
    ids=["a diagonal", "a remainder", "a running maximum", "a logarithm", "a running sum"],
)
@pytest.mark.parametrize("levels", [1, 2])
def test_what_is_mended_is_mended_inside_vmap(workspace, function, levels):
    for _ in range(levels):
        function = torch.vmap(function)
    spec = "x=float32[batch=1..5,3]" if levels == 1 else "x=float32[batch=1..5,n=1..9,3]"
    net = exported(workspace, Of(function), None, spec)
    draw = np.random.default_rng(0)
    shapes = [(n, 3) if levels == 1 else (n, 6 - n, 3) for n in (1, 2, 5)]
    assert_alike(net, *(draw.standard_normal(shape).astype(np.float32) for shape in shapes))


@pytest.mark.parametrize(
    ("levels", "spec", "said"),
    [(1, "x=float32[batch=1..5,4]", "batch cannot vary"), (2, "x=float32[batch=1..5,n=1..9,4]", "cannot trace")],
)
def test_a_line_of_which_vmap_fixes_the_batch_is_named(workspace, levels, spec, said):
    def function(row):
        return torch.cat([row, row])

    for _ in range(levels):
        function = torch.vmap(function)
    with pytest.raises(SourceError, match=rf"{said}.*`return torch.cat\(.*`, inside torch.vmap.*without torch.vmap"):
        exported(workspace, Of(function), None, spec)


def test_levels_of_vmap_stay_where_guards_are_put_off(workspace):
    def banded(x):
        places = torch.arange(x.shape[1])
        near = torch.vmap(torch.vmap(lambda a, b: a.new_ones(()) * ((a - b).abs() < 2), (None, 0)), (0, None))
        return x @ near(places, places).float() * (2 if x.shape[1] == 7 else 2.0)

    net = exported(workspace, Of(banded), None, "x=float32[batch=1..5,n=2..9]")
    assert any("guards put off" in note for note in net.artifact.origin.notes)
    assert_alike(net, *(np.ones((3, n), np.float32) for n in (2, 7, 9)))


def test_an_axis_that_is_not_one_is_not_squeezed(workspace):
    net = exported(workspace, Of(lambda x: x.squeeze(1) * 2), None, "x=float32[batch=1..5,n=2..9]")
    assert_alike(net, np.ones((1, 2), np.float32), np.ones((3, 7), np.float32))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x / (x.abs().sum(1, keepdim=True) + 1e-8),
        lambda x: 3e-9 + x - 5e-9,
        lambda x: (x * 1.000009 - x) * 1e5,
        lambda x: (x / 1.000009 - x) * 1e5,
    ],
)
def test_a_number_near_to_nothing_is_kept(workspace, function):
    net = exported(workspace, Of(function), torch.tensor([[1e-9, -2e-9], [5e-9, 7e-9]]))
    drawn = np.random.default_rng(0).standard_normal((2, 2)).astype(np.float32)
    assert_alike(net, drawn)


def test_what_changes_nothing_is_left_out(workspace):
    net = exported(workspace, Of(lambda x: (1.0 * x + 0.0 - 0.0) / 1.0 * 2), None, "x=float32[batch=1..5,n=1..9]")
    assert [node.op_type for node in net.model.graph] == ["Mul"]


def test_a_distribution_is_made_without_a_look_at_values(workspace, monkeypatch):
    monkeypatch.setattr(Distribution, "_validate_args", True)  # torch itself leaves it off once it has compiled
    net = exported(workspace, Of(lambda x: Categorical(logits=x).entropy()), None, "x=float32[batch=1..5,n=1..9]")
    assert_alike(net, np.random.default_rng(0).standard_normal((3, 7)).astype(np.float32))


def test_distributions_are_checked_as_before_behind_a_trace(monkeypatch):
    monkeypatch.setattr(Distribution, "_validate_args", True)
    with unchecked_distributions():
        Categorical(logits=torch.tensor([torch.nan]))
    with pytest.raises(ValueError, match="logits"):
        Categorical(logits=torch.tensor([torch.nan]))


def test_a_failure_behind_the_trace_names_the_line_of_its_node():
    class Here(nn.Module):
        def forward(self, x):
            return x.sin() + 1

    program = torch.export.export(Here(), (torch.ones(2),))
    (node,) = program.graph.find_nodes(op="call_function", target=torch.ops.aten.sin.default)
    failed = RuntimeError(f"a level is gone\n\nWhile executing %{node.name} : [num_users=1] = call_function")
    refused = translation_error(failed, program, 20)
    assert "at test_export_mending.py" in refused.message
    assert refused.message.endswith("RuntimeError: a level is gone")


def test_bounds_of_which_only_the_last_is_held_are_all_written(workspace):
    def bounded(x):
        x = x * 2
        return torch.cat([x.clamp(-3.0 - n, 3.0).clamp(-2.0 - n, 2.5) for n in range(3)])

    net = exported(workspace, Of(bounded), torch.ones(2, 3))
    assert_alike(net, np.linspace(-4, 4, 6, dtype=np.float32).reshape(2, 3))
