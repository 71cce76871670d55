"""Which nodes of a graph can be computed in static int8 so that it pays, and why the others cannot.

An integer kernel needs its inputs as codes and writes codes; whatever stands between two of them without an integer
form costs a conversion on either side. So the choice is one walk down (where do codes come from?) and one walk up (does
anybody want them?).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from mlc.formats.nodes import (
    Weight,
    averages_space,
    clips_around_zero,
    constant,
    integers,
    is_mask,
    number,
    product_of,
    text,
    weight_obstacle,
    weight_of,
)
from mlc.formats.operators import WEIGHTED
from mlc.formats.tables import is_large_table, takes_rows

if TYPE_CHECKING:
    import onnx_ir as ir

INT8_STATIC = "int8-static"

COMBINING = frozenset({"Add", "Concat"})
AVERAGING = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean"})
FOLDING = frozenset({"Relu", "Clip"})
MOVING = frozenset({"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "DepthToSpace", "Resize"})
PASSING = MOVING | {"MaxPool"}
"""Only move or select: input and output share scale and zero point."""

KEPT_FLOAT = {
    "Softmax": "its small outputs would all become 0",
    "LogSoftmax": "its small outputs would all become 0",
    "Sigmoid": "8 bits are too coarse where it saturates",
    "LayerNormalization": "normalizations lose too much in 8 bits",
    "RMSNormalization": "normalizations lose too much in 8 bits",
    "InstanceNormalization": "normalizations lose too much in 8 bits",
    "GroupNormalization": "normalizations lose too much in 8 bits",
    "BatchNormalization": "normalizations lose too much in 8 bits; fold it into a Conv",
    "ConvTranspose": "the runtime has no integer kernel for it",
}

KEPT_BY_PLAN = "kept float by the plan"


@dataclass(frozen=True)
class Choice:
    """One node: whether it becomes int8, and why or why not."""

    node: ir.Node
    int8: bool
    reason: str

    @property
    def weighted(self) -> bool:
        """Whether the node has a weight to quantize."""
        return self.node.op_type in WEIGHTED

    @property
    def refused(self) -> bool:
        """Whether a node that has an int8 form, or that people expect to have one, stays float.

        Mere shapes are not worth a word.
        """
        expected = WEIGHTED | COMBINING | AVERAGING | FOLDING | {"MaxPool"} | KEPT_FLOAT.keys()
        return not self.int8 and self.node.op_type in expected and self.node.domain in ("", "ai.onnx")


def static_choices(
    graphs: Iterable[ir.Graph], permitted: Callable[[ir.Node], bool] = lambda _: True
) -> tuple[Choice, ...]:
    """Return the choice for every node of some graphs of a model, in their order.

    Each graph is judged by itself: what it takes from around it comes as floats, and what it gives leaves as floats.
    ``permitted(node)`` may keep a node float that could be int8, and is asked once for each; its neighbours are then
    chosen accordingly.
    """
    permitted = cache(permitted)
    walks = [_walked([node for node in graph if node.op_type != "Constant"], permitted) for graph in graphs]
    stored = {weight.value for walk in walks for weight in walk.by_rows()}
    known = {node for walk in walks for node in walk.reasons}
    for walk in walks:
        walk.take_tables(stored, known)
    return tuple(Choice(node, node in walk.chosen, reason) for walk in walks for node, reason in walk.reasons.items())


def _walked(nodes: list[ir.Node], permitted: Callable[[ir.Node], bool]) -> _Walk:
    """Walk down and up until nothing is dropped any more.

    A node that nobody below wants in int8 is no source of codes either, so the walks are repeated without it.
    """
    dropped: dict[ir.Node, str] = {}
    while True:
        walk = _Walk(permitted, dropped)
        for node in nodes:
            walk.down(node)
        for node in reversed(nodes):
            walk.up(node)
        if walk.dropped == dropped:
            return walk
        dropped = walk.dropped


class _Walk:
    """The state of the two walks.

    ``codes`` are values that an int8 node writes as codes; ``firm`` those of them that are codes whether wanted or not
    (a matrix product can also write float, a convolution cannot).
    """

    def __init__(self, permitted: Callable[[ir.Node], bool], dropped: dict[ir.Node, str]) -> None:
        self.permitted = permitted
        self.dropped = dict(dropped)
        self.chosen: dict[ir.Node, None] = {}
        self.reasons: dict[ir.Node, str] = {}
        self.codes: set[ir.Value] = set()
        self.firm: set[ir.Value] = set()

    def down(self, node: ir.Node) -> None:
        reason = self.dropped.get(node) or self.obstacle(node)
        if not reason and not self.permitted(node):
            reason = KEPT_BY_PLAN
        self.reasons[node] = reason
        if reason:
            return
        self.chosen[node] = None
        output = node.outputs[0]
        self.codes.add(output)
        if node.op_type == "Conv" or any(value in self.firm for value in data_inputs(node)):
            self.firm.add(output)

    def obstacle(self, node: ir.Node) -> str:
        """Return why a node cannot be int8 as far as can be seen from above, or nothing."""
        kind = node.op_type
        if node.domain not in ("", "ai.onnx"):
            return f"{node.domain}.{kind} has no standard integer form"
        if kind in WEIGHTED:
            return weight_obstacle(node) or _quantized_around(node)
        if kind in KEPT_FLOAT:
            return KEPT_FLOAT[kind]
        if kind not in COMBINING | AVERAGING | FOLDING | PASSING:
            return "it has no integer form that pays"
        problem = _form_obstacle(node)
        if problem or kind in FOLDING or product_of(node) in self.chosen:
            return problem
        return self.input_obstacle(node)

    def input_obstacle(self, node: ir.Node) -> str:
        """Return which input does not come as codes, or nothing.

        A Concat takes strangers beside codes: one small quantizer before it is cheaper than a large one behind it.
        """
        inputs = [value for value in node.inputs if value is not None] if node.op_type in COMBINING else node.inputs[:1]
        if any(constant(value) is not None for value in inputs):
            if node.op_type not in COMBINING:
                return "its input is a constant"
            mask = any(is_mask(value) for value in inputs)
            return "it adds a mask, whose range would swallow the rest" if mask else "one side is a constant"
        if any(use.node.op_type == "Softmax" for use in node.outputs[0].uses()) and node.op_type == "Add":
            return "it adds a mask before a Softmax"
        if node.op_type == "Concat" and any(value in self.firm for value in inputs):
            return ""
        strangers = [value.name for value in inputs if value is not None and value not in self.codes]
        return f"{strangers[0]} is not computed in int8" if strangers else ""

    def up(self, node: ir.Node) -> None:
        if node not in self.chosen:
            return
        if node.op_type in WEIGHTED or product_of(node) in self.chosen:
            role = "constant weight" if node.op_type in WEIGHTED else "the bias of a product"
            self.reasons[node] = f"{role} with an integer kernel"
            return
        wanted = self.wanted(node.outputs[0])
        if node.op_type in FOLDING:
            self.judge_folding(node, wanted=wanted)
        elif wanted or (node.op_type not in MOVING and all(value in self.firm for value in data_inputs(node))):
            self.reasons[node] = "between integer kernels"
        else:
            self.drop(node, "nothing after it takes codes")

    def judge_folding(self, node: ir.Node, *, wanted: bool) -> None:
        """Fold where codes are made anyway; behind a float node only where nobody else wants the exact value.

        The runtime looks through a Relu or Clip behind a product for a quantizer, and computes float without one.
        """
        source, output = node.inputs[0], node.outputs[0]
        assert source is not None
        only_wanted = wanted and not output.is_graph_output() and all(self.takes_codes(use) for use in output.uses())
        needed = wanted or clamps_product(node)
        if source in self.firm or (source in self.codes and needed) or only_wanted:
            self.reasons[node] = "folded into the quantizer behind it"
        else:
            self.drop(node, "nothing after it takes codes")

    def wanted(self, value: ir.Value) -> bool:
        return any(self.takes_codes(use) for use in value.uses())

    def takes_codes(self, use: tuple[ir.Node, int]) -> bool:
        node, index = use
        return node in self.chosen and carries(node, index)

    def by_rows(self) -> list[Weight]:
        """Return the weights that are quantized by rows."""
        return [weight for node in self.chosen if (weight := weight_of(node)) and weight.layout.axis == 0]

    def take_tables(self, stored: Collection[ir.Value], known: Collection[ir.Node]) -> None:
        """Let a Gather read codes of rows: of a weight that is quantized so anyway, or of a large table of its own.

        Nodes that are not ``known``, in loops, stay as they are: what one of them reads would be stored twice.
        """
        for node in self.reasons:
            table = node.inputs[0] if takes_rows(node) else None
            if table is None:
                continue
            shares = table in stored
            own = is_large_table(table) and all(reader in known for reader, _ in table.uses())
            if (shares or own) and self.permitted(node):
                self.chosen[node] = None
                self.reasons[node] = "its table is the weight of a product" if shares else "a large table"

    def drop(self, node: ir.Node, reason: str) -> None:
        del self.chosen[node]
        self.reasons[node] = self.dropped[node] = reason


def quantized_before(node: ir.Node) -> str:
    """Return which input of a product comes from codes that the model has by itself, or nothing."""
    source = node.inputs[0]
    above = None if source is None else source.producer()
    while above is not None and above.op_type in PASSING | FOLDING and above.inputs[0] is not None:
        above = above.inputs[0].producer()
    if source is not None and above is not None and above.op_type == "DequantizeLinear":
        return f"its input {source.name} is quantized already"
    return ""


def _quantized_around(node: ir.Node) -> str:
    """Return which side of a product the model quantizes by itself, or nothing."""
    before = quantized_before(node)
    if before:
        return before
    below = [node.outputs[0]]
    while below:
        value = below.pop()
        for reader, _ in value.uses():
            if reader.op_type == "QuantizeLinear":
                return f"its output {value.name} is quantized already"
            if reader.op_type in PASSING | FOLDING:
                below.append(reader.outputs[0])
    return ""


def _form_obstacle(node: ir.Node) -> str:
    """Return what a node's attributes, constants or outputs ask for that the integer kernel cannot do, or nothing."""
    if node.op_type == "Clip" and not clips_around_zero(node):
        return "its bounds are not constants around 0"
    if node.op_type == "ReduceMean" and not averages_space(node):
        return "it does not average over all of the image"
    if node.op_type == "AveragePool" and (obstacle := average_obstacle(node)):
        return obstacle
    if node.op_type == "Resize" and text(node, "mode", "nearest") != "nearest":
        return "it interpolates, and the integer kernel only copies"
    if node.op_type == "Resize" and text(node, "coordinate_transformation_mode", "") == "tf_crop_and_resize":
        return "it fills in a number that its input need not have"
    return "its indices are asked for too" if len(node.outputs) > 1 else ""


