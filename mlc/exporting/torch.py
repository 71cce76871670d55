"""Trace a torch module and translate it: torch.export with the declared ranges, then torch.onnx."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mlc.dims import range_text, size_of
from mlc.errors import SourceError, foreign
from mlc.exporting.asked import IDLE, Asked, asked_notes
from mlc.exporting.errors import FixedError, SizesError, tracing_error
from mlc.exporting.experts import AllExperts
from mlc.exporting.guards import SYMBOL, GuardLog, dim_of
from mlc.exporting.known import Known
from mlc.exporting.mending import mend, without_asserts
from mlc.exporting.nothing import check_enough
from mlc.exporting.quantized.trace import Taking
from mlc.exporting.quantized.written import opset_for, widened, write_out
from mlc.exporting.recurrences.rolled import rolled, rolled_note
from mlc.exporting.shapes import dynamic_shapes, larger_sizes, traced_note, tracing_sizes, unrelated_shapes
from mlc.exporting.sides import Sided, sided
from mlc.exporting.tidy import rename, tidy
from mlc.exporting.translation import Doubt, Translation, doubt_note
from mlc.exporting.writing import EXPORTER, quiet, written
from mlc.exporting.written_otherwise import written_otherwise
from mlc.figures import sizes_text
from mlc.probes import probe
from mlc.sources.quantized.modules import stored_in, traceable
from mlc.sources.quantized.nouns import Coded, Stored
from mlc.sources.torch.frozen import frozen
from mlc.sources.torch.module import TorchOriginal, device_of
from mlc.types import InputSpec, Sizes

if TYPE_CHECKING:
    from mlc.types import Arrays

PREFIX = "module."
"""What the wrapper puts before every weight's name."""


