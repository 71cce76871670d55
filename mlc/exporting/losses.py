"""The losses of classification, of which torch.onnx leaves the smoothing and the shares of classes out.

And of samples that are all ignored it has a mean of 0, where torch has none. (ATen/native/LossNLL.cpp.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import onnxscript
import torch

from mlc.exporting.constants import ints
from mlc.exporting.inserting import before, calls_of, replace

op: Any = onnxscript.opset18

NONE, MEAN = 0, 1
"""What becomes of the losses of samples, as torch counts it; 2 is their sum."""


def of_losses() -> dict[Any, Callable[..., Any]]:
    """Return a function for each operator, as torch.onnx takes them."""
    aten = torch.ops.aten
    return {
        aten.cross_entropy_loss.default: _cross_entropy,
        **dict.fromkeys((aten.nll_loss.default, aten.nll_loss2d.default, aten.nll_loss_nd.default), _likelihood),
    }


def losses_of_one_sample(program: torch.export.ExportedProgram) -> None:
    """Write a loss of scores without a batch, [classes], as that of a batch of one: torch looks at its target."""
    aten = torch.ops.aten
    for node in calls_of(program, {aten.cross_entropy_loss.default, aten.nll_loss_nd.default}):
        scores, target, *more = node.args
        if scores.meta["val"].ndim > 1:
            continue
        batch = (before(node, aten.unsqueeze.default, one, 0) for one in (scores, target))
        loss = before(node, node.target, *batch, *more, **node.kwargs)
        replace(node, before(node, aten.squeeze.dim, loss, 0) if loss.meta["val"].ndim else loss)


def _cross_entropy(  # noqa: PLR0917 - torch's arguments
    scores: Any,
    target: Any,
    weight: Any = None,
    reduction: int = MEAN,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Any:
    """Return the loss of scores, [batch, classes, ...] or [classes], whose target is a class or the share of each."""
    axis = min(len(scores.shape) - 1, 1)
    logarithms = op.LogSoftmax(scores, axis=axis)
    if not target.dtype.is_integer():
        return _by_shares(axis, logarithms, target, _along(weight, scores, axis), reduction, label_smoothing)
    likelihood = _likelihood_along(axis, logarithms, target, weight, reduction, ignore_index)
    if not label_smoothing:
        return likelihood
    weighted = logarithms if weight is None else op.Mul(logarithms, _along(weight, scores, axis))
    every = op.Neg(op.ReduceSum(weighted, ints(axis), keepdims=1))
    chosen, counts = _target(target, axis, ignore_index)
    smooth = op.Squeeze(op.Where(counts, every, op.CastLike(0.0, every)), ints(axis))
    smooth = _reduced(smooth, _weights(axis, chosen, counts, weight, scores), reduction)
    share = op.Div(op.CastLike(label_smoothing, scores), op.CastLike(_size(scores, axis), scores))
    return op.Add(op.Mul(share, smooth), op.Mul(op.CastLike(1.0 - label_smoothing, scores), likelihood))


def _by_shares(  # noqa: PLR0917 - one place calls it
    axis: int, logarithms: Any, shares: Any, weight: Any, reduction: int, smoothing: float
) -> Any:
    """Return the loss of shares of classes; its mean is one over samples, whatever the classes weigh."""
    if smoothing:
        even = op.Div(op.CastLike(smoothing, shares), op.CastLike(_size(shares, axis), shares))
        shares = op.Add(op.Mul(shares, op.CastLike(1.0 - smoothing, shares)), even)
    each = op.Mul(logarithms, op.CastLike(shares, logarithms))
    losses = op.Neg(op.ReduceSum(each if weight is None else op.Mul(each, weight), ints(axis), keepdims=0))
    ones = op.Expand(op.CastLike(1.0, losses), op.Shape(losses))
    return _reduced(losses, ones, reduction)


def _likelihood(
    logarithms: Any, target: Any, weight: Any = None, reduction: int = MEAN, ignore_index: int = -100
) -> Any:
    return _likelihood_along(min(len(logarithms.shape) - 1, 1), logarithms, target, weight, reduction, ignore_index)


def _likelihood_along(  # noqa: PLR0917 - torch's arguments
    axis: int, logarithms: Any, target: Any, weight: Any, reduction: int, ignore_index: int
) -> Any:
    """Return the negative logarithms of the target's classes along an axis, each as much as its class weighs."""
    chosen, counts = _target(target, axis, ignore_index)
    weights = _weights(axis, chosen, counts, weight, logarithms)
    found = op.Squeeze(op.GatherElements(logarithms, chosen, axis=axis), ints(axis))
    losses = op.Neg(found if weight is None else op.Mul(found, weights))
    losses = op.Where(op.Squeeze(counts, ints(axis)), losses, op.CastLike(0.0, losses))
    return _reduced(losses, weights, reduction)


def _target(target: Any, axis: int, ignore_index: int) -> tuple[Any, Any]:
    """Return the class of each sample, with an axis for it, and where it counts: an ignored one may be no class."""
    classes = op.Unsqueeze(op.Cast(target, to=ir.DataType.INT64), ints(axis))
    ignored = op.Equal(classes, ints(ignore_index))
    return op.Where(ignored, ints(0), classes), op.Not(ignored)


def _weights(axis: int, chosen: Any, counts: Any, weight: Any, like: Any) -> Any:
    """Return how much each sample counts in a mean, without the axis of classes."""
    counted = op.Squeeze(op.CastLike(counts, like), ints(axis))
    return counted if weight is None else op.Mul(op.Squeeze(op.Gather(weight, chosen), ints(axis)), counted)


def _reduced(losses: Any, weights: Any, reduction: int) -> Any:
    """Return losses, their sum, or that over the sum of weights: of nothing that is 0 over 0."""
    if reduction == NONE:
        return losses
    total = op.ReduceSum(losses, keepdims=0)
    return op.Div(total, op.ReduceSum(weights, keepdims=0)) if reduction == MEAN else total


def _along(weight: Any, scores: Any, axis: int) -> Any:
    """Return the weights of classes, [classes], as they stand along the axis of classes, or nothing."""
    if weight is None:
        return None
    behind = len(scores.shape) - 1 - axis
    return op.Unsqueeze(weight, ints(*range(1, behind + 1))) if behind else weight


def _size(values: Any, axis: int) -> Any:
    return op.Squeeze(op.Shape(values, start=axis, end=axis + 1), ints(0))
