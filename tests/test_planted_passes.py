"""Passes that are wrong on purpose: each is caught and named, its good sites stay, and nothing wrong is left."""

import numpy as np
import pytest

from mlc.errors import PassError
from tests.graphs import answers, graph, line, ops, random, same_numbers
from tests.planted.relu_to_max import ReluToMax
from tests.planted.wrong import (
    BrokenSubgraph,
    DroppedInitializer,
    InPlaceEdit,
    Nondeterministic,
    Raises,
    RenamedOutput,
    Shifted,
    Silent,
    Slightly,
    SlyInPlaceEdit,
    WrongElsewhere,
    WrongNumber,
    WrongType,
)

pytestmark = pytest.mark.needs_onnxruntime

BRANCHES = """
g (float[batch,8] x) => (float[batch,8] y)
<float[8,8] w, float tiny = {1e-8}>
{
    h = MatMul(x, w)
    a = Relu(h)
    n = Neg(h)
    b = Relu(n)
    drowned = Mul(b, tiny)
    s = Add(a, drowned)
    m = Sin(x)
    c = Relu(m)
    t = Add(s, c)
    y = Relu(t)
}"""

INSIDE = """
g (float[batch,8] x, bool[1] flag) => (float[batch,8] y)
<float[8,8] w>
{
    h = MatMul(x, w)
    a = Relu(h)
    y = If(flag) <
        then_branch = t () => (float[batch,8] p) { n = Neg(h) q = Sin(n) r = Relu(q) p = Add(r, a) },
        else_branch = e () => (float[batch,8] p) { n = Cos(a) r = Relu(n) p = Mul(r, h) }
    >
}"""

ALL = ("a", "b", "c", "y")


def with_weight(text):
    import onnx_ir as ir

    model = graph(text.replace("float[8,8] w", "float[8,8] w = {" + ",".join(["0"] * 64) + "}"))
    model.graph.initializers["w"].const_value = ir.tensor(random(5, 8, 8), name="w")
    return model


@pytest.fixture
def model():
    return with_weight(BRANCHES)


FEEDS = [{"x": random(1, 2, 8)}, {"x": random(2, 3, 8)}]


def caught(model, subject, workspace, feeds=FEEDS):
    """Run a planted pass; the artifact has to be right whatever it did."""
    after, (step,) = line(model, [subject], feeds, workspace)
    for feed in feeds:
        same_numbers(model, after, feed, workspace)
    return after, step


def test_the_honest_pass_keeps_all_its_sites(model, workspace):
    after, step = caught(model, ReluToMax(), workspace)
    assert step.sites == ALL
    assert step.left_out == ()
    assert step.dropped == ""
    assert step.error == 0
    assert "Relu" not in ops(after)


@pytest.mark.parametrize("site", ALL)
def test_a_wrong_number_is_named_wherever_it_is(model, workspace, site):
    after, step = caught(model, WrongNumber(at=site), workspace)
    (left,) = step.left_out
    assert left.site == site
    assert left.error == pytest.approx(0.02 * peak(model, site, workspace), rel=1e-3)
    assert step.sites == tuple(each for each in ALL if each != site)
    assert ops(after).count("Relu") == 1


def test_more_wrong_numbers_than_there_are_rounds_are_all_named_at_once(workspace):
    count = 40
    body = "".join(f"s{each} = Sin(r{each - 1})\nr{each} = Relu(s{each})\n" for each in range(1, count))
    model = graph(f"g (float[batch,8] x) => (float[batch,8] y) {{ r0 = Relu(x)\n{body} y = Relu(r{count - 1}) }}")
    _, step = caught(model, WrongElsewhere(at="r7"), workspace)
    assert step.sites == ("r7",)
    assert [left.site for left in step.left_out] == [*(f"r{each}" for each in range(count) if each != 7), "y"]


def peak(model, site, workspace):
    """Largest value over the rms, of the worse of both sizes."""
    from mlc.compare.decisions import with_outputs

    arrays = [answers(with_outputs(model, [site]), feed, workspace)[site] for feed in FEEDS]
    return max(np.abs(array).max() / np.sqrt(np.mean(array**2)) for array in arrays)


def test_the_drowned_error_is_invisible_in_the_output(model, workspace):
    from mlc.compare import compare
    from tests.graphs import apply

    after, _ = apply(WrongNumber(at="b"), model)
    for feed in FEEDS:
        assert not any(compare(answers(model, feed, workspace), answers(after, feed, workspace), 1e-5))


MASKED = """
g (float[batch,8] x) => (float[batch,8] y)
<float[8] mask = {0,0,0,1e9,0,1e9,0,0}, float tiny = {1e-8}>
{
    h = Add(x, mask)
    a = Relu(h)
    s = Softmax(a)
    drowned = Mul(s, tiny)
    c = Relu(x)
    y = Add(c, drowned)
}"""


