"""Why an export failed, in the user's terms: the dim, the range that would hold, the operator, the line."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from mlc.dims import range_text
from mlc.errors import SourceError, first_line, foreign
from mlc.exporting.frames import INSIDE_VMAP, raised_at, user_frame
from mlc.exporting.guards import SOURCE, Broken, GuardLog, dim_of
from mlc.figures import sizes_text
from mlc.types import Dim, InputSpec

FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)\n\s*([^\n]*)')

REWRITES = {
    "_int_mm": "a product of floats, or give the live module that was quantized: its codes are taken over",
    "linalg_pinv": "torch.linalg.solve(a.mT @ a, a.mT), where the columns of a do not depend on each other",
    "mode": "torch.bincount or a one-hot sum, then argmax",
}
"""What to write in the place of operators that have no counterpart in ONNX."""

WITHOUT_VMAP = "write that line for the whole batch, without torch.vmap"

UNSOLVED = "Cannot create Dim with inconsistent"
"""How torch fails where it writes down which sizes would hold, of guards that it cannot solve."""


class UnwrittenError(NotImplementedError):
    """What a translation of ours does not write; the message says what the model has."""


class SizesError(SourceError):
    """The trace stands for some of the legal sizes alone, as torch sees it."""


class FixedError(SizesError):
    """The trace stands for a single size, which may be so only since that size is small."""


def speaks_of_sizes(text: str) -> bool:
    """Whether a message of torch.export is about dims that cannot vary as declared."""
    return text.startswith(("Constraints violated", "Specializations unexpectedly required", UNSOLVED))


def tracing_error(failed: BaseException, inputs: Sequence[InputSpec], log: GuardLog) -> SourceError:
    """Return what a failure of torch.export means."""
    text = str(failed)
    if speaks_of_sizes(text):
        return _constraint_error(text, inputs, log)
    line = raised_at(failed)
    at = f" at {line}" if line else ""
    if type(failed).__name__ == "GuardOnDataDependentSymNode" or "data-dependent" in text:
        called = re.search(r"\bmath\.\w+", line)
        if called:
            return SourceError(
                f"what the model computes hangs on {called[0]} of a size or of a value{at}",
                f"torch.export traces no {called[0]} of what varies: compute it in tensors, or fix that dim",
            )
        taken = re.search(r"\b(float|int|bool)\(|\.(item|tolist)\(", line)
        kept = f"keep it a tensor, without {taken[0].lstrip('.')}), or " if taken else ""
        return SourceError(
            f"what the model computes hangs on the values of its inputs{at}",
            f"{kept}choose by torch.where(condition, a, b), or branch by torch.cond; sizes must not follow from values",
        )
    if "found a fake tensor" in text:
        return SourceError(
            "forward puts a tensor that it computes into the place of a weight or constant, as weight.data = ... does",
            "compute with a changed copy: torch.nn.functional.linear(x, changed), and not weight.data = changed",
        )
    return SourceError(
        f"torch.export cannot trace the model{at}: {type(failed).__name__}: {first_line(failed)}",
        WITHOUT_VMAP
        if line.endswith(INSIDE_VMAP)
        else "rewrite that line with tensor operations that do not depend on values",
    )


def _constraint_error(text: str, inputs: Sequence[InputSpec], log: GuardLog) -> SourceError:
    """Read which dim broke its declared range, and what torch suggests instead."""
    bullets = [line.strip() for line in text.splitlines() if line.strip().startswith("- ")]
    dims = {dim.name: dim for spec in inputs for dim in spec.dims if dim.name is not None}
    for bullet in bullets:
        name = _dim_of(bullet, inputs, dims)
        if name is None:
            continue
        axes = {axis for axis in log.sources.values() if dim_of(axis, inputs).name == name}
        breaking = [one for one in log.broken(inputs) if name in one.dims]
        worst = max(breaking, key=lambda one: _weight(one, name), default=None)
        line = (worst.guard.line if worst else "") or log.line(axes)
        at = f", because of {line}" if line else ""
        constant = re.search(r"constant \((\d+)\)", bullet)
        if constant:
            other = "take the size from the input's shape there"
            return FixedError(
                f"{name} cannot vary: the model works only at {name}={constant[1]}{at}",
                f"{_instead(line, other)}, or fix it: write {constant[1]} for {name}",
            )
        first = f", such as {sizes_text(worst.sizes[0])}" if worst and worst.sizes else ""
        summed = worst is not None and any(
            name in dim.terms and set(dim.terms) <= set(worst.dims) for dim in dims.values()
        )
        holds = "" if summed else _suggested(text, name, dims[name]) or _unbroken(breaking, name, dims[name])
        narrowed = f"declare {holds}" if holds else "narrow the range of that dim"
        return SizesError(
            f"the model does not compute the same way for all of {name}={range_text(dims[name])}{first}{at}",
            f"{narrowed}, or {_instead(line, 'make that line independent of the size')}" if line else narrowed,
        )
    reason = bullets[0].removeprefix("- ") if bullets else first_line(SourceError(text))
    broken = next((one for one in log.broken(inputs) if one.sizes), None)
    if text.startswith(UNSOLVED) and broken is not None and broken.sizes:
        at = f", because of {broken.guard.line}" if broken.guard.line else ""
        reason = f"the model does not compute the same way at {sizes_text(broken.sizes[0])}{at}"
    return SizesError(f"a dim cannot vary as declared: {_readable(reason, inputs)}", "narrow the ranges of the dims")


def _instead(line: str, other: str) -> str:
    """Return what to write in a line that makes a number of a size or takes as many steps, and what in any other."""
    if line.endswith(INSIDE_VMAP):
        return WITHOUT_VMAP
    number = re.search(r"\b(int|float)\(", line)
    if number:
        return f"write torch.sym_{number[1]}(...) there for {number[1]}(...), which makes a number of a size"
    looped = re.search(r"\bfor \w.* in |\.unbind\(", line)
    return "compute all steps of that loop at once, by operations on the whole tensor" if looped else other


def _dim_of(bullet: str, inputs: Sequence[InputSpec], dims: dict[str, Dim]) -> str | None:
    """Return the name of the dim that a line of torch's message speaks of."""
    source = SOURCE.search(bullet)
    if source:
        dim = dim_of((source[1], int(source[2])), inputs)
        if dim.name is not None:
            return dim.name
    words = [word.removeprefix("_") for word in re.findall(r"[A-Za-z_]\w*", bullet)]
    return next((word for word in words if word in dims), None)


