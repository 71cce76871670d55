"""Numbers of 16 bits: what they hold, and weights that are stored as such and computed in float32."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mlc.formats import site_of
from mlc.fusion import Names, array_of, is_constant, note_constants, walk
from mlc.graph_pass import Change, Refusal
from passes._half_sensitive import QUANTIZES, SCALES
from passes._stored import matrix_readers

if TYPE_CHECKING:
    from mlc.types import Array

SUBNORMAL_SHARE = 0.1
"""The share of a weight's elements that may lie below the smallest normal number, where bits are lost."""

STORED_FROM = 1024
"""Weights of fewer bytes are not worth a Cast."""


@dataclass(frozen=True)
class Half:
    """A format of 16 bits: its name, its dtype, its largest finite and its smallest normal number.

    ``whole`` is the number up to which it holds every whole one.
    """

    name: str
    dtype: ir.DataType
    highest: float
    smallest: float
    whole: int


FLOAT16 = Half("float16", ir.DataType.FLOAT16, 65504.0, 2.0**-14, 2**11)
BFLOAT16 = Half("bfloat16", ir.DataType.BFLOAT16, (2 - 2.0**-7) * 2.0**127, 2.0**-126, 2**8)


def too_large(array: Array, half: Half) -> float | None:
    """Return the finite element of largest magnitude where that is more than the format holds, else None."""
    finite = array[np.isfinite(array)]
    if not finite.size:
        return None
    largest = float(finite[np.abs(finite).argmax()])
    return largest if abs(largest) > half.highest else None


def too_small(array: Array, half: Half) -> float:
    """Return the share of the elements other than 0 that lie below the smallest normal number, 0 where few do."""
    magnitudes = np.abs(array[array != 0])
    share = float((magnitudes < half.smallest).mean()) if magnitudes.size else 0.0
    return share if share > SUBNORMAL_SHARE else 0.0


def number_obstacle(array: Array, half: Half) -> str:
    """Return why the elements of a constant do not fit into a format, or nothing."""
    largest = too_large(array, half)
    if largest is not None:
        return f"holds {largest:g}, and {half.name} ends at {half.highest:g}"
    share = too_small(array, half)
    if share:
        return f"has {share:.0%} of its elements below {half.smallest:.2g}, the smallest normal {half.name}"
    whole = array[np.isfinite(array)]
    if bool((whole == np.rint(whole)).all()) and bool((rounded(whole, half) != whole).any()):
        return f"holds whole numbers up to {np.abs(whole).max():g}, and {half.name} each only up to {half.whole:,}"
    return ""


def rounded(array: Array, half: Half) -> Array:
    """Return an array in a format of 16 bits, each element rounded to the nearest."""
    stored: Array = np.ascontiguousarray(array).reshape(array.shape).astype(half.dtype.numpy())
    return stored


def store_weights(model: ir.Model, permitted: Callable[[str], bool], half: Half) -> Change:
    """Store large float32 weights in 16 bits, each once, with a Cast to float32 at the head of its graph.

    The sites are the nodes that read them, through Transposes too. Refused are weights that a caller may override or
    that are outputs, those that lose more than the bits of their mantissa, those that a node reads which is not
    permitted, and the scales of quantized values.
    """
    note_constants(model)
    names = Names.of(model)
    site_of_node = {node: f"{prefix}{site_of(node)}" for prefix, graph in walk(model) for node in graph}
    readers = {
        value: dict.fromkeys(site_of_node[node] for node, _ in matrix_readers(value))
        for graph in model.graphs()
        for value in _weights(graph)
    }
    allowed = {site for site in dict.fromkeys(chain.from_iterable(readers.values())) if permitted(site)}
    sites: dict[str, None] = {}
    refused: dict[str, str] = {}
    casts: dict[ir.Graph, list[ir.Node]] = defaultdict(list)
    for value, reading in readers.items():
        taken = [site for site in reading if site in allowed]
        reason = _storage_obstacle(value, half, [site for site in reading if site not in allowed])
        if reason:
            refused.update(dict.fromkeys(taken, reason))
            continue
        graph = value.graph
        assert isinstance(graph, ir.Graph)
        casts[graph].append(_stored(graph, value, names, half))
        sites.update(dict.fromkeys(taken))
    for graph, nodes in casts.items():
        graph.insert_before(graph[0], nodes)
    kept = (Refusal(site, reason) for site, reason in refused.items() if site not in sites)
    told = f"weights are stored in {half.name} and computed in float32: the file is smaller, and is no faster for it"
    return Change(tuple(sites), tuple(kept), headline=told)


def _weights(graph: ir.Graph) -> Iterator[ir.Value]:
    """Yield the large float32 constants that a graph holds and nodes read."""
    computed = (output for node in graph if node.op_type == "Constant" for output in node.outputs)
    for value in (*graph.initializers.values(), *computed):
        tensor = value.const_value
        if tensor is not None and tensor.dtype == ir.DataType.FLOAT and tensor.nbytes >= STORED_FROM and value.uses():
            yield value


def _storage_obstacle(value: ir.Value, half: Half, others: Sequence[str]) -> str:
    """Return why a weight is not stored, or nothing; ``others`` are nodes that read it and have to stay float."""
    name = value.name
    if others:
        return f"its weight {name} is read by {others[0]} too, which stays float"
    if not is_constant(value):
        return f"a caller may override its weight {name}"
    if value.is_graph_output():
        return f"its weight {name} is an output of the model"
    if any(use.idx in SCALES.get(use.node.op_type, ()) for use in value.uses()):
        return QUANTIZES
    problem = number_obstacle(array_of(value), half)
    return f"its weight {name} {problem}" if problem else ""


def _stored(graph: ir.Graph, value: ir.Value, names: Names, half: Half) -> ir.Node:
    """Put a Cast of a stored weight in the place of a weight, and return it; it gives the weight's name."""
    name = value.name or ""
    stored = half_constant(names.free(f"{name}.{half.name}"), array_of(value), half)
    cast = ir.node("Cast", [stored], {"to": int(ir.DataType.FLOAT)}, name=names.free(f"{name}.Cast"))
    wide = cast.outputs[0]
    wide.type, wide.shape = ir.TensorType(ir.DataType.FLOAT), stored.shape
    value.replace_all_uses_with(wide)
    producer = value.producer()
    if producer is not None:
        graph.remove(producer, safe=True)
    else:
        graph.initializers.pop(name)
    wide.name = name
    graph.register_initializer(stored)
    return cast


def half_constant(name: str, array: Array, half: Half) -> ir.Value:
    """Return a value that holds an array in 16 bits, rounded to nearest."""
    tensor = ir.tensor(rounded(array, half), name=name)
    return ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(half.dtype), const_value=tensor)
