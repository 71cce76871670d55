"""Why an export failed, in the user's terms: the dim, the range that would hold, the operator, the line."""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from mlc.dims import range_text
from mlc.errors import SourceError, first_line
from mlc.types import Dim, InputSpec

SHAPES = "torch.fx.experimental.symbolic_shapes"
"""The logger on which torch says which guard it adds."""

SOURCE = re.compile(r"L\['tensors'\]\[(\d+)\]\.size\(\)\[(\d+)\]")
SYMBOL = re.compile(r"\b[su]\d+\b")
FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)\n\s*([^\n]*)')

REWRITES = {
    "median": "torch.sort, then the middle element",
    "nanmedian": "torch.sort, then the middle element",
    "kthvalue": "torch.topk(largest=False), then the last element",
    "_int_mm": "a product of floats, or give the live module that was quantized: its codes are taken over",
    "mode": "torch.bincount or a one-hot sum, then argmax",
}
"""What to write in the place of operators that have no counterpart in ONNX."""


@dataclass
class GuardLog(logging.Handler):
    """Listens to torch while it traces: which symbol is which axis, and which of the user's lines adds which guard."""

    sources: dict[str, tuple[int, int]] = field(default_factory=dict)
    guards: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(logging.INFO)

    __hash__ = object.__hash__

    def emit(self, record: logging.LogRecord) -> None:
        """Note a symbol or a guard."""
        text = record.getMessage()
        created = re.match(r"create_symbol (\w+) = ", text)
        source = SOURCE.search(text)
        if created and source:
            self.sources[created[1]] = (int(source[1]), int(source[2]))
        guard = re.match(r"(?:runtime_assert|eval) (.*?) \[guard added\]", text)
        if guard:
            stack = traceback.extract_stack()[:-1]
            self.guards.append(
                (guard[1], user_frame([(f.filename, f.lineno or 0, f.name, f.line or "") for f in stack]))
            )

    def line(self, axes: set[tuple[int, int]]) -> str:
        """Return the user's line of the last guard on one of the axes, else of the last guard of all."""
        symbols = {symbol for symbol, axis in self.sources.items() if axis in axes}
        lines = [line for expression, line in self.guards if line and symbols & set(SYMBOL.findall(expression))]
        others = [line for _, line in self.guards if line]
        return (lines or others or [""])[-1]

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the place of torch's own handlers inside the block."""
        logger = logging.getLogger(SHAPES)
        handlers, level, propagate = logger.handlers, logger.level, logger.propagate
        logger.handlers, logger.propagate = [self], False
        logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)


def user_frame(frames: Sequence[tuple[str, int, str, str]]) -> str:
    """Return ``model.py:12 in forward: `the line` `` for the innermost frame of the user's own code, or nothing.

    Frames above our own are those of who called us.
    """
    ours, standard = Path(__file__).parents[1], Path(traceback.__file__).parent
    for file, number, function, line in reversed(frames):
        path = Path(file)
        if ours in path.parents:
            return ""
        if {"site-packages", "dist-packages"} & set(path.parts) or standard in path.parents or not path.is_file():
            continue
        text = f": `{line.strip()}`" if line.strip() else ""
        return f"{path.name}:{number} in {function}{text}"
    return ""


def raised_at(raised: BaseException) -> str:
    """Return the innermost line of the user's code that an exception went through, or nothing."""
    frames = [(f.filename, f.lineno or 0, f.name, f.line or "") for f in traceback.extract_tb(raised.__traceback__)]
    return user_frame(frames)


def tracing_error(failed: BaseException, inputs: Sequence[InputSpec], log: GuardLog) -> SourceError:
    """Return what a failure of torch.export means."""
    text = str(failed)
    if text.startswith("Constraints violated"):
        return _constraint_error(text, inputs, log)
    line = raised_at(failed)
    at = f" at {line}" if line else ""
    if type(failed).__name__ == "GuardOnDataDependentSymNode" or "data-dependent" in text:
        return SourceError(
            f"what the model computes hangs on the values of its inputs{at}",
            "choose by torch.where(condition, a, b), or branch by torch.cond; sizes must not follow from values",
        )
    return SourceError(
        f"torch.export cannot trace the model{at}: {type(failed).__name__}: {first_line(failed)}",
        "rewrite that line with tensor operations that do not depend on values",
    )


def _constraint_error(text: str, inputs: Sequence[InputSpec], log: GuardLog) -> SourceError:
    """Read which dim broke its declared range, and what torch suggests instead."""
    bullets = [line.strip() for line in text.splitlines() if line.strip().startswith("- ")]
    dims = {dim.name: dim for spec in inputs for dim in spec.dims if dim.name is not None}
    for bullet in bullets:
        name = _dim_of(bullet, inputs, dims)
        if name is None:
            continue
        axes = {
            (index, axis) for index, spec in enumerate(inputs) for axis, dim in enumerate(spec.dims) if dim.name == name
        }
        line = log.line(axes)
        at = f", because of {line}" if line else ""
        constant = re.search(r"constant \((\d+)\)", bullet)
        if constant:
            return SourceError(
                f"{name} cannot vary: the model works only at {name}={constant[1]}{at}",
                f"take the size from the input's shape there, or fix it: write {constant[1]} for {name}",
            )
        holds = _suggested(text, name, dims[name])
        return SourceError(
            f"the model does not compute the same way for all of {name}={range_text(dims[name])}{at}",
            f"declare {holds}, or make that line independent of the size" if holds else "narrow the range of that dim",
        )
    reason = bullets[0].removeprefix("- ") if bullets else first_line(SourceError(text))
    return SourceError(f"a dim cannot vary as declared: {_readable(reason, inputs)}", "narrow the ranges of the dims")


