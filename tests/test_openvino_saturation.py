"""What OpenVINO computes on a processor without VNNI: seen by the probe, and bit for bit what the emulation says."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlc.emulate import exact_sums, saturating_sums
from mlc.formats import layout_of
from mlc.formats.saturation import Order, pairs_fit
from mlc.runtimes.cpu import native, openvino_saturates
from tests.targets import usable

ROOT = Path(__file__).parents[1]

AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2"}
"""Hides from OpenVINO's kernels what this processor has beyond AVX2."""

ON_X86 = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="only x86 adds pairs of products in 16 bits"
)


@pytest.fixture(scope="module", autouse=True)
def device():
    """What OpenVINO's CPU is here; the tests are skipped where it does not run."""
    return usable("openvino/cpu")[1]


def on_avx2(code, *arguments):
    """Run code in a process whose kernels add pairs of products in 16 bits."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env={**os.environ, **AVX2}, cwd=ROOT, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_this_cpu_is_probed_by_its_own_kernel():
    found = native("openvino")
    assert found.saturates is not (found.vnni or found.arm_dot)
    assert not (found.vnni and openvino_saturates())


@ON_X86
def test_a_processor_without_vnni_is_seen():
    code = "from mlc.runtimes.cpu import native\nprint(native('openvino').saturates, native('openvino').vnni)"
    assert on_avx2(code) == "True False\n"


RUN = """
import sys
from pathlib import Path
import numpy as np
from mlc.runtimes.opening import open_session
from mlc.types import Target
for path in sorted(Path(sys.argv[1]).glob("*.onnx")):
    with open_session(path, Target("openvino")) as session:
        np.save(path.with_suffix(".sums.npy"), session.run({"x": np.load(path.with_suffix(".npy"))})["y"])
"""
"""Runs every model of a folder on the inputs beside it."""

MATMULS = [(64, 32), (63, 17), (7, 5), (128, 128)]
CONVS = [(3, 8, 3), (4, 8, 3), (5, 8, 3), (16, 16, 3), (17, 16, 3), (16, 16, 1), (7, 9, 1), (64, 64, 3)]


def write(path, op, activations, codes):
    """Write a product of bytes with all scales 1, whose output is the sums themselves, and its input beside it."""
    constants = {"w": codes, "one": np.float32(1), "zero": np.uint8(0), "none": np.int8(0)}
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "one", "zero"], ["a"]),
            helper.make_node("DequantizeLinear", ["w", "one", "none"], ["b"]),
            helper.make_node(op, ["a", "b"], ["y"]),
        ],
        "sums",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(activations.shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    np.save(path.with_suffix(".npy"), activations.astype(np.float32))


def rows_of(images, size):
    """Return the windows of images as rows, the taps of a window first, then the channels."""
    windows = np.lib.stride_tricks.sliding_window_view(images, (size, size), axis=(2, 3))
    return windows.transpose(0, 2, 3, 4, 5, 1).reshape(-1, size * size * images.shape[1])


@ON_X86
def test_the_emulation_is_the_kernel_bit_for_bit(tmp_path):
    rng = np.random.default_rng(0)
    expected = {}
    for depth, columns in MATMULS:
        activations = rng.integers(0, 256, (6, depth)).astype(np.uint8)
        codes = rng.integers(-128, 128, (depth, columns)).astype(np.int8)
        write(tmp_path / f"matmul-{depth}.onnx", "MatMul", activations, codes)
        sums = saturating_sums(activations, codes, layout_of("MatMul", 2), Order.OPENVINO)
        expected[f"matmul-{depth}"] = sums, activations.astype(int) @ codes.astype(int)
    for channels, outputs, size in CONVS:
        images = rng.integers(0, 256, (2, channels, 8, 8)).astype(np.uint8)
        codes = rng.integers(-128, 128, (outputs, channels, size, size)).astype(np.int8)
        layout, rows = layout_of("Conv", 4), rows_of(images, size)
        write(tmp_path / f"conv-{channels}-{size}.onnx", "Conv", images, codes)
        exact = exact_sums(rows, layout.rows(codes).reshape(outputs, -1))
        expected[f"conv-{channels}-{size}"] = saturating_sums(rows, codes, layout, Order.OPENVINO), exact
    on_avx2(RUN, str(tmp_path))
    for name, (sums, exact) in expected.items():
        found = np.load(tmp_path / f"{name}.sums.npy")
        if found.ndim == 4:
            found = found.transpose(0, 2, 3, 1).reshape(len(sums), -1)
        np.testing.assert_array_equal(found, sums, err_msg=name)
        assert (sums != exact).any(), f"{name} saturates nowhere and shows nothing"


@ON_X86
@pytest.mark.parametrize(("largest", "fits"), [(64, True), (127, False)])
def test_codes_that_fit_do_not_saturate(tmp_path, largest, fits):
    """What ``pairs_fit`` promises holds on the real kernel, and what it refuses does saturate there."""
    codes = np.full((64, 32), largest, np.int8)
    assert pairs_fit(codes, layout_of("MatMul", 2), [Order.OPENVINO]) is fits
    write(tmp_path / "codes.onnx", "MatMul", np.full((4, 64), 255, np.uint8), codes)
    on_avx2(RUN, str(tmp_path))
    assert bool((np.load(tmp_path / "codes.sums.npy") == 255 * largest * 64).all()) is fits
