"""What torch.onnx cannot take of a program of torch.export, written so that it can."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch

from mlc.exporting.attention import rows_of_masks, scores_by_queries
from mlc.exporting.branches import answers_alike, answers_in_tuples, numbers_inside, operands_apart
from mlc.exporting.complex_numbers import by_real_parts
from mlc.exporting.extremes import extremes_of_all
from mlc.exporting.in_place import copied_back
from mlc.exporting.inserting import before, calls_of, of_dtype, replace, size_of
from mlc.exporting.integers import integers_as_they_are, products_of_integers
from mlc.exporting.levels import is_level, without_levels
from mlc.exporting.linear_algebra import unchecked_matrices
from mlc.exporting.losses import losses_of_one_sample
from mlc.exporting.neighbours import own_neighbours
from mlc.exporting.nothing import means_of_what_may_be_none, spreads_of_what_may_be_none
from mlc.exporting.scatters import ends_of_scatters, means_of_scatters, scatters_of_indices, sources_of_scatters
from mlc.exporting.spreads import spreads_by_means
from mlc.types import InputSpec


def mend(
    program: torch.export.ExportedProgram, inputs: Sequence[InputSpec], opset: int
) -> torch.export.ExportedProgram:
    """Write all of it anew in the program itself, or in one without levels of vmap, as an opset needs it."""
    answers_in_tuples(program)
    numbers_inside(program)
    program = without_levels(program, opset)
    operands_apart(program)
    answers_alike(program)
    copied_back(program)
    promote_subtrahends(program)
    remainders_of_tensors(program)
    float_bounds(program)
    extremes_of_all(program)
    parts_of_what_varies(program)
    integers_as_they_are(program)
    sums_by_a_divisor(program)
    diagonals_alone(program)
    scatters_of_indices(program)
    sources_of_scatters(program)
    means_of_scatters(program)
    ends_of_scatters(program)
    logarithms_of_sigmoids(program)
    products_of_integers(program)
    slopes_in_the_middle(program)
    losses_of_one_sample(program)
    by_real_parts(program)
    unchecked_matrices(program)
    all_for_asserted(program)
    without_idle_squeezes(program)
    spreads_by_means(program)
    spreads_of_what_may_be_none(program, inputs)
    means_of_what_may_be_none(program, inputs)
    own_neighbours(program, inputs)
    scores_by_queries(program)
    rows_of_masks(program, opset)
    for part in program.graph_module.modules():
        if isinstance(part, torch.fx.GraphModule):
            part.recompile()
    return program


def without_asserts(program: torch.export.ExportedProgram) -> None:
    """Take guards that were put off out of the graph: all that they say has been evaluated."""
    for node in program.graph.find_nodes(op="call_function", target=torch.ops.aten._assert_scalar.default):  # noqa: SLF001
        program.graph.erase_node(node)
    program.graph.eliminate_dead_code(is_impure_node=_is_needed)
    program.graph_module.recompile()


def _is_needed(node: torch.fx.Node) -> bool:
    """Whether a node does something beside what it returns."""
    return node.is_impure() or is_level(node)


def promote_subtrahends(program: torch.export.ExportedProgram) -> None:
    """Cast the integers of ``1.0 - mask`` to the dtype of the difference: torch.onnx takes the number for a tensor."""
    for node in calls_of(program, {torch.ops.aten.rsub.Scalar}):
        node.args = (of_dtype(node, node.args[0], node.meta["val"].dtype), *node.args[1:])


def remainders_of_tensors(program: torch.export.ExportedProgram) -> None:
    """Make tensors of the numbers in ``x % 0.1`` and ``index % x.shape[0]``: torch.onnx takes a size for a constant.

    And of a number it computes what is left over by another way than of a tensor.
    """
    aten = torch.ops.aten
    for node in calls_of(program, {aten.remainder.Scalar}):
        divided, number = node.args
        dtype = node.meta["val"].dtype
        if isinstance(number, torch.fx.Node) or dtype.is_floating_point:
            node.args = (of_dtype(node, divided, dtype), before(node, aten.scalar_tensor.default, number, dtype=dtype))
            node.target = aten.remainder.Tensor
    for node in calls_of(program, {aten.remainder.Scalar_Tensor}):
        number, divisor = node.args
        dtype = node.meta["val"].dtype
        node.args = (before(node, aten.scalar_tensor.default, number, dtype=dtype), of_dtype(node, divisor, dtype))
        node.target = aten.remainder.Tensor


def float_bounds(program: torch.export.ExportedProgram) -> None:
    """Write the bounds of ``clamp(min=0)`` as floats where the numbers are: torch.onnx takes its own function for 0."""
    aten = torch.ops.aten
    clamps = {aten.clamp.default, aten.clamp_min.default, aten.clamp_max.default}
    for node in calls_of(program, clamps):
        if node.meta["val"].is_floating_point():
            node.args = (node.args[0], *map(_as_float, node.args[1:]))
            node.kwargs = {name: _as_float(bound) for name, bound in node.kwargs.items()}


def _as_float(bound: Any) -> Any:
    return float(bound) if isinstance(bound, int) else bound


def parts_of_what_varies(program: torch.export.ExportedProgram) -> None:
    """Slice each part that is read of ``chunk`` or ``split`` along an axis that varies.

    torch.onnx counts parts of known sizes, and makes a sequence of those of others, of which it takes the last for as
    large as the first.
    """
    aten = torch.ops.aten
    for node in calls_of(program, {aten.chunk.default, aten.split.Tensor}):
        values, number, *more = node.args
        axis = more[0] if more else node.kwargs.get("dim", 0)
        fixed = isinstance(values.meta["val"].shape[axis], int) and isinstance(number, int)
        if fixed or any(user.target != operator.getitem for user in node.users):
            continue
        for part in list(node.users):
            each = number
            if node.target is aten.chunk.default:
                size = before(part, aten.sym_size.int, values, axis)
                each = before(part, operator.floordiv, before(part, operator.add, size, number - 1), number)
            place: Any = part.args[1]
            start, end = (_times(part, each, place + edge) for edge in (0, 1))
            replace(part, before(part, aten.slice.Tensor, values, axis, start, end))
        node.graph.erase_node(node)


def _times(node: torch.fx.Node, size: Any, count: int) -> Any:
    return size * count if isinstance(size, int) else before(node, operator.mul, size, count)


def sums_by_a_divisor(program: torch.export.ExportedProgram) -> None:
    """Write what ``avg_pool2d`` divides by another number as the mean times their ratio: ONNX divides by the window."""
    aten = torch.ops.aten
    for node in calls_of(program, {aten.avg_pool2d.default}):
        given = dict(zip(("x", "window", "stride", "padding", "ceil", "pads", "divisor"), node.args, strict=False))
        if given.get("divisor") is None or given.get("ceil"):
            continue
        high, wide = (given["window"] * 2)[:2]
        mean = before(node, node.target, *node.args[:5], True)  # noqa: FBT003 - zeros around it count
        replace(node, before(node, aten.mul.Tensor, mean, high * wide / given["divisor"]))


def diagonals_alone(program: torch.export.ExportedProgram) -> None:
    """Put zeros beside a diagonal: torch.onnx multiplies with them, and of infinity that is no zero."""
    aten = torch.ops.aten
    for node in calls_of(program, {aten.diagonal.default}):
        values: Any = node.args[0]
        known = values.meta["val"]
        if not known.is_floating_point():
            continue
        given: list[Any] = [*node.args[1:], *(0, 0, 1)[len(node.args) - 1 :]]
        offset, *axes = given
        places = []
        for axis in (each % known.ndim for each in axes):
            count = before(node, aten.arange.default, size_of(node, values, axis))
            shape = [-1 if each == axis else 1 for each in range(known.ndim)]
            places.append(before(node, aten.view.default, count, shape))
        on = before(node, aten.eq.Tensor, before(node, aten.add.Tensor, places[0], offset), places[1])
        node.args = (before(node, aten.where.ScalarOther, on, values, 0.0), *node.args[1:])


def logarithms_of_sigmoids(program: torch.export.ExportedProgram) -> None:
    """Write ``log(sigmoid(x))`` as the one function that it is: a sigmoid in onnxruntime is 0 from -18.5 on."""
    for node in calls_of(program, {torch.ops.aten.log.default}):
        inner = node.args[0]
        if inner.target is torch.ops.aten.sigmoid.default and inner.args[0].meta["val"].is_floating_point():
            node.target, node.args = torch.ops.aten.log_sigmoid.default, inner.args


def slopes_in_the_middle(program: torch.export.ExportedProgram) -> None:
    """Write ``rrelu`` of a module that is not trained as the leaky one that it is."""
    aten = torch.ops.aten
    for node in calls_of(program, {aten.rrelu.default}):
        given: list[Any] = [*node.args]
        values, lower, upper, training = [*given, *(1 / 8, 1 / 3, False)[len(given) - 1 :]][:4]
        if not training:
            node.target, node.args = aten.leaky_relu.default, (values, (lower + upper) / 2)


def all_for_asserted(program: torch.export.ExportedProgram) -> None:
    """Write what asserts ask of a whole mask as ``all`` of it, which is the same and has a counterpart in ONNX."""
    for node in calls_of(program, {torch.ops.aten._is_all_true.default}):  # noqa: SLF001
        node.target = torch.ops.aten.all.default


def without_idle_squeezes(program: torch.export.ExportedProgram) -> None:
    """Take out squeezes of an axis that is not one: torch leaves it as it is, and ONNX's Squeeze refuses it."""
    for node in calls_of(program, {torch.ops.aten.squeeze.dim}):
        squeezed = node.args[0]
        if node.meta["val"].ndim == squeezed.meta["val"].ndim > 0:
            replace(node, squeezed)
