"""In which opset a model is exported: the lower one, or the one that its passes need."""

from __future__ import annotations

from collections.abc import Iterable

from mlc.exporting.opset import NEWER, OPSET
from mlc.recipe import Recipe
from mlc.registry import lossy_of, pass_class
from mlc.runtimes.kernels import has_newer
from mlc.sources.onnx.file import OnnxOriginal
from mlc.sources.original import Original
from mlc.types import Capabilities, PassSpec


def export_opset(recipe: Recipe, specs: Iterable[PassSpec], original: Original, able: Capabilities) -> int | None:
    """Return the opset to export at, None for the usual one: chosen by what the passes write, never by conversion.

    Passes that nobody asked for count where there are kernels for what is written at the newer one: on onnxruntime's
    CPU provider, and on GPUs whose provider was seen to have them. Elsewhere what was asked for is written at the
    lowest opset that holds it. A file keeps its own; what a pass needs beyond it is converted, and compared.
    """
    if recipe.opset is not None or isinstance(original, OnnxOriginal):
        return recipe.opset
    has_kernels = recipe.target.runtime == "onnxruntime" and (able.cpu or has_newer(recipe.target))
    given = tuple(specs)
    asked = {*recipe.passes, *lossy_of(given)}  # no lossy pass is a default: a number format brought it
    counted = given if has_kernels else [spec for spec in given if spec in asked]
    needed = max((pass_class(spec.name).min_opset for spec in counted), default=OPSET)
    if needed <= OPSET:
        return None
    return max(needed, NEWER) if has_kernels else needed