class Flat(nn.Module):
    """The user's module with flat tensors in and out, in the order of the signature."""

    def __init__(self, original: TorchOriginal, notes: Sequence[Coded], stored: Stored, asked: Asked) -> None:
        super().__init__()
        self.module = original.module
        self._asked = asked
        self._taking = (lambda: Taking(stored, notes)) if notes else nullcontext
        named_buffers = self.module.named_buffers(remove_duplicate=False)
        values = {name: buffer for name, buffer in named_buffers if name not in original.state}
        # of before the trace, in which the module has other buffers
        self._knowing: Callable[[], Known] = lambda: Known(self.module, values)
        self._call_by_name = original.call
        self._names = [spec.name for spec in original.signature.inputs]

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Call the module by input name; return its outputs in order."""
        with self._asked, self._taking(), self._knowing(), AllExperts():
            return tuple(tensor for _, tensor in self._call_by_name(dict(zip(self._names, tensors, strict=True))))


@torch.inference_mode(mode=False)
def translate(original: TorchOriginal, traced: Sizes, opset: int | None) -> Translation:
    """Return the module as an ONNX model of the given opset, 20 by default. Raises SourceError with the user's line.

    Raises UsageError for an opset that the exporter cannot write.
    """
    sizes = tracing_sizes(original.signature.inputs, traced)
    arrays = probe(original.signature.inputs, sizes, original.example, None, 0)
    _, coded = original.noted(arrays)
    opset, needed = opset_for(coded, opset)
    asked = Asked()
    with rolled(original.module) as called:
        program, names, doubt, noted = _trace(original, sizes, coded, asked)
        if asked.lines:
            _check_idle(original, sizes, coded, asked, doubted=doubt is not None)
    program = mend(program, original.signature.inputs, opset)
    with _rolled(original.module):
        model = written(program, opset)
    signature = original.signature
    weights = {*original.module.state_dict(), *dict(original.module.named_parameters(remove_duplicate=False))}
    doubted = _recurrent(original.module)
    tidy(model, signature.inputs, signature.outputs, PREFIX, weights=weights, doubted=doubted)
    rename(model, names)
    taken = write_out(model, coded) if coded else ()
    notes = (
        *traced_note(sizes, traced),
        *noted,
        *rolled_note(called),
        *needed,
        *taken,
        *widened(original.module, model),
        *asked_notes(asked),
    )
    return Translation(model, EXPORTER, notes, doubt, asked=tuple(asked.lines), checks=tuple(asked.checks))


def _trace(
    original: TorchOriginal, sizes: Sizes, coded: Sequence[Coded], asked: Asked
) -> tuple[torch.export.ExportedProgram, dict[str, str], Doubt | None, tuple[str, ...]]:
    """Return the traced program, what the module calls the tensors that it takes for constants, a doubt, and a note.

    Where torch takes a size for granted that the ranges do not grant, it is traced at larger sizes, since of two steps
    one less is one; then once more with what torch takes for granted put off, and each of these guards is evaluated at
    all legal sizes: at the few that break one, the trace stands in doubt. Raises SizesError where they are more.
    """
    inputs = original.signature.inputs
    refused: list[SizesError] = []
    larger = sizes if coded else larger_sizes(inputs, sizes)
    for traced in (sizes, larger) if larger != sizes else (sizes,):
        arrays = probe(inputs, traced, original.example, None, 0)
        log = GuardLog()
        try:
            program, stored = _exported(original, arrays, coded, log, asked)
            _check_sums(inputs, log)
            if traced != larger:
                check_enough(program, inputs)
            return program, _names(program, stored), None, _larger_note(traced, refused)
        except SizesError as failed:
            refused.append(failed)
    told = next((one for one in refused if not isinstance(one, FixedError)), refused[0])
    again = _again(original, coded, log, asked, traced)
    if again is None:
        raise told
    program, stored = again.program
    without_asserts(program)
    doubt = Doubt(again.compared, told, again.broken)
    return program, _names(program, stored), doubt, doubt_note(doubt, again.ways)


def _check_idle(original: TorchOriginal, sizes: Sizes, coded: Sequence[Coded], asked: Asked, *, doubted: bool) -> None:
    """Raise SourceError where the ways without a mask, of which no graph is made, branch on values, or on sizes too.

    Lines that raise there are checks of what was ``asked``.
    Nothing would tell at which of them to compare. Where guards are ``doubted`` with a mask, most of them are the same.
    """
    inputs = original.signature.inputs
    log, idle = GuardLog(), Asked(IDLE)
    try:
        with suppress(SizesError):
            _exported(original, probe(inputs, sizes, original.example, None, 0), coded, log, idle, put_off=True)
    except SourceError as failed:
        raise SourceError(f"where nothing is masked, {failed.message}", failed.hint) from failed
    for one in () if doubted else log.broken(inputs):
        at = f", such as {sizes_text(one.sizes[0])}" if one.sizes else ""
        raise SourceError(
            f"where nothing is masked, the model does not compute the same way for all sizes{at}"
            f"{f', because of {one.guard.line}' if one.guard.line else ''}",
            "make that line independent of the size, or compute with the mask there too",
        )
    asked.raise_otherwise(idle.checks)


def _again(
    original: TorchOriginal, coded: Sequence[Coded], heard: GuardLog, asked: Asked, traced: Sizes
) -> Sided[tuple[torch.export.ExportedProgram, Stored]] | None:
    """Return what is traced with guards put off, where these can be told of all sizes as those that were ``heard``."""
    inputs = original.signature.inputs

    def trace(sizes: Sizes, log: GuardLog) -> tuple[torch.export.ExportedProgram, Stored] | None:
        arrays = probe(inputs, sizes, original.example, None, 0)
        try:
            return _exported(original, arrays, coded, log, asked, put_off=True)
        except SizesError:
            return None

    return sided(trace, heard, inputs, traced)


def _larger_note(traced: Sizes, refused: Sequence[SizesError]) -> tuple[str, ...]:
    """Return a note where larger sizes were traced, and why."""
    return (f"traced at {sizes_text(traced)}, since at smaller sizes {refused[0].message}",) if refused else ()


def _exported(
    original: TorchOriginal,
    arrays: Arrays,
    coded: Sequence[Coded],
    log: GuardLog,
    asked: Asked,
    *,
    put_off: bool = False,
) -> tuple[torch.export.ExportedProgram, Stored]:
    """Return the program of torch.export, its guards only listened to where they are ``put_off``.

    A line that checks what it is given stops a trace, and is passed in the next.
    """
    inputs = original.signature.inputs
    device = device_of(original.module)
    tensors = tuple(torch.from_numpy(arrays[spec.name]).to(device) for spec in inputs)
    shapes = unrelated_shapes(inputs, arrays) if put_off else dynamic_shapes(inputs)
    options: dict[str, Any] = {"dynamic_shapes": (shapes,), "prefer_deferred_runtime_asserts_over_guards": put_off}
    while True:
        try:
            with foreign("torch.export"):
                return _program(original, tensors, coded, log, asked, options)
        except SourceError as failed:
            if failed.__cause__ is None:
                raise
            if not asked.is_check(failed.__cause__):
                raise tracing_error(failed.__cause__, inputs, log) from failed.__cause__


def _program(  # noqa: PLR0917 - one place calls it
    original: TorchOriginal,
    tensors: tuple[torch.Tensor, ...],
    coded: Sequence[Coded],
    log: GuardLog,
    asked: Asked,
    options: dict[str, Any],
) -> tuple[torch.export.ExportedProgram, Stored]:
    with (
        frozen(original.module) as before,
        torch.no_grad(),
        quiet(),
        _rolled(original.module),
        written_otherwise(original.module),
        log.listening(),
        traceable(original.module, stored_in(original.module)) as stored,
    ):
        program = torch.export.export(Flat(original, coded, stored, asked), tensors, strict=False, **options)
        asked.raise_caught()
        _check_dense(program)
        copies = {id(kept): nn.Parameter(kept.data) for kept, _ in before.parameters}
        program.state_dict.update(
            {name: copies[id(kept)] for name, kept in program.state_dict.items() if id(kept) in copies}
        )
    return program, stored


def _check_dense(program: torch.export.ExportedProgram) -> None:
    """Raise SourceError for a tensor that is held as no weight, and is sparse."""
    constants = {name: tensor for name, tensor in program.constants.items() if isinstance(tensor, torch.Tensor)}
    sparse = [name for name, tensor in constants.items() if tensor.layout is not torch.strided]
    if sparse:
        names = ", ".join(name.removeprefix(PREFIX) for name in sparse)
        raise SourceError(
            f"the model computes with sparse tensors, for which ONNX has no operators: {names}",
            "make them dense: tensor.to_dense()",
        )


def _names(program: torch.export.ExportedProgram, stored: Stored) -> dict[str, str]:
    places = {tensor.data_ptr(): name for tensor, name in stored.plain if tensor.numel()}
    tensors = {name: tensor for name, tensor in program.constants.items() if isinstance(tensor, torch.Tensor)}
    return {
        name.removeprefix(PREFIX): places[tensor.data_ptr()]
        for name, tensor in tensors.items()
        if tensor.numel() and tensor.data_ptr() in places
    }


def _check_sums(inputs: Sequence[InputSpec], log: GuardLog) -> None:
    """Raise SizesError where a guard on a sum of dims is broken, or may be: torch knows no declared range of it."""
    for one in log.broken(inputs):
        dims = [dim_of(log.sources[symbol], inputs) for symbol in SYMBOL.findall(one.guard.text)]
        total = next((dim for dim in dims if dim.terms), None)
        if total is None:
            continue
        least = min(one.sizes, key=lambda sizes: size_of(total, sizes)) if one.sizes else None
        such = f", such as {total.name}={size_of(total, least)} ({sizes_text(least)})" if least else ""
        line = f", because of {one.guard.line}" if one.guard.line else ""
        ways = "the model does not compute" if least else "it cannot be told whether the model computes"
        raise SizesError(
            f"{ways} the same way for all of {total.name}={range_text(total)}{such}{line}",
            f"narrow {' and '.join(total.terms)}, or make that line independent of the size",
        )


def _recurrent(module: nn.Module) -> bool:
    return any(isinstance(part, nn.LSTM | nn.GRU) for part in module.modules())


@contextmanager
def _rolled(module: nn.Module) -> Iterator[None]:
    """Keep recurrent layers rolled up, as torch.onnx itself does: unrolled they fix the length of the sequence."""
    if not _recurrent(module) or importlib.util.find_spec("torch.export._patches") is None:
        yield
        return
    from torch.export._patches import register_gru_while_loop_decomposition, register_lstm_while_loop_decomposition

    with register_lstm_while_loop_decomposition(), register_gru_while_loop_decomposition():
        _forget_kernels()  # of an export before, which has left the block: they are unrolled
        torch.compiler.reset()  # its loops too, compiled for the sizes it had; what else is compiled is compiled anew
        yield
    _forget_kernels()


def _forget_kernels() -> None:
    """Let torch choose anew which kernels of recurrent layers it traces: it keeps the first that it chose."""
    for operator in (torch.ops.aten.lstm.input, torch.ops.aten.gru.input):
        operator._dispatch_cache.clear()  # noqa: SLF001 - torch has no public way
