"""Which nodes of a model are computed in float16, and why the others are not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np
import onnx_ir as ir

from mlc.formats import site_of
from mlc.fusion import array_of, has_subgraphs, is_constant, is_of_sequences, is_standard, opset_of, sizes_of, walk
from passes._half import FLOAT16
from passes._half_constants import MASKING, constant_obstacle, is_attention_mask, keeps_from_zero
from passes._half_sensitive import (
    ADDS,
    ALWAYS,
    BOUNDED,
    CASTING,
    DIVIDING,
    MOVING,
    PASSING,
    PRODUCTS,
    SENSITIVE,
    TURNING,
)
from passes._half_types import Positions, is_float, positions
from passes._masked import UNSEEN

NARROW = frozenset({ir.DataType.BOOL, ir.DataType.INT8, ir.DataType.UINT8})
"""Integers that float16 holds all of."""

HELD = 2048
"""The largest whole number up to which float16 holds all."""

CANCELLED = 128
"""So many times larger than what is left of them values are rounded to float16 by a 16th of it."""

FAR = 256.0
"""Scores that are further from 0 are rounded to float16 by a quarter and more, which is a factor of their powers."""

SIZING = {"Range": (0, 1, 2), "Resize": (1, 2), "Upsample": (1,)}
"""Where operators read floats by which they decide how much they give."""

QK_OUTPUT = 3
"""The place of the output in which an Attention gives its scores."""

LITTLE_LEFT = "leaves little of what it gives, of which float16 keeps 11 bits"
TAKES_SIZES = "takes sizes from what it gives"
MAKES_WHOLE = "makes whole numbers of what it gives"
WHOLE_NUMBERS = "it makes whole numbers, which others would be of rounded ones"
FAR_APART = "its scores are further from 0 than float16 tells apart"
INTERFACE = "the interface of a branch or loop stays float32, what is inside does not"
FUNCTION = "it calls a function of the model's own"
SEQUENCE = "it reads or gives what is not a tensor"
UNTYPED = "the type of what it reads or gives is not known"
FLOAT_ALONE = "its operator takes float32 alone"
WHOLE = "it makes floats of whole numbers, of which float16 holds those up to 2,048"
FROM_WHOLE = "all that it reads was made of whole numbers, of which float16 holds those up to 2,048"
UNKNOWN_WHOLE = "it reads floats made of whole numbers, whose range is not known"
INFINITE = "it may hold Inf, of which no range is collected"
WIDENS = "it widens what is of 16 bits on purpose"
UNSEEN_RANGE = (-math.inf, math.inf)
"""What stands for the range of a value that never came about."""

SCORES = "it gives its scores, which masks take out of float16"
TEXT = "numbers become texts or are read from them"
CARRIED = "goes from one iteration to the next, and the range of the last one alone is collected"
BETWEEN = "it stands between operators that stay float32"
DECIDES = "what it reads is float32, and no float32 comes of it"
FORBIDDEN = "it is kept float"
TOO_NEAR = f"below the smallest normal float16 of {FLOAT16.smallest:.2g}, before it divides"

Ranges: TypeAlias = Callable[[ir.Value], "tuple[float, float] | None"]


@dataclass
class Choice:
    """What is done with one node: its site, what changes with it, and why it stays float32 (empty if it does not)."""

    node: ir.Node
    site: str
    positions: Positions
    reason: str = ""

    @property
    def half(self) -> bool:
        """Whether the node is computed in float16."""
        return not self.reason

    def reads(self) -> list[tuple[int, ir.Value]]:
        """Return the inputs that change, each with its place."""
        found = ((index, self.node.inputs[index]) for index in sorted(self.positions.inputs))
        return [(index, value) for index, value in found if value is not None]

    def gives(self) -> list[ir.Value]:
        """Return the outputs that change."""
        return [self.node.outputs[index] for index in sorted(self.positions.outputs)]


@dataclass(frozen=True)
class Rules:
    """What decides: collected ranges (None without statistics), how far they may go, and which sums may change too.

    ``whole`` are values that were made of whole numbers alone, ``infinite`` those that may hold Inf,
    ``guarded`` those that a small number keeps from 0, with that number, ``divided`` those that reach a divisor,
    ``inverted`` what is as large as float16 is not, divided by one, and ``carried`` those that a loop takes from one
    iteration to the next.
    """

    model: ir.Model
    ranges: Ranges | None
    limit: float
    sensitive: frozenset[str]
    whole: set[ir.Value] = field(default_factory=set)
    infinite: set[ir.Value] = field(default_factory=set)
    guarded: dict[ir.Value, float] = field(default_factory=dict)
    divided: set[ir.Value] = field(default_factory=set)
    inverted: set[ir.Value] = field(default_factory=set)
    carried: set[ir.Value] = field(default_factory=set)


def choices(rules: Rules) -> list[Choice]:
    """Return a choice for every node that reads or gives float32, outer graphs first, each judged by itself."""
    opset = opset_of(rules.model)
    found: list[Choice] = []
    for _, graph in walk(rules.model):
        _note_divisors(graph, rules)
    for prefix, graph in walk(rules.model):
        for node in graph:
            _note(node, rules)
            if not site_of(node) or node.op_type == "Constant" or not (_touches_float(node) or _untyped(node)):
                continue
            choice = Choice(node, f"{prefix}{site_of(node)}", _places(node, opset))
            choice.reason = _obstacle(choice, rules)
            found.append(choice)
    _keep_exact(found, rules)
    return found


def _keep_exact(found: list[Choice], rules: Rules) -> None:
    """Keep float32 what makes values of which small differences count: rounded before them, these are lost."""
    by_node = {choice.node: choice for choice in found}
    for reader in found:
        for told in _told_apart(reader, rules):
            sought = [told.value]
            while sought:
                value = sought.pop()
                choice = by_node.get(node) if (node := value.producer()) is not None else None
                if choice is None or not choice.half or (_largest(value, rules) or 0.0) < told.least:
                    continue
                if told.least or choice.node.op_type not in PRODUCTS:
                    choice.reason = f"{reader.site} {told.reason}"
                    sought += [each for _, each in choice.reads()]


class _ToldApart(NamedTuple):
    """A value of which a node tells apart what float16 does not, how large what makes it is, and what the node does."""

    value: ir.Value
    least: float
    reason: str


def _told_apart(choice: Choice, rules: Rules) -> list[_ToldApart]:
    """Return what a node that stays float32 tells apart: by a difference, a softmax, or as whole numbers.

    Masks are the lowest of what a softmax reads, so that the highest says how far off the others are. What a product
    gives is no whole number, in float32 either.
    """
    if _cancellation(choice, rules):
        least = CANCELLED * (_largest(choice.node.outputs[0], rules) or 0.0)
        return [_ToldApart(value, least, LITTLE_LEFT) for _, value in choice.reads()]
    places = SIZING.get(choice.node.op_type, ()) if is_standard(choice.node) else ()
    sizing = [choice.node.inputs[place] for place in places if place < len(choice.node.inputs)]
    if any(is_float(each) for each in sizing):
        return [_ToldApart(each, 0.0, TAKES_SIZES) for each in sizing if each is not None]
    value = choice.node.inputs[0] if choice.node.inputs else None
    if value is not None and _makes_integers(choice.node):
        return [_ToldApart(value, 0.0, MAKES_WHOLE)]
    if value is not None and _is_far(choice.node, rules):
        return [_ToldApart(value, FAR, LITTLE_LEFT)]
    return []


def _is_far(node: ir.Node, rules: Rules) -> bool:
    """Whether a softmax reads scores that float16 rounds by much of what they are apart."""
    scores = node.inputs[0] if node.op_type in {"Softmax", "LogSoftmax"} else None
    known = None if scores is None or rules.ranges is None else rules.ranges(scores)
    return known is not None and math.isfinite(known[1]) and abs(known[1]) > FAR


def _makes_integers(node: ir.Node) -> bool:
    """Whether a node makes whole numbers of floats, which are places or codes."""
    given = node.outputs[0].dtype if node.op_type in CASTING else None
    return given is not None and given.is_integer() and is_float(node.inputs[0])


def settle(found: list[Choice]) -> None:
    """Keep float32 what is not worth its conversions, until nothing changes.

    Products change in any case. What stands between nodes that stay float32 stays with them, and so does a node that
    only decides, such as a comparison, on values that are float32.
    """
    by_node = {choice.node: choice for choice in found}
    changed = True
    while changed:
        changed = False
        for choice in found:
            if choice.half and choice.node.op_type not in PRODUCTS:
                choice.reason = _unworthy(choice, by_node)
                changed |= not choice.half


def _unworthy(choice: Choice, by_node: dict[ir.Node, Choice]) -> str:
    reads = [value for _, value in choice.reads() if not is_constant(value)]
    if not choice.positions.outputs:
        given = all(_is_half(value, by_node) for value in reads)
        return "" if given else DECIDES
    read_float = [_given_float(value, by_node) for value in reads]
    readers = [use for value in choice.gives() for use in value.uses()]
    float_readers = [not _read_half(use.node, use.idx, by_node) for use in readers]
    after_all = bool(reads) and all(read_float) and (any(float_readers) or not readers)
    before_all = (any(read_float) or not reads) and bool(readers) and all(float_readers)
    return BETWEEN if after_all or before_all else ""


def _is_half(value: ir.Value, by_node: dict[ir.Node, Choice]) -> bool:
    choice = by_node.get(node) if (node := value.producer()) is not None else None
    return choice is not None and choice.half and any(value is given for given in choice.gives())


def _given_float(value: ir.Value, by_node: dict[ir.Node, Choice]) -> bool:
    """Whether a node that stays float32 gives a value; what comes from outside is converted in any case."""
    return value.producer() is not None and not _is_half(value, by_node)


def _read_half(node: ir.Node, index: int, by_node: dict[ir.Node, Choice]) -> bool:
    choice = by_node.get(node)
    return choice is not None and choice.half and index in choice.positions.inputs


def _touches_float(node: ir.Node) -> bool:
    return any(is_float(value) for value in (*node.inputs, *node.outputs))


def _untyped(node: ir.Node) -> bool:
    return any(value is not None and value.name and value.type is None for value in (*node.inputs, *node.outputs))


def _places(node: ir.Node, opset: int) -> Positions:
    """Return what changes with a node; where an attribute holds the type of the result, that changes too."""
    if _is_cast(node) or (node.op_type == "ConstantOfShape" and is_standard(node)):
        inputs = frozenset({0} if is_float(node.inputs[0]) else ())
        return Positions(inputs, frozenset({0} if is_float(node.outputs[0]) else ()))
    return positions(node, opset)


def _is_cast(node: ir.Node) -> bool:
    return node.op_type == "Cast" and is_standard(node)


def _note(node: ir.Node, rules: Rules) -> None:
    """Note what was made of whole numbers alone, what may hold Inf, and what the body of a loop carries."""
    reads = [value for value in node.inputs if value is not None and is_float(value)]
    computed = [value for value in reads if not is_constant(value)]
    floats = [value for value in node.outputs if is_float(value)]
    made = node.op_type == "Range" or (node.op_type in CASTING and _reads_wide_integers(node))
    passes_on = node.op_type in PASSING or _is_outer_product(node)
    if made or (passes_on and computed and all(value in rules.whole for value in computed)):
        rules.whole.update(floats)
    if node.op_type in PASSING and any(value in rules.infinite or _gives_infinity(node, value) for value in reads):
        rules.infinite.update(floats)
    _note_guard(node, rules)
    if node.op_type in {"Loop", "Scan"} and is_standard(node):
        rules.carried.update(_carried(node))


def _note_divisors(graph: ir.Graph | ir.Function, rules: Rules) -> None:
    """Note which values reach a place at which nothing may be 0."""
    for node in reversed(graph):
        place = DIVIDING.get(node.op_type)
        moves = node.op_type in MOVING and any(value in rules.divided for value in node.outputs)
        rules.divided.update(
            value for index, value in enumerate(node.inputs) if value is not None and (moves or index == place)
        )


def _note_guard(node: ir.Node, rules: Rules) -> None:
    """Note what a small number keeps from 0 behind a node, and what such a divisor makes large."""
    held = [rules.guarded[value] for value in node.inputs if value in rules.guarded]
    least = min([*held, *filter(None, [keeps_from_zero(node)])], default=None)
    if least is None:
        if node.op_type in MOVING and any(value in rules.inverted for value in node.inputs) and node.op_type != "Mul":
            rules.inverted.update(node.outputs)
        return
    if node.op_type in {"Reciprocal", "Pow"} or (node.op_type == "Div" and is_constant(node.inputs[0])):
        if 1 / least > FLOAT16.highest and held:
            rules.inverted.update(node.outputs)
    elif node.op_type in MOVING or not held:
        rules.guarded.update(dict.fromkeys(node.outputs, _moved(node, least)))


def _moved(node: ir.Node, least: float) -> float:
    """Return what keeps from 0 behind a node what ``least`` does before it."""
    if node.op_type == "Sqrt":
        return math.sqrt(least)
    if node.op_type != "Mul":
        return least
    first, second = node.inputs
    if first is second:
        return least**2
    factors = [np.abs(array_of(value)) for value in node.inputs if value is not None and is_constant(value)]
    return least * float(factors[0].min(initial=1.0)) if factors else least


def _guard_obstacle(choice: Choice, rules: Rules) -> str:
    """Return why a node may not round what keeps a divisor from 0, or nothing."""
    node = choice.node
    large = next((value for _, value in choice.reads() if value in rules.inverted), None)
    if large is not None:
        return f"it reads {large.name}, which may be as large as float16 is not"
    if any(value in rules.inverted for value in choice.gives()):
        return "what it gives may be as large as float16 is not"
    around = [value for value in (*node.inputs, *node.outputs) if value is not None and value in rules.divided]
    lost = [value for value in around if rules.guarded.get(value, 1.0) < FLOAT16.smallest]
    carries = node.op_type in MOVING or node.op_type in DIVIDING or any(value in lost for value in node.outputs)
    return f"{lost[0].name} is kept from 0 by {rules.guarded[lost[0]]:.2g}, {TOO_NEAR}" if lost and carries else ""


def _carried(node: ir.Node) -> Iterator[ir.Value]:
    """Yield what the body of a loop takes from the iteration before and gives to the next (ONNX, Loop and Scan)."""
    body = node.attributes["body"].as_graph()
    if node.op_type == "Loop":  # counter and condition come first, of which the body gives the condition alone
        yield from (*body.inputs[2:], *body.outputs[1 : len(body.inputs) - 1])
    else:
        states = len(body.inputs) - node.attributes["num_scan_inputs"].as_int()
        yield from (*body.inputs[:states], *body.outputs[:states])


def _reads_wide_integers(node: ir.Node) -> bool:
    """Whether a node reads whole numbers that float16 may not hold all of; sizes that do not vary are known."""
    value = node.inputs[0]
    dtype = value.dtype if value is not None else None
    if dtype is None or not dtype.is_integer() or dtype in NARROW:
        return False
    known = sizes_of(value)
    return known is None or not all(isinstance(size, int) and abs(size) <= HELD for size in known)


def _is_outer_product(node: ir.Node) -> bool:
    """Whether a MatMul adds nothing up, as where positions meet frequencies."""
    first = node.inputs[0] if node.op_type == "MatMul" else None
    return first is not None and first.shape is not None and first.shape.rank() > 1 and first.shape[-1] == 1


def _gives_infinity(node: ir.Node, value: ir.Value) -> bool:
    """Whether a node passes on Inf from a constant, or makes it of a constant's -Inf."""
    array = array_of(value) if is_constant(value) else np.zeros(0)
    return bool(np.isposinf(array).any() or (node.op_type in TURNING and np.isneginf(array).any()))


