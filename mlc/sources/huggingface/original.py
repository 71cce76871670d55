"""A model of transformers as an Original: its inputs follow from its configuration."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlc.errors import SourceError, UsageError, foreign
from mlc.probes import probe
from mlc.sources.huggingface.directory import CONFIG, Directory
from mlc.sources.huggingface.inputs import Expectation, expectation, specs, usual_sizes
from mlc.sources.huggingface.live import TransformersOriginal
from mlc.sources.huggingface.loading import EAGER
from mlc.sources.weights.tensors import listed
from mlc.types import InputSpec

MASKED = (
    "attention is computed by the eager code of transformers: a token that may look at none gets the mean of all, "
    "where other kernels give zeros"
)


class HuggingFaceOriginal(TransformersOriginal):
    """A model that transformers has loaded; without an example it is traced and timed at usual sizes."""

    def __init__(
        self,
        model: Any,
        directory: Directory,
        given: Sequence[InputSpec],
        example: Any,
        *,
        source: str,
        notes: Sequence[str],
    ) -> None:
        hint = "write file.py:function that returns (module, example inputs)"
        with foreign(f"the configuration of {type(model).__name__}", SourceError, hint):
            found = expectation(model, directory.processor)
        _check(model, found, given, example)
        inputs = specs(found, given)
        if isinstance(example, Mapping):
            inputs = tuple(spec for spec in inputs if spec.name in {*example, *(own.name for own in given)})
        elif example is not None:
            inputs = tuple(given)
        code = Path(directory.path, CONFIG)
        super().__init__(model, inputs, example, source=source, code=code, notes=notes)
        if example is None:
            self.example = probe(self.signature.inputs, usual_sizes(found, self.signature.inputs), {}, None, 0)
        stated = {spec.name for spec in given} | set(self.shown)
        self.notes = (*self.notes, *(note for name, note in found.notes.items() if name not in stated))
        self.notes = (*self.notes, *_input_notes(model, self.binding.names))


def _check(model: Any, found: Expectation, given: Sequence[InputSpec], example: Any) -> None:
    """Raise UsageError where neither the configuration nor the user says what the first input is."""
    name = model.main_input_name
    known = {each.name for each in found.inputs} | {spec.name for spec in given}
    if example is None and name not in known:
        raise UsageError(
            f"the configuration does not say what the input {name!r} of {type(model).__name__} looks like",
            f"state each input, as in --input '{name}=float32[batch=1..8,...]'",
        )


def _input_notes(model: Any, names: Sequence[str]) -> Iterator[str]:
    """Yield what a user should know of masks, and of arguments that are no inputs."""
    if "attention_mask" in names and model.config._attn_implementation == EAGER:  # noqa: SLF001 - its only name
        yield MASKED
    parameters = inspect.signature(model.forward).parameters.values()
    left = [each.name for each in parameters if each.kind is not each.VAR_KEYWORD and each.name not in names]
    if left:
        yield f"other arguments of forward keep their defaults: {listed(left)}"