def _suggested(text: str, name: str, dim: Dim) -> str:
    """Return the declaration that torch's suggestion amounts to, or nothing."""
    bounds = re.search(rf"^\s*_?{name} = Dim\('_?{name}'(?:, min=(\d+))?(?:, max=(\d+))?\)", text, re.MULTILINE)
    low, high = (int(bound) if bound else None for bound in bounds.groups()) if bounds else (None, None)
    steps = re.search(rf"^\s*{name} = (\d+)\*_{name}(?: \+ (\d+))?\s*$", text, re.MULTILINE)
    if steps:
        step, rest = int(steps[1]), int(steps[2] or 0)
        start = dim.low + (rest - dim.low) % step
        return f"{name}={start}..{dim.high - (dim.high - rest) % step}/{step}"
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
    if high < low:
        return ""
    return f"{name}={low}..{high}" + (f"/{dim.step}" if dim.step != 1 else "")


def _weight(one: Broken, name: str) -> tuple[bool, float]:
    """Return how much a guard says of a dim: one of it alone more than others, else the one that more sizes break."""
    sizes = math.inf if one.sizes is None else len({sizes[name] for sizes in one.sizes})
    return one.dims == (name,), sizes


def _unbroken(breaking: Sequence[Broken], name: str, dim: Dim) -> str:
    """Return the declaration of the longest range in which no guard on that dim alone is broken, or nothing."""
    if any(one.sizes is None for one in breaking):
        return ""
    bad = {sizes[name] for one in breaking if one.dims == (name,) for sizes in one.sizes or ()}
    runs: list[list[int]] = [[]]
    for size in range(dim.low, dim.high + 1, dim.step):
        if size in bad:
            runs.append([])
        else:
            runs[-1].append(size)
    longest = max(runs, key=len)
    if not bad or not longest:
        return ""
    held = replace(dim, low=longest[0], high=longest[-1])
    return f"{name}={range_text(held)}" if len(longest) > 1 else f"{longest[0]} for {name}"


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
    node = re.search(r"(?:translating node|While executing) %?(\w+)", text)
    sought = node[1] if node else "", operator[1] if operator else ""
    tables = (dict(torch._decomp.decomposition_table), dict(torch.export.default_decompositions()))  # noqa: SLF001
    lines = (_node_line(_in_parts(program, table), *sought) for table in tables)
    line = _node_line(program, *sought) or next(filter(None, lines), "")
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
    if re.search(r"Unsupported attribute type: (\S+ ?\S*Symbolic|'?<class 'list'>)", str(innermost)):
        called = re.search(r"target=torch\.ops\.(\w+\.\w+)", text)
        named = f" {called[1]}" if called else ""
        return SourceError(
            f"an argument of the operator{named}{at} varies, which ONNX has as an attribute of one value",
            "fix the size that it follows from, or write it with other operators",
        )
    if isinstance(innermost, UnwrittenError):
        return SourceError(f"the model{at} has {first_line(innermost)}", "write it with other operators")
    return SourceError(
        f"torch.onnx cannot write the model at opset {opset}{at}: {type(innermost).__name__}: {first_line(innermost)}",
        "rewrite that line, or try another --opset",
    )


def _in_parts(program: torch.export.ExportedProgram, table: dict[Any, Any]) -> torch.export.ExportedProgram:
    """Return a program in which operators of a table are taken apart, as torch.onnx does: each part knows its line."""
    try:
        with foreign("taking operators apart"):
            program = program.run_decompositions(table)
    except SourceError:
        pass
    return program


def _node_line(program: torch.export.ExportedProgram, name: str, operator: str) -> str:
    """Return the user's line of a node by its name, else of the first node of the operator."""
    nodes = list(program.graph.nodes)
    base = operator.replace("::", ".")
    found = [node for node in nodes if node.name == name]
    found += [node for node in nodes if base and str(node.target).startswith(f"{base}.")]
    parents = [node for node in nodes if base.startswith(_overload_packet(node)) and node.op == "call_function"]
    found += sorted(parents, key=lambda node: -len(_overload_packet(node)))
    return next(filter(None, map(line_of, found)), "")


def line_of(node: torch.fx.Node) -> str:
    """Return the user's line of a call, or nothing."""
    frames = FRAME.findall(node.meta.get("stack_trace") or "")
    return user_frame([(file, int(number), function, code) for file, number, function, code in frames])


def _overload_packet(node: torch.fx.Node) -> str:
    """Return ``aten.linalg_inv`` of ``aten.linalg_inv.default``: decompositions have names that begin like it."""
    return str(node.target).rpartition(".")[0] or str(node.target)
