"""The artifact: ONNX models, where they came from, what was done to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mlc.types import PassSpec, Refusal, Signature, Sizes

if TYPE_CHECKING:
    import onnx_ir as ir  # what only reads reports needs no graph


@dataclass(frozen=True)
class Way:
    """One way of exporting that was tried, and why it was not taken; that is empty for the one that was."""

    name: str
    refused: str = ""


@dataclass(frozen=True)
class Origin:
    """Where a model came from: the source as asked, its digest, how it became ONNX, and what the user should know.

    ``ways`` are the exporter's ways that were tried, in their order; the last one was taken.
    """

    source: str
    digest: str
    exporter: str
    opset: int
    traced: Sizes = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    ways: tuple[Way, ...] = ()


@dataclass(frozen=True)
class LeftOut:
    """A site that a pass would have changed and that was left as it was, since the result differed."""

    site: str
    reason: str
    error: float | None = None


@dataclass(frozen=True)
class Step:
    """One pass as it went: what it changed, refused and lost, and the error that was measured.

    ``error`` is the largest error over the rms of the value, over all sites and outputs (exact and reassociating
    passes); ``sqnr`` the signal to noise ratio in dB by output (lossy passes). ``dropped`` says why a pass was dropped
    whole. ``headline`` belongs into the first line of the report where the pass was asked for by name.
    """

    spec: PassSpec
    exactness: str
    requested: bool
    sites: tuple[str, ...] = ()
    refused: tuple[Refusal, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    dropped: str = ""
    seconds: float = 0.0
    verify_seconds: float = 0.0
    error: float | None = None
    sqnr: Mapping[str, float] = field(default_factory=dict)
    nodes_before: int = 0
    nodes_after: int = 0
    notes: tuple[str, ...] = ()
    headline: str = ""


@dataclass(frozen=True)
class Artifact:
    """One or more named ONNX models and their history. A plain model has the one component ``model``."""

    components: Mapping[str, ir.Model]
    signature: Signature
    origin: Origin
    steps: tuple[Step, ...] = ()
    session_options: Mapping[str, str] = field(default_factory=dict)

    @property
    def model(self) -> ir.Model:
        """The only component of a plain artifact."""
        (model,) = self.components.values()
        return model


EXTERNAL_FROM = 64 * 2**20
"""Weights of more bytes than this go to model.onnx.data, which a session maps instead of reading."""


def write_model(model: ir.Model, directory: Path) -> Path:
    """Write ``model.onnx`` (and ``model.onnx.data`` where the weights are large) into ``directory``; return its path.

    The same model gives the same bytes. Raises OSError where the disk refuses.
    """
    import onnx_ir as ir

    from mlc.workspace import initializers

    path = directory / "model.onnx"
    weights = sum(value.const_value.nbytes for value in initializers(model) if value.const_value is not None)
    if weights > EXTERNAL_FROM:
        ir.save(model, path, external_data=f"{path.name}.data")
    else:
        ir.save(_inlined(model), path)
    return path


def _inlined(model: ir.Model) -> ir.Model:
    """Return a clone whose weights travel inside the file."""
    import onnx_ir as ir

    from mlc.workspace import initializers

    clone = model.clone()
    for value in initializers(clone):
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor):
            value.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=value.name)
    return clone
