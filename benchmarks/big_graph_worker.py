"""The fresh process of ``benchmarks.big_graph``: rewrites and verifies one graph, and tells its seconds and memory."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from mlc.artifact import Artifact, Origin
from mlc.compare import Reference
from mlc.fusion import opset_of
from mlc.machine import PEAK, process_bytes
from mlc.registry import probes_of, runnable, schedule
from mlc.rewriting import rewrite
from mlc.rewriting.one_pass import count_nodes
from mlc.rewriting.sessions import Runner
from mlc.runtimes.cpu import capabilities
from mlc.types import Dim, InputSpec, OutputSpec, Signature, Target
from mlc.workspace import Workspace

SIZES = ({"batch": 1, "seq": 16}, {"batch": 2, "seq": 8})


def main(asked: dict[str, Any]) -> dict[str, Any]:
    """Run the default passes over a model, verified at two sizes."""
    model = ir.load(Path(asked["path"]))
    dims = (Dim(1, 64, name="batch"), Dim(1, 64, name="seq"), Dim(asked["width"], asked["width"]))
    signature = Signature(
        (InputSpec("x", "float32", dims),), (OutputSpec("y", "float32", (None, None, asked["width"])),)
    )
    rng = np.random.default_rng(1)
    with Workspace() as workspace:
        workspace.hold(model)
        references = []
        with Runner(workspace).open(model) as answer:
            for sizes in SIZES:
                x = rng.standard_normal((*sizes.values(), asked["width"]), dtype=np.float32)
                references.append(Reference(sizes, {"x": x}, answer({"x": x})))
        loaded = process_bytes(PEAK)
        artifact = Artifact({"model": model}, signature, Origin("benchmark", "", "", opset_of(model), SIZES[0]))
        specs, target = schedule(()), Target()
        able = capabilities(target, probes_of(specs))
        specs = runnable(specs, (), target, able)
        start, used = time.perf_counter(), time.process_time()
        done = rewrite(artifact, specs, references=references, workspace=workspace, capabilities=able)
        seconds, used = time.perf_counter() - start, time.process_time() - used
    return {
        "seconds": seconds,
        "processor_seconds": used,
        "loaded": loaded,
        "peak": process_bytes(PEAK),
        "nodes": count_nodes(model),
        "nodes_after": count_nodes(done.model),
        "steps": [
            {
                "name": step.spec.name,
                "sites": len(step.sites),
                "left_out": len(step.left_out),
                "dropped": step.dropped,
                "seconds": step.seconds,
                "verify_seconds": step.verify_seconds,
            }
            for step in done.steps
        ],
    }


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
