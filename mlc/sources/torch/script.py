"""A TorchScript module as an Original: run as it is, converted to a program of torch.export only to be written."""

from __future__ import annotations

import hashlib
import inspect
import io
import pickletools
import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn

from mlc.sources.torch.module import TorchOriginal
from mlc.types import InputSpec

if TYPE_CHECKING:
    from mlc.types import Arrays


BESIDE = re.compile(r"\.debug_pkl$|^[^/]+/(\.data|traced_inputs)\b")
"""What torch saves of where the code was written, and of how it was traced."""


NUMBERED = re.compile(r"[./]?___torch_mangle_\d+")


class Scripted(nn.Module):
    """A TorchScript module with a signature that Python can read."""

    def __init__(self, script: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.script = script
        for part in script.modules():
            if not hasattr(part, "training"):  # torch.jit.freeze takes it away
                part.training = False
        signature = _signature(script)

        def forward(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            return script(*bound.args, **bound.kwargs)

        forward.__signature__ = signature  # type: ignore[attr-defined]
        self.forward = forward


class ScriptOriginal(TorchOriginal):
    """A TorchScript module in evaluation mode; a call leaves it as it was found."""

    exporter: ClassVar[str] = "torchscript"

    def __init__(
        self,
        script: torch.jit.ScriptModule,
        inputs: Sequence[InputSpec] = (),
        example: Any = None,
        *,
        source: str = "",
        code: Path | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.script = script
        named = type(script.original_name, (Scripted,), {})  # what errors call the module
        super().__init__(named(script), inputs, example, source=source, code=code, notes=notes)

    def held(self) -> tuple[object, ...]:
        """Return nothing: the digest has all that decides how it computes."""
        return ()

    def _digest(self, code: Path | None) -> str:
        return _with_code(super()._digest(code), self.script)

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Run the module once: arrays by input name to arrays by output name, in the signature's order."""
        with _modes_kept(self.script):
            return super().run(inputs)


def _signature(script: torch.jit.ScriptModule) -> inspect.Signature:
    """Return the parameters of forward as TorchScript declares them."""
    positional, keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    schema: Any = script.forward.schema  # type: ignore[attr-defined]
    return inspect.Signature(
        [
            inspect.Parameter(
                argument.name,
                keyword if argument.kwarg_only else positional,
                default=argument.default_value if argument.has_default_value() else inspect.Parameter.empty,
            )
            for argument in schema.arguments[1:]
        ]
    )


@contextmanager
def _modes_kept(script: torch.jit.ScriptModule) -> Iterator[None]:
    """Put back the mode of every part, which TorchScript does not keep among a module's attributes."""
    modes = [(part, part.training) for part in script.modules()]
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _with_code(weights: str, script: torch.jit.ScriptModule) -> str:
    """Return the sha256 over the digest of the weights and all that a file of the script holds: code and attributes."""
    with zipfile.ZipFile(io.BytesIO(script.save_to_buffer())) as archive:
        names = [name for name in archive.namelist() if not BESIDE.search(name)]
        told = sorted(_told(name.partition("/")[2], archive.read(name)) for name in names)
    return hashlib.sha256(f"{weights} {told}".encode()).hexdigest()


def _told(name: str, content: bytes) -> tuple[str, str]:
    """Return a saved file's name and digest, without the numbers that tell apart classes of one name in one process."""
    if name.endswith(".pkl"):
        steps = [(step.name, NUMBERED.sub("", str(argument))) for step, argument, _ in pickletools.genops(content)]
        content = repr(steps).encode()
    elif name.endswith(".py"):
        content = NUMBERED.sub("", content.decode()).encode()
    return NUMBERED.sub("", name), hashlib.sha256(content).hexdigest()
