"""A live Python object as an Original: a module of torch or Keras, a program, TorchScript, a JAX function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn
from typing_extensions import TypeIs

from mlc.sources.jax.modules import is_jax
from mlc.sources.keras.backend import is_keras
from mlc.sources.original import Original
from mlc.sources.torch.module import TorchOriginal
from mlc.sources.torch.program import ProgramOriginal
from mlc.sources.torch.script import ScriptOriginal
from mlc.types import InputSpec

Model: TypeAlias = nn.Module | torch.export.ExportedProgram | Callable[..., Any]


def is_model(value: object, example: Any = None) -> TypeIs[Model]:
    """Whether an object is a model; that a plain function is JAX is seen by its example."""
    known = isinstance(value, nn.Module | torch.export.ExportedProgram)
    return known or is_keras(value) or is_jax(value, example)


def original_of(
    model: Model,
    inputs: Sequence[InputSpec] = (),
    example: Any = None,
    *,
    source: str = "",
    code: Path | None = None,
    notes: Sequence[str] = (),
) -> Original:
    """Return the Original of what kind the object is; ``code`` is the file that it came from."""
    if is_keras(model):
        from mlc.sources.keras.model import KerasOriginal

        return KerasOriginal(model, inputs, example, source=source, code=code, notes=notes)
    if isinstance(model, torch.export.ExportedProgram):
        return ProgramOriginal(model, inputs, example, source=source, code=code, notes=notes)
    if isinstance(model, torch.jit.ScriptModule):
        return ScriptOriginal(model, inputs, example, source=source, code=code, notes=notes)
    if isinstance(model, nn.Module):
        from mlc.sources.huggingface.live import TransformersOriginal, holds_transformers

        kind = TransformersOriginal if holds_transformers(model) else TorchOriginal
        return kind(model, inputs, example, source=source, code=code, notes=notes)
    from mlc.sources.jax.function import JaxOriginal

    return JaxOriginal(model, inputs, example, source=source, code=code, notes=notes)
