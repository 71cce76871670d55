"""EliminateDeadCode: golden graph, what goes, what keeps the interface, each refusal, what torch exports."""

import numpy as np
import pytest

from passes.eliminate_dead_code import EliminateDeadCode
from tests.graphs import apply, graph, line, ops, random, same_numbers, text, torch_model

pytestmark = pytest.mark.needs_onnxruntime

X = [{"x": random(1, 2, 3)}, {"x": random(2, 5, 3)}]


def cleaned(body, head="(float[n,3] x) => (float[n,3] y)", weights=""):
    model = graph(f"g {head} <{weights}> {{ {body} }}" if weights else f"g {head} {{ {body} }}")
    after, change = apply(EliminateDeadCode(), model)
    return model, after, change


def names(model):
    graph = model.graph
    return [value.name for value in graph.inputs], [value.name for value in graph.outputs]


def test_golden(golden):
    _, after, change = cleaned(
        "a = Identity(x) b = Neg(a) c = Exp(b) d = Mul(b, w) e = Identity(d) y = Identity(e)",
        weights="float[3] w = {1,2,3}, float[3] unused = {1,2,3}",
    )
    assert change.sites == ("a", "e", "y", "c", "unused")
    golden("eliminate_dead_code.onnxtxt", text(after))


def test_dead_chains_go_with_their_weights(workspace):
    model, after, change = cleaned("a = Exp(w) b = Neg(a) c = Add(b, b) y = Relu(x)", weights="float[3] w = {1,2,3}")
    assert change.sites == ("c", "b", "a", "w")
    assert ops(after) == ["Relu"]
    assert list(after.graph.initializers) == []
    same_numbers(model, after, X[0], workspace)


@pytest.mark.parametrize(
    ("outputs", "body", "reasons"),
    [
        ("float[n,3] x", "", {}),
        ("float[n,3] y", "y = Identity(x)", {"y": "x is an input, and both names are kept"}),
        ("float[n,3] x, float[n,3] y", "y = Identity(x)", {"y": "x is an input, and both names are kept"}),
        ("float[3] w, float[3] y", "y = Identity(w)", {"y": "w is an initializer, and an output is given by a node"}),
        (
            "float[n,3] a, float[n,3] y",
            "a = Neg(x) y = Identity(a)",
            {"y": "a is an output too, and both names are kept"},
        ),
        (
            "float[n,3] y, float[n,3] z",
            "a = Neg(x) y = Identity(a) z = Identity(a)",
            {"z": "y is an output too, and both names are kept"},
        ),
    ],
)
def test_names_of_the_interface_stay(outputs, body, reasons, workspace):
    model, after, change = cleaned(body, f"(float[n,3] x) => ({outputs})", "float[3] w = {1,2,3}")
    assert {refusal.site: refusal.reason for refusal in change.refused} == reasons
    assert names(after) == names(model)
    same_numbers(model, after, X[0], workspace)


def test_an_output_takes_its_name_to_the_value_before_it(workspace):
    model, after, change = cleaned(
        "a = Neg(x) y = Identity(a) b = Exp(a) c = Exp(y) z = Add(b, c)",
        "(float[n,3] x) => (float[n,3] y, float[n,3] z)",
    )
    assert change.sites == ("y",)
    assert ops(after) == ["Neg", "Exp", "Exp", "Add"]
    assert names(after) == names(model)
    same_numbers(model, after, X[0], workspace)


def test_a_default_that_a_caller_may_override_stays():
    _, after, change = cleaned("y = Relu(x)", "(float[n,3] x, float[3] w) => (float[n,3] y)", "float[3] w = {1,2,3}")
    assert change.sites == ()
    assert list(after.graph.initializers) == ["w"]