def average_obstacle(node: ir.Node) -> str:
    """Return why no integer kernel computes the means of an AveragePool, or nothing."""
    if any(step != 1 for step in integers(node, "dilations")):
        return "the integer kernel knows no dilation"
    if number(node, "ceil_mode", 0) and number(node, "count_include_pad", 0):
        return "the integer kernel counts otherwise where a window hangs over the end"
    return ""


def clamps_product(node: ir.Node) -> bool:
    """Whether a Relu or Clip is all that reads its input, and somebody reads it in turn."""
    source = node.inputs[0]
    lone = source is not None and len(source.uses()) == 1 and not source.is_graph_output()
    return node.op_type in FOLDING and lone and bool(node.outputs[0].uses())


def carries(node: ir.Node, index: int) -> bool:
    """Whether the input at ``index`` of an int8 node is an activation that comes as codes.

    A Gather reads a table, an Add behind a MatMul a sum of 32 bits.
    """
    if node.op_type in COMBINING:
        return product_of(node) is None
    return index == 0 and node.op_type != "Gather"


def data_inputs(node: ir.Node) -> list[ir.Value]:
    """Return the inputs of an int8 node that come as codes."""
    return [value for index, value in enumerate(node.inputs) if value is not None and carries(node, index)]


def int8_nodes(choices: tuple[Choice, ...]) -> Iterator[ir.Node]:
    """Yield the nodes that become int8, in the graph's order."""
    return (choice.node for choice in choices if choice.int8)
