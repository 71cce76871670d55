"""Rewriting and verifying a graph of thousands of nodes and hundreds of megabytes of weights: seconds and memory."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.common import (
    INCONCLUSIVE,
    MET,
    MISSED,
    Claim,
    Progress,
    Result,
    Summary,
    Table,
    fresh_process,
    result,
    run,
    seconds_text,
)

WORKER = "benchmarks.big_graph_worker"
ROUNDS = 3
BLOCKS, WIDTH = 125, 320
"""125 blocks of 24 nodes; two weights of 320 by 1,280 in each: 3,000 nodes and 410 MB in float32."""

QUICK_BLOCKS, QUICK_WIDTH = 4, 32
SECONDS, TIMES = 60.0, 2.5
"""What rewriting and verifying may take, in seconds on two cores, and in times the weights for the whole process."""

MATRICES = 2
WIDER = 4


def measure(quick: bool, progress: Progress) -> Result:
    """Rewrite the graph in fresh processes; the model is written before, so that making it does not count."""
    blocks, width = (QUICK_BLOCKS, QUICK_WIDTH) if quick else (BLOCKS, WIDTH)
    rounds = 1 if quick else ROUNDS
    kept = []
    with tempfile.TemporaryDirectory(prefix="mlc-big-graph-") as name:
        path = Path(name) / "model.onnx"
        progress("writing the model")
        onnx.save(model(blocks, width), path, save_as_external_data=True, location="model.onnx.data")
        for number in range(rounds):
            progress(f"round {number + 1} of {rounds}")
            kept.append(fresh_process(WORKER, {"path": str(path), "width": width}))
    settings = {"rounds": rounds, "blocks": blocks, "width": width, "passes": "the default ones"}
    weights = blocks * MATRICES * 4 * width * width * WIDER
    return result("big_graph", settings, weights=weights, rounds=kept)


def model(blocks: int, width: int) -> onnx.ModelProto:
    """Return blocks of a transformer's second half as an exporter without optimizations writes them.

    Layer normalization and GELU spelled out, a scale per channel, transposes that undo each other, copies, casts.
    """
    made = Spelled(width)
    value = "x"
    for _ in range(blocks):
        value = made.block(value)
    made.nodes[-1].output[0] = "y"
    dims = ["batch", "seq", width]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name in ("x", "y")]
    graph = helper.make_graph(made.nodes, "blocks", ports[:1], ports[1:], made.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)


class Spelled:
    """Nodes and weights as they come, named by their number."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def node(self, op: str, *inputs: str, **attributes: object) -> str:
        """Add a node and return its output."""
        name = f"value_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    def constant(self, array: np.ndarray) -> str:
        """Add a weight and return its name."""
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def vector(self, *, around: float, spread: float) -> str:
        """Add a random weight for each channel."""
        return self.constant(np.asarray(around + spread * self.rng.standard_normal(self.width), dtype=np.float32))

    def number(self, value: float) -> str:
        """Add a number."""
        return self.constant(np.array(value, dtype=np.float32))

    def linear(self, value: str, rows: int, columns: int) -> str:
        """Add a product with a random matrix, and a bias."""
        matrix = self.rng.standard_normal((rows, columns), dtype=np.float32) / np.sqrt(np.float32(rows))
        bias = self.rng.standard_normal(columns, dtype=np.float32)
        return self.node("Add", self.node("MatMul", value, self.constant(matrix)), self.constant(bias))

    def block(self, x: str) -> str:
        """Add 24 nodes."""
        axes = self.constant(np.array([-1], dtype=np.int64))
        centred = self.node("Sub", x, self.node("ReduceMean", x, axes))
        variance = self.node("ReduceMean", self.node("Pow", centred, self.number(2.0)), axes)
        normal = self.node("Div", centred, self.node("Sqrt", self.node("Add", variance, self.number(1e-5))))
        scaled = self.node("Mul", normal, self.vector(around=1.0, spread=0.1))
        value = self.node("Add", scaled, self.vector(around=0.0, spread=0.1))
        value = self.node("Transpose", self.node("Transpose", value, perm=[0, 2, 1]), perm=[0, 2, 1])
        value = self.linear(value, self.width, WIDER * self.width)
        inner = self.node("Erf", self.node("Div", value, self.number(2.0**0.5)))
        value = self.node("Mul", value, self.node("Add", inner, self.number(1.0)))
        value = self.node("Mul", value, self.number(0.5))
        value = self.linear(self.node("Identity", value), WIDER * self.width, self.width)
        value = self.node("Cast", self.node("Mul", value, self.vector(around=0.1, spread=0.02)), to=TensorProto.FLOAT)
        return self.node("Add", x, value)


def summary(measured: Result) -> Summary:
    """Set the seconds and the largest memory of the rounds beside what they may be."""
    weights, rounds = measured["weights"], measured["rounds"]
    seconds, used = ([one[key] for one in rounds] for key in ("seconds", "processor_seconds"))
    peak = max(one["peak"] for one in rounds)
    claims = (
        Claim(
            f"rewriting and verifying {rounds[0]['nodes']:,} nodes and {weights / 1e6:.0f} MB: under {SECONDS:g} s",
            f"{seconds_text(seconds)} s, of a processor {seconds_text(used)} s",
            outcome(max(seconds), max(used)),
        ),
        Claim(
            f"memory of the whole process: under {TIMES} times the weights",
            f"{peak / weights:.2f} times",
            MET if peak < TIMES * weights else MISSED,
        ),
    )
    rows = []
    for index, step in enumerate(rounds[0]["steps"]):
        each = [one["steps"][index] for one in rounds]
        times = [seconds_text([one[key] for one in each]) for key in ("seconds", "verify_seconds")]
        rows.append((step["name"], str(step["sites"]), *times))
    table = Table("Passes over it", ("pass", "sites", "rewriting, s", "verifying, s"), tuple(rows))
    loaded = max(one["loaded"] for one in rounds) / weights
    note = f"{rounds[0]['nodes']:,} nodes became {rounds[0]['nodes_after']:,}. "
    note += f"Before rewriting, with the answers of the graph, the process had held {loaded:.2f} times the weights."
    return Summary(claims, (table,), (note,))


def outcome(seconds: float, used: float) -> str:
    """Judge the time: where the processor's alone would have been met, something else took the cores."""
    if seconds < SECONDS:
        return MET
    return INCONCLUSIVE if used < SECONDS else MISSED


if __name__ == "__main__":
    run(measure, summary)
