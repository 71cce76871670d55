"""In which opset a model is exported: the lower one, or the one that its passes need."""

from __future__ import annotations

from collections.abc import Iterable

from mlc.exporting.opset import NEWER, OPSET
from mlc.recipe import Recipe
from mlc.registry import pass_class
from mlc.runtimes.kernels import has_newer
from mlc.sources.onnx.file import OnnxOriginal
from mlc.sources.original import Original
from mlc.types import Capabilities, Exactness, PassSpec


def export_opset(recipe: Recipe, specs: Iterable[PassSpec], original: Original, able: Capabilities) -> int | None:
    """Return the opset to export at, None for the usual one: chosen by what the passes write, never by conversion.

    Passes that nobody asked for count where there are kernels for what is written at the newer one: on onnxruntime's
    CPU provider, and on GPUs whose provider was seen to have them. Elsewhere what was asked for is written at the
    lowest opset that holds it. A file keeps its own; what a pass needs beyond it is converted, and compared.
    """
    if recipe.opset is not None or isinstance(original, OnnxOriginal):
        return recipe.opset
    has_kernels = recipe.target.runtime == "onnxruntime" and (able.cpu or has_newer(recipe.target))
    counted = [spec for spec in specs if has_kernels or spec in recipe.passes or _is_lossy(spec)]
    needed = max((pass_class(spec.name).min_opset for spec in counted), default=OPSET)
    if needed <= OPSET:
        return None
    return max(needed, NEWER) if has_kernels else needed


def _is_lossy(spec: PassSpec) -> bool:
    """Whether a pass is one that somebody asked for, by name or as a number format: no lossy pass is a default."""
    return pass_class(spec.name).exactness is Exactness.LOSSY
