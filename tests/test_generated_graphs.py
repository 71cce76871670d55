"""Generated graphs through the verified line: all passes in any order keep what a graph computes, with no false alarm.

``MLC_GENERATED`` graphs are tried, from the seed ``MLC_GENERATED_SEED`` on; ``make generated`` tries more.
"""

import os
import random as draws
from collections import Counter

import onnx_ir as ir
import pytest

from mlc.compare import EXPORT_TOLERANCE, compare
from mlc.errors import MlcError
from mlc.fusion import opset_of
from mlc.graph_pass import Exactness, Pass
from mlc.invariants import interface
from mlc.registry import available, build, pass_class
from mlc.rewriting.line import tolerance_of
from mlc.runtimes.onnxruntime import open_session
from mlc.types import PassSpec, Target
from mlc.workspace import Workspace
from tests.generated import fed, generated
from tests.graphs import apply, line, same_numbers, text
from tests.planted.wrong import WrongElsewhere
from tests.shrinking import shrunk

pytestmark = pytest.mark.needs_onnxruntime

COUNT = int(os.environ.get("MLC_GENERATED", "200"))
FIRST = int(os.environ.get("MLC_GENERATED_SEED", "0"))
SUBJECTS = {name: pass_class(name) for name in available()}
KEEPING = [
    name
    for name, each in SUBJECTS.items()
    if each.exactness is not Exactness.LOSSY and not each.needs_kernels and each.needs is Pass.needs
]
"""Every installed pass but those that lose something on purpose, and those for devices that no CPU is."""

ENOUGH = 200
"""So many graphs hold what every pass looks for."""

VERIFIED, HELD_OUT = ((2, 3), (3, 5)), ((1, 1), (4, 2))
"""Sizes of batch and seq that the line verifies at, and those that only the tests know."""

HALF = ir.DataType.FLOAT16
"""The CPU computes it in float32, and rounds in between or not, as the nodes lie: with it no bits are promised."""

ROUNDED = 0.01
"""Over the rms: what rounding to float16 or not may differ by."""

UNJUDGED = "it cannot be judged"
"""How a site is left out at which the runtime does not take the graph before either."""

NEEDS_OPSET = "it needs opset"
"""How a pass is dropped that the graph is too old for, and that no converter could raise it for."""


def passes_of(seed):
    draw = draws.Random(seed)  # noqa: S311
    return [build(PassSpec(name)) for name in draw.sample(KEEPING, len(KEEPING))]


def feeds_of(seed):
    return [fed(seed, *size) for size in (*VERIFIED, *HELD_OUT)]


def steps_and_trouble(model, passes, feeds):
    """Return the steps of the line, and what is wrong with them or the result, empty where nothing is.

    The first two feeds are what the line verifies with; all others are only judged here.
    """
    with Workspace() as workspace:
        try:
            after, steps = line(model, passes, feeds[:2], workspace)
        except MlcError as error:
            return (), f"the line raised: {error.message}"
        for step in steps:
            alarms = [each for each in step.left_out if not is_of_the_runtime(each, step, model)]
            if alarms or (step.dropped and not step.dropped.startswith(NEEDS_OPSET)):
                return steps, f"{step.spec.name}: {step.dropped or alarms}"
        if interface(after) != interface(model):
            return steps, f"the interface was {interface(model)}, is {interface(after)}"
        return steps, other_numbers(model, after, steps, feeds[2:], workspace)


def is_of_the_runtime(left_out, step, model):
    """Whether a site was left out rightly: the runtime rounds float16 or not, or does not take that part before it."""
    rounded = (
        step.exactness == "exact" and computes_half(model) and left_out.error is not None and left_out.error < ROUNDED
    )
    return left_out.reason.startswith(UNJUDGED) or rounded


def computes_half(model):
    return any(value.dtype == HALF for graph in model.graphs() for node in graph for value in node.outputs)


