"""What each node costs alone, where there is not work enough for all: fewer samples, then groups before nodes."""

import numpy as np
import onnx_ir as ir
import pytest

from mlc.artifact import Step
from mlc.data import open_data
from mlc.explaining import node_costs
from mlc.explaining.explain import explain
from mlc.graph_pass import Context
from mlc.pipeline.outliers import SEARCHES, UNTRIED, Outliers
from mlc.rewriting.sensitivity import output_sensitivity
from mlc.types import Dim, InputSpec, NodePlan, PassSpec, Plan
from passes.int8_dynamic import Int8Dynamic
from tests.quantizing import ANY_CPU, batches, build, weights

pytestmark = pytest.mark.needs_onnxruntime

WIDTH = 16
COUNT = 9
SITES = [f"a{place}" for place in range(COUNT)]
OUTLIER = "a4"
WORK = COUNT * WIDTH * WIDTH
"""Multiply-adds of the float graph for one sample."""


@pytest.fixture(scope="module")
def models():
    """Nine products beside each other, one of which reads a column far larger than what its weight makes of it."""
    lines = [f"a{place} = MatMul({'z' if SITES[place] == OUTLIER else 'x'}, w{place})" for place in range(COUNT)]
    text = f"""agraph (float[n,{WIDTH}] x) => (float[n,{WIDTH}] y) {{
        z = Mul(x, large)
        {" ".join(lines)}
        y = Sum({", ".join(SITES)})
    }}"""
    held = weights(0, **{f"w{place}": (WIDTH, WIDTH) for place in range(COUNT)})
    large = np.where(np.arange(WIDTH) == 0, np.float32(300), np.float32(1))
    held["w4"] = held["w4"] / large[:, np.newaxis]
    before = build(text, {**held, "large": large})
    after = before.clone()
    Int8Dynamic().apply(after, Context(ANY_CPU))
    return before, after


@pytest.fixture
def samples():
    x = np.random.default_rng(1).normal(size=(40, WIDTH)).astype(np.float32)
    return open_data([{"x": x}], [InputSpec("x", "float32", (Dim(1, 64, 1, "n"), Dim(WIDTH, WIDTH)))])


@pytest.fixture
def costs(models, workspace, monkeypatch):
    """What is told of the nine products with work enough for so many runs of one sample."""

    def told(runs, data):
        monkeypatch.setattr(node_costs, "BUDGET", runs * WORK)
        before, after = models
        return node_costs.node_costs(before, after, SITES, data, workspace, samples=32)

    return told


def test_with_work_enough_every_node_is_tried_over_all_samples(models, costs, samples, workspace):
    found = costs(COUNT * 32, samples)
    before, after = models
    first = list(samples.batches(32))[:1]
    alone = output_sensitivity(before, after, [(site,) for site in SITES], first, workspace)
    assert (found.nodes, found.groups, found.samples, found.left) == (alone, (), 32, 0)
    assert list(found.said()) == []


def test_with_less_every_node_is_tried_over_fewer_samples_and_that_is_said(costs, samples):
    found = costs(COUNT * 5 + 3, samples)
    assert [one.sites for one in found.nodes] == [(site,) for site in SITES]
    assert (found.samples, found.left, found.groups) == (5, 27, ())
    (said,) = found.said()
    assert said == "what each node costs alone was tried over 5 of 32 samples: more would be too much work"


def test_few_samples_are_not_called_too_much_work(costs):
    found = costs(COUNT * 5, batches({"x": np.ones((3, WIDTH), np.float32)}))
    assert (found.samples, found.left) == (3, 0)


def test_with_less_than_one_sample_for_each_node_the_costliest_group_is_opened(costs, samples):
    found = costs(8, samples)
    assert [one.sites for one in found.nodes] == [("a3",), (OUTLIER,), ("a5",)]
    assert min(found.nodes, key=lambda one: one.sqnr).sites == (OUTLIER,)
    assert sorted(group.sites for group in found.groups) == [("a0", "a1", "a2"), ("a6", "a7", "a8")]
    assert found.samples == 1
    tried, grouped = found.said()
    assert "1 of 32 samples" in tried
    assert grouped.startswith("6 nodes were tried in 2 groups only, not alone: the costliest group, from ")


def test_a_batch_of_a_fixed_size_is_work_too(costs):
    """Sixteen samples come at once: for one run of each node there would be work for nine of them only."""
    x = np.random.default_rng(2).normal(size=(16, WIDTH)).astype(np.float32)
    found = costs(COUNT * COUNT, batches({"x": x}))
    assert (len(found.nodes), len(found.groups), found.samples) == (3, 2, 16)


def test_an_outlier_is_found_among_groups_and_the_plan_says_what_was_not_tried(models, samples, workspace, monkeypatch):
    monkeypatch.setattr(node_costs, "BUDGET", WORK)
    before, after = models
    plan = Plan(tuple(NodePlan(site, "MatMul", "int8-dynamic", "constant weight") for site in SITES))
    step = Step(PassSpec("int8-dynamic"), "lossy", True, tuple(SITES), sqnr={"y": 20.0})
    amended = Outliers(SEARCHES["int8-dynamic"], samples, workspace).amended(before, after, plan, [step])
    by_site = {entry.node: entry for entry in amended.nodes}
    assert [site for site in SITES if by_site[site].format == "float"] == [OUTLIER]
    assert by_site[OUTLIER].reason.startswith("an outlier: alone it leaves y at ")
    assert by_site["a3"].reason == "constant weight"
    assert by_site["a0"].reason == f"constant weight; {UNTRIED}"


def test_the_share_of_nodes_tried_in_groups_counts(models, samples, workspace, monkeypatch, tmp_path):
    before, after = models
    ir.save(after, tmp_path / "model.onnx")
    monkeypatch.setattr(node_costs, "BUDGET", 8 * WORK)
    told = explain(before, tmp_path / "model.onnx", samples, workspace)
    assert told is not None
    assert told.grouped > 0
    assert told.noise == pytest.approx(sum(node.noise for node in told.nodes) + told.grouped)
    assert [note.startswith(("what each node", "6 nodes were")) for note in told.notes] == [True, True]
    assert told.sensitive[0].node == OUTLIER
