"""Computing in float16 between an interface of float32."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import onnx_ir as ir

from mlc.fusion import Places, infer_shapes, is_constant, note_constants, walk
from mlc.graph_pass import Change, Context, Exactness, Need, Pass, Refusal, Statistics
from mlc.types import FLOAT, NodePlan, Plan
from passes._half import FLOAT16, store_weights
from passes._half_choice import FORBIDDEN, UNSEEN_RANGE, Choice, Ranges, Rules, choices, ranged, settle
from passes._half_constants import CLAMPED, MASKING, is_added_mask, is_attention_mask, made_of_infinity
from passes._half_moved import ENDS_PROCESS, ends_process
from passes._half_sensitive import SENSITIVE
from passes._half_write import Writer
from passes._stored import permitted

ON_CPU = (
    "a CPU computes float16 in float32 and converts on both sides, which costs time: "
    "--pass fp16:weights_only=true halves the file without that"
)


SHARE = 0.5
"""How much of float16 a range may take unless an option says otherwise."""


@dataclass(frozen=True)
class Fp16(Pass):
    """``y = f(x, w)`` becomes ``y = Cast(f(Cast(x), w'))``, with weights and activations in float16.

    Inputs and outputs of the model stay float32, and so do those of branches and loops; a value is cast once for each
    direction, also where branches read it. A node stays float32 where the collected range of a value that it reads or
    gives exceeds ``share`` of 65,504, where it leaves little of the difference of large values, or makes these or large
    scores of a softmax, where a weight overflows or a tenth of it falls below the smallest normal number, where a
    number that float16 has no bits for keeps a divisor from 0, where its operator takes float32 alone, where all that
    it reads was made of whole numbers such as positions, and where it stands between nodes that stay float32. So does,
    for a CPU, a Transpose that onnxruntime would join with a product and end the process.
    In branches that no sample takes all stays float32. Inside loops no ranges are collected: there the constants
    decide, and what goes from one iteration to the next stays float32. Sums, normalizations, softmax, exponentials and
    powers stay float32, but for those whose kernel on a GPU was seen to compute in float32 within, which save casts;
    with ``sensitive`` float all of them do, with half none. Quantizers, coordinates and what draws numbers always do.

    Numbers of masks up to -1e9 become -16384, and what is added before a softmax and comes of no product ends there:
    -inf would make NaN of a row that is wholly masked, whose scores float16 tells no longer apart beside such numbers:
    there it gives others than float32. A mask of -inf stays one. With
    ``weights_only`` weights are stored in float16 and computed in float32: the file halves, nothing becomes faster, and
    no data is needed.
    """

    name: ClassVar[str] = "fp16"
    exactness: ClassVar[Exactness] = Exactness.LOSSY
    min_opset: ClassVar[int] = 13
    asks_wide_half: ClassVar[bool] = True

    share: float = SHARE
    sensitive: Literal["seen", "float", "half"] = "seen"
    weights_only: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share lies above 0 and up to 1, {self.share:g} does not")
        if self.sensitive not in ("seen", "float", "half"):
            raise ValueError(f"sensitive is seen, float or half, not {self.sensitive}")
        if self.weights_only and self.share != SHARE:
            raise ValueError("share belongs to weights_only=false")
        if self.weights_only and self.sensitive != "seen":
            raise ValueError("sensitive belongs to weights_only=false")

    @property
    def calibrates(self) -> bool:
        """Whether it reads ranges: weights alone are judged by their numbers."""
        return not self.weights_only

    def needs(self, model: ir.Model) -> tuple[Need, ...]:
        """Ask for the range of every value that a node would read or give in float16."""
        if self.weights_only:
            return ()
        model = model.clone()
        names = _names(model)
        found = choices(self._rules(model, _unknown, SENSITIVE))  # at most these: which ones the target says
        asked = dict.fromkeys(name for value in ranged(found) if (name := names.get(value)))
        return tuple(Need(name, "range") for name in asked)

    def plan(self, model: ir.Model, ctx: Context) -> tuple[NodePlan, ...]:
        """Tell which nodes would be computed in float16 if every range that is not known yet fits."""
        if self.weights_only:
            return super().plan(model, ctx)
        found = self._choices(model.clone(), replace(ctx, plan=Plan()), _unknown)
        return tuple(
            NodePlan(choice.site, "", FLOAT, choice.reason) if choice.reason else
            NodePlan(choice.site, "", self.name, "its values fit as far as is known before ranges are collected")
            for choice in found
        )  # fmt: skip

    def apply(self, model: ir.Model, ctx: Context) -> Change:
        """Change every node that fits, by the collected ranges; without statistics the constants alone decide."""
        if self.weights_only:
            return store_weights(model, permitted(ctx, self.name), FLOAT16)
        names, statistics = _names(model), ctx.statistics
        ranges = None if statistics is None else _ranges(statistics, names)
        found = self._choices(model, ctx, ranges)
        masks = {value for value in _masks(found, ranges) if not _is_infinite(value, statistics, names)}
        clamped = Writer(model, _sites(model)).write(found, masks)
        return Change(
            tuple(choice.site for choice in found if choice.half),
            tuple(Refusal(choice.site, choice.reason) for choice in found if choice.reason not in ("", FORBIDDEN)),
            (f"{CLAMPED}: {', '.join(clamped)}",) if clamped else (),
            ON_CPU if ctx.capabilities.cpu else "",
        )

    def _choices(self, model: ir.Model, ctx: Context, ranges: Ranges | None) -> list[Choice]:
        """Return what is done with every node, those that may not change among them."""
        allow = permitted(ctx, self.name)
        found = choices(self._rules(model, ranges, ctx.capabilities.wide_half))
        for choice in found:
            if choice.half and not allow(choice.site):
                choice.reason = FORBIDDEN
            elif choice.half and ctx.capabilities.cpu and ends_process(choice.node):
                choice.reason = ENDS_PROCESS
        settle(found)
        return found

    def _rules(self, model: ir.Model, ranges: Ranges | None, wide: Iterable[str]) -> Rules:
        """Return the rules where the operators in ``wide`` were seen to compute in float32 within."""
        note_constants(model)
        infer_shapes(model)
        sensitive = {"seen": frozenset(wide), "float": frozenset[str](), "half": frozenset(SENSITIVE)}
        return Rules(model, ranges, self.share * FLOAT16.highest, sensitive[self.sensitive])


def _unknown(_value: ir.Value) -> None:
    """Know no range yet."""


def _names(model: ir.Model) -> dict[ir.Value, str]:
    """Return the names under which ranges are collected: of values outside of loops, and of what bodies give there."""
    places = Places(model)
    names = {value: value.name for value in model.graph.inputs if value.const_value is None and value.name}
    once = (value for graph in places.once for node in graph for value in node.outputs)
    names |= {value: places.name(value) for value in once if value.name}
    for _, graph in walk(model):
        for node in graph:
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.GRAPH:
                    given = list(attribute.as_graph().outputs)[1 if node.op_type == "Loop" else 0 :]
                    for outer, inner in zip(node.outputs, given, strict=False):
                        if outer in names:
                            names.setdefault(inner, names[outer])
    return names


def _ranges(statistics: Statistics, names: dict[ir.Value, str]) -> Ranges:
    def known(value: ir.Value) -> tuple[float, float] | None:
        try:
            name = names[value]
            return statistics.finite_range(name) if statistics.seen(name) else UNSEEN_RANGE
        except KeyError:
            return None

    return known


def _sites(model: ir.Model) -> dict[ir.Value, str]:
    """Return the site of every value that has a name."""
    found: dict[ir.Value, str] = {}
    for prefix, graph in walk(model):
        values = [*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)]
        found |= {value: f"{prefix}{value.name}" for value in values if value.name}
    return found


def _masks(found: list[Choice], ranges: Ranges | None) -> set[ir.Value]:
    """Return the computed masks that are read in float16 and go below it: those of attention by what was collected."""
    masks: set[ir.Value] = set()
    for choice in found:
        for index, value in choice.reads() if choice.half else ():
            known = None if is_constant(value) or ranges is None else ranges(value)
            low = is_attention_mask(choice.node, index) and known is not None and known[0] <= MASKING
            if low or is_added_mask(choice.node, index):
                masks.add(value)
    return masks


def _is_infinite(value: ir.Value, statistics: Statistics | None, names: dict[ir.Value, str]) -> bool:
    """Whether a mask is made of -Inf alone, which is such in float16 too, and which a graph may ask for."""
    lowest, finite = 0.0, 0.0
    if statistics is not None and value in names:
        with suppress(KeyError):
            lowest, finite = statistics.range(names[value])[0], statistics.finite_range(names[value])[0]
    return finite > MASKING and (lowest == -math.inf or made_of_infinity(value))
