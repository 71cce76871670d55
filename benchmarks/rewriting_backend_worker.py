"""The process of ``benchmarks.rewriting_backend``: rewrites model after model, and tells of each in JSON."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from itertools import islice
from typing import NamedTuple

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


def copied(case: Case) -> onnx.ModelProto:
    """Return the model of a case for a tool that may change what it is given."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    return model


def saved(model: onnx.ModelProto, workspace: Workspace, tolerance: float) -> Rewritten:
    """Write what a tool made of a model, to be held to a tolerance."""
    path = workspace.folder("after") / "model.onnx"
    onnx.save(model, path)
    return Rewritten(path, tolerance)


def through_onnxscript(case: Case, _answers: Answers, workspace: Workspace) -> Rewritten:
    """Run the optimizer of onnxscript with its defaults."""
    from onnxscript import optimizer

    return saved(optimizer.optimize(copied(case)), workspace, EXPORT_TOLERANCE)


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

    return saved(onnxslim.slim(copied(case)), workspace, EXPORT_TOLERANCE)


def through_onnxsim(case: Case, _answers: Answers, workspace: Workspace) -> Rewritten:
    """Run onnxsim with its defaults."""
    import onnxsim

    simplified, _ = onnxsim.simplify(copied(case))
    return saved(simplified, workspace, EXPORT_TOLERANCE)


REWRITERS: dict[str, Rewriter] = {
    "mlc": through_passes,
    "onnxscript": through_onnxscript,
    "onnxruntime": through_onnxruntime,
    "onnxslim": through_onnxslim,
    "onnxsim": through_onnxsim,
}
"""Each by the package that it is; the peers are held to the tolerance of an export, mlc to its passes'."""


class Job(NamedTuple):
    """One model for one tool: how it is called, what judges it, and what is told beside the verdict."""

    called: Mapping[str, str]
    judge: Callable[[], Verdict]
    more: Callable[[], Mapping[str, object]] = dict


def jobs(every: int) -> Iterator[Job]:
    """Yield every so many models in both forms, for each rewriter that is installed, always in one order."""
    for name in filter(find_spec, REWRITERS):
        for case in both_forms(every):
            yield Job(called(name, case), partial(judged, case, REWRITERS[name]))


def both_forms(every: int) -> Iterator[Case]:
    """Yield every so many models as they are and with their inputs turned into initializers."""
    for case in cases()[::every]:
        yield case
        yield with_initializers(case)


def called(tool: str, case: Case) -> dict[str, str]:
    """Return what a job is called."""
    return {"rewriter": tool, "model": case.name, "form": case.form}


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


def tell(every_job: Iterator[Job], first: int) -> None:
    """Judge from the ``first`` job on; print which one begins, and then what became of it."""
    out = sys.stdout
    for job in islice(every_job, first, None):
        print(json.dumps(job.called), file=out, flush=True)
        with contextlib.redirect_stdout(sys.stderr):
            verdict = job.judge()
        print(json.dumps({**job.called, **told(verdict), **job.more()}), file=out, flush=True)


def main(every_job: Callable[[int], Iterator[Job]]) -> None:
    """Tell of the jobs that the command line asks for."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    every, first = map(int, sys.argv[1:])
    tell(every_job(every), first)


if __name__ == "__main__":
    main(jobs)
