"""Trace a JAX function at symbolic sizes and translate it: jax2onnx, in its own operators where it can."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import onnx_ir as ir
from jax.export import SymbolicScope, symbolic_shape
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.interpreters.partial_eval import dce_jaxpr_consts

from mlc.compare import Reference
from mlc.dims import largest, named, range_text
from mlc.errors import SourceError, first_line, foreign, user_line
from mlc.exporting.checked import check
from mlc.exporting.opset import check_written, checked_opset
from mlc.exporting.tidy import tidy
from mlc.exporting.translation import Translation
from mlc.figures import counted
from mlc.sources.jax.function import JaxOriginal
from mlc.types import Dim, InputSpec, Sizes
from mlc.workspace import Workspace

OTHERWISE = "write that step with other operations of jax.numpy"

PRIMITIVE = re.compile(r"primitive '([^']+)'")


def translate(original: JaxOriginal, traced: Sizes, opset: int | None) -> Translation:
    """Return the function as an ONNX model of the given opset, 20 by default.

    jax2onnx puts its own operators in the place of functions such as jax.nn.softmax; where it cannot, the function is
    translated primitive by primitive, as JAX itself traced it. Raises SourceError where neither goes, and where the
    function does not compute the same way at all sizes; UsageError for an opset that is not written.
    """
    opset = checked_opset(opset)
    _check_installed()
    arguments = symbolic_arguments(original.signature.inputs)
    primitives = _traced_by_jax(original, arguments)
    exporter = f"jax2onnx {version('jax2onnx')}, jax {jax.__version__}"
    try:
        return Translation(_converted(original, original.flat, arguments, traced, opset), exporter)
    except SourceError as failed:
        try:
            model = _converted(original, primitives, arguments, traced, opset)
        except SourceError:
            raise failed from failed.__cause__
        return Translation(model, f"{exporter}, primitive by primitive")


def symbolic_arguments(inputs: Sequence[InputSpec]) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Return each input's shape and dtype; a dim that varies is a symbol of its own, inside its range."""
    dims = named(inputs)
    limits = []
    for name, symbol in _symbols(inputs).items():
        step = dims[name].step
        limits += [f"{symbol} >= {max(dims[name].low // step, 1)}", f"{symbol} <= {largest(dims[name]) // step}"]
    scope = SymbolicScope(limits)
    texts = {name: _size_text(dim, _symbols(inputs).get(name)) for name, dim in dims.items()}
    return tuple(
        jax.ShapeDtypeStruct(
            symbolic_shape(f"({''.join(f'{_axis_text(dim, texts)},' for dim in spec.dims)})", scope=scope), spec.dtype
        )
        for spec in inputs
    )


def _symbols(inputs: Sequence[InputSpec]) -> dict[str, str]:
    """Return what each independent dim that varies is called while the function is traced."""
    varying = [name for name, dim in named(inputs).items() if dim.low != largest(dim)]
    return {name: f"d{number}" for number, name in enumerate(varying)}


def _size_text(dim: Dim, symbol: str | None) -> str:
    if symbol is None:
        return str(dim.low)
    rest = dim.low % dim.step
    return symbol if dim.step == 1 else f"{dim.step}*{symbol}+{rest}"


def _axis_text(dim: Dim, texts: Mapping[str, str]) -> str:
    return str(dim.low) if dim.name is None else "+".join(texts[name] for name in dim.terms or (dim.name,))


def _traced_by_jax(original: JaxOriginal, arguments: Sequence[jax.ShapeDtypeStruct]) -> Callable[..., Any]:
    """Return the function in JAX's own primitives, without those that no output needs, such as keys in inference.

    Raises SourceError where a size decides what is computed.
    """
    try:
        with original.running():
            traced = jax.make_jaxpr(original.flat)(*arguments)
    except SourceError as failed:
        if isinstance(failed.__cause__, jax.errors.InconclusiveDimensionOperation):
            raise _size_error(failed.__cause__, original.signature.inputs) from failed.__cause__
        raise
    kept = [False] * len(traced.consts) + [True] * len(traced.in_avals)
    jaxpr, needed, _ = dce_jaxpr_consts(traced.jaxpr, [True] * len(traced.out_avals), instantiate=kept)
    consts: list[Any] = [constant for constant, used in zip(traced.consts, needed, strict=True) if used]
    function: Callable[..., Any] = jaxpr_as_fun(ClosedJaxpr(jaxpr, consts))
    return function


