"""What the CPU computes: its flags, and what its 8-bit kernels really do."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnxruntime

from mlc.machine import cpu_flags, cpu_name
from mlc.types import Capabilities, Target

VNNI_FLAGS = {"avx512_vnni", "avx512vnni", "avx_vnni", "avxvnni"}
AMX_FLAGS = {"amx_int8"}
ARM_DOT_FLAGS = {"asimddp", "i8mm"}

NO_PROBES: Mapping[str, str] = MappingProxyType({})

PAIR_SUM = 2 * 255 * 127
"""Two products of the largest codes; a kernel that adds them in 16 bits gives 32767."""

QUANTIZED_PRODUCT = """<ir_version: 8, opset_import: ["" : 13]>
pairs (float[rows,64] x) => (float[rows,32] y) <float one = {1.0}, uint8 zero = {0}, int8 none = {0}> {
  quantized = QuantizeLinear(x, one, zero) a = DequantizeLinear(quantized, one, zero)
  b = DequantizeLinear(codes, one, none) y = MatMul(a, b)
}"""
"""A product that OpenVINO computes in 8 bits; ``codes`` are int8[64,32]."""


def capabilities(
    target: Target,
    probes: Mapping[str, str] = NO_PROBES,
    optional: Mapping[str, str] = NO_PROBES,
    *,
    half: bool = False,
) -> Capabilities:
    """Return what may be relied on: what this CPU was seen to have for ``cpu:native``, else the least any CPU has.

    ``probes`` are small graphs by the operators whose kernels GPUs are asked about (see ``Pass.needs_kernels``),
    ``optional`` those of which a CPU is asked too (see ``Pass.may_use_kernels``). With ``half`` the target is asked
    which operators compute float16 in float32 (see ``Pass.asks_wide_half``).
    """
    found = _without_kernels(target)
    if probes or optional:
        from mlc.runtimes.kernels import kernels

        found = replace(found, kernels=(*kernels(target, probes), *kernels(target, optional, gpus=False)))
    if half:
        from mlc.runtimes.wide_half import wide_half

        found = replace(found, wide_half=wide_half(target))
    return found


def _without_kernels(target: Target) -> Capabilities:
    if target.provider.lower() in ("cpu", "cpuexecutionprovider") and target.device == "native":
        return native(target.runtime)
    if target.provider == "cpu":
        return Capabilities("any x86 or ARM CPU")
    return Capabilities(f"any device of {target.provider}", cpu=False)


@cache
def native(runtime: str) -> Capabilities:
    """Return what this CPU has: by its flags, and 32-bit addition of 8-bit products only where the runtime shows it."""
    flags = cpu_flags()
    wide = not (openvino_saturates() if runtime == "openvino" else runtime_saturates())
    return Capabilities(
        description=f"this CPU ({cpu_name()})",
        avx2="avx2" in flags,
        vnni=bool(flags & VNNI_FLAGS) and wide,
        amx=bool(flags & AMX_FLAGS) and wide,
        arm_dot=(bool(flags & ARM_DOT_FLAGS) or _apple_silicon()) and wide,
    )


def multiplies_integers() -> bool:
    """Return whether this CPU multiplies 8-bit integers and adds them in 32 bits in one instruction, by its flags."""
    return bool(cpu_flags() & (VNNI_FLAGS | AMX_FLAGS | ARM_DOT_FLAGS)) or _apple_silicon()


def runtime_saturates() -> bool:
    """Return whether onnxruntime's u8*s8 kernel loses the sum of two large products here, by running one."""
    from onnx import TensorProto, helper

    depth, columns = 64, 32
    weight = np.full(depth * columns, 127, np.int8).tobytes()
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["y"])],
        "pairs",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, [4, depth])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [4, columns])],
        [helper.make_tensor("b", TensorProto.INT8, [depth, columns], weight, raw=True)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    (sums,) = session.run(None, {"a": np.full((4, depth), 255, np.uint8)})
    return not bool(np.all(sums == PAIR_SUM * depth // 2))


def openvino_saturates() -> bool:
    """Return whether OpenVINO's u8*s8 kernel loses the sum of two large products here, by running one."""
    import onnx
    from onnx import TensorProto, helper, parser

    from mlc.runtimes.openvino import open_session

    depth, columns = 64, 32
    model = parser.parse_model(QUANTIZED_PRODUCT)
    weight = np.full(depth * columns, 127, np.int8).tobytes()
    model.graph.initializer.append(helper.make_tensor("codes", TensorProto.INT8, [depth, columns], weight, raw=True))
    with tempfile.TemporaryDirectory(prefix="mlc-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "pairs.onnx"
        onnx.save(model, path)
        with open_session(path, Target("openvino")) as session:
            (sums,) = session.run({"x": np.full((4, depth), 255, np.float32)}).values()
    return not bool(np.all(sums == PAIR_SUM * depth // 2))


def _apple_silicon() -> bool:
    """Whether this is Apple's own ARM: every one of them has the dot product, and macOS lists no flags for it."""
    return platform.system() == "Darwin" and platform.machine() == "arm64"
