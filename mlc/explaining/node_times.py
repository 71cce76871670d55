"""What a node takes alone, in float and as the quantized graph has it: what it costs in time to keep it float."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from mlc.errors import MlcError, TargetError, foreign
from mlc.explaining.activations import folded_into
from mlc.explaining.node_costs import first_batches
from mlc.explaining.nouns import NodeTime
from mlc.formats import QUANTIZERS
from mlc.fusion import infer_shapes, only_reader, producer
from mlc.rewriting.chosen import moving_values
from mlc.runtimes.opening import open_session, open_unoptimized
from mlc.statistics.taps import tapped, values_by_name
from mlc.types import Target

if TYPE_CHECKING:
    from mlc.statistics import Batches
    from mlc.types import Arrays
    from mlc.workspace import Workspace

SECONDS, BUDGET = 0.2, 15.0
"""For one node, and for all with their sessions and inputs."""

BLOCKS, FEWEST, MOST = 6, 3, 40
"""How often both forms take turns, and how many runs each has in a row then."""

CALL = """<ir_version: 8, opset_import: ["": 13]> agraph (float[1] x) => (float[1] y) { y = Identity(x) }"""
"""What takes no time but that of calling the runtime."""


def told_times(
    graphs: tuple[ir.Model, ir.Model], sites: Sequence[str], batches: Batches, workspace: Workspace, target: Target
) -> tuple[dict[str, NodeTime], tuple[str, ...]]:
    """Return what nodes take for one sample, the first sites first, and what of that is not known.

    Of runtimes other than onnxruntime nothing is: they lay out anew what a node alone reads and gives.
    """
    first = next(iter(first_batches(batches, 1)), None) if sites else None
    if first is None:
        return {}, ()
    if target.runtime != "onnxruntime":
        return {}, (f"what each node takes is told for onnxruntime alone, not for {target.runtime}",)
    try:
        return node_times(*graphs, sites, first.inputs, workspace, target=target), ()
    except MlcError as error:
        return {}, (f"what each node takes is not known: {error.message}",)


def node_times(
    before: ir.Model, after: ir.Model, sites: Sequence[str], inputs: Arrays, workspace: Workspace, *, target: Target
) -> dict[str, NodeTime]:
    """Time nodes of the main graph on a target, each taken out of both graphs, on what it reads for these inputs.

    ``before`` is the float graph and ``after`` what was made of it; values of one name are the same value. A node that
    reads the codes of one before it is given them, as in the whole model. Both forms run in blocks by turns in this
    process, with the runtime's optimizations, and what calling the runtime takes is subtracted: figures to compare with
    each other. Left out are sites that one of the graphs does not have, those that the float graph quantizes by itself,
    and the last ones where there are more than ``BUDGET`` is for. Raises TargetError where a graph does not run.
    """
    end = time.monotonic() + BUDGET
    before, after = before.clone(), after.clone()
    for model in (before, after):
        workspace.hold(model)
        infer_shapes(model)
    known = {str(value.name) for value in moving_values(before.graph)}
    graphs = (before, after)
    plain, quantized = map(values_by_name, graphs)
    both = [site for site in sites if site in plain and site in quantized]
    taken = {site: _taken(plain[site], quantized[site], graphs, known) for site in both}
    pairs = {site: pair for site, pair in taken.items() if len(pair) == len(graphs)}
    values = []
    for place, model in enumerate(graphs):
        reads = dict.fromkeys(name for pair in pairs.values() for name in pair[place].reads if name not in inputs)
        values.append({**inputs, **_computed(model, list(reads), inputs, workspace)})
    found: dict[str, NodeTime] = {}
    call = _call(workspace, target) if pairs else 0.0
    for site, pair in pairs.items():
        if time.monotonic() > end:
            break
        found[site] = NodeTime(*(max(each - call, 0.0) for each in _timed(pair, values, workspace, target)))
    return found


@dataclass(frozen=True)
class _Taken:
    """What gives a value from others of its graph, by name, as a model of its own."""

    model: ir.Model
    reads: tuple[str, ...]


def _taken(
    plain: ir.Value, quantized: ir.Value, graphs: tuple[ir.Model, ir.Model], known: Collection[str]
) -> list[_Taken]:
    """Take what makes a value out of both graphs, as far as values of the float graph, or codes that are handed on.

    Where its quantizer follows it, that is part of it, and in the float graph what the quantizer does too.
    """
    quantized, quantizer = _with_quantizer(quantized)
    folded = None if quantizer is None else folded_into(quantized, graphs[0])
    ends = (plain if folded is None else folded.outputs[0], quantized if quantizer is None else quantizer.outputs[0])
    reads = (tuple(dict.fromkeys(_read(value, known))) for value in (plain, quantized))
    found = zip(graphs, reads, ends, strict=True)
    taken = [_Taken(_alone(model, names, str(end.name)), names) for model, names, end in found if names]
    quantizes = taken and any(node.op_type in QUANTIZERS for node in taken[0].model.graph)
    return [] if quantizes else taken


def _alone(model: ir.Model, reads: Sequence[str], gives: str) -> ir.Model:
    graph = ir.convenience.extract(model.graph, reads, [gives])
    return ir.Model(graph, ir_version=model.ir_version, functions=tuple(model.functions.values()))


def _with_quantizer(value: ir.Value) -> tuple[ir.Value, ir.Node | None]:
    """Return what a node gives itself, of which a value may be what is dequantized, and its quantizer, if any."""
    dequantizer = producer(value, "DequantizeLinear")
    behind = None if dequantizer is None else producer(dequantizer.inputs[0], "QuantizeLinear")
    if behind is not None and behind.inputs[0] is not None:
        return behind.inputs[0], behind
    reader = only_reader(value)
    return value, reader if reader is not None and reader.op_type == "QuantizeLinear" else None


def _read(given: ir.Value, known: Collection[str]) -> Iterator[str]:
    """Yield the names of the nearest values that the float graph computes too, or of codes that are handed on."""
    seen, stack = set[ir.Value](), [given]
    while stack:
        maker = stack.pop().producer()
        for value in () if maker is None else maker.inputs:
            if value is None or value in seen:
                continue
            seen.add(value)
            if _handed_on(value) or (value.name in known and producer(value, "DequantizeLinear") is None):
                yield str(value.name)
            else:
                stack.append(value)


def _handed_on(codes: ir.Value) -> bool:
    """Whether codes are those of a node that reads codes itself, which the runtime makes one with its quantizer."""
    quantizer = producer(codes, "QuantizeLinear")
    maker = None if quantizer is None or quantizer.inputs[0] is None else quantizer.inputs[0].producer()
    return maker is not None and any(producer(value, "DequantizeLinear") is not None for value in maker.inputs)


def _computed(model: ir.Model, names: Sequence[str], inputs: Arrays, workspace: Workspace) -> dict[str, np.ndarray]:
    """Return values of a graph by name, for its inputs."""
    if not names:
        return {}
    with open_unoptimized(tapped(model, names, workspace), Target()) as session:
        return session.run(inputs, names)


def _timed(forms: Sequence[_Taken], values: Sequence[Arrays], workspace: Workspace, target: Target) -> list[float]:
    """Return the median milliseconds of a run of each form.

    The first third of each block does not count: threads wake up, and those of the other form go to sleep.
    """
    with ExitStack() as stack, foreign("timing a node alone", TargetError):
        pairs = zip(forms, values, strict=True)
        runs = [_opened(form, given, workspace, target, stack) for form, given in pairs]
        slowest = max(max(map(_milliseconds, runs)) for _ in range(FEWEST))
        count = int(np.clip(SECONDS * 1e3 / (len(runs) * BLOCKS * slowest), FEWEST, MOST))
        blocks = [[[_milliseconds(run) for _ in range(count)][count // 3 :] for run in runs] for _ in range(BLOCKS)]
    return [float(np.median([block[place] for block in blocks])) for place in range(len(runs))]


def _call(workspace: Workspace, target: Target) -> float:
    """Return the milliseconds of a run of a model that computes nothing."""
    model = ir.from_onnx_text(CALL)
    return _timed([_Taken(model, ("x",))], [{"x": np.zeros(1, np.float32)}], workspace, target)[0]


def _opened(
    form: _Taken, values: Arrays, workspace: Workspace, target: Target, stack: ExitStack
) -> Callable[[], Sequence[Any]]:
    """Return what runs once what was taken out."""
    session = stack.enter_context(open_session(workspace.save(form.model, "alone"), target))
    return session.timed({name: values[name] for name in form.reads})


def _milliseconds(run: Callable[[], Sequence[Any]]) -> float:
    begun = time.perf_counter()
    run()
    return (time.perf_counter() - begun) * 1e3
