"""The known traps of quantizing over several graphs each: masks, heads, shared biases, names, scalars, three scales."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlc.errors import UsageError
from mlc.graph_pass import Context
from mlc.plan import kept_sites
from mlc.types import Plan
from passes.int8_dynamic import Int8Dynamic
from tests.graphs import read_by
from tests.quantizing import ANY_CPU, batches, build, quantized, run, weights

pytestmark = pytest.mark.needs_onnxruntime

METHODS = ["min-max", "percentile", "mse", "entropy"]


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def dynamic(model):
    """The model after int8-dynamic."""
    after = model.clone()
    Int8Dynamic().apply(after, Context(ANY_CPU, Plan()))
    return after


# masks


MASKS = {
    "a weight": "m = Add(s, fixed)",
    "a choice of scores": "m = Where(keep, s, infinite)",
    "a choice of masks": "c = Where(keep, zero, infinite) m = Add(s, c)",
    "before a scale": "t = Add(s, fixed) m = Mul(t, half)",
    "of another shape": "u = Unsqueeze(fixed, first) m = Add(u, s)",
    "of logarithms": "f = Cast<to = 1>(keep) l = Log(f) m = Add(s, l)",
}


@pytest.mark.parametrize("method", ["min-max", "entropy"])
@pytest.mark.parametrize("form", MASKS)
def test_a_mask_of_infinities_in_any_form_stays_float(form, method):
    """What is in front of it and behind it is quantized, and what it lets through is what it was."""
    text = f"""agraph (float[2,5,8] x, bool[5,5] keep) => (float[2,5,8] y) {{
        q = MatMul(x, wq) k = MatMul(x, wk) kt = Transpose<perm = [0, 2, 1]>(k) s = MatMul(q, kt)
        {MASKS[form]}
        p = Softmax(m) v = MatMul(x, wv) o = MatMul(p, v) y = MatMul(o, wo) }}"""
    keep = np.tril(np.ones((5, 5), bool))
    held = read_by(
        text, **weights(0, wq=(8, 8), wk=(8, 8), wv=(8, 8), wo=(8, 8)), fixed=np.where(keep, 0, np.float32(-np.inf)),
        infinite=np.float32(-np.inf), zero=np.float32(0), half=np.float32(0.5), first=np.array([0]),
    )  # fmt: skip
    feeds = {"x": normal(0, 2, 5, 8), "keep": keep}
    found = quantized(build(text, held), batches(feeds), method=method)
    assert {"q", "v", "y"} <= set(found.change.sites)
    assert not {"m", "p", "t"} & set(found.change.sites)
    assert all(np.isfinite(found.array(name)).all() for name in found.model.graph.initializers if ".scale" in name)
    assert found.sqnr() > 25


# heads


HEADS = {
    "Softmax": "y = Softmax(h)",
    "Softmax over the first axis": """t = Transpose<perm = [1, 0]>(h) s = Softmax<axis = 0>(t)
        y = Transpose<perm = [1, 0]>(s)""",
    "Softmax that is reshaped": "s = Softmax(h) y = Reshape(s, rest)",
    "Sigmoid": "n = Sub(h, nine) y = Sigmoid(n)",
    "Softmax that is added up": "s = Softmax(h) m = MatMul(s, ones) y = Div(s, m)",
}


@pytest.mark.parametrize("classes", [40, 1000])
@pytest.mark.parametrize("head", HEADS)
def test_small_probabilities_stay_apart_from_zero_and_from_each_other(head, classes):
    text = f"agraph (float[batch,16] x) => (float[batch,{classes}] y) {{ h = Gemm<transB = 1>(x, w, b) {HEADS[head]} }}"
    arrays = {name: 0.2 * array for name, array in weights(0, w=(classes, 16), b=(classes,)).items()}
    ones = np.ones((classes, 1), np.float32)
    model = build(text, read_by(text, **arrays, rest=np.array([0, -1]), nine=np.float32(9), ones=ones))
    x = normal(1, 2, 16)
    found = quantized(model, batches({"x": x}))
    expected = run(model, {"x": x})["y"]
    for after in (found.model, dynamic(model)):
        actual = run(after, {"x": x})["y"]
        assert (actual > 0).all()
        assert np.abs(actual / expected - 1).max() < 0.1
        assert len(np.unique(actual)) > classes


# biases


BIASES = {
    "Gemm": "a = Gemm(x, w, b) r = Relu(a) c = Gemm(r, w, b) y = Relu(c)",
    "Gemm of a part": "a = Gemm(x, w, b) r = Relu(a) c = Gemm<beta = 0.5>(r, w, b) y = Relu(c)",
    "MatMul and Add": "a = MatMul(x, w) d = Add(a, b) r = Relu(d) c = MatMul(r, w) e = Add(b, c) y = Relu(e)",
    "Conv": "i = Reshape(x, image) a = Conv(i, v, b) r = Relu(a) c = Conv(r, v, b) s = Relu(c) y = Flatten(s)",
    "one that is added elsewhere": "a = Gemm(x, w, b) r = Relu(a) c = Gemm(r, w, b) y = Add(c, b)",
    "three": "a = Gemm(x, w, b) c = Gemm(a, w, b) y = Gemm(c, w, b)",
}


@pytest.mark.parametrize("scale", [0.01, 30])
@pytest.mark.parametrize("kind", BIASES)
def test_a_bias_of_several_layers_is_right_in_each(kind, scale):
    """The first reads an input that is far smaller or larger than what the others read."""
    text = f"agraph (float[4,8] x) => (float[4,8] y) {{ {BIASES[kind]} }}"
    arrays = weights(0, w=(8, 8), v=(8, 8, 1, 1))
    model = build(text, read_by(text, **arrays, b=3 * normal(5, 8), image=np.array([0, 0, 1, 1])))
    x = {"x": np.float32(scale) * normal(1, 4, 8)}
    found = quantized(model, batches(x))
    assert "a" in found.change.sites
    for optimize in (True, False):
        assert found.sqnr(optimize=optimize) > 25


EXTREMES = st.lists(st.sampled_from([0.0, 1e-30, 1e-7, 1e-3, 1.0]), min_size=4, max_size=4)
LAYERS = st.sampled_from(["Gemm<transB = 1>(i, w, b)", "Conv(i, v, b)"])


@settings(max_examples=12, deadline=None)
@given(EXTREMES, EXTREMES, st.sampled_from([1e-4, 1.0, 100.0]), LAYERS)
def test_channels_and_biases_of_any_size(rows, biases, scale, layer):
    """Dead and tiny channels, biases beyond 32 bits of their scale: finite, and right where the channel can be told."""
    text = f"agraph (float[3,6] x) => (float[3,4] y) {{ i = Reshape(x, image) c = {layer} y = Flatten(c) }}"
    weight = normal(0, 4, 6) * np.array(rows, np.float32)[:, None]
    bias = normal(1, 4) * np.array(biases, np.float32)
    image = np.array([0, 0, 1, 1] if "Conv" in layer else [0, 0])
    arrays = read_by(text, w=weight, v=weight[:, :, None, None], b=bias, image=image)
    x = {"x": np.float32(scale) * normal(2, 3, 6)}
    found = quantized(build(text, arrays), batches(x))
    assert "c" in found.change.sites
    expected = run(found.before, x)["y"]
    step = np.abs(expected).max() / 100
    for optimize in (True, False):
        np.testing.assert_allclose(run(found.model, x, optimize=optimize)["y"], expected, rtol=0.1, atol=2 * step)


# names


SITES = ["encoder_query", "encoder_key", "decoder_head", "stem_convolution"]
CHAIN = """agraph (float[2,4] x) => (float[2,4] stem_convolution) {
    encoder_query = MatMul(x, w) encoder_key = Relu(encoder_query) decoder_head = MatMul(encoder_key, w)
    stem_convolution = Neg(decoder_head) }"""


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SITES), st.integers(0, 30), st.sampled_from(["drop", "double", "swap", "other", "capital"]))
def test_any_mistyped_name_is_an_error_with_the_one_that_was_meant(site, place, how):
    model = build(CHAIN, weights(0, w=(4, 4)))
    at = place % (len(site) - 1)
    typed = {
        "drop": site[:at] + site[at + 1 :],
        "double": site[:at] + site[at] + site[at:],
        "swap": site[:at] + site[at + 1] + site[at] + site[at + 2 :],
        "other": f"{site[:at]}#{site[at + 1 :]}",
        "capital": site.capitalize(),
    }[how]
    if typed == site:
        return
    with pytest.raises(UsageError, match="no node is called") as caught:
        kept_sites(model, [SITES[0], typed])
    assert site in caught.value.hint


# single numbers, samples of any size


SCALARS = {
    "a mean": "a = Conv(x, w) p = Abs(a) m = ReduceMean<keepdims = 0>(p) s = Mul(a, m) y = Conv(s, v)",
    "added": "a = Conv(x, w) m = ReduceMax<keepdims = 0>(a) s = Add(a, m) y = Conv(s, v)",
    "of two": "a = Conv(x, w) m = ReduceMean<keepdims = 0>(a) n = Add(m, m) s = Sub(a, n) y = Conv(s, v)",
    "taken out": "a = Conv(x, w) f = Reshape(a, flat) g = Gather(f, first) s = Add(g, a) y = Conv(s, v)",
    "a fixed one": "a = Conv(x, w) s = Add(a, half) r = Relu(s) y = Conv(r, v)",
    "nothing but zeros": "a = Conv(x, w) z = Sub(a, a) r = Relu(z) c = Conv(r, v) y = Add(c, a)",
}


@pytest.mark.parametrize("method", ["min-max", "mse"])
@pytest.mark.parametrize("kind", SCALARS)
def test_activations_of_one_number_or_none_but_zeros(kind, method):
    text = f"agraph (float[2,3,5,5] x) => (float[2,4,3,3] y) {{ {SCALARS[kind]} }}"
    arrays = weights(0, w=(4, 3, 3, 3), v=(4, 4, 1, 1))
    model = build(text, read_by(text, **arrays, flat=np.array([-1]), first=np.array(1), half=np.float32(0.5)))
    found = quantized(model, batches(*({"x": normal(seed, 2, 3, 5, 5)} for seed in range(4))), method=method)
    assert "a" in found.change.sites
    for optimize in (True, False):
        assert found.sqnr(optimize=optimize) > 15


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sizes", [(7, 12, 9), (3, 3, 40), (11, 3)])
def test_samples_of_different_length_with_every_method(sizes, method):
    text = "agraph (float[batch,n,6] x) => (float[batch,n,5] y) { a = MatMul(x, w) r = Relu(a) y = MatMul(r, v) }"
    parts = [{"x": normal(seed, 2, size, 6)} for seed, size in enumerate(sizes)]
    found = quantized(build(text, weights(0, w=(6, 8), v=(8, 5))), batches(*parts), method=method)
    assert {"a", "y"} <= set(found.change.sites)
    assert found.sqnr() > 15


@settings(max_examples=12, deadline=None)
@given(st.tuples(*[st.sampled_from([0.01, 0.3, 1.0, 20.0])] * 2), st.sampled_from(["a, c", "c, a"]), st.booleans())
def test_an_addition_of_three_scales_differs_by_one_step_at_most(factors, both, clamp):
    text = f"""agraph (float[2,3,6,6] x) => (float[2,4,4,4] y) {{
        a = Conv(x, w1) c = Conv(x, w2) s = Add({both}) {"y = Relu(s)" if clamp else "y = Identity(s)"} }}"""
    arrays = weights(0, w1=(4, 3, 3, 3), w2=(4, 3, 3, 3))
    arrays = {name: np.float32(factor) * arrays[name] for name, factor in zip(arrays, factors, strict=True)}
    found = quantized(build(text, arrays), batches({"x": normal(3, 2, 3, 6, 6)}))
    fused, plain = (run(found.model, found.data[0].inputs, optimize=optimize)["y"] for optimize in (True, False))
    expected = run(found.before, found.data[0].inputs)["y"]
    width = expected.max(initial=0) - expected.min(initial=0)
    assert np.abs(fused - plain).max() <= 1.001 * width / 255
    assert np.abs(plain - expected).max() <= 0.05 * width
