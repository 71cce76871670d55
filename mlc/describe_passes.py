"""The registry as text: what ``mlc passes`` shows."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from mlc.errors import PassError, UsageError, foreign
from mlc.figures import counted
from mlc.grammar.values import pass_text
from mlc.graph_pass import Change, Context, Exactness, Pass
from mlc.manifest import locate
from mlc.registry import DEFAULT_PASSES, available, build, optional_probes_of, pass_class
from mlc.types import PassSpec, Target

if TYPE_CHECKING:
    import onnx_ir as ir


def list_passes() -> str:
    """Return a line for each pass in the order in which they run: name, exactness, for which targets, what it does.

    Those that run by default for every target have ``default``, those that need kernels the targets here that have
    them. One that cannot be loaded is listed with the reason.
    """
    rows = [_row(name) for name in _order()]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [("  ".join([*map(str.ljust, row[:3], widths), row[3]])).rstrip() for row in rows]
    return "\n".join([*lines, "", "`mlc passes NAME` shows the options of one."]) + "\n"


def describe(name: str) -> str:
    """Return everything about one pass. Raises UsageError for an unknown name, with the nearest."""
    found = pass_class(name)
    facts = [f"exactness  {found.exactness.value}{_bound(found)}"]
    if found.needs_kernels:
        facts.append(f"targets    those with a kernel of {_kernels(found)}; here: {_targets(found)}")
    yes = "yes, for these targets" if found.needs_kernels else "yes"
    facts.append(f"default    {yes if name in DEFAULT_PASSES else f'no, asked for by --pass {name}'}")
    facts.append(f"opset      {found.min_opset} or newer")
    facts.append(f"from       {available()[name].value}{_distribution(name)}")
    return "\n".join([name, "", *facts, "", *_options(found), "", _docstring(found)]).rstrip() + "\n"


def explain(name: str, place: Path) -> str:
    """Return what a pass would do to a written model: each site, and what it would leave alone and why.

    It is asked where a compilation asks it first: behind the default passes that come before it. A model below its
    opset is raised before. Nothing is verified or written. Raises UsageError for a pass that needs data, SourceError
    for what is no model, PassError where the converter of ONNX or a pass fails.
    """
    import onnx_ir as ir

    from mlc.fusion import opset_of
    from mlc.rewriting.opset import converted
    from mlc.runtimes.cpu import capabilities
    from mlc.sources.onnx.safety import read_onnx

    subject = build(PassSpec(name))
    if subject.calibrates:
        raise UsageError(f"the pass {name} needs data to say what it does", "compile with it: the report says so")
    path = locate(place).path
    read_onnx(path)
    model = ir.load(path)
    written = opset_of(model)
    where = str(path)
    if written < subject.min_opset:
        model = converted(model, subject.min_opset)
        if opset_of(model) < subject.min_opset:
            return f"{name} needs opset {subject.min_opset}, {path} has {written}, and ONNX has no conversion of it\n"
        where += f", raised from opset {written} to {subject.min_opset}, which mlc compile does where that is right"
    before = [one for one in takewhile(lambda each: each != name, DEFAULT_PASSES) if not pass_class(one).needs_kernels]
    able = Context(capabilities(Target(), optional=optional_probes_of(map(PassSpec, (*before, name)))))
    fitting = [build(PassSpec(one)) for one in before if pass_class(one).min_opset <= opset_of(model)]
    changed = [one.name for one in fitting if _applied(one, model, able).sites]
    where += f", behind {' and '.join(changed)}" if changed else ""
    change = _applied(subject, model, able)
    refused = ((each.site, f"refused: {each.reason}") for each in change.refused)
    rows = [*((site, "") for site in change.sites), *refused]
    counts = f"{counted(len(change.sites), 'site')}, {len(change.refused):,} refused"
    width = max((len(site) for site, _ in rows), default=0)
    lines = [f"  {site.ljust(width)}  {text}".rstrip() for site, text in rows]
    return "\n".join([f"{name} on {where}: {counts}", *lines]) + "\n"


def _applied(subject: Pass, model: ir.Model, ctx: Context) -> Change:
    """Return what a pass did to a model, read whole: another author's may give anything."""
    with foreign(f"the pass {subject.name}", PassError):
        change = subject.apply(model, ctx)
        return Change(tuple(change.sites), tuple(change.refused))


