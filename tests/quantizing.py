"""Small graphs as ONNX text, quantized as the line does it, and run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx import numpy_helper, parser

from mlc.data import Batch
from mlc.graph_pass import Change, Context
from mlc.plan import plan_for
from mlc.statistics import CollectedStatistics, collect
from mlc.types import Capabilities, Plan
from mlc.workspace import Workspace
from passes.int8_static import Int8Static

ANY_CPU = Capabilities("any x86 or ARM CPU")
VNNI = Capabilities("a CPU with VNNI", avx2=True, vnni=True)


def build(text, weights=None, opset=20):
    """The graph of a text, with arrays as initializers, shapes inferred."""
    model = parser.parse_model(f'<ir_version: 9, opset_import: ["" : {opset}]>\n{text}')
    for name, array in (weights or {}).items():
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
    return ir.from_proto(onnx.shape_inference.infer_shapes(model))


def weights(seed, **shapes):
    """Normal float32 arrays by name."""
    generator = np.random.default_rng(seed)
    return {name: (0.3 * generator.normal(size=shape)).astype(np.float32) for name, shape in shapes.items()}


def batches(*inputs, first=0):
    """A re-iterable of batches from dicts of arrays."""
    found = []
    for arrays in inputs:
        count = len(next(iter(arrays.values())))
        found.append(Batch(arrays, None, count, first, np.arange(first, first + count)))
        first += count
    return found


def whole_batches(*inputs):
    """A re-iterable of batches from dicts of arrays, some of which, like a condition, do not stack samples."""
    found, first = [], 0
    for arrays in inputs:
        count = max(len(array) for array in arrays.values() if array.ndim)
        found.append(Batch(arrays, None, count, first, np.arange(first, first + count)))
        first += count
    return found


def moved_into(model, graph, *names):
    """The model, with initializers in the branch or body of this name."""
    (inner,) = (each for each in model.graphs() if each.name == graph)
    for name in names:
        inner.register_initializer(model.graph.initializers.pop(name))
    return model


def samples(model, seed=0, count=3):
    """Batches of normal samples for a model with one fixed float input."""
    (value,) = model.graph.inputs
    generator = np.random.default_rng(seed)
    shape = [8, *value.shape[1:]] if isinstance(value.shape[0], ir.SymbolicDim) else list(value.shape)
    return batches(*({value.name: (generator.normal(size=shape) + 0.2).astype(np.float32)} for _ in range(count)))


@dataclass
class Quantized:
    """What came out, and what it was made with."""

    before: ir.Model
    model: ir.Model
    change: Change
    plan: Plan
    statistics: CollectedStatistics
    data: list[Batch]

    def ops(self):
        """How often each operator stands in the graph."""
        return count_ops(self.model)

    def fused_ops(self, folder):
        """How often each operator stands in the graph after the runtime's optimizations, layout changes aside."""
        return count_ops(self.optimized(folder))

    def optimized(self, folder):
        """The graph after the runtime's optimizations, layout changes aside."""
        path = folder / "optimized.onnx"
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3
        settings.optimized_model_filepath = str(path)
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        onnxruntime.InferenceSession(ir.to_proto(self.model).SerializeToString(), settings)
        return ir.load(path)

    def nodes(self, op):
        return [node for node in self.model.graph if node.op_type == op]

    def array(self, name):
        tensor = self.model.graph.initializers[name].const_value
        assert tensor is not None
        return tensor.numpy()

    def sqnr(self, optimize=True):
        """The lowest ratio of any output over the calibration data, in dB."""
        ratios = []
        for batch in self.data:
            expected, actual = run(self.before, batch.inputs), run(self.model, batch.inputs, optimize=optimize)
            for name, values in expected.items():
                noise = ((actual[name] - values) ** 2).sum()
                ratios.append(10 * np.log10((values**2).sum() / max(noise, 1e-30)))
        return min(ratios)


def count_ops(model):
    counts: dict[str, int] = {}
    for node in model.graph:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return counts


def run(model, inputs, *, optimize=True):
    """Outputs by name from onnxruntime."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    if not optimize:
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), settings)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def collected(model, subject, data):
    with Workspace() as workspace:
        return collect(model, subject.needs(model), data, workspace)


def named_values(model):
    values = [value for node in model.graph for value in node.outputs if value.name]
    return [*values, *model.graph.inputs, *model.graph.initializers.values()]


def unread(model):
    return {value.name for value in named_values(model) if not (value.uses() or value.is_graph_output())}


def assert_tidy(model, before):
    """Every name once, and nothing that nobody reads but what nobody read before."""
    names = [value.name for value in named_values(model)]
    assert len(names) == len(set(names))
    assert unread(model) <= unread(before)


def quantized(model, data=None, capabilities=ANY_CPU, plan=None, allow=lambda site: True, **options):
    """The model after int8-static, checked by ONNX's checker."""
    subject = Int8Static(**options)
    data = samples(model) if data is None else data
    statistics = collected(model, subject, data)
    plan = plan_for(model, [subject], Context(capabilities)) if plan is None else plan
    after = model.clone()
    change = subject.apply(after, Context(capabilities, plan, statistics, allow))
    onnx.checker.check_model(ir.to_proto(after), full_check=True)
    assert_tidy(after, model)
    return Quantized(model, after, change, plan, statistics, data)
