"""Load and export in one call, as the tests of both rooms need it."""

import onnx_ir as ir

from mlc.artifact import Artifact
from mlc.compare import Check
from mlc.exporting import export
from mlc.probes import references
from mlc.recipe import parse_inputs
from mlc.sources.load import load
from mlc.sources.original import Original
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
    original = load(source, parse_inputs(specs), example)
    answers, skipped = references(original, None, 0)
    assert skipped == ()
    return Exported(original, *export(original, answers, workspace, opset))
