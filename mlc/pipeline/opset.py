"""What passes need of a target: its kernels, and in which opset a model is exported, the lower or one of theirs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

import onnx
import onnx_ir as ir

from mlc.artifact import Artifact
from mlc.compare import Check
from mlc.exporting.opset import NEWER, OPSET
from mlc.fusion import is_standard, opset_of
from mlc.recipe import Recipe
from mlc.registry import asks_wide_half, lossy_of, optional_probes_of, pass_class, probes_of
from mlc.runtimes.cpu import capabilities
from mlc.runtimes.kernels import has_newer
from mlc.runtimes.onnxruntime import open_session
from mlc.sources.onnx.file import OnnxOriginal
from mlc.sources.original import Original
from mlc.types import Capabilities, PassSpec, Target
from mlc.workspace import Workspace

Exported: TypeAlias = tuple[Artifact, tuple[Check, ...]]


def exported_for(
    recipe: Recipe,
    specs: Sequence[PassSpec],
    original: Original,
    able: Capabilities,
    *,
    workspace: Workspace,
    export: Callable[[int | None], Exported],
) -> Exported:
    """Export at the opset that the passes and the target are for, see ``export_opset``.

    A provider for GPUs may have Attention of opset 23 and no kernel for MaxPool of 22, which would then run on the CPU
    with copies both ways: where that is so, and not at the lower opset, the lower one is written, and a note says why.
    """
    opset = export_opset(recipe, specs, original, able)
    lower = export_opset(recipe, specs, original, able, newer=False)
    made = export(opset)
    if able.cpu or opset == lower:
        return made
    lost = without_kernel(made[0].model, recipe.target, workspace, since=lower or OPSET)
    if not lost:
        return made
    other, checks = export(lower)
    only = [op for op in lost if op not in without_kernel(other.model, recipe.target, workspace)]
    if not only:
        return made
    why = f"{recipe.target.provider} has no kernel for {', '.join(only)} of {opset}"
    note = f"exported at opset {other.origin.opset}: {why}"
    return replace(other, origin=replace(other.origin, notes=(*other.origin.notes, note))), checks


def export_opset(
    recipe: Recipe, specs: Sequence[PassSpec], original: Original, able: Capabilities, *, newer: bool = True
) -> int | None:
    """Return the opset to export at, None for the usual one: chosen by what the passes write, never by conversion.

    Passes that nobody asked for count where there are kernels for what is written at the newer one: on onnxruntime's
    CPU provider, and on GPUs whose provider was seen to have them. Elsewhere what was asked for is written at the
    lowest opset that holds it, and everywhere unless ``newer``. A file keeps its own; what a pass needs beyond it is
    converted, and compared.
    """
    if recipe.opset is not None or isinstance(original, OnnxOriginal):
        return recipe.opset
    has_kernels = newer and recipe.target.runtime == "onnxruntime" and (able.cpu or has_newer(recipe.target))
    asked = {*recipe.passes, *lossy_of(specs)}  # no lossy pass is a default: a number format brought it
    counted = specs if has_kernels else [spec for spec in specs if spec in asked]
    needed = max((pass_class(spec.name).min_opset for spec in counted), default=OPSET)
    if needed <= OPSET:
        return None
    return max(needed, NEWER) if has_kernels else needed


def able_for(recipe: Recipe, specs: Sequence[PassSpec]) -> Capabilities:
    """Return what may be relied on where the artifact will run, asked about what these passes write there."""
    optional = {} if recipe.portable else optional_probes_of(specs)
    return capabilities(recipe.target, probes_of(specs), optional, half=asks_wide_half(specs))


def without_kernel(model: ir.Model, target: Target, workspace: Workspace, since: int = 0) -> tuple[str, ...]:
    """Return ONNX's own operators on floats in a model that its target's provider was not given as they stand.

    Only those whose definition is newer than opset ``since``, by which a provider may have a kernel for the older one
    alone. What computes sizes does so on the CPU by the runtime's choice, and is left out.
    """
    nodes = {
        node.name: node.op_type
        for node in model.graph
        if is_standard(node)
        and (dtype := node.outputs[0].dtype) is not None
        and dtype.is_floating_point()
        and onnx.defs.get_schema(node.op_type, opset_of(model)).since_version > since
    }
    if not nodes:
        return ()
    with open_session(workspace.save(model), target, optimize=False) as session:
        taken = {node.name for node in session.assignment() if node.provider == session.provider}
    return tuple(sorted({op for name, op in nodes.items() if name not in taken}))
