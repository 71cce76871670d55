"""Which kernels compute float16 in float32 within: found by running them, and what float16 is given by that."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from mlc import api
from mlc.runtimes.cpu import capabilities
from mlc.runtimes.onnxruntime import open_session
from mlc.runtimes.wide_half import CLOSE, TRIALS, wide_half
from mlc.types import Capabilities, Target
from tests.graphs import random
from tests.halves import halved, holding, reasons, strictly
from tests.targets import usable

pytestmark = pytest.mark.needs_onnxruntime

GPU = Target(provider="webgpu")
NORMALIZED = """g (float[n,8] x) => (float[n,8] y) {
    a = MatMul(x, w) l = LayerNormalization(a, s) p = Softmax(l) y = MatMul(p, w) }"""
ARRAYS = {"w": random(0, 8, 8), "s": 1 + random(1, 8) / 8}


@pytest.mark.parametrize("op", TRIALS)
def test_a_trial_is_right_in_float32_and_lost_in_steps_of_float16(op, tmp_path):
    """On the CPU, whose kernels compute in float32, the answer is the expected one: it is no fault of the trial."""
    trial = TRIALS[op]
    path = tmp_path / "trial.onnx"
    onnx.save(onnx.parser.parse_model(trial.text), path)
    with open_session(path, Target(), optimize=False) as session:
        given = session.run(trial.feeds)["y"]
    assert np.allclose(given, trial.expected, rtol=CLOSE)
    steps = trial.given.astype(np.float16)
    with np.errstate(over="ignore"):
        inner = (np.exp(steps) if "Softmax" in op else steps if op == "ReduceMean" else 4 * steps**2).sum(
            dtype=np.float16
        )
    assert np.isinf(inner)


def test_nothing_is_said_of_cpus():
    assert wide_half(Target()) == ()
    assert capabilities(Target(), half=True).wide_half == ()


def test_a_gpu_is_asked_kernel_by_kernel():
    usable("webgpu")
    found = wide_half(GPU)
    assert {"LayerNormalization", "InstanceNormalization"} <= set(found)
    assert not {"Softmax", "ReduceMean"} & set(found), "its sums are in float16"
    assert capabilities(GPU, half=True).wide_half == found
    assert capabilities(GPU).wide_half == ()


@pytest.mark.parametrize(
    ("sensitive", "wide", "kept"),
    [
        ("seen", (), {"l", "p"}),
        ("seen", ("LayerNormalization",), {"p"}),
        ("seen", ("LayerNormalization", "Softmax"), set()),
        ("float", ("LayerNormalization", "Softmax"), {"l", "p"}),
        ("half", (), set()),
    ],
)
def test_what_was_seen_to_be_wide_is_given_to_float16(sensitive, wide, kept):
    able = Capabilities("a GPU", cpu=False, wide_half=wide)
    feeds = {"x": random(2, 3, 8)}
    _, change = halved(holding(NORMALIZED, **ARRAYS), feeds, capabilities=able, sensitive=sensitive)
    assert set(reasons(change)) == kept


def test_ranges_still_decide_what_a_wide_kernel_reads(workspace):
    able = Capabilities("a GPU", cpu=False, wide_half=("LayerNormalization",))
    before, feeds = holding(NORMALIZED, **ARRAYS), {"x": random(2, 3, 8)}
    after, change = halved(before, feeds, capabilities=able)
    assert set(reasons(change)) == {"p"}
    assert strictly(after, feeds, workspace, baseline=before).lost == ""
    large = {"x": 1e5 * feeds["x"]}
    _, change = halved(before, large, capabilities=able)
    assert {"a", "l"} <= set(reasons(change))


def test_compiled_for_a_gpu_a_normalization_is_in_half(tmp_path):
    usable("webgpu")
    source = tmp_path / "model.onnx"
    ir.save(holding(NORMALIZED, **ARRAYS), source)
    data = [{"x": random(seed, 3, 8)} for seed in range(3)]
    out = tmp_path / "out"
    api.compile(str(source), inputs=["x=float32[n=1..8,8]"], target="webgpu", to="fp16", calibrate=data, out=str(out))
    written = onnx.load(next(out.glob("*.onnx")))
    makers = {name: node.op_type for node in written.graph.node for name in node.output}
    assert (
        makers[next(node for node in written.graph.node if node.op_type == "LayerNormalization").input[0]] == "MatMul"
    )
    assert makers[next(node for node in written.graph.node if node.op_type == "Softmax").input[0]] == "Cast"
