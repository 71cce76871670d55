"""Let an attention read keys and values that several query heads share once, not once for each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from mlc.fusion import Match, Search, Size, dims_of, producer, sizes_of
from mlc.graph_pass import Exactness
from passes._attention import attention_of, heads_of, match_of

if TYPE_CHECKING:
    import onnx_ir as ir

TILED = "the heads are tiled, not repeated one by one"


@dataclass(frozen=True)
class FuseGroupedQuery(Search):
    """``Attention(q, repeat(k), repeat(v))`` becomes ``Attention(q, k, v)`` with fewer heads in k and v than in q.

    As Ainslie et al. have it (GQA, arXiv 2305.13245, section 2.2). The repetition is Unsqueeze, Expand, Reshape; for
    n query heads to one of k and v the operator reads head i of q beside head i // n of those. Inputs get three axes
    where they may, as by fuse-attention. Refuses where the heads are tiled (0, 1, 0, 1), not repeated (0, 0, 1, 1),
    where k and v are not repeated alike, and where more than the heads is repeated or sizes are not known.
    """

    name: ClassVar[str] = "fuse-grouped-query"
    exactness: ClassVar[Exactness] = Exactness.REASSOCIATES
    tolerance: ClassVar[float] = 1e-4
    min_opset: ClassVar[int] = 23
    ends: ClassVar[frozenset[str]] = frozenset({"Attention"})

    def look(self, node: ir.Node) -> Match | None:
        attention = attention_of(node)
        repeated = [_repeated(value) for value in node.inputs[1:3]]
        if attention is None or repeated == [None, None]:
            return None
        k, v = repeated
        if k is None or v is None or k.wrong or v.wrong or k.times != v.times:
            wrong = next((each.wrong for each in (k, v) if each is not None and each.wrong), "")
            bound = {"attention": None, "tail": None, "wrong": wrong or "keys and values are not repeated alike"}
            return Match([node], node.outputs[:1], bound)
        fewer = replace(attention, k=heads_of(k.value), v=heads_of(v.value))
        return match_of(fewer, [node], node.outputs[0], bound={"wrong": ""})

    def check(self, attention, tail, wrong) -> str | None:
        return wrong or None

    def rewrite(self, op, attention, tail, wrong):
        return attention.write(op, attention.mask, tail)


@dataclass(frozen=True)
class _Repeated:
    """Heads that are repeated: what they were, how often, and why that cannot be left to the operator."""

    value: ir.Value
    times: int = 1
    wrong: str = ""


def _repeated(value: ir.Value | None) -> _Repeated | None:
    """Return what a value by head repeats, or None where it repeats nothing."""
    tile, reshape = producer(value, "Tile"), producer(value, "Reshape")
    if value is not None and tile is not None:
        return _Repeated(value, wrong=TILED)
    expand = producer(reshape.inputs[0], "Expand") if reshape is not None else None
    unsqueeze = producer(expand.inputs[0], "Unsqueeze") if expand is not None else None
    few = unsqueeze.inputs[0] if unsqueeze is not None else None
    if value is None or expand is None or unsqueeze is None or few is None:
        return None
    axes, sizes = sizes_of(unsqueeze.inputs[1]), [dims_of(each) for each in (few, expand.outputs[0], value)]
    return _Repeated(few, wrong=TILED) if axes not in ([2], [-3]) else _times(few, *sizes)


def _times(few: ir.Value, before: list[Size] | None, between: list[Size] | None, after: list[Size] | None) -> _Repeated:
    """Return how often heads are repeated, by the sizes before, with the axis of the repetition, and after."""
    if before is None or between is None or after is None or [len(before), len(between), len(after)] != [4, 5, 4]:
        return _Repeated(few, wrong="the sizes of the heads are not known")
    batch, heads, length, width = before
    times = between[2]
    if not (isinstance(heads, int) and isinstance(times, int) and between == [batch, heads, times, length, width]):
        return _Repeated(few, wrong="more than the heads is repeated")
    if after != [batch, heads * times, length, width]:
        return _Repeated(few, wrong="the heads that are repeated do not become heads")
    return _Repeated(few, times)
