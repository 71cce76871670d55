"""The process of ``benchmarks.rewriting_backend``: rewrites model after model, and tells of each in JSON."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from importlib.util import find_spec

import onnx
import onnxruntime

from mlc.compare import EXPORT_TOLERANCE
from mlc.workspace import Workspace
from tests.backend_models import (
    Answers,
    Case,
    Rewriter,
    Rewritten,
    Verdict,
    cases,
    judged,
    through_passes,
    with_initializers,
)


def through_onnxscript(case: Case, _answers: Answers, workspace: Workspace) -> Rewritten:
    """Run the optimizer of onnxscript with its defaults."""
    from onnxscript import optimizer

    copy = onnx.ModelProto()
    copy.CopyFrom(case.model)
    path = workspace.folder("after") / "model.onnx"
    onnx.save(optimizer.optimize(copy), path)
    return Rewritten(path, EXPORT_TOLERANCE)


def through_onnxruntime(case: Case, _answers: Answers, workspace: Workspace) -> Rewritten:
    """Have onnxruntime write the model as it optimized it offline, with basic optimizations: standard operators."""
    folder = workspace.folder("after")
    path, settings = folder / "model.onnx", onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    settings.optimized_model_filepath = str(path)
    settings.log_severity_level = 4
    onnx.save(case.model, folder / "source.onnx")
    onnxruntime.InferenceSession(folder / "source.onnx", settings, providers=["CPUExecutionProvider"])
    return Rewritten(path, EXPORT_TOLERANCE)


def through_onnxslim(case: Case, _answers: Answers, workspace: Workspace) -> Rewritten:
    """Run onnxslim with its defaults."""
    import onnxslim

    copy = onnx.ModelProto()
    copy.CopyFrom(case.model)
    path = workspace.folder("after") / "model.onnx"
    onnx.save(onnxslim.slim(copy), path)
    return Rewritten(path, EXPORT_TOLERANCE)


REWRITERS: dict[str, Rewriter] = {
    "mlc": through_passes,
    "onnxscript": through_onnxscript,
    "onnxruntime": through_onnxruntime,
    "onnxslim": through_onnxslim,
}
"""Each by the package that it is; the peers are held to the tolerance of an export, mlc to its passes'."""


def jobs(every: int) -> Iterator[tuple[str, Case]]:
    """Yield every so many models in both forms, for each rewriter that is installed, always in one order."""
    models = cases()[::every]
    for name in filter(find_spec, REWRITERS):
        for case in models:
            yield name, case
            yield name, with_initializers(case)


def told(verdict: Verdict) -> dict[str, object]:
    """Return what is kept of a verdict."""
    return {
        "outcome": verdict.outcome,
        "reason": verdict.reason,
        "nodes": [verdict.nodes_before, verdict.nodes_after],
        "steps": [
            {
                "pass": step.spec.name,
                "sites": len(step.sites),
                "nodes": step.nodes_before - step.nodes_after,
                "left_out": [f"{each.site}: {each.reason}" for each in step.left_out],
                "dropped": step.dropped,
            }
            for step in verdict.steps
        ],
    }


def main(every: str, first: str) -> None:
    """Judge from the ``first`` job on; print which one begins, and then what became of it."""
    tell = sys.stdout
    for index, (name, case) in enumerate(jobs(int(every))):
        if index >= int(first):
            job = {"rewriter": name, "model": case.name, "form": case.form}
            print(json.dumps(job), file=tell, flush=True)
            with contextlib.redirect_stdout(sys.stderr):
                verdict = judged(case, REWRITERS[name])
            print(json.dumps({**job, **told(verdict)}), file=tell, flush=True)


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    main(*sys.argv[1:])
