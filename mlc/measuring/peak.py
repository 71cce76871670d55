"""What the machine can compute: large products of matrices, timed as models are, in fresh processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mlc.errors import TargetError
from mlc.measuring.jobs import job, run_job
from mlc.measuring.latency import bench
from mlc.measuring.nouns import Arithmetic, Candidate, Trial
from mlc.runtimes.opening import without_spinning
from mlc.types import Target

SIZES = (512, 1024, 2048, 4096)
"""Rows and columns of the products, those of each size timed in a process of its own.

Many threads, and GPUs, need a large one; a small one finds a moment in which nothing else runs.
"""

ALWAYS = 2
"""So many sizes are timed; the larger ones as long as a run of the one before was over in ``QUICK`` seconds."""

QUICK = 0.02

DEPTH = 4
"""Products in a row, from a column and to a single number: what a device is sent and sends back takes no time."""

SECONDS = 0.5
"""For each size; a fourth more warms up."""

OPERATIONS = 2
"""Of one multiply-add."""

NANOSECONDS = 1e9
MILLISECONDS = 1e3


def with_shares(trials: Sequence[Trial], multiply_adds: Mapping[str, int], target: Target) -> tuple[Trial, ...]:
    """Return the trials with their share of the target's peak, where their multiply-adds and their latency are known.

    ``multiply_adds`` are those of one run by the candidate's name. Nothing is measured where none is known; where the
    target does not run the product, a note of the first trial says so.
    """
    if not any(trial.latency and multiply_adds.get(trial.candidate.name) for trial in trials):
        return tuple(trials)
    try:
        peak = measure_peak(target)
    except TargetError as refused:
        note = f"the target's peak could not be measured: {refused.message}"
        return (replace(trials[0], notes=(*trials[0].notes, note)), *trials[1:])
    return tuple(_with_share(trial, multiply_adds.get(trial.candidate.name, 0), peak, target) for trial in trials)


def measure_peak(target: Target) -> float:
    """Return the most float32 operations a second that products of large matrices reached in any run.

    It runs on the target with the options of timed models. Raises TargetError where the target does not run it.
    """
    best = 0.0
    for place, size in enumerate(SIZES, 1):
        seconds = _fastest(size, target)
        best = max(best, OPERATIONS * DEPTH * size**3 / seconds)
        if place >= ALWAYS and seconds > QUICK:
            break
    return best


def _fastest(size: int, target: Target) -> float:
    """Return the seconds of the fastest run of products in a row, whose weight a runtime may lay out anew."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((size, 1), dtype=np.float32)
    constants = {"row": rng.standard_normal((1, size), dtype=np.float32)}
    constants["w"] = rng.standard_normal((size, size), dtype=np.float32) / np.float32(np.sqrt(size))
    with bench({"x": x}, target, {}) as shared:
        path = shared.inputs["x"].with_name("product.onnx")
        onnx.save(_products(size, constants), path)
        candidate = Candidate("product", path, without_spinning(target))
        runs = run_job(job("alone", [candidate], target, shared.inputs, seconds=SECONDS))["runs"]
    return float(min(runs) / NANOSECONDS)


def _products(size: int, constants: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    nodes = [helper.make_node("MatMul", ["x", "row"], ["h0"])]
    nodes += [helper.make_node("MatMul", [f"h{turn}", "w"], [f"h{turn + 1}"]) for turn in range(DEPTH)]
    nodes.append(helper.make_node("ReduceMax", [f"h{DEPTH}"], ["y"], keepdims=0))
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", [size, 1]), ("y", []))
    )
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "products", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def _with_share(trial: Trial, multiply_adds: int, peak: float, target: Target) -> Trial:
    if trial.latency is None or not multiply_adds:
        return trial
    operations = OPERATIONS * multiply_adds
    share = operations / (trial.latency.p50 / MILLISECONDS) / peak
    return replace(
        trial, latency=replace(trial.latency, arithmetic=Arithmetic(operations, share, peak, target.threads))
    )