@pytest.mark.parametrize(
    ("dropout", "gone"),
    [
        ("y0 = Dropout(x)", True),
        ("y0 = Dropout(x, ratio)", True),
        ("y0, mask = Dropout(x, ratio)", True),
        ("y0 = Dropout(x, ratio, off)", True),
        ("y0 = Dropout(x, ratio, on)", False),
        ("y0 = Dropout(x, ratio, training)", False),
    ],
)
def test_dropout_goes_where_it_surely_copies(dropout, gone):
    head = "(float[n,3] x, bool training) => (float[n,3] y)"
    _, after, _ = cleaned(f"{dropout} y = Neg(y0)", head, "float ratio = {0.5}, bool on = {1}, bool off = {0}")
    assert ("Dropout" not in ops(after)) is gone


def test_a_dropout_stays_where_the_opset_goes_by_its_whole_name():
    body = "y0 = Dropout(x, ratio, on) y = Neg(y0)"
    model = graph('<ir_version: 10, opset_import: ["ai.onnx":20]> g (float[n,3] x) => (float[n,3] y) '
                  f"<float ratio = {{0.5}}, bool on = {{1}}> {{ {body} }}")  # fmt: skip
    after, _ = apply(EliminateDeadCode(), model)
    assert ops(after) == ["Dropout", "Neg"]


def test_a_mask_that_is_read_keeps_its_dropout():
    _, after, change = cleaned("y, m = Dropout(x)", "(float[n,3] x) => (float[n,3] y, bool[n,3] m)")
    assert change.sites == ()
    assert ops(after) == ["Dropout"]


def test_branches(workspace):
    body = """o = Neg(x)
        dead = If(c) <then_branch = t () => (float[n,3] p) { p = Neg(w) },
                      else_branch = e () => (float[n,3] q) { q = Exp(o) }>
        y = If(c) <then_branch = t () => (float[n,3] p) <float[3] k = {1,2,3}, float[3] u = {1,2,3}> {
                       a = Identity(o) b = Exp(a) p0 = Add(a, k) p = Identity(p0)
                   }, else_branch = e () => (float[n,3] q) { q = Identity(o) }>"""
    model = graph(f"g (float[n,3] x, bool c) => (float[n,3] y) <float[3] w = {{1,2,3}}> {{ {body} }}")
    feeds = [{**feed, "c": np.array(flag)} for feed, flag in zip(X, (True, False), strict=True)]
    after, (step,) = line(model, [EliminateDeadCode()], feeds, workspace)
    branch = "y.then_branch/"
    assert set(step.sites) == {branch + "a", branch + "b", branch + "p", branch + "u", "dead", "w"}
    assert {refusal.site: refusal.reason for refusal in step.refused} == {
        "y.else_branch/q": "o belongs to a graph outside"
    }
    assert step.left_out == ()
    for flag in (True, False):
        same_numbers(model, after, {**X[0], "c": np.array(flag)}, workspace)


def test_functions_that_nothing_calls_go(workspace):
    model = graph("""<ir_version: 10, opset_import: ["":20, "local":1]>
        g (float[n,3] x) => (float[n,3] y) { y = local.used(x) }
        <opset_import: ["":20, "local":1], domain: "local"> used (a) => (b) { b = local.inner(a) }
        <opset_import: ["":20], domain: "local"> inner (a) => (b) { b = Neg(a) }
        <opset_import: ["":20], domain: "local"> unused (a) => (b) { b = Exp(a) }""")
    after, _ = apply(EliminateDeadCode(), model)
    assert sorted(name for _, name, _ in after.functions) == ["inner", "used"]
    same_numbers(model, after, X[0], workspace)


def test_what_torch_exports_without_optimization(workspace):
    import torch

    class Copies(torch.nn.Module):
        def forward(self, x):
            return torch.dropout(x.clone().contiguous(), 0.5, train=False).relu().clone()

    model = torch_model(Copies(), (torch.rand(2, 3),))
    feeds = [{"x0": feed["x"]} for feed in X]
    after, (step,) = line(model, [EliminateDeadCode()], feeds, workspace)
    assert step.sites
    assert ops(after) == ["Relu"]
