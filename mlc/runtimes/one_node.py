"""Whether a target can be used at all: a session with one node is created there and run once."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx

from mlc.errors import TargetError
from mlc.runtimes.onnxruntime import open_session
from mlc.types import Target

MODEL = '<ir_version: 8, opset_import: ["" : 13]> one_node (float[2,2] x) => (float[2,2] y) { y = MatMul(x, x) }'


def try_target(target: Target) -> None:
    """Create a session and run it. Raises TargetError, naming what there is, where the target cannot be used."""
    ones = np.ones((2, 2), np.float32)
    with tempfile.TemporaryDirectory(prefix="mlc-") as folder:
        path = Path(folder) / "one-node.onnx"
        onnx.save(onnx.parser.parse_model(MODEL), path)
        with open_session(path, target) as session:
            (found,) = session.run({"x": ones}).values()
    if not np.array_equal(found, ones @ ones):
        raise TargetError(f"{target.provider} computes a wrong product of two small matrices", "its driver is broken")
