"""A JAX function as an Original: compiled by jax.jit, run by input names, its outputs flattened to names."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

from mlc.errors import SourceError, UsageError, foreign, kind_of, user_line
from mlc.probes import check_example, probe
from mlc.sources.jax.binding import bind, path_of
from mlc.sources.jax.modules import in_inference
from mlc.sources.original import Original
from mlc.sources.outputs import output_specs
from mlc.sources.specs import match_specs
from mlc.sources.weights.finite import not_finite
from mlc.types import InputSpec, Signature

if TYPE_CHECKING:
    from mlc.types import Arrays

DTYPES = ("bool", "float32", "float64", "int8", "int16", "int32", "int64", "uint8")
"""Dtypes that inputs and outputs may have."""

ADDRESS = re.compile(r" at 0x[0-9a-f]+")
"""What differs from run to run in the text of a traced function."""

HINT = "call it on its example under jax.jit by itself; --debug shows the whole traceback"

MUTATED = "TraceContextError"
"""What flax.nnx raises where a module that is only called, such as in training mode, writes into itself."""

ON_VALUES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)
"""What JAX raises where the program hangs on values that it does not have while it traces."""


class JaxOriginal(Original):
    """The user's function. What it does beside returning arrays is done when it is traced, and not again."""

    exporter: ClassVar[str] = "jax"
    eager: ClassVar[str] = "JAX, jitted"

    def __init__(
        self,
        function: Callable[..., Any],
        inputs: Sequence[InputSpec] = (),
        example: Any = None,
        *,
        source: str = "",
        code: Path | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.name = getattr(function, "__name__", type(function).__name__)
        self.function, inferring = in_inference(function)
        self.binding, arrays = bind(self.function, self.name, example, {spec.name for spec in inputs})
        self.shown = {name: _plain(name, array) for name, array in arrays.items()}
        _check_dtypes(inputs)
        specs = match_specs(self.binding.names, inputs, self.shown)
        drawn = probe(specs, check_example(specs, self.shown), self.shown, None, 0)
        self.example = {spec.name: self.shown.get(spec.name, drawn[spec.name]) for spec in specs}
        self._outputs: tuple[str, ...] = ()
        self._compiled = jax.jit(self.flat)
        self.signature = Signature(specs, ())
        self.signature = Signature(specs, output_specs(self))
        self.digest = self._digest(code)
        self.source = source or f"python:{self.digest}"
        self.notes = (*notes, *inferring, *self.binding.notes, *_narrowed(arrays, self.shown))

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Run the function once: arrays by input name to arrays by output name, in the signature's order."""
        with self.running():
            returned = self._compiled(*(jnp.asarray(inputs[name]) for name in self.binding.names))
            return {name: np.array(array) for name, array in zip(self._outputs, returned, strict=True)}

    def flat(self, *arrays: Any) -> tuple[Any, ...]:
        """Call the function with arrays in the order of the inputs; returns its outputs, flat, in order."""
        returned = self.binding.call(self.function, dict(zip(self.binding.names, arrays, strict=True)))
        leaves, _ = jax.tree_util.tree_flatten_with_path(returned)
        root = "" if isinstance(returned, Mapping) or hasattr(returned, "_fields") else "output"
        names = tuple(self._output_name(path_of(keys, root) or "output", leaf) for keys, leaf in leaves)
        self._check_names(names, returned)
        return tuple(jnp.asarray(leaf) for _, leaf in leaves)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Say of the user's function what goes wrong inside; what it prints goes to stderr."""
        try:
            with foreign(f"the model {self.name}", SourceError, HINT), redirect_stdout(sys.stderr):
                yield
        except SourceError as failed:
            cause = failed.__cause__
            if isinstance(cause, ON_VALUES):
                line = user_line(cause)
                raise SourceError(
                    f"what {self.name} computes hangs on the values of its inputs" + (f" at {line}" if line else ""),
                    "choose by jnp.where(condition, a, b), branch by jax.lax.cond, and call jax.numpy, not numpy",
                ) from cause
            if type(cause).__name__ == MUTATED:
                raise SourceError(failed.message, "return the module itself, or call its eval() first") from cause
            raise

    def _output_name(self, path: str, leaf: Any) -> str:
        name = f"output.{path}" if path in self.binding.names else path
        number = isinstance(leaf, jax.Array | np.ndarray | np.generic | float | int)
        dtype = str(jnp.result_type(leaf)) if number else kind_of(leaf)
        if dtype not in DTYPES:
            raise SourceError(
                f"the output {name} of {self.name} is {dtype}, which has no counterpart in the exported model",
                f"return one of {', '.join(DTYPES)}",
            )
        return name

    def _check_names(self, names: tuple[str, ...], returned: Any) -> None:
        if not names:
            what = "None" if returned is None else "an empty container"
            raise SourceError(f"{self.name} returned {what}, no array", "return an array, or a tuple or dict of arrays")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SourceError(f"two outputs of {self.name} are called {twice[0]}", "give them other keys")
        if self._outputs and names != self._outputs:
            raise SourceError(
                f"{self.name} returned {', '.join(names)}, but {', '.join(self._outputs)} before",
                "which outputs there are must not depend on the inputs",
            )
        self._outputs = names

    def _digest(self, code: Path | None) -> str:
        """Return the sha256 over what the function computes, its constants and the bytes of the source file.

        Raises SourceError for a constant that is no number.
        """
        with self.running():
            traced = jax.make_jaxpr(self.flat)(*(jnp.asarray(self.example[name]) for name in self.binding.names))
        hashed = hashlib.sha256(ADDRESS.sub("", str(traced)).encode())
        for constant in _constants(traced):
            keys = jnp.issubdtype(constant.dtype, jax.dtypes.prng_key)
            array = np.asarray(jax.random.key_data(constant) if keys else constant)
            hashed.update(f"{array.dtype} {array.shape}\n".encode())
            hashed.update(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"")
            fault = not_finite(array, may_mask=True)
            if fault:
                shape = ",".join(map(str, array.shape))
                raise SourceError(
                    f"a weight of {self.name}, {array.dtype}[{shape}], holds {fault}", "train or convert it again"
                )
        if code is not None:
            hashed.update(code.read_bytes())
        return hashed.hexdigest()


def _constants(traced: Any) -> Iterator[Any]:
    """Yield the arrays that a traced function holds, those of the functions it calls too."""
    if isinstance(traced, ClosedJaxpr):
        yield from traced.consts
        traced = traced.jaxpr
    for equation in traced.eqns:
        for part in jax.tree.leaves(equation.params, is_leaf=lambda part: isinstance(part, ClosedJaxpr | Jaxpr)):
            if isinstance(part, ClosedJaxpr | Jaxpr):
                yield from _constants(part)


def _plain(name: str, array: Any) -> np.ndarray[Any, Any]:
    """Return an example as JAX takes it: without its x64 mode 64 bits become 32."""
    with foreign(f"the example of {name}", SourceError, "give a plain array"):
        taken = np.array(jnp.asarray(array))
    if str(taken.dtype) not in DTYPES:
        raise SourceError(
            f"the example of {name} is {taken.dtype}, which the exported model cannot take",
            f"give one of {', '.join(DTYPES)}",
        )
    return taken


def _narrowed(given: Mapping[str, Any], taken: Arrays) -> tuple[str, ...]:
    return tuple(
        f"the example of {name} is {array.dtype}, taken as {taken[name].dtype}: JAX's x64 mode is off"
        for name, array in given.items()
        if str(array.dtype) != str(taken[name].dtype)
    )


def _check_dtypes(specs: Sequence[InputSpec]) -> None:
    for spec in specs:
        if spec.dtype not in DTYPES:
            raise SourceError(
                f"the input {spec.name} is {spec.dtype}, for which the CPU provider has no kernels",
                f"take one of {', '.join(DTYPES)}",
            )
        taken = str(jax.dtypes.canonicalize_dtype(spec.dtype))
        if taken != spec.dtype:
            raise UsageError(
                f"the spec says that {spec.name} is {spec.dtype}, but JAX takes {taken}: its x64 mode is off",
                f"write {taken}, or call jax.config.update('jax_enable_x64', True) in the file",
            )
