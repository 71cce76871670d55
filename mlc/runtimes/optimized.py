"""The graph that onnxruntime really runs: after its own optimizations, but for those that change layouts only."""

from __future__ import annotations

from pathlib import Path

import onnxruntime

from mlc.errors import TargetError, foreign
from mlc.runtimes.onnxruntime import FAILURES, reason

MODEL, WEIGHTS = "optimized.onnx", "optimized.weights"


def optimized_graph(path: Path, folder: Path) -> Path:
    """Write the graph of a model on the CPU, as optimized, into a folder, and return its file.

    Raises TargetError where the runtime does not load the model.
    """
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    settings.optimized_model_filepath = str(folder / MODEL)
    settings.add_session_config_entry("session.optimized_model_external_initializers_file_name", WEIGHTS)
    settings.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "8192")
    what = f"optimizing {path.name}"
    with foreign(what, TargetError):
        try:
            onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        except FAILURES as error:
            raise TargetError(f"{what} raised {type(error).__name__}: {reason(error)}") from error
    return folder / MODEL