def _dim_of(bullet: str, inputs: Sequence[InputSpec], dims: dict[str, Dim]) -> str | None:
    """Return the name of the dim that a line of torch's message speaks of."""
    source = SOURCE.search(bullet)
    if source:
        dim = inputs[int(source[1])].dims[int(source[2])]
        if dim.name is not None:
            return dim.name
    words = [word.removeprefix("_") for word in re.findall(r"[A-Za-z_]\w*", bullet)]
    return next((word for word in words if word in dims), None)


def _suggested(text: str, name: str, dim: Dim) -> str:
    """Return the declaration that torch's suggestion amounts to, or nothing."""
    bounds = re.search(rf"^\s*_?{name} = Dim\('_?{name}'(?:, min=(\d+))?(?:, max=(\d+))?\)", text, re.MULTILINE)
    low, high = (int(bound) if bound else None for bound in bounds.groups()) if bounds else (None, None)
    steps = re.search(rf"^\s*{name} = (\d+)\*_{name}", text, re.MULTILINE)
    if steps:
        step = int(steps[1])
        start = -(-dim.low // step) * step
        return f"{name}={start}..{dim.high // step * step}/{step}"
    equal = re.search(rf"^\s*{name} = ([A-Za-z]\w*)\s*$", text, re.MULTILINE)
    if equal:
        return f"the same name, {equal[1]}, for both axes"
    exact = re.search(rf"^\s*{name} = (\d+)\s*$", text, re.MULTILINE)
    if exact:
        return f"{exact[1]} for {name}"
    if not bounds:
        return ""
    factor = dim.step if f"_{name} = Dim" in text else 1
    low = dim.low if low is None or low * factor <= dim.low else low * factor
    high = dim.high if high is None else min(dim.high, high * factor)
    return f"{name}={low}..{high}" + (f"/{dim.step}" if dim.step != 1 else "")


def _readable(reason: str, inputs: Sequence[InputSpec]) -> str:
    named = SOURCE.sub(lambda match: f"axis {match[2]} of {inputs[int(match[1])].name}", reason)
    return named[:300]


def translation_error(failed: BaseException, program: torch.export.ExportedProgram, opset: int) -> SourceError:
    """Return what a failure of torch.onnx means: the operator, its line, and what to write instead."""
    chain: list[BaseException] = []
    cause: BaseException | None = failed
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    text = "\n".join(str(link) for link in chain)
    operator = re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)'", text)
    node = re.search(r"translating node %?(\w+)", text)
    line = _node_line(program, node[1] if node else "", operator[1] if operator else "")
    at = f" at {line}" if line else ""
    if operator:
        name = operator[1].rpartition(".")[2]
        rewrite = next((hint for key, hint in REWRITES.items() if name.startswith(key)), "")
        return SourceError(
            f"the operator {operator[1]}{at} has no counterpart in ONNX",
            f"write instead: {rewrite}" if rewrite else "write it with other operators",
        )
    written = re.search(r"Constant (?:module\.)?(\S+) is mutated", text)
    if written:
        return SourceError(
            f"forward writes into {written[1]}, which is no buffer, so that torch.export takes it for a constant",
            f"register it: self.register_buffer({written[1].rpartition('.')[2]!r}, tensor)",
        )
    innermost = next((link for link in reversed(chain) if str(link).strip()), failed)
    return SourceError(
        f"torch.onnx cannot write the model at opset {opset}{at}: {type(innermost).__name__}: {first_line(innermost)}",
        "rewrite that line, or try another --opset",
    )


def _node_line(program: torch.export.ExportedProgram, name: str, operator: str) -> str:
    """Return the user's line of a node by its name, else of the first node of the operator."""
    nodes = list(program.graph.nodes)
    base = operator.replace("::", ".")
    found = [node for node in nodes if node.name == name]
    found += [node for node in nodes if base and str(node.target).startswith(f"{base}.")]
    parents = [node for node in nodes if base.startswith(_overload_packet(node)) and node.op == "call_function"]
    found += sorted(parents, key=lambda node: -len(_overload_packet(node)))
    for node in found:
        frames = FRAME.findall(node.meta.get("stack_trace") or "")
        line = user_frame([(file, int(number), function, code) for file, number, function, code in frames])
        if line:
            return line
    return ""


def _overload_packet(node: torch.fx.Node) -> str:
    """Return ``aten.linalg_inv`` of ``aten.linalg_inv.default``: decompositions have names that begin like it."""
    return str(node.target).rpartition(".")[0] or str(node.target)
