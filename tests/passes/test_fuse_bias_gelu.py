"""FuseBiasGelu: golden graph, numbers wherever there is a kernel, each refusal by its reason, what torch exports."""

import pytest

from passes.fuse_bias_gelu import FuseBiasGelu
from tests.graphs import apply, graph, line, ops, random, text, torch_model
from tests.kernels import same_numbers_on

pytestmark = pytest.mark.needs_onnxruntime

HEAD = "g (float[batch,3,4] x) => (float[batch,3,4] y)"
BIAS = "float[4] b = {1,-2,0.5,3}"
FORMS = {"bias last": "a = Add(x, b) y = Gelu(a)", "bias first": 'a = Add(b, x) y = Gelu<approximate = "none">(a)'}


def model(body, head=HEAD, bias=BIAS):
    return graph(f"{head} <{bias}> {{ {body} }}")


def test_golden(golden):
    after, change = apply(FuseBiasGelu(), model(FORMS["bias last"]))
    assert change.sites == ("y",)
    golden("fuse_bias_gelu.onnxtxt", text(after))


@pytest.mark.parametrize("target", ["cpu", "webgpu"])
@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("form", FORMS)
def test_numbers_whichever_way_the_summands_stand(form, rows, target, workspace):
    before = model(FORMS[form])
    after, change = apply(FuseBiasGelu(), before)
    assert change.sites == ("y",)
    assert ops(after) == ["BiasGelu"]
    same_numbers_on(target, before, after, {"x": random(1, rows, 3, 4) * 2}, workspace, FuseBiasGelu.tolerance)


DOUBLE = HEAD.replace("float[", "double[")
ELSEWHERE = "g (float[n,3,4] x) => (float[n,3,4] y, float[n,3,4] z)"


@pytest.mark.parametrize(
    ("head", "bias", "body", "reason"),
    [
        (HEAD, BIAS, 'a = Add(x, b) y = Gelu<approximate = "tanh">(a)', "it is the form with tanh"),
        (HEAD, BIAS, "c = Relu(x) a = Add(x, c) y = Gelu(a)", "no summand is constant"),
        ("g (float[n,3,4] x, float[4] b) => (float[n,3,4] y)", BIAS, FORMS["bias last"], "no summand is constant"),
        (HEAD, "float b = {2}", FORMS["bias last"], "the bias does not have one element for each of the last axis"),
        (HEAD, "float[1] b = {2}", FORMS["bias last"], "the bias does not have one element for each of the last axis"),
        (HEAD, "float[3,1] b = {1,2,3}", FORMS["bias last"], "the bias does not have one element for each"),
        (DOUBLE, BIAS.replace("float[", "double["), FORMS["bias last"], "its values are not known to be float32"),
        (ELSEWHERE, BIAS, f"{FORMS['bias last']} z = Relu(a)", "a is used elsewhere"),
        (ELSEWHERE.replace(" z)", " a)"), BIAS, FORMS["bias last"], "a is a graph output"),
    ],
)
def test_refusals(head, bias, body, reason):
    _, change = apply(FuseBiasGelu(), model(body, head, bias))
    assert change.sites == ()
    (refusal,) = change.refused
    assert refusal.reason.startswith(reason)


def test_a_gelu_of_no_sum_is_no_site():
    _, change = apply(FuseBiasGelu(), model("a = Mul(x, b) y = Gelu(a)"))
    assert change == type(change)((), ())


def test_what_torch_exports(workspace):
    import torch

    network = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.GELU(), torch.nn.Linear(8, 5), torch.nn.GELU("tanh"))
    exported = torch_model(network, (torch.rand(4, 3, 5),), fold=True)
    feeds = [{"x0": random(1, 4, 3, 5)}, {"x0": random(2, 3, 3, 5)}]
    _, (step,) = line(exported, [FuseBiasGelu()], feeds, workspace)
    assert (len(step.sites), len(step.refused), step.left_out) == (1, 1, ())