def test_a_mask_beside_a_wrong_number_does_not_hide_it(workspace):
    _, step = caught(graph(MASKED), Shifted(at="a"), workspace)
    assert [left.site for left in step.left_out] == ["a"]
    assert 0.01 < step.left_out[0].error < 0.1
    assert step.sites == ("c",)


CANCELS = """
g (float[batch,8] x) => (float[batch,8] y)
<float much = {10000}>
{
    f = Sin(x)
    c = Relu(f)
    h = Add(x, much)
    a = Relu(h)
    d = Sub(a, much)
    y = Add(d, c)
}"""


def test_an_error_within_the_tolerance_of_its_site_that_grows_on_the_way_is_found_by_the_output(workspace):
    model = graph(CANCELS)
    _, step = caught(model, Slightly(at="a"), workspace)
    assert [left.site for left in step.left_out] == ["a"]
    assert step.left_out[0].reason.startswith("y differs by")
    assert step.sites == ("c",)
    _, (step,) = line(model, [Slightly(at="c")], FEEDS, workspace)
    assert (step.sites, step.left_out) == (("c", "a"), ())


def test_a_renamed_output(model, workspace):
    _, step = caught(model, RenamedOutput(at="y"), workspace)
    assert [left.site for left in step.left_out] == ["y"]
    assert "the interface lost output y" in step.left_out[0].reason
    assert step.sites == ("a", "b", "c")


@pytest.mark.parametrize("site", ["b", "y"])
def test_a_wrong_type(model, workspace, site):
    _, step = caught(model, WrongType(at=site), workspace)
    assert [left.site for left in step.left_out] == [site]
    assert set(step.sites) == set(ALL) - {site}


@pytest.mark.parametrize("planted", [BrokenSubgraph, WrongNumber, WrongType, DroppedInitializer])
@pytest.mark.parametrize("site", ["y.then_branch/r", "y.else_branch/r"])
@pytest.mark.parametrize("flag", [True, False])
def test_a_broken_subgraph_whichever_branch_runs(workspace, planted, site, flag):
    model = with_weight(INSIDE)
    feeds = [{**feed, "flag": np.array([flag])} for feed in FEEDS]
    after, (step,) = line(model, [planted(at=site)], feeds, workspace)
    assert [left.site for left in step.left_out] == [site]
    assert set(step.sites) == {"a", "y.then_branch/r", "y.else_branch/r"} - {site}
    for feed in FEEDS:
        for way in (True, False):
            same_numbers(model, after, {**feed, "flag": np.array([way])}, workspace)


def test_a_dropped_initializer(model, workspace):
    _, step = caught(model, DroppedInitializer(at="c"), workspace)
    assert [left.site for left in step.left_out] == ["c"]
    assert "c.factor" in step.left_out[0].reason
    assert step.sites == ("a", "b", "y")


@pytest.mark.parametrize("planted", [InPlaceEdit, SlyInPlaceEdit])
@pytest.mark.parametrize("weight", ["w", "tiny"])
def test_an_edit_in_place_is_dropped_whole(model, workspace, planted, weight):
    before = model.graph.initializers[weight].const_value.numpy().copy()
    after, step = caught(model, planted(at="b", weight=weight), workspace)
    assert step.sites == ()
    assert step.dropped
    assert ops(after) == ops(model)
    np.testing.assert_array_equal(after.graph.initializers[weight].const_value.numpy(), before)
    np.testing.assert_array_equal(model.graph.initializers[weight].const_value.numpy(), before)


def test_a_nondeterministic_pass_is_dropped_whole(model, workspace):
    after, step = caught(model, Nondeterministic(at="b"), workspace)
    assert step.sites == ()
    assert "different results" in step.dropped
    assert ops(after) == ops(model)


def test_a_pass_that_raises_is_dropped_whole(model, workspace):
    after, step = caught(model, Raises(at="b"), workspace)
    assert step.dropped.startswith("the pass planted raised RuntimeError at wrong.py")
    assert ops(after) == ops(model)


def test_a_change_that_is_not_reported_cannot_be_left_out(model, workspace):
    after, step = caught(model, Silent(at="b"), workspace)
    assert "b differs" in step.dropped
    assert ops(after) == ops(model)


@pytest.mark.parametrize("planted", [InPlaceEdit, Nondeterministic, Raises, Silent])
def test_asked_for_by_name_it_is_an_error(model, workspace, planted):
    with pytest.raises(PassError, match="the pass planted was dropped"):
        line(model, [planted(at="b")], FEEDS, workspace, requested={"planted"})


def test_strict_allows_no_site_left_out(model, workspace):
    with pytest.raises(PassError, match="left out 1 of its sites") as raised:
        line(model, [WrongNumber(at="b")], FEEDS, workspace, strict=True)
    assert "b (b differs by" in raised.value.hint
