"""Write an attention that is spelled out as the one operator that it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mlc.fusion import (
    Match,
    Product,
    Search,
    Size,
    dims_of,
    is_constant,
    may_be_none,
    near_miss,
    producer,
    product_of,
    scalar_of,
    sizes_of,
)
from mlc.graph_pass import Exactness
from passes._attention import AXES, Attention, Heads, attention_of, heads_of, match_of, only_use, transposed
from passes._guards import guard_of
from passes._masks import Mask, with_zeros
from passes._spelled_attention import NO_PRODUCT, spelled_attention

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class FuseAttention(Search):
    """``softmax(scale * q @ k.T + mask) @ v`` becomes ``Attention(q, k, v, mask)`` of opset 23.

    As Vaswani et al. have it (Attention Is All You Need, arXiv 1706.03762, section 3.2). Its inputs have three axes
    where q, k and v are split into heads right before and the heads come together right behind, those of an Attention
    that is there already too; else four. Scales may stand anywhere, the mask may be added or replace scores. Half of
    the lowest float takes the place of the lowest: for a row that is wholly masked with that, onnxruntime gives 0,
    where a softmax gives the mean. A row that is wholly -inf, which is NaN without a guard, becomes 0.

    Refuses where the softmax is not over the last axis, where q, k and v do not have four axes, one batch and as many
    heads, where there may be none of them, as many as values select, where a mask is not known to fit, where it
    replaces scores with more than -1e9, where the scale is not positive, where anything else stands between a product
    and the softmax, such as a factor behind it, and where a value inside, such as the probabilities, is used elsewhere
    or is an output.
    """

    name: ClassVar[str] = "fuse-attention"
    exactness: ClassVar[Exactness] = Exactness.REASSOCIATES
    tolerance: ClassVar[float] = 1e-4
    min_opset: ClassVar[int] = 23
    ends: ClassVar[frozenset[str]] = frozenset({"Attention", "MatMul"})

    def look(self, node: ir.Node) -> Match | None:
        if node.op_type == "Attention":
            return _with_three_axes(node)
        weights = _weights(node.inputs[0])
        scored = _masked(weights[0].inputs[0]) if weights is not None else None
        if weights is None or scored is None or node.inputs[1] is None:
            return near_miss(node, _reason(node, is_softmax=weights is not None))
        softmax, after = weights
        zeros = _zeros_behind(node.outputs[0], scored.mask)
        mask, output, last = zeros or (scored.mask, node.outputs[0], node)
        attention = Attention(scored.q, scored.k, heads_of(node.inputs[1]), None, {"scale": scored.scale})
        kept = [] if mask is None else [mask.value]
        nodes = dict.fromkeys([*scored.nodes, *after, node, last])
        return match_of(attention, nodes, output, kept=kept, bound={"mask": mask, "softmax": softmax})

    def check(self, attention, tail, mask, softmax) -> str | None:
        if softmax is None:
            return None
        axis = softmax.attributes.get("axis")
        if axis is not None and axis.as_int() not in (-1, AXES - 1):
            return "the softmax is not over the last axis"
        if softmax.outputs[0].dtype is None or softmax.outputs[0].dtype.name != "FLOAT":
            return "the scores are not float32"
        if attention.attributes["scale"] <= 0:
            return "the scale is not positive"
        return _misfit(attention) or (mask.misfit(_scores(attention)) if mask is not None else None)

    def rewrite(self, op, attention, tail, mask, softmax):
        if mask is None:
            return attention.write(op, attention.mask, tail)
        scores = _scores(attention)
        added = mask.added(op, scores, attention.q, attention.k, three_axes=tail is not None)
        return attention.write(op, added, tail)


@dataclass(frozen=True)
class _Scored:
    """Scores, masked or not: ``scale * q @ k.T``, and the nodes that compute them."""

    q: Heads
    k: Heads
    scale: float
    nodes: list[ir.Node]
    mask: Mask | None = None


def _with_three_axes(node: ir.Node) -> Match | None:
    """Return the match of an Attention with four axes whose inputs may have three."""
    attention = attention_of(node)
    if attention is None:
        return None
    found = match_of(attention, [node], node.outputs[0], bound={"mask": None, "softmax": None})
    return None if found.bindings["tail"] is None else found


def _reason(node: ir.Node, *, is_softmax: bool) -> str:
    """Return why a product is no attention, or nothing where nobody would take it for one.

    ``is_softmax`` is whether a Softmax is its left operand.
    """
    spelled = spelled_attention(node)
    if spelled is not None:
        return spelled.reason()
    return NO_PRODUCT if is_softmax and not is_constant(node.inputs[1]) else ""


def _weights(value: ir.Value | None) -> tuple[ir.Node, list[ir.Node]] | None:
    """Return the Softmax that makes weights, and its nodes with the guard that makes NaN 0."""
    softmax, guard = producer(value, "Softmax"), guard_of(value)
    if softmax is not None:
        return softmax, [softmax]
    return (guard.softmax, guard.nodes) if guard is not None and guard.gives_zero else None


def _zeros_behind(output: ir.Value, mask: Mask | None) -> tuple[Mask, ir.Value, ir.Node] | None:
    """Return the mask, the output and the node where zeros take the place of rows that have no key left."""
    where = only_use(output, "Where") if mask is not None else None
    if mask is None or where is None or where.inputs[1] is not output or scalar_of(where.inputs[2]) != 0.0:
        return None
    found = with_zeros(mask, where.inputs[0])
    return None if found is None else (found, where.outputs[0], where)


def _masked(value: ir.Value | None) -> _Scored | None:
    """Return the scores that a Softmax reads, or None where they are something else."""
    plain, added, replaced = _scored(value), producer(value, "Add"), producer(value, "Where")
    if plain is not None:
        return plain
    masks: list[tuple[ir.Node, ir.Value | None, ir.Value | None, float | None, bool]] = []
    if added is not None:
        masks = [(added, scores, mask, None, False) for scores, mask in (added.inputs, added.inputs[::-1])]
    elif replaced is not None:
        condition, first, second = replaced.inputs
        masks = [
            (replaced, second, condition, scalar_of(first), False),
            (replaced, first, condition, scalar_of(second), True),
        ]
        masks = [each for each in masks if each[3] is not None]
    for node, scores, mask, fill, kept in masks:
        scored = _scored(scores)
        if scored is not None and mask is not None:
            return _Scored(scored.q, scored.k, scored.scale, [*scored.nodes, node], Mask(mask, fill, kept))
    return None


def _scored(value: ir.Value | None) -> _Scored | None:
    """Return the scores that a value is, without a mask, or None."""
    if value is None:
        return None
    whole = product_of(value, root=True)
    product = producer(whole.factors[0], "MatMul") if len(whole.factors) == 1 else None
    if product is None or product.inputs[0] is None or product.inputs[1] is None:
        return None
    left, right = _scaled(product.inputs[0]), _scaled(product.inputs[1])
    k = _keys(right.factors[0])
    if k is None:
        return None
    nodes = [*left.nodes, *right.nodes, product, *whole.nodes]
    return _Scored(heads_of(left.factors[0]), k, whole.scale * left.scale * right.scale, nodes)


def _scaled(value: ir.Value) -> Product:
    """Return a value as one factor and a scale."""
    found = product_of(value)
    return found if len(found.factors) == 1 else Product(factors=[value])


def _keys(value: ir.Value) -> Heads | None:
    """Return the keys that a value [batch, heads, width, length] is the transpose of, or None."""
    whole, split = transposed(value, [0, 1, 3, 2]), transposed(value, [0, 2, 3, 1])
    if split is not None:
        return Heads(None, split)
    whole = whole if whole is not None else _transposed_as_matrices(value)
    return None if whole is None else heads_of(whole)


def _transposed_as_matrices(value: ir.Value) -> ir.Value | None:
    """Return what is reshaped to [batch * heads, length, width], transposed, and reshaped back, as torch writes it."""
    back = producer(value, "Reshape")
    flat = producer(transposed(back.inputs[0], [0, 2, 1]), "Reshape") if back is not None else None
    whole = flat.inputs[0] if flat is not None else None
    dims = dims_of(whole)
    if back is None or flat is None or dims is None or len(dims) != AXES:
        return None
    batch, heads, length, width = dims
    matrices, again = sizes_of(flat.inputs[1]), sizes_of(back.inputs[1])
    return whole if matrices == [-1, length, width] and again == [batch, heads, width, length] else None


def _scores(attention: Attention) -> list[Size]:
    """Return the sizes of the scores [batch, heads, queries, keys]."""
    q, k = attention.q.dims, attention.k.dims
    assert q is not None
    assert k is not None
    return [*q[:3], k[2]]


def _misfit(attention: Attention) -> str | None:
    """Return why Attention cannot take these queries, keys and values, or None."""
    q, k, v = attention.q.dims, attention.k.dims, attention.v.dims
    if q is None or k is None or v is None:
        return "the queries, keys and values do not have four axes"
    if not all(isinstance(dims[1], int) for dims in (q, k, v)):
        return "the number of heads is not known"
    if k[1] != v[1] or k[1] not in (1, q[1]):
        return "the queries, keys and values do not have as many heads"
    if not q[0] == k[0] == v[0]:
        return "the queries, keys and values are not known to be of one batch"
    sides = ((attention.q, (q[0], q[2])), (attention.k, (k[2],)), (attention.v, (v[2],)))
    if any(may_be_none(side.value if side.value is not None else side.split, sizes) for side, sizes in sides):
        return "how many queries or keys there are follows from values, and of none the runtime's kernel refuses"
    return None
