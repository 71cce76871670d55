"""What the machine can compute: one large product of matrices, timed as models are, in fresh processes."""

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

SIZES = (512, 1024)
"""Rows and columns of the products, each timed in a process of its own: 0.27 and 2.1 * 10**9 operations.

Many threads need a large one; a small one finds a moment in which nothing else runs.
"""

SECONDS = 0.3
"""For each product; a fourth more warms up."""

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
    """Return the most float32 operations a second that a product of two large matrices reached in any run.

    It runs on the target with the options of timed models. Raises TargetError where the target does not run it.
    """
    return max(_rate(size, target) for size in SIZES)


def _rate(size: int, target: Target) -> float:
    """Return the operations a second of the fastest run of one product, whose weight a runtime may lay out anew."""
    rng = np.random.default_rng(0)
    x, weight = (rng.standard_normal((size, size), dtype=np.float32) for _ in range(2))
    with bench({"x": x}, target, {}) as shared:
        path = shared.inputs["x"].with_name("product.onnx")
        ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [size, size]) for name in ("x", "y")]
        node = helper.make_node("MatMul", ["x", "w"], ["y"])
        graph = helper.make_graph([node], "product", ports[:1], ports[1:], [numpy_helper.from_array(weight, "w")])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
        candidate = Candidate("product", path, without_spinning(target))
        runs = run_job(job("alone", [candidate], target, shared.inputs, seconds=SECONDS))["runs"]
    return float(OPERATIONS * size**3 / (min(runs) / NANOSECONDS))


def _with_share(trial: Trial, multiply_adds: int, peak: float, target: Target) -> Trial:
    if trial.latency is None or not multiply_adds:
        return trial
    operations = OPERATIONS * multiply_adds
    share = operations / (trial.latency.p50 / MILLISECONDS) / peak
    return replace(
        trial, latency=replace(trial.latency, arithmetic=Arithmetic(operations, share, peak, target.threads))
    )
