"""One door to every kind of source: a function in a file or package, an .onnx file, a live module."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlc.errors import SourceError, UsageError, foreign, kind_of
from mlc.references import code_file, function_hint, load_function
from mlc.sources.original import Original
from mlc.types import InputSpec

if TYPE_CHECKING:
    from torch import nn

FORMS = "file.py:function, package.module:function (with @weights.safetensors), or model.onnx"

PAIR = 2
"""A function returns the module, or the module and its example."""


def load(source: str | nn.Module, inputs: Sequence[InputSpec] = (), example: Any = None) -> Original:
    """Return the Original behind a source: its signature is complete, and it has run on its example.

    ``source`` is written as on the command line, or is a live ``torch.nn.Module``. ``example`` (a tensor, a tuple in
    the order of forward's parameters, or a dict by name) takes the place of the one that the function returns.
    Raises UsageError for wrong specs, SourceError where the model cannot be used.
    """
    if not isinstance(source, str):
        return _live(source, inputs, example)
    reference, _, weights = source.partition("@")
    if reference.lower().endswith(".onnx"):
        if weights:
            raise UsageError("an .onnx file has its own weights", f"write {reference}")
        from mlc.sources.onnx_file import OnnxOriginal

        return OnnxOriginal(Path(reference), inputs, example)
    if ":" not in reference:
        raise UsageError(f"{source!r} is no source of a model", _form(reference))
    return _from_function(source, reference, weights, inputs, example)


def _form(reference: str) -> str:
    if reference.endswith(".py"):
        return function_hint(reference)
    if Path(reference, "model.onnx").is_file():
        return f"write {Path(reference, 'model.onnx')} for the model in that directory"
    kind = Path(reference).suffix
    if kind in {".pt", ".pth", ".bin", ".ckpt"}:
        return (
            f"a {kind} file alone has no module in it that is safe to load: {_saved(reference)}; "
            "then write file.py:function@weights.safetensors"
        )
    if kind in {".pt2", ".safetensors"}:
        return (
            f"a {kind} file alone has no module in it that is safe to load; write file.py:function@weights.safetensors"
        )
    near = difflib.get_close_matches(Path(reference).name, [path.name for path in Path.cwd().glob("*.onnx")], n=1)
    return f"did you mean {near[0]}?" if near else f"write {FORMS}"


def _saved(path: str) -> str:
    """Return how weights that were pickled are saved in the form that is safe to load."""
    name = f"{Path(path).stem}.safetensors"
    return f"save its state dict once: safetensors.torch.save_file(torch.load({path!r}, weights_only=True), {name!r})"


def _live(module: object, inputs: Sequence[InputSpec], example: Any) -> Original:
    from torch import nn

    from mlc.sources.torch_module import TorchOriginal

    if not isinstance(module, nn.Module):
        raise SourceError(f"the model is {kind_of(module)}, not a torch.nn.Module", f"give a module, or {FORMS}")
    return TorchOriginal(module, inputs, example)


def _from_function(source: str, reference: str, weights: str, inputs: Sequence[InputSpec], example: Any) -> Original:
    if "@" in source and not weights.endswith(".safetensors"):
        raise UsageError(
            f"the weights {weights!r} are no .safetensors file",
            _saved(weights) if weights else "write the file after the @",
        )
    function = load_function(reference, SourceError)
    import torch

    from mlc.sources.torch_module import TorchOriginal
    from mlc.sources.weights import load_weights

    with torch.random.fork_rng(devices=[]), foreign(f"the function {reference}"):
        torch.manual_seed(0)
        module, shown = _module_and_example(reference, function())
    notes = load_weights(module, Path(weights)) if weights else ()
    chosen = shown if example is None else example
    code = code_file(reference, SourceError)
    return TorchOriginal(module, inputs, chosen, source=source, code=code, notes=notes)


def _module_and_example(reference: str, returned: object) -> tuple[nn.Module, Any]:
    from torch import nn

    if isinstance(returned, nn.Module):
        return returned, None
    if isinstance(returned, tuple) and returned and isinstance(returned[0], nn.Module):
        if len(returned) == PAIR:
            return returned[0], returned[1]
        raise SourceError(
            f"{reference} returned {len(returned)} things",
            "return the module, or (module, example inputs) with a tuple",
        )
    what = "None" if returned is None else kind_of(returned)
    hint = "return an instance, not the class" if isinstance(returned, type) else "return a torch.nn.Module"
    if isinstance(returned, Mapping):
        hint = "return the module, and write its weights after an @"
    raise SourceError(f"{reference} returned {what}, not a module", hint)
