"""What every installed pass keeps, ours and anyone's: run over the registry."""

import dataclasses

import pytest

from mlc.graph_pass import Context, Exactness
from mlc.registry import available, build, pass_class
from mlc.rewriting.differences import changed_values, same_graph, same_model
from mlc.types import PassSpec
from tests.graphs import ANY_CPU, apply, graph, line, random

pytestmark = pytest.mark.needs_onnxruntime

NAMES = sorted(available())
KEEPING = [name for name in NAMES if pass_class(name).exactness is not Exactness.LOSSY]

EVERYTHING = """
g (float[batch,1,4,4] image, float[batch,3] x, bool c, float[3] default)
    => (float[batch,2] y, float[batch,3] z, float[batch,2,3,3] normal)
<float[2,1,2,2] kernel = {1,-2,3,4,5,-6,7,8}, float[2] scale = {1,-2}, float[2] bias = {0.5,3}, float[2] mean = {1,-1},
 float[2] variance = {4,0.25}, float[3,2] w = {1,-2,3,4,-5,6}, float[2] b = {1,-2}, float[2] s = {3,-4},
 float[3,3] q = {1,2,3,4,5,6,7,8,9}, float[3] default = {1,2,3}, float[3] unused = {4,5,6}>
{
    conv = Conv(image, kernel)
    normal = BatchNormalization(conv, scale, bias, mean, variance)
    h = MatMul(x, w)
    hb = Add(h, b)
    hs = Mul(hb, s)
    copy = Identity(hs)
    y = Relu(copy)
    dead = Exp(h)
    k = Sqrt(default)
    t = Exp(q)
    e = Einsum<equation = "ij,kj->ik">(x, t)
    z = If(c) <
        then_branch = t1 () => (float[batch,3] p) { a = Exp(q) m = MatMul(e, a) p = Add(m, k) },
        else_branch = e1 () => (float[batch,3] p) { o = Identity(e) p = Neg(o) }
    >
}"""


@pytest.fixture
def model():
    return graph(EVERYTHING)


def default(name):
    return build(PassSpec(name))


def test_the_project_brings_its_own():
    assert set(NAMES) >= {
        "fold-constants", "eliminate-dead-code", "fold-batch-norm", "fold-layer-scale", "einsum-to-matmul"
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_name_docstring_and_declarations(name):
    cls = pass_class(name)
    assert cls.name == name
    assert name == name.lower()
    assert cls.__doc__
    assert "``" in cls.__doc__.splitlines()[0], "the docstring starts with the equation"
    assert cls.__doc__.strip() != dataclasses.dataclass(type("Empty", (), {})).__doc__
    assert isinstance(cls.exactness, Exactness)
    assert (cls.tolerance > 0) is (cls.exactness is Exactness.REASSOCIATES)
    assert cls.min_opset >= 1


@pytest.mark.parametrize("name", NAMES)
def test_options_are_frozen_and_go_round(name):
    subject = default(name)
    fields = dataclasses.fields(subject)
    options = tuple((field.name, getattr(subject, field.name)) for field in fields)
    assert build(PassSpec(name, options)) == subject
    assert hash(subject) == hash(default(name))
    with pytest.raises(dataclasses.FrozenInstanceError):
        subject.name = "other"


@pytest.mark.parametrize("name", KEEPING)
def test_a_second_run_changes_nothing(name, model):
    once, _ = apply(default(name), model)
    twice, change = apply(default(name), once)
    assert change.sites == ()
    assert same_graph(once.graph, twice.graph)


@pytest.mark.parametrize("name", KEEPING)
def test_two_runs_give_the_same(name, model):
    (first, one), (second, two) = apply(default(name), model), apply(default(name), model)
    assert one == two
    assert same_model(first, second)


@pytest.mark.parametrize("name", KEEPING)
def test_forbidden_means_left_alone(name, model):
    asked: list[str] = []

    def never(site):
        asked.append(site)
        return False

    after = model.clone()
    change = default(name).apply(after, Context(ANY_CPU, allow=never))
    assert change.sites == ()
    assert len(asked) == len(set(asked)), "a site is asked for once"
    assert same_graph(model.graph, after.graph)


@pytest.mark.parametrize("name", KEEPING)
def test_the_change_is_honest(name, model):
    after, change = apply(default(name), model)
    assert bool(change.sites) is not same_graph(model.graph, after.graph)
    names = {value for each in model.graphs() for value in every_name(each)}
    for site in (*change.sites, *(refusal.site for refusal in change.refused)):
        assert site.rsplit("/", 1)[-1] in names, f"{site} is no value that was there before"
    assert not {refusal.site for refusal in change.refused} & set(change.sites)
    assert all(refusal.reason for refusal in change.refused)
    assert bool(changed_values(model.graph, after.graph)) <= bool(change.sites)


def every_name(graph):
    yield from (value.name for value in graph.inputs)
    yield from graph.initializers
    yield from (output.name for node in graph for output in node.outputs)


@pytest.mark.parametrize("name", KEEPING)
def test_the_verified_line_accepts_all_of_it(name, model, workspace):
    import numpy as np

    model.graph.opset_imports[""] = max(20, default(name).min_opset)
    feeds = [
        {"image": random(n, n, 1, 4, 4), "x": random(n + 9, n, 3), "c": np.array(n == 2)} for n in (2, 3)
    ]  # fmt: skip
    before = len(model.graph.inputs)
    after, (step,) = line(model, [default(name)], feeds, workspace, requested={name}, strict=True)
    assert (step.left_out, step.dropped) == ((), "")
    assert len(after.graph.inputs) == before