def other_numbers(model, after, steps, feeds, workspace):
    """Return what differs after the steps: without the runtime's optimizations, and with all of them.

    With them some graphs compute otherwise before any pass: then the graph before is the measure, optimized too.
    """
    exact = all(step.exactness == "exact" for step in steps if step.sites)
    same_bits = exact and not computes_half(model) and after.opset_imports == model.opset_imports
    before, written = workspace.save(model), workspace.save(after)
    wanted = found_by(before, feeds, optimize=False)
    for optimize in (False, True):
        try:
            found = found_by(written, feeds, optimize=optimize)
        except MlcError as error:
            return f"the result does not run: {error.message}"
        wrong = difference(wanted, found, tolerance_of(steps), exact=same_bits and not optimize)
        if wrong and optimize:
            wrong = difference(found_by(before, feeds, optimize=True), found, tolerance_of(steps))
        if wrong:
            return f"optimized: {optimize}, {wrong.output}: {wrong.reason}"
    return ""


def found_by(path, feeds, *, optimize):
    with open_session(path, Target(), optimize=optimize) as session:
        return [session.run(feed) for feed in feeds]


def difference(wanted, found, tolerance, *, exact=False):
    pairs = zip(wanted, found, strict=True)
    judged = [each for one, other in pairs for each in compare(one, other, tolerance, exact=exact)]
    return next(filter(None, judged), None)


def runs(model, feeds):
    """Whether the runtime itself takes a graph: it loses what a branch reads behind casts that it removes."""
    with Workspace() as workspace:
        try:
            found_by(workspace.save(model), feeds, optimize=False)
        except MlcError:
            return False
    return True


def fails(model, passes, feeds):
    try:
        return bool(steps_and_trouble(model, passes, feeds)[1])
    except MlcError:  # the smaller graph does not run: it shows nothing
        return False


def told(seed, trouble, model, passes, feeds):
    """A failure as a reader needs it: the seed, what went wrong, and the smallest graph for which anything does."""
    small, kept = shrunk(model, passes, feeds, fails)
    head = f"MLC_GENERATED_SEED={seed} MLC_GENERATED=1: {trouble}"
    return f"{head}\nsmallest, with {', '.join(each.name for each in kept)}:\n{text(small)}"


def test_all_passes_in_any_order_keep_what_a_graph_computes():
    fired: Counter[str] = Counter()
    failures, unusable = [], []
    for seed in range(FIRST, FIRST + COUNT):
        case = generated(seed), passes_of(seed), feeds_of(seed)
        steps, trouble = steps_and_trouble(*case)
        fired.update(step.spec.name for step in steps if step.sites)
        if trouble and runs(case[0], case[2]):
            failures.append(told(seed, trouble, *case))
        elif trouble:
            unusable.append(seed)
    assert len(unusable) <= COUNT // 100, f"the runtime does not take {unusable}"
    assert not failures, "\n\n".join([f"{len(failures)} of {COUNT} graphs", *failures[:5]])
    looking = [name for name in KEEPING if not SUBJECTS[name].may_use_kernels]  # they do nothing without them here
    never = [name for name in looking if not fired[name] and available()[name].value.startswith("passes.")]
    assert COUNT < ENOUGH or not never, f"no generated graph holds what {', '.join(never)} looks for"


@pytest.mark.parametrize("seed", range(FIRST, FIRST + COUNT // 8))
def test_any_subset_of_sites_is_right_too(seed):
    draw = draws.Random(seed)  # noqa: S311
    model, subject = generated(seed), draw.choice(passes_of(seed))
    if opset_of(model) < subject.min_opset or not runs(model, feeds_of(seed)):
        pytest.skip(f"{subject.name} is for opset {subject.min_opset}, or the runtime does not take the graph")
    _, change = apply(subject, model)
    allowed = {site for site in change.sites if draw.randrange(2)}
    after, part = apply(subject, model, allowed.__contains__)
    assert set(part.sites) <= allowed
    with Workspace() as workspace:
        for feed in feeds_of(seed):
            same_numbers(model, after, feed, workspace, EXPORT_TOLERANCE)


def test_a_failure_is_shown_by_the_smallest_graph_that_fails():
    seed = next(seed for seed in range(100) if any(node.op_type == "Relu" for node in generated(seed).graph))
    case = generated(seed), [build(PassSpec("fold-constants")), WrongElsewhere()], feeds_of(seed)
    steps, trouble = steps_and_trouble(*case)
    assert steps[-1].left_out
    shown = told(seed, trouble, *case)
    assert shown.startswith(f"MLC_GENERATED_SEED={seed} MLC_GENERATED=1: planted: ")
    assert "smallest, with planted:" in shown
    assert [line for line in shown.splitlines() if " = " in line and "(" in line and "Relu" not in line] == []