def _obstacle(choice: Choice, rules: Rules) -> str:
    return (
        _kind_obstacle(choice, rules)
        or _whole_obstacle(choice, rules)
        or _guard_obstacle(choice, rules)
        or _value_obstacle(choice, rules)
    )


def _kind_obstacle(choice: Choice, rules: Rules) -> str:
    """Return why a node of this kind stays float32, whatever its values are."""
    node = choice.node
    kept = {**ALWAYS, **{op: why for op, why in SENSITIVE.items() if op not in rules.sensitive}}
    reduction = node.attributes.get("reduction")
    reasons = (
        (INTERFACE, has_subgraphs(node)),
        (FUNCTION, node.op_identifier() in rules.model.functions),
        (SEQUENCE, _holds_sequences(node)),
        (kept.get(node.op_type, ""), node.op_type in kept),
        (UNTYPED, _untyped(node)),
        (SCORES, node.op_type == "Attention" and len(node.outputs) > QK_OUTPUT and bool(node.outputs[QK_OUTPUT].name)),
        (ADDS, node.op_type.startswith("Scatter") and reduction is not None and reduction.as_string() != "none"),
        (WHOLE, node.op_type in CASTING and _reads_wide_integers(node)),
        (WHOLE_NUMBERS, _makes_integers(node)),
        (FAR_APART, _is_far(node, rules)),
        (FLOAT_ALONE, not choice.positions.inputs and not choice.positions.outputs and not _is_cast(node)),
    )
    reason = next((reason for reason, holds in reasons if holds), "")
    return reason or (_cast_obstacle(node) if _is_cast(node) else "")


