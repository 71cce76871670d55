"""The order of the default passes: which run again behind the others, what that brings, and what is recorded of it."""

import pytest

from mlc.registry import DEFAULT_PASSES, pass_class, schedule
from tests.graphs import graph, line, ops, random, same_numbers

pytestmark = pytest.mark.needs_onnxruntime

AGAIN = ["eliminate-common-subexpressions", "eliminate-dead-code"]
SPECS = [spec for spec in schedule(()) if not pass_class(spec.name).needs_kernels]
VIEWS = """g (float[batch,2,3] x, float[batch,2,3] z) => (float[batch,6] y) <int64[1] o = {1}, int64[1] six = {6}>
{
    a = Exp(x) b = Sin(z) k = Shape<end = 1>(a) l = Shape<end = 1>(b)
    s = Concat<axis = 0>(k, six) t = Concat<axis = 0>(l, six)
    c = Reshape(a, s) d = Reshape(b, t) e = Add(c, d)
    v = Unsqueeze(e, o) w = Squeeze(v, o) y = Neg(w)
}"""
FEEDS = [{"x": random(rows, rows, 2, 3), "z": random(rows + 9, rows, 2, 3)} for rows in (2, 5)]


def test_these_run_again_behind_all_others():
    twice = [name for name in dict.fromkeys(DEFAULT_PASSES) if DEFAULT_PASSES.count(name) > 1]
    assert twice == AGAIN == list(DEFAULT_PASSES[-2:])


def test_what_passes_make_alike_and_leave_over_is_merged_and_removed(workspace):
    before = graph(VIEWS)
    after, steps = line(before, SPECS, FEEDS, workspace)
    assert [step.spec.name for step in steps if step.sites][-2:] == AGAIN
    assert ops(after) == ["Exp", "Sin", "Reshape", "Reshape", "Add", "Neg"]
    assert len(after.graph.initializers) == 1
    same_numbers(before, after, FEEDS[1], workspace)


def test_a_second_run_that_changes_nothing_is_not_recorded(workspace):
    before = graph("g (float[batch,3] x) => (float[batch,3] y) { y = Sin(x) }")
    _, steps = line(before, SPECS, [{"x": random(1, 2, 3)}], workspace)
    names = [step.spec.name for step in steps]
    assert len(names) == len(set(names))
    assert set(AGAIN) <= set(names)
