"""Let an attention read keys and values that several query heads share once, not once for each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from mlc.fusion import Match, Search, Size, array_of, dims_of, is_constant, is_standard, near_miss, producer, sizes_of
from mlc.graph_pass import Exactness
from passes._attention import AXES, BY_HEAD, Heads, attention_of, expanded, heads_of, match_of, transposed
from passes._spelled_attention import SPELLED, spelled_attention

if TYPE_CHECKING:
    import onnx_ir as ir

TILED = "the heads are tiled, not repeated one by one"

MORE = "more than the heads is repeated"

BEHIND = "the heads are repeated behind the length, and moved otherwise than in front of it"

MOVING = frozenset({"Identity", "Reshape", "Transpose"})
"""What moves heads and repeats none."""


@dataclass(frozen=True)
class FuseGroupedQuery(Search):
    """``Attention(q, repeat(k), repeat(v))`` becomes ``Attention(q, k, v)`` with fewer heads in k and v than in q.

    As Ainslie et al. have it (GQA, arXiv 2305.13245, section 2.2). The repetition is Unsqueeze, Expand, Reshape, before
    the heads stand in front of the length or after, or of one head Expand alone; for n query heads to one of k and v
    the operator reads head i of q beside head i // n of those. Inputs get three axes where they may, as by
    fuse-attention. Refuses where the heads are tiled (0, 1, 0, 1), not repeated (0, 0, 1, 1), joined from copies or
    taken by an index, where k and v are not repeated alike, where more than the heads is repeated or sizes are not
    known, and where the attention is spelled out still.
    """

    name: ClassVar[str] = "fuse-grouped-query"
    exactness: ClassVar[Exactness] = Exactness.REASSOCIATES
    tolerance: ClassVar[float] = 1e-4
    min_opset: ClassVar[int] = 23
    ends: ClassVar[frozenset[str]] = frozenset({"Attention", "MatMul"})

    def look(self, node: ir.Node) -> Match | None:
        if node.op_type == "MatMul":
            repeats = _repeated(node.inputs[1]) is not None or _otherwise(node.inputs[1])
            return near_miss(node, SPELLED if repeats and spelled_attention(node) is not None else "")
        attention = attention_of(node)
        k, v = (_repeated(value) for value in node.inputs[1:3])
        if attention is None or (k is None and v is None):
            return near_miss(node, next(filter(None, map(_otherwise, node.inputs[1:3])), ""))
        if k is None or v is None or k.wrong or v.wrong or k.times != v.times:
            wrong = next((each.wrong for each in (k, v) if each is not None and each.wrong), "")
            return near_miss(node, wrong or "keys and values are not repeated alike")
        fewer = replace(attention, k=k.heads, v=v.heads)
        return match_of(fewer, [node], node.outputs[0], bound={})

    def rewrite(self, op, attention, tail):
        return attention.write(op, attention.mask, tail)


NONE = Heads(None)
"""In the place of heads that the operator cannot read."""


@dataclass(frozen=True)
class _Repeated:
    """Heads that are repeated: what they were, how often, and why that cannot be left to the operator."""

    heads: Heads = NONE
    times: int = 1
    wrong: str = ""


def _repeated(value: ir.Value | None) -> _Repeated | None:
    """Return what a value by head repeats, or None where it repeats nothing."""
    tile, single = producer(value, "Tile"), producer(value, "Expand")
    if tile is not None:
        return _Repeated(wrong=TILED)
    if single is not None and single.inputs[0] is not None:
        return _of_one(single.inputs[0], dims_of(single.inputs[0]), dims_of(value))
    behind = transposed(value, BY_HEAD)
    return _expanded(behind, behind=True) if behind is not None else _expanded(value, behind=False)


def _expanded(value: ir.Value | None, *, behind: bool) -> _Repeated | None:
    """Return what Unsqueeze, Expand and Reshape repeat, of heads before or ``behind`` the length, or None."""
    found = expanded(value)
    few = found[0].inputs[0] if found is not None else None
    if found is None or few is None:
        return None
    unsqueeze, expand = found
    axes, sizes = sizes_of(unsqueeze.inputs[1]), [dims_of(each) for each in (few, expand.outputs[0], value)]
    if axes not in (([3], [-2]) if behind else ([2], [-3])):
        return _Repeated(wrong=TILED)
    heads = Heads(None, few) if behind else heads_of(few)
    return _times(heads, 2 if behind else 1, *sizes)


def _of_one(one: ir.Value, before: list[Size] | None, after: list[Size] | None) -> _Repeated | None:
    """Return how often the one head of a value is there after an Expand, or None where it is not there more often."""
    if before is None or after is None or [len(before), len(after)] != [AXES, AXES] or before[1] != 1 or after[1] == 1:
        return None
    times = after[1]
    whole = isinstance(times, int) and [after[0], *after[2:]] == [before[0], *before[2:]]
    return _Repeated(heads_of(one), times) if isinstance(times, int) and whole else _Repeated(wrong=MORE)


def _otherwise(value: ir.Value | None) -> str:
    """Return in which other way heads are repeated on their way to a value, or nothing."""
    node = value.producer() if value is not None else None
    if node is None or not is_standard(node):
        return ""
    if node.op_type == "Tile":
        return TILED
    if node.op_type == "Concat" and len(node.inputs) > 1:
        apart = [producer(each, "Unsqueeze") for each in node.inputs]
        sources = {each if one is None else one.inputs[0] for each, one in zip(node.inputs, apart, strict=True)}
        copies = TILED if None in apart else "the heads are joined from copies, not expanded"
        return copies if len(sources) == 1 else ""
    at = node.inputs[1] if node.op_type in ("Gather", "GatherND") else None
    if at is not None and is_constant(at):
        index = array_of(at).reshape(-1).tolist()
        return "the heads are taken by an index, not expanded" if len(set(index)) < len(index) else ""
    if node.op_type == "Expand":
        unsqueeze, dims = producer(node.inputs[0], "Unsqueeze"), dims_of(value)
        late = unsqueeze is not None and sizes_of(unsqueeze.inputs[1]) in ([3], [-2])
        return BEHIND if late and dims and len(dims) > AXES else ""
    return _otherwise(node.inputs[0]) if node.op_type in MOVING else ""


def _times(
    heads: Heads, axis: int, before: list[Size] | None, between: list[Size] | None, after: list[Size] | None
) -> _Repeated:
    """Return how often heads along an axis are repeated, by the sizes before, with the repetition, and after."""
    if before is None or between is None or after is None or [len(before), len(between), len(after)] != [4, 5, 4]:
        return _Repeated(wrong="the sizes of the heads are not known")
    count, times, first, rest = before[axis], between[axis + 1], before[:axis], before[axis + 1 :]
    if not (isinstance(count, int) and isinstance(times, int) and between == [*first, count, times, *rest]):
        return _Repeated(wrong=MORE)
    if after != [*first, count * times, *rest]:
        return _Repeated(wrong="the heads that are repeated do not become heads")
    return _Repeated(heads, times)