def reference() -> str:
    """Return the page on all passes, as Markdown: those that run by default first, in the order in which they run."""
    head = "# Passes\n\nMade from the registry: `mlc passes` lists what is installed, `mlc passes NAME` shows one.\n"
    return "\n".join([head, *(f"## {name}\n\n{_section(name)}\n" for name in _order())])


def _section(name: str) -> str:
    found = pass_class(name)
    when = "runs by default" if name in DEFAULT_PASSES else f"asked for by `--pass {name}`"
    when += f", for targets with a kernel of {_kernels(found)} alone" if found.needs_kernels else ""
    fields = [(field.name, _type(field), _default(field)) for field in _fields(found)]
    rows = ["| option | values | default |", "|---|---|---|", *(f"| `{a}` | {b} | `{c}` |" for a, b, c in fields)]
    facts = f"*{found.exactness.value}{_bound(found)}; opset {found.min_opset} or newer; {when}*"
    return "\n\n".join([facts, _docstring(found), *(["\n".join(rows)] if fields else [])])


def _order() -> list[str]:
    names = list(available())
    return list(dict.fromkeys((*(name for name in DEFAULT_PASSES if name in names), *names)))


def _row(name: str) -> tuple[str, str, str, str]:
    default = "default" if name in DEFAULT_PASSES else ""
    try:
        found = pass_class(name)
    except PassError as error:
        return name, "unusable", default, error.message
    default += f" on {_targets(found)}" if default and found.needs_kernels else ""
    first = _docstring(found).partition("\n\n")[0]
    return name, found.exactness.value, default, " ".join(first.split())


def _kernels(found: type[Pass]) -> str:
    return " and ".join(found.needs_kernels)


def _targets(found: type[Pass]) -> str:
    """Return the targets on this machine that a pass is for, since they were seen to have the kernels that it needs."""
    from mlc.runtimes.kernels import targets_with

    return " and ".join(targets_with(found.needs_kernels)) or "none"


def _docstring(found: type[Pass]) -> str:
    return (inspect.getdoc(found) or "").replace("``", "`")


def _bound(found: type[Pass]) -> str:
    if found.exactness is Exactness.REASSOCIATES:
        return f", tolerance {found.tolerance:g} of the rms of each value"
    if found.exactness is Exactness.LOSSY:
        return f", floor {found.floor:g} dB of signal to quantization noise in each output"
    return ""


def _options(found: type[Pass]) -> list[str]:
    rows = [(field.name, _type(field), _default(field)) for field in _fields(found)]
    if not rows:
        return ["options    none"]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines = [f"  {name.ljust(widths[0])}  {kind.ljust(widths[1])}  {default}".rstrip() for name, kind, default in rows]
    return ["options", *lines]


def _fields(found: type[Pass]) -> tuple[dataclasses.Field[object], ...]:
    return dataclasses.fields(found)  # type: ignore[arg-type]


def _type(field: dataclasses.Field[object]) -> str:
    """Return a field's type as it is written, the values of a Literal one by one."""
    text = field.type if isinstance(field.type, str) else inspect.formatannotation(field.type)
    literal = re.fullmatch(r"(?:typing\.)?Literal\[(.*)\]", text)
    return " or ".join(str(value) for value in ast.literal_eval(f"[{literal.group(1)}]")) if literal else text


def _default(field: dataclasses.Field[object]) -> str:
    value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    if value is dataclasses.MISSING:
        return "(to be given)"
    if isinstance(value, (bool, int, float, str)):
        return pass_text(PassSpec("p", ((field.name, value),))).partition("=")[2]
    return "off" if value is None else str(value)


def _distribution(name: str) -> str:
    distribution = available()[name].dist
    return f" ({distribution.name} {distribution.version})" if distribution is not None else ""
