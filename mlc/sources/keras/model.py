"""A Keras model as an Original: on its torch backend it is computed, timed and exported as a torch module."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FunctionType
from typing import Any, ClassVar

from mlc.errors import SourceError, UsageError, foreign
from mlc.figures import counted
from mlc.grammar.inputs import input_text
from mlc.installed import is_installed
from mlc.sources.keras.backend import check_backend
from mlc.sources.keras.module import KerasInput, KerasModule, build, wrapped
from mlc.sources.specs import dim_text, unknown_input
from mlc.sources.torch.module import TorchOriginal
from mlc.sources.weights.tensors import listed
from mlc.types import Dim, InputSpec

BATCH = Dim(1, 64, name="batch")
"""What an open batch axis stands for where nothing says its sizes."""


class KerasOriginal(TorchOriginal):
    """A layer or model of Keras 3, in inference. The digest covers its configuration too."""

    eager: ClassVar[str] = "Keras on torch"

    def __init__(
        self,
        model: Any,
        inputs: Sequence[InputSpec] = (),
        example: Any = None,
        *,
        source: str = "",
        code: Path | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        check_backend()
        if not model.built:
            build(model, _example_of(model, example))
        module = wrapped(model)
        specs = tuple(inputs) if example is not None else _with_own(module.inputs, inputs)
        _check_fit(module.inputs, specs)
        super().__init__(module, specs, example, source=source, code=code, notes=notes)
        _refuse_random(module)
        self.notes += _notes(module, inputs, specs)

    def held(self) -> tuple[object, ...]:
        """Return what decides how the model computes, beside its weights: Keras's own objects hold ids of each other.

        That is its configuration, and the classes and functions of its layers. Raises SourceError where a class cannot
        say its configuration.
        """
        model: Any = self.module.model
        layers = [*model._flatten_layers()]  # noqa: SLF001 - the inner layers of layers too
        functions = [[value for value in vars(layer).values() if _is_users(value)] for layer in layers]
        return _serialized(model), [type(layer) for layer in layers], functions

    def _digest(self, code: Path | None) -> str:
        assert isinstance(self.module, KerasModule)
        return hashlib.sha256(f"{super()._digest(code)} {_configuration(self.module.model)}".encode()).hexdigest()


def _is_users(value: Any) -> bool:
    """Whether a value is a function, such as an activation, that no package brought."""
    return isinstance(value, FunctionType) and not is_installed(Path(value.__code__.co_filename))


def _configuration(model: Any) -> str:
    """Return what Keras would write of a model beside its weights, or nothing where a class of it cannot say."""
    with suppress(SourceError):
        return str(_serialized(model))
    return ""


def _serialized(model: Any) -> Any:
    """Return what Keras would write of a model beside its weights. Raises SourceError where a class cannot say."""
    with foreign("its configuration"):
        return sys.modules["keras"].saving.serialize_keras_object(model)


def _refuse_random(module: KerasModule) -> None:
    drawn = sorted(module.seen.drawn)
    if drawn:
        raise SourceError(
            f"the Keras model {module.model.name} draws random numbers in inference: {listed(drawn)}",
            "take the randomness out of the model, or give it in as an input",
        )


def _notes(module: KerasModule, given: Sequence[InputSpec], specs: Sequence[InputSpec]) -> tuple[str, ...]:
    told = {spec.name for spec in given}
    assumed = [spec for spec in specs if spec.name not in told and BATCH in spec.dims]
    notes = [f"--input '{input_text(spec)}' was assumed, since the model leaves its batch open" for spec in assumed]
    if module.seen.changed:
        notes.append(f"a call changes {listed(sorted(module.seen.changed))}: frozen as it is")
    return tuple(notes)


def _example_of(model: Any, example: Any) -> Any:
    """Return the example on which a model is called to make its weights. Raises SourceError without one."""
    if example is None:
        raise SourceError(
            f"the Keras model {model.name} has no weights yet: nothing says which inputs it takes",
            "begin it with keras.Input(shape), or return (model, example inputs)",
        )
    return example


def _with_own(known: Sequence[KerasInput], given: Sequence[InputSpec]) -> tuple[InputSpec, ...]:
    """Return the specs of the user and, for the inputs without one, what the model itself says.

    An open batch axis has the batch of another input's spec, else 1..64. Raises UsageError for other open axes.
    """
    told = {spec.name: spec for spec in given}
    open_first = [told[one.name] for one in known if one.name in told and one.axes and one.axes[0] is None]
    batch = next((spec.dims[0] for spec in open_first if spec.dims), BATCH)
    return (*given, *(_spec(one, batch) for one in known if one.name not in told))


def _spec(one: KerasInput, batch: Dim) -> InputSpec:
    dims: list[Dim] = []
    for axis, size in enumerate(one.axes):
        if size is not None:
            dims.append(Dim(size, size))
        elif axis == 0:
            dims.append(batch)
        else:
            raise UsageError(
                f"the axis {axis} of the input {one.name} is open, and nothing says which sizes it has",
                f"add --input '{_text(one)}', with the range that is meant",
            )
    return InputSpec(one.name, one.dtype, tuple(dims))


def _text(one: KerasInput) -> str:
    """Return an input as a spec could be written."""
    axes = [
        str(size) if size is not None else f"{f'n{axis}' if axis else 'batch'}=1..64"
        for axis, size in enumerate(one.axes)
    ]
    return f"{one.name}={one.dtype}[{','.join(axes)}]"


def _check_fit(known: Sequence[KerasInput], specs: Sequence[InputSpec]) -> None:
    """Raise UsageError where a spec contradicts what the model says of the input."""
    inputs = {one.name: one for one in known}
    for spec in specs if known else ():
        if spec.name not in inputs:
            raise unknown_input(spec.name, tuple(inputs))
        one = inputs[spec.name]
        hint = f"write --input '{_text(one)}', with the ranges that are meant"
        if spec.dtype != one.dtype:
            raise UsageError(f"the spec says that {spec.name} is {spec.dtype}, but the model takes {one.dtype}", hint)
        if len(spec.dims) != len(one.axes):
            raise UsageError(
                f"the spec gives {spec.name} {counted(len(spec.dims), 'axis', 'axes')}, "
                f"but the model's has {len(one.axes)}",
                hint,
            )
        for axis, (dim, size) in enumerate(zip(spec.dims, one.axes, strict=True)):
            if size is not None and not dim.low == dim.high == size:
                raise UsageError(
                    f"the model fixes axis {axis} of {spec.name} at {size}; the spec says {dim_text(dim)}", hint
                )