def _holds_sequences(node: ir.Node) -> bool:
    types = (value.type for value in (*node.inputs, *node.outputs) if value is not None)
    other = any(each is not None and not isinstance(each, ir.TensorType) for each in types)
    return other or is_of_sequences(node)


def _cast_obstacle(node: ir.Node) -> str:
    source, result = (value.dtype if value is not None else None for value in (node.inputs[0], node.outputs[0]))
    if ir.DataType.STRING in (source, result):
        return TEXT
    return WIDENS if source in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16) else ""


def _whole_obstacle(choice: Choice, rules: Rules) -> str:
    """Return why a node that reads floats made of whole numbers stays float32, or nothing."""
    computed = [value for _, value in choice.reads() if not is_constant(value)]
    whole = [value for value in computed if value in rules.whole]
    if not whole:
        return ""
    adds_up = choice.node.op_type in PRODUCTS and not _is_outer_product(choice.node)
    if len(whole) == len(computed) and not adds_up:
        return FROM_WHOLE
    return UNKNOWN_WHOLE if rules.ranges is None else ""


def _value_obstacle(choice: Choice, rules: Rules) -> str:
    """Return why the numbers that a node reads or gives do not fit, or nothing."""
    for index, value in choice.reads():
        masks = is_attention_mask(choice.node, index)
        problem = constant_obstacle(choice.node, index) if is_constant(value) else _range_obstacle(value, rules, masks)
        if problem:
            return problem
    if choice.node.op_type == "ConstantOfShape" and _too_large_fill(choice.node):
        return "its number does not fit into float16"
    problems = (_range_obstacle(value, rules, masks=False) for value in choice.gives())
    return next(filter(None, problems), "") or _cancellation(choice, rules)


