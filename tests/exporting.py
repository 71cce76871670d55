"""Load and export in one call, as the tests of both rooms need it."""

import numpy as np
import onnx_ir as ir

from mlc.artifact import Artifact
from mlc.compare import Check
from mlc.exporting import export
from mlc.probes import references
from mlc.recipe import parse_inputs
from mlc.runtimes.onnxruntime import open_session
from mlc.sources.load import load
from mlc.sources.original import Original
from mlc.types import Target
from mlc.workspace import Workspace


class Exported:
    """What a test looks at: the original, the artifact and the checks."""

    def __init__(self, original: Original, artifact: Artifact, checks: tuple[Check, ...]) -> None:
        self.original, self.artifact, self.checks = original, artifact, checks

    @property
    def model(self) -> ir.Model:
        return self.artifact.model

    @property
    def inputs(self) -> list[str | None]:
        return [value.name for value in self.model.graph.inputs]

    @property
    def outputs(self) -> list[str | None]:
        return [value.name for value in self.model.graph.outputs]

    @property
    def sizes(self) -> list[dict[str, int]]:
        return [dict(check.sizes) for check in self.checks]

    def shape(self, name: str) -> list[str]:
        """The axes of an input or output as text."""
        values = [*self.model.graph.inputs, *self.model.graph.outputs]
        (value,) = [value for value in values if value.name == name]
        assert value.shape is not None
        return [str(getattr(dim, "value", dim)) for dim in value.shape]


def exported(workspace: Workspace, source, example=None, *specs: str, opset: int | None = None) -> Exported:
    """Load a source, run it at every size, export and check it."""
    net, notes = exported_with_notes(workspace, source, example, *specs, opset=opset)
    assert notes == ()
    return net


def exported_with_notes(
    workspace: Workspace, source, example=None, *specs: str, opset: int | None = None
) -> tuple[Exported, tuple[str, ...]]:
    """Do the same for a source that gives NaN at some size, of which there are notes."""
    original = load(source, parse_inputs(specs), example)
    answers, notes = references(original, None, 0)
    return Exported(original, *export(original, answers, workspace, opset)), notes


def assert_alike(workspace, net, *arrays, atol=1e-6, rtol=1e-5):
    """All outputs at every array; a coordinate in float32 allows a larger ``atol``."""
    with open_session(workspace.save(net.model, "again"), Target(), optimize=False) as session:
        for array in arrays:
            feed = array if isinstance(array, dict) else {net.inputs[0]: array}
            ours, theirs = session.run(feed), net.original.run(feed)
            assert ours.keys() == theirs.keys()
            for output, expected in theirs.items():
                np.testing.assert_allclose(ours[output], expected, rtol=rtol, atol=atol, err_msg=output)
