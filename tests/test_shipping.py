"""What is written is held to what the passes were judged at: the optimized runtime may cost a little, no more."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from mlc.artifact import Step
from mlc.errors import PassError
from mlc.pipeline.data import Datasets
from mlc.pipeline.shipping import Shipped, final_checks
from mlc.recipe import Recipe
from mlc.types import PassSpec
from tests.graphs import artifact, graph, references

MODEL = "g (float[batch,3] x) => (float[batch,3] y) <float[3] w = {0.5, 2.0, -1.0}> { y = Mul(x, w) }"
WRITTEN = MODEL.replace("0.5, 2.0, -1.0", "0.5, 2.0, -1.35")
X = [{"x": np.random.default_rng(rows).normal(size=(rows, 3)).astype(np.float32)} for rows in (2, 3)]


@pytest.mark.parametrize(("judged", "holds"), [(16.0, True), (30.0, True), (45.0, False), (np.inf, False)])
def test_a_written_file_far_below_what_its_passes_were_judged_at_is_refused(tmp_path, workspace, judged, holds):
    path = tmp_path / "model.onnx"
    ir.save(graph(WRITTEN), path)
    step = Step(PassSpec("int8-weights"), "lossy", requested=True, sites=("y",), sqnr={"y": judged})
    trial: Any = SimpleNamespace(candidate=SimpleNamespace(path=path, name="int8-weights"))
    kept = references(graph(MODEL), X, workspace)
    written = replace(artifact(graph(WRITTEN)), steps=(step,))
    shipped = Shipped("int8-weights", written, (trial,), kept, (), Datasets())
    if holds:
        assert len(final_checks(shipped, path, Recipe("model.onnx"))) == len(kept)
    else:
        with pytest.raises(PassError, match="the written file differs from the original in y"):
            final_checks(shipped, path, Recipe("model.onnx"))
