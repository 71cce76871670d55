"""Generated graphs through the verified line: all default passes in every order of two, with no false alarm."""

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlc.invariants import interface
from mlc.registry import DEFAULT_PASSES, build
from mlc.types import PassSpec
from mlc.workspace import Workspace
from tests.generated import graphs
from tests.graphs import apply, line, random, same_numbers, text

pytestmark = pytest.mark.needs_onnxruntime

PAIRS = [*itertools.product(DEFAULT_PASSES, repeat=2), DEFAULT_PASSES]
TOLERANCE = 1e-3
CALM = settings(
    deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck), print_blob=False
)  # fmt: skip


def feeds(seed):
    return [{"x": random(seed + rows, rows, 3), "flag": np.array(rows % 2 == 0)} for rows in (2, 3)]


@settings(CALM, max_examples=150)
@given(graphs(), st.sampled_from(PAIRS), st.integers(0, 99))
def test_passes_keep_what_a_graph_computes(model, names, seed):
    with Workspace() as workspace:
        after, steps = line(model, [build(PassSpec(name)) for name in names], feeds(seed), workspace)
        assert interface(after) == interface(model)
        for step in steps:
            assert (step.left_out, step.dropped) == ((), ""), text(model)
        for rows, flag in ((1, True), (4, False)):
            fed = {"x": random(seed, rows, 3), "flag": np.array(flag)}
            same_numbers(model, after, fed, workspace, TOLERANCE)


@settings(CALM, max_examples=50)
@given(graphs(), st.sampled_from(DEFAULT_PASSES), st.data())
def test_any_subset_of_sites_is_right_too(model, name, data):
    subject = build(PassSpec(name))
    _, change = apply(subject, model)
    allowed = {site for site in change.sites if data.draw(st.booleans())}
    after, part = apply(subject, model, lambda site: site in allowed)
    assert set(part.sites) <= allowed
    with Workspace() as workspace:
        for feed in feeds(7):
            same_numbers(model, after, feed, workspace, TOLERANCE)
