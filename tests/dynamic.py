"""Small graphs whose products are quantized as they come, checked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from mlc.graph_pass import Context
from mlc.statistics import CollectedStatistics
from mlc.types import Plan
from passes.int8_dynamic import Int8Dynamic
from tests.quantizing import ANY_CPU, Quantized, assert_tidy, build, collected, samples, weights

WITH_LSTM = replace(ANY_CPU, kernels=tuple(Int8Dynamic.may_use_kernels))
"""A CPU on which onnxruntime's own LSTM was seen."""

TWO = """agraph (float[n,24] x) => (float[n,7] y, float[n,5] z) {
    y = MatMul(x, w)
    a = MatMul(x, v)
    z = Add(b, a)
}"""

TABLE = "agraph (int64[n,m] ids) => (float[n,m,64] e) {\n e = Gather(w, ids)\n}"

INSIDE = """agraph (float[n,8] x, bool c) => (float[n,8] z, float[n,8] o) {
    z = If(c) <
        then_branch = yes () => (float[n,8] p) { a = MatMul(x, w) r = Relu(a) b = MatMul(x, v) p = Add(r, b) },
        else_branch = no () => (float[n,8] q) { q = Neg(x) }
    >
    o = MatMul(x, w)
}"""


def dynamic(model, data=None, capabilities=ANY_CPU, plan=None, allow=lambda site: True, **options):
    """The model after int8-dynamic, checked by ONNX's checker."""
    after, plan, subject = model.clone(), Plan() if plan is None else plan, Int8Dynamic(**options)
    data = samples(model) if data is None else data
    statistics = collected(model, subject, data) if subject.calibrates else None
    change = subject.apply(after, Context(capabilities, plan, statistics, allow))
    onnx.checker.check_model(ir.to_proto(after), full_check=True)
    assert_tidy(after, model)
    return Quantized(model, after, change, plan, statistics or CollectedStatistics({}), data)


def refusals(model, capabilities=ANY_CPU):
    """Where nothing is quantized: the sites that were looked at, and why they stay float."""
    change = Int8Dynamic().apply(model.clone(), Context(capabilities))
    assert change.sites == ()
    return [(refusal.site, refusal.reason) for refusal in change.refused]


def bytes_of(model, dtype=ir.DataType.INT8):
    """The elements of all initializers of a type."""
    held = [value.const_value for value in model.graph.initializers.values() if value.dtype == dtype]
    return sum(tensor.size for tensor in held)


SIZES = {"w": (20, 6), "r": (20, 5), "b": (40,), "h": (3, 5), "c": (3, 5), "p": (15,)}


def lstm(attributes="", inputs="x, w, r, b", outputs="y, yh, yc", directions=1):
    """One LSTM of 6 inputs and 5 hidden, over sequences of 7, a batch of 3."""
    shapes = {name: (directions, *dims) for name, dims in SIZES.items() if name in inputs.split(", ")}
    shown = {
        "y": f"float[7,{directions},3,5] y",
        "yh": f"float[{directions},3,5] yh",
        "yc": f"float[{directions},3,5] yc",
    }
    results = ", ".join(shown[name] for name in outputs.split(", ") if name)
    text = f"agraph (float[7,3,6] x) => ({results}) {{\n {outputs} = LSTM<hidden_size = 5{attributes}>({inputs})\n}}"
    arrays = weights(0, **shapes)
    return build(text, arrays | {"lengths": np.array([7, 2, 4], np.int32)} if "lengths" in inputs else arrays, 14)


LSTMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "without a bias": {"inputs": "x, w, r"},
    "reverse": {"attributes": ', direction = "reverse"'},
    "both ways": {"attributes": ', direction = "bidirectional"', "directions": 2},
    "with all that it may read": {"inputs": "x, w, r, b, lengths, h, c, p"},
    "clipped": {"attributes": ", clip = 0.5"},
    "coupled": {"attributes": ", input_forget = 1"},
    "other functions": {"attributes": ', activations = ["HardSigmoid", "Tanh", "Softsign"]'},
    "its state alone": {"outputs": ", yh"},
}
"""Forms of an LSTM: what ``lstm`` is given for each."""
