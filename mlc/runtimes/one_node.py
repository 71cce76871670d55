"""Which targets there are, and whether one can be used at all: a session with one node is created and run once."""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx

from mlc.errors import TargetError
from mlc.runtimes.opening import open_session
from mlc.types import Target

MODEL = '<ir_version: 8, opset_import: ["" : 13]> one_node (float[2,2] x) => (float[2,2] y) { y = MatMul(x, x) }'


def try_target(target: Target) -> str:
    """Create a session, run it, and return the device that it ran on, in the maker's words; empty for a plain CPU.

    Raises TargetError, naming what there is, where the target cannot be used.
    """
    ones = np.ones((2, 2), np.float32)
    with tempfile.TemporaryDirectory(prefix="mlc-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "one-node.onnx"
        onnx.save(onnx.parser.parse_model(MODEL), path)
        with open_session(path, target) as session:
            (found,) = session.run({"x": ones}).values()
            device = session.device()
    if not np.array_equal(found, ones @ ones):
        raise TargetError(f"{target.provider} computes a wrong product of two small matrices", "its driver is broken")
    return device


def openvino_targets() -> tuple[Target, ...]:
    """Return every device of OpenVINO's own runtime; none where it is not installed."""
    if find_spec("openvino") is None:
        return ()
    from mlc.runtimes.openvino_settings import devices

    parts = (device.lower().partition(".") for device in devices())
    return tuple(Target("openvino", name, number or None) for name, _, number in parts)