def _cancellation(choice: Choice, rules: Rules) -> str:
    """Return why a sum or difference stays float32 that leaves little of large values, or nothing."""
    if choice.node.op_type not in {"Add", "Sub"} or not choice.positions.outputs:
        return ""
    given = _largest(choice.node.outputs[0], rules)
    taken = max((_largest(value, rules) or 0.0 for _, value in choice.reads()), default=0.0)
    if given is None or taken <= CANCELLED * given:
        return ""
    return f"it leaves at most {given:g} of values up to {taken:g}, of which float16 keeps 11 bits"


def _largest(value: ir.Value, rules: Rules) -> float | None:
    """Return the largest magnitude of a value, None where it is not known."""
    if is_constant(value):
        array = array_of(value)
        return float(np.abs(array).max(initial=0.0, where=np.isfinite(array)))
    known = None if rules.ranges is None else rules.ranges(value)
    return None if known is None else max(map(abs, known))


def _too_large_fill(node: ir.Node) -> bool:
    fill = node.attributes["value"].as_tensor().numpy() if "value" in node.attributes else np.zeros(1)
    return bool((np.abs(fill) > FLOAT16.highest).any())


def _range_obstacle(value: ir.Value, rules: Rules, masks: bool) -> str:
    """Return why the collected range of a value does not fit, or nothing; a mask may end as low as it likes.

    The range is that of the numbers beside -Inf, which is such in float16 too; beside Inf none is collected.
    """
    if value in rules.carried:
        return f"{value.name} {CARRIED}"
    if rules.ranges is None or (masks and value in rules.infinite):
        return ""
    known = None if value in rules.infinite else rules.ranges(value)
    if known in (None, UNSEEN_RANGE):
        return UNSEEN if known else INFINITE if value in rules.infinite else ""
    low, high = known
    if masks and low <= MASKING:
        low = 0.0
    largest = max(abs(low), abs(high))
    if largest > rules.limit:
        return f"{value.name} reaches {largest:g}, more than {rules.limit:g}"
    if 0 < largest < FLOAT16.smallest:
        return f"{value.name} stays below {FLOAT16.smallest:.2g}, the smallest normal float16"
    return ""


def ranged(found: list[Choice]) -> Iterator[ir.Value]:
    """Yield the values whose ranges decide about the nodes that nothing else keeps float32, each once."""
    seen: dict[ir.Value, None] = {}
    for choice in found:
        if choice.half:
            seen.update(dict.fromkeys([*(value for _, value in choice.reads()), *choice.gives()]))
    for value in seen:
        producer = value.producer()
        if not is_constant(value) and (producer is None or producer.op_type not in BOUNDED):
            yield value
