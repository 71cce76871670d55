"""What the machine can compute: one large product of matrices, timed as models are, in fresh processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mlc.errors import TargetError
from mlc.measuring.jobs import job, run_job
from mlc.measuring.latency import bench
from mlc.measuring.nouns import Arithmetic, Candidate, Trial
from mlc.runtimes.opening import without_spinning
from mlc.types import Target

SIZE = 1024
"""Rows and columns: the product takes 2.1 * 10**9 operations, and its matrices 12 MB."""

PROCESSES = 2
SECONDS = 0.3
"""Of each process; a fourth more warms up."""

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
    """Return the float32 operations of a second that a product of two large matrices reached in its fastest run.

    It runs on the target with the options of timed models. Raises TargetError where the target does not run it.
    """
    rng = np.random.default_rng(0)
    matrices = [rng.standard_normal((SIZE, SIZE), dtype=np.float32) for _ in range(2)]
    with bench({"x": matrices[0]}, target, {}) as shared:
        path = shared.inputs["x"].with_name("product.onnx")
        _write_product(path, matrices[1])
        candidate = Candidate("product", path, without_spinning(target))
        asked = job("alone", [candidate], target, shared.inputs, seconds=SECONDS)
        fastest = float(min(min(run_job(asked)["runs"]) for _ in range(PROCESSES)))
    return OPERATIONS * SIZE**3 / (fastest / NANOSECONDS)


def _write_product(path: Path, weight: np.ndarray) -> None:
    """Write the product of an input with a weight, which a runtime may lay out as it likes."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [SIZE, SIZE]) for name in ("x", "y"))
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "product", [x], [y], [numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)


def _with_share(trial: Trial, multiply_adds: int, peak: float, target: Target) -> Trial:
    if trial.latency is None or not multiply_adds:
        return trial
    operations = OPERATIONS * multiply_adds
    share = operations / (trial.latency.p50 / MILLISECONDS) / peak
    return replace(
        trial, latency=replace(trial.latency, arithmetic=Arithmetic(operations, share, peak, target.threads))
    )