def _size_error(raised: BaseException, inputs: Sequence[InputSpec]) -> SourceError:
    """Return what it means that JAX cannot decide a comparison of sizes: the dims in it, and the user's line."""
    spoken = set(re.findall(r"\w+", first_line(raised)))
    dims = named(inputs)
    meant = [name for name, symbol in _symbols(inputs).items() if symbol in spoken] or [*_symbols(inputs)]
    ranges = ", ".join(f"{name}={range_text(dims[name])}" for name in meant)
    line = user_line(raised)
    return SourceError(
        f"the model does not compute the same way for all of {ranges}" + (f", because of {line}" if line else ""),
        "narrow the range of that dim, or make that line independent of the size",
    )


def _converted(
    original: JaxOriginal,
    function: Callable[..., Any],
    arguments: Sequence[jax.ShapeDtypeStruct],
    traced: Sizes,
    opset: int,
) -> ir.Model:
    """Return what jax2onnx makes of a function. Raises SourceError where it cannot, or what it made is another."""
    from jax2onnx import to_onnx

    signature = original.signature
    dtypes = {*(spec.dtype for spec in signature.inputs), *(spec.dtype for spec in signature.outputs)}
    try:
        with foreign("jax2onnx"), _quiet(), _apart():
            model: ir.Model = to_onnx(
                function,
                inputs=arguments,
                opset=opset,
                return_mode="ir",
                enable_double_precision="float64" in dtypes,
            )
    except SourceError as failed:
        raise _translation_error(original, failed.__cause__ or failed) from failed.__cause__
    _check_interface(model, original)
    check_written(model, opset)
    with _quiet():
        tidy(model, signature.inputs, signature.outputs, "", weights=(), doubted=True)
    reference = Reference(traced, original.example, original.run(original.example))
    with Workspace() as workspace:
        check(model.clone(), [reference], workspace)
    return model


def _translation_error(original: JaxOriginal, raised: BaseException) -> SourceError:
    if isinstance(raised, jax.errors.InconclusiveDimensionOperation):
        return SourceError(
            f"jax2onnx cannot write one of the operations of {original.name} at sizes that vary",
            "fix the sizes, or write that step with other operations of jax.numpy",
        )
    primitive = PRIMITIVE.search(str(raised))
    if primitive:
        return SourceError(
            f"jax2onnx has no counterpart in ONNX for the primitive {primitive[1]} of {original.name}", OTHERWISE
        )
    line = user_line(raised)
    return SourceError(
        f"jax2onnx cannot write the model {original.name}{f' at {line}' if line else ''}: "
        f"{type(raised).__name__}: {first_line(raised)}",
        OTHERWISE,
    )


def _check_interface(model: ir.Model, original: JaxOriginal) -> None:
    """Raise SourceError where jax2onnx wrote another interface: it may fit an input to the operator that takes it."""
    specs, outputs = original.signature.inputs, original.signature.outputs
    if len(model.graph.inputs) != len(specs) or len(model.graph.outputs) != len(outputs):
        raise SourceError(
            f"jax2onnx wrote {counted(len(model.graph.inputs), 'input')} and "
            f"{counted(len(model.graph.outputs), 'output')}, "
            f"but {original.name} has {len(specs)} and {len(outputs)}",
            "take each input, and return each output, as an array of its own",
        )
    for value, spec in zip(model.graph.inputs, specs, strict=True):
        dtype = None if value.dtype is None else value.dtype.numpy().name
        rank = None if value.shape is None else len(value.shape)
        if (dtype, rank) != (spec.dtype, len(spec.dims)):
            raise SourceError(
                f"jax2onnx made the input {spec.name} of {original.name} a {dtype} of rank {rank}, "
                f"but it is {spec.dtype} of rank {len(spec.dims)}",
                OTHERWISE,
            )


@contextmanager
def _apart() -> Iterator[None]:
    """Leave nothing of jax2onnx in JAX: it replaces functions, one for good, and what is jitted remembers them."""
    own = dict(vars(jnp))
    jax.clear_caches()
    try:
        yield
    finally:
        for name, value in own.items():
            if vars(jnp)[name] is not value:
                setattr(jnp, name, value)
        jax.clear_caches()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings and log lines, and give the root logger no handler: what matters of the model is checked."""
    root, disabled = logging.getLogger(), logging.root.manager.disable
    handler = logging.NullHandler()
    root.addHandler(handler)
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        root.removeHandler(handler)


def _check_installed() -> None:
    try:
        import_module("jax2onnx")
    except ImportError as missing:
        raise SourceError(
            f"JAX functions need the package jax2onnx, which cannot be imported: {first_line(missing)}",
            "pip install 'mlc-toolchain[jax]'",
        ) from missing
