"""FuseSkipLayerNorm: golden graphs, numbers wherever there is a kernel, each refusal by its reason, torch's layers."""

import pytest

from passes.fuse_skip_layer_norm import FuseSkipLayerNorm
from tests.graphs import apply, graph, line, ops, random, text, torch_model
from tests.kernels import same_numbers_on

pytestmark = pytest.mark.needs_onnxruntime

HEAD = "g (float[batch,2,4] x, float[batch,2,4] s) => (float[batch,2,4] y)"
BOTH = "g (float[batch,2,4] x, float[batch,2,4] s) => (float[batch,2,4] y, float[batch,2,4] z)"
WEIGHTS = "<float[4] w = {1,-2,3,0.5}, float[4] c = {0.1,0.2,-0.3,4}, float[4] b = {1,2,-3,0.5}>"
NORM = "y = LayerNormalization<epsilon = 0.001>(t, w, c)"
FORMS = {
    "alone": (HEAD, f"t = Add(x, s) {NORM}"),
    "without a bias of its own": (HEAD, "t = Add(x, s) y = LayerNormalization<axis = 2>(t, w)"),
    "a biased summand": (HEAD, f"d = Add(x, b) t = Add(d, s) {NORM}"),
    "a biased summand last": (HEAD, f"d = Add(b, x) t = Add(s, d) {NORM}"),
    "biased, without a bias of its own": (HEAD, "d = Add(x, b) t = Add(s, d) y = LayerNormalization<axis = -1>(t, w)"),
    "the sum goes on": (BOTH, f"t = Add(x, s) {NORM} z = Relu(t)"),
    "the sum goes on before it": (BOTH, f"d = Add(x, b) t = Add(s, d) z = Relu(t) {NORM}"),
    "the sum is an output": (BOTH.replace(" z)", " t)"), f"t = Add(x, s) {NORM}"),
    "two normalizations": (BOTH, f"t = Add(x, s) {NORM} z = LayerNormalization(t, c, w)"),
    "tokens": ("g (float[batch,4] x, float[batch,4] s) => (float[batch,4] y)", f"t = Add(x, s) {NORM}"),
}


def model(head, body, weights=WEIGHTS):
    return graph(f"{head} {weights} {{ {body} }}")


@pytest.mark.parametrize(("name", "form"), [("alone", "alone"), ("sum", "the sum goes on before it")])
def test_golden(name, form, golden):
    after, change = apply(FuseSkipLayerNorm(), model(*FORMS[form]))
    assert change.sites == ("y",)
    golden(f"fuse_skip_layer_norm_{name}.onnxtxt", text(after))


@pytest.mark.parametrize("target", ["cpu", "webgpu"])
@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("form", FORMS)
def test_numbers_whichever_way_it_is_written(form, rows, target, workspace):
    before = model(*FORMS[form])
    after, change = apply(FuseSkipLayerNorm(), before)
    assert change.sites == ("y",)
    assert {"SkipLayerNormalization"} <= set(ops(after)) <= {"SkipLayerNormalization", "Relu", "LayerNormalization"}
    shape = (rows, 4) if form == "tokens" else (rows, 2, 4)
    feeds = {"x": random(1, *shape) + 1, "s": random(2, *shape)}
    same_numbers_on(target, before, after, feeds, workspace, FuseSkipLayerNorm.tolerance)


def test_a_bias_that_is_read_elsewhere_stays_an_addition(workspace):
    before = model(BOTH, f"d = Add(x, b) t = Add(d, s) {NORM} z = Relu(d)")
    after, change = apply(FuseSkipLayerNorm(), before)
    assert change.sites == ("y",)
    assert ops(after) == ["Add", "SkipLayerNormalization", "Relu"]
    feeds = {"x": random(1, 3, 2, 4), "s": random(2, 3, 2, 4)}
    same_numbers_on("cpu", before, after, feeds, workspace, FuseSkipLayerNorm.tolerance)


IMAGE = "g (float[n,2,2,4] x, float[n,2,2,4] s) => (float[n,2,2,4] y)"
UNKNOWN = "g (float[n,2,4] x, float[m,2,4] s) => (float[k,2,4] y)"
DOUBLE = HEAD.replace("float[", "double[")


@pytest.mark.parametrize(
    ("head", "old", "new", "reason"),
    [
        (HEAD, "0.001>", "0.001, axis = 1>", "the normalization is not over the last axis alone"),
        (IMAGE, "", "", "the summands do not have two or three axes"),
        (HEAD.replace("batch,2,4] s", "batch,1,4] s"), "", "", "the summands are not known to have one shape"),
        (HEAD.replace("batch,2,4] s", "2,4] s"), "", "", "the summands are not known to have one shape"),
        (UNKNOWN, "", "", "the summands are not known to have one shape"),
        (HEAD, "float[4] w = {1,-2,3,0.5}", "float[1,4] w = {1,-2,3,0.5}", "the weight does not have one element"),
        (HEAD, "float[4] c = {0.1,0.2,-0.3,4}", "float[1] c = {2}", "the bias does not have one element"),
        (BOTH.replace("float[batch,2,4] z", "float[batch,2,1] m"), "y =", "y, m =", "m is a graph output"),
        (DOUBLE, "float[", "double[", "its values are not known to be float32"),
    ],
)
def test_refusals(head, old, new, reason):
    body, weights = (part.replace(old, new) if old else part for part in (f"t = Add(x, s) {NORM}", WEIGHTS))
    _, change = apply(FuseSkipLayerNorm(), model(head, body, weights))
    assert change.sites == ()
    (refusal,) = change.refused
    assert reason in refusal.reason


def test_a_normalization_of_no_sum_is_no_site():
    _, change = apply(FuseSkipLayerNorm(), model(HEAD, f"t = Mul(x, s) {NORM}"))
    assert change == type(change)((), ())


def test_the_bias_of_a_layer_is_nothing_that_skips_it():
    _, change = apply(FuseSkipLayerNorm(), model(HEAD, f"r = Relu(x) t = Add(r, b) {NORM}"))
    assert change == type(change)((), ())


@pytest.mark.parametrize("first", [False, True], ids=["post-norm", "pre-norm"])
def test_what_torch_exports(first, workspace):
    import torch

    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True, norm_first=first)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    encoder = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    exported = torch_model(encoder, (torch.rand(4, 3, 8),), fold=True)
    feeds = [{"x0": random(1, 4, 3, 8)}, {"x0": random(2, 3, 3, 8)}]
    after, (step,) = line(exported, [FuseSkipLayerNorm()], feeds, workspace)
    assert (len(step.sites), step.left_out) == (3 if first else 4, ())
    assert ops(after).count("LayerNormalization") == (1 if first else 0)
