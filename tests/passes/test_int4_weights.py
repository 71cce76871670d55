from contextlib import nullcontext

import numpy as np
import onnx_ir as ir
import pytest
import torch

import mlc
from mlc.errors import PassError, UsageError
from mlc.formats import BlockScheme, round_to_nearest
from mlc.graph_pass import Context
from mlc.pipeline.data import refuse_contradictions, refuse_missing_data
from mlc.pipeline.run import Live
from mlc.recipe import Recipe
from mlc.registry import build as build_pass
from mlc.types import Need, PassSpec
from passes._gptq import gptq, inverse_factor
from passes._hqq import POWER, hqq
from passes.int4_weights import Int4Weights
from tests.blocks import FORMS, by_blocks, product, tied, token_batches
from tests.graphs import line
from tests.quantizing import ANY_CPU, batches, build, count_ops, run, samples, weights

pytestmark = pytest.mark.needs_onnxruntime

METHODS = ["rtn", "gptq", "hqq"]


def built(**options):
    return build_pass(PassSpec("int4-weights", tuple(options.items())))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_embedding_products_and_tied_head(form, symmetric, method):
    found = by_blocks(tied(), Int4Weights(symmetric=symmetric, method=method), token_batches(), form=form)
    assert found.change.sites == ("e", "l", "g", "y")
    assert found.change.refused == ()
    assert found.sqnr(optimize=False) > 12
    assert found.sqnr() > 12


def test_blocks_that_are_smaller_than_asked_for_are_told():
    text = """agraph (float[n,128] x, float[n,96] z) => (float[n,8] y, float[n,8] u) {
        y = MatMul(x, w)
        u = MatMul(z, v)
    }"""
    model = build(text, weights(0, w=(128, 8), v=(96, 8)), opset=21)
    feed = {"x": np.ones((2, 128), np.float32), "z": np.ones((2, 96), np.float32)}
    assert by_blocks(model, built(block=32), batches(feed)).change.notes == ()
    told = "blocks of 32 and not 128 for v: their rows are no whole ones of 128"
    assert by_blocks(model, built(block=128), batches(feed)).change.notes == (told,)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rows", [1, 4])
def test_sizes_other_than_the_calibrated(form, rows):
    found = by_blocks(tied(), Int4Weights(method="gptq"), token_batches(), form=form)
    inputs = token_batches(1, rows)[0].inputs
    expected, actual = run(found.before, inputs)["y"], run(found.model, inputs)["y"]
    assert np.square(actual - expected).sum() < 0.05 * np.square(expected).sum()


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_runtime_joins_every_product_with_its_codes(tmp_path, symmetric):
    fused = by_blocks(tied(), Int4Weights(symmetric=symmetric), token_batches()).fused_ops(tmp_path)
    assert fused["MatMulNBits"] == 3
    assert fused.keys().isdisjoint({"DequantizeLinear", "MatMul", "Gemm", "Transpose"})


@pytest.mark.parametrize("form", FORMS)
def test_codes_take_four_bits_and_stand_in_the_file_once(form):
    found = by_blocks(tied(), Int4Weights(), token_batches(), form=form)
    narrow = (ir.DataType.UINT4, ir.DataType.UINT8)
    held = sum(
        value.const_value.nbytes
        for name, value in found.model.graph.initializers.items()
        if value.dtype in narrow and name.partition(".")[2].startswith("uint")
    )
    assert held == (50 * 64 + 2 * 64 * 160) // 2


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("form", "rows", "columns"), [("joined", 70, 5), ("joined", 33, 1), ("joined", 96, 3), ("standard", 96, 3)]
)
def test_short_blocks_odd_columns_and_an_odd_number_of_blocks(form, method, rows, columns):
    model, _ = product(columns, rows)
    found = by_blocks(model, Int4Weights(method=method), samples(model), form=form)
    assert found.change.sites == ("y",)
    assert found.sqnr(optimize=False) > 12
    assert found.sqnr() > 12


GOLDEN = """agraph (float[n,32] x, int64[n] ids) => (float[n,2] y, float[n,2] z, float[n,32] e) {
    y = Gemm<transB = 1>(x, w, b)
    e = Gather(v, ids)
    z = MatMul(x, u)
}"""


def test_golden(golden):
    ramp = np.arange(64, dtype=np.float32)
    arrays = {"w": ramp.reshape(2, 32) - 20, "b": np.ones(2, np.float32), "v": ramp.reshape(2, 32)}
    for form in FORMS:
        model = build(GOLDEN, arrays | {"u": -ramp.reshape(32, 2)}, 21)
        assert built(symmetric=True).apply(model, Context(FORMS[form])).sites == ("y", "e", "z")
        golden(f"int4_weights_{form}.onnxtxt", ir.to_onnx_text(model).rstrip() + "\n")


def test_only_gptq_looks_at_data():
    model = tied()
    assert Int4Weights(method="gptq").calibrates
    needs = Int4Weights(method="gptq").needs(model)
    assert sorted(needs, key=lambda need: need.value) == [Need(value, "moments") for value in "efs"]
    for method in ("rtn", "hqq"):
        assert not Int4Weights(method=method).calibrates
        assert Int4Weights(method=method).needs(model) == ()


def test_gptq_without_statistics_says_what_is_missing():
    with pytest.raises(ValueError, match="give calibration data"):
        Int4Weights(method="gptq").apply(tied(), Context(ANY_CPU))


@pytest.mark.parametrize("option", [("method", "awq"), ("block", 16), ("form", "qoperator")])
def test_options_are_checked(option):
    with pytest.raises(UsageError, match=option[0]):
        build_pass(PassSpec("int4-weights", (option,)))


def test_refusals_are_those_of_eight_bits():
    model, _ = product(rows=31)
    change = Int4Weights().apply(model, Context(ANY_CPU))
    assert [(each.site, each.reason) for each in change.refused] == [("y", "its 31 rows are less than a block of 32")]
    assert change.sites == ()


def correlated(rows, count, seed):
    """Inputs that lie near a space of few dimensions, as activations do."""
    generator = np.random.default_rng(seed)
    spread = np.random.default_rng(1).normal(size=(rows // 4, rows))
    few = generator.normal(size=(count, rows // 4)) @ spread
    return (few + 0.1 * generator.normal(size=few.shape)).astype(np.float32)


MLP = """agraph (float[n,96] x) => (float[n,40] y) {
    a = Gemm<transB = 1>(x, w1, b1)
    r = Relu(a)
    y = MatMul(r, w2)
}"""


@pytest.mark.parametrize("symmetric", [True, False])
def test_gptq_loses_less_of_the_output_on_correlated_inputs(symmetric):
    model = build(MLP, weights(0, w1=(160, 96), b1=(160,), w2=(160, 40)), 21)
    calibration, unseen = (correlated(96, 256, seed) for seed in (2, 3))
    expected = run(model, {"x": unseen})["y"]

    def ratio(method):
        found = by_blocks(model, Int4Weights(method=method, symmetric=symmetric), batches({"x": calibration}))
        noise = np.square(run(found.model, {"x": unseen}, optimize=False)["y"] - expected).sum()
        return 10 * np.log10(np.square(expected).sum() / noise)

    assert ratio("gptq") > ratio("rtn") + 3


def test_gptq_with_inputs_that_have_nothing_in_common_rounds_to_the_nearest():
    weight = np.random.default_rng(0).normal(size=(70, 5)).astype(np.float32)
    scheme = BlockScheme(4, 32, symmetric=False)
    found, nearest = gptq(weight, inverse_factor(np.eye(70)), scheme), round_to_nearest(weight, scheme)
    assert np.array_equal(found.codes, nearest.codes)
    assert np.array_equal(found.scales, nearest.scales)


@pytest.mark.parametrize("dead", [[3], list(range(64))])
def test_gptq_with_inputs_that_are_always_zero(dead):
    inputs = correlated(64, 100, 0)
    inputs[:, dead] = 0
    weight = np.random.default_rng(0).normal(size=(64, 5)).astype(np.float32)
    found = gptq(weight, inverse_factor(inputs.T @ inputs / 100), BlockScheme(4, 32, symmetric=True))
    assert np.isfinite(found.dequantized()).all()
    assert np.abs(found.dequantized()[dead] - weight[dead]).max() < 0.5


def test_gptq_follows_the_algorithm_row_by_row():
    """The paper's form: the inverse of what is left is reduced by each row in turn."""
    inputs = correlated(40, 200, 0)
    weight = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    moments = (inputs.T @ inputs / 200).astype(np.float64)
    scheme = BlockScheme(4, 64, symmetric=True)
    inverse = np.linalg.inv(moments + 0.01 * np.diagonal(moments).mean() * np.eye(40))
    scales, zero_points = scheme.parameters(weight)
    left, expected = weight.astype(np.float64), []
    for row in range(40):
        one = scheme.round(left[row : row + 1].astype(np.float32), scales, zero_points)
        expected.append(one[0])
        error = (left[row] - scales[0] * one[0]) / inverse[row, row]
        left = left - np.outer(inverse[:, row], error)
        inverse = inverse - np.outer(inverse[:, row], inverse[row]) / inverse[row, row]
        inverse[row] = inverse[:, row] = 0
    assert (gptq(weight, inverse_factor(moments), scheme).codes == np.array(expected)).mean() > 0.97


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("block", [32, 128])
def test_hqq_is_nearer_on_heavy_tails(symmetric, block):
    weight = (0.03 * np.random.default_rng(0).standard_t(4, size=(256, 40))).astype(np.float32)
    scheme = BlockScheme(4, block, symmetric)
    found, nearest = hqq(weight, scheme).dequantized() - weight, round_to_nearest(weight, scheme).dequantized() - weight
    assert (np.abs(found) ** POWER).sum() < 0.98 * (np.abs(nearest) ** POWER).sum()
    assert np.square(found).sum() < np.square(nearest).sum()


@pytest.mark.parametrize("weight", [np.zeros((40, 2)), np.full((40, 2), 1e-44), np.full((40, 2), 3e38), np.eye(40)])
def test_hqq_of_what_leaves_nothing_to_choose(weight):
    array = weight.astype(np.float32)
    for symmetric in (True, False):
        found = hqq(array, BlockScheme(4, 32, symmetric))
        assert (found.scales >= np.finfo(np.float32).tiny).all()
        assert np.allclose(found.dequantized(), array, rtol=1e-5, atol=1e-37)


class Language(torch.nn.Module):
    """An embedding, two linears, a head that shares the embedding's weight."""

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(100, 64)
        self.up, self.down = torch.nn.Linear(64, 160), torch.nn.Linear(160, 64)
        self.head = torch.nn.Linear(64, 100, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids):
        x = self.embedding(ids)
        return self.head(x + self.down(torch.nn.functional.gelu(self.up(x))))


@pytest.fixture(scope="module")
def language():
    """The module, loaded and exported, with its weight still shared."""
    torch.manual_seed(0)
    original = mlc.load(Language(), (torch.randint(0, 100, (2, 9)),), inputs=["ids=int64[n=1..4,t=1..16] in 0..99"])
    return original, mlc.export(original, opset=23)


@pytest.mark.parametrize("name", ["int4-weights", "int8-weights"])
@pytest.mark.parametrize("form", FORMS)
def test_an_exported_module(language, name, form):
    model = ir.external_data.load_to_model(language[1].model.clone())
    after = model.clone()
    change = build_pass(PassSpec(name, (("block", 32),))).apply(after, Context(FORMS[form]))
    assert len(change.sites) == 4
    assert change.refused == ()
    codes = [
        value.name
        for value in after.graph.initializers.values()
        if (tensor := value.const_value) is not None
        and tensor.size >= 64 * 100 // 2
        and not tensor.dtype.is_floating_point()
    ]
    assert len(codes) == 3, "the embedding and the head share theirs"
    inputs = {"ids": np.random.default_rng(0).integers(0, 100, (3, 5))}
    ((name_of_output, expected),) = run(model, inputs).items()
    noise = np.square(run(after, inputs)[name_of_output] - expected).sum()
    assert noise < (0.1 if name == "int4-weights" else 1e-3) * np.square(expected).sum()


def test_the_verified_line_takes_it_without_data(language):
    original, exported = language
    artifact = mlc.rewrite(exported, original, passes=["int4-weights"])
    step = artifact.steps[-1]
    assert (len(step.sites), step.dropped) == (4, "")
    assert min(step.sqnr.values()) > 12
    assert count_ops(artifact.model)["MatMulNBits"] == 3


def test_the_verified_line_gives_gptq_its_data(language):
    original, exported = language
    data = [{"ids": np.random.default_rng(1).integers(0, 100, (2, 9))}]
    step = mlc.rewrite(exported, original, passes=["int4-weights:method=gptq"], calibrate=data).steps[-1]
    assert (len(step.sites), step.dropped) == (4, "")


def test_an_older_file_is_left_alone(workspace):
    model, _ = product(opset=17)
    after, (step,) = line(model, [Int4Weights()], [{"x": np.ones((3, 64), np.float32)}], workspace)
    assert step.dropped == "it needs opset 21, the model has 17"
    assert count_ops(after) == count_ops(model)


@pytest.mark.parametrize(
    ("spec", "calibrate", "message"),
    [
        (PassSpec("int4-weights"), "some.npz", "no pass calibrates"),
        (PassSpec("int8-weights"), "some.npz", "no pass calibrates"),
        (PassSpec("int4-weights", (("method", "gptq"),)), None, "int4-weights needs data to calibrate on"),
        (PassSpec("int4-weights"), None, None),
        (PassSpec("int4-weights", (("method", "gptq"),)), "some.npz", None),
    ],
)
def test_data_is_asked_for_where_it_is_read(spec, calibrate, message):
    recipe = Recipe(source="model.onnx", passes=(spec,), calibrate=calibrate)
    with nullcontext() if message is None else pytest.raises(UsageError, match=message):
        refuse_contradictions(recipe, Live(), [spec])
        refuse_missing_data(recipe, Live(), [spec], divided=False)


@pytest.mark.parametrize(("method", "advice"), [("rtn", "options that lose less"), ("gptq", "more calibration data")])
def test_below_the_floor_the_advice_is_one_that_helps(language, method, advice, monkeypatch):
    original, exported = language
    monkeypatch.setattr(Int4Weights, "floor", 90.0)
    data = [{"ids": np.random.default_rng(1).integers(0, 100, (2, 9))}] if method == "gptq" else None
    with pytest.raises(PassError, match="below its floor of 90 dB") as error:
        mlc.rewrite(exported, original, passes=[f"int4-weights:method={method}"], calibrate=data)
    assert advice in error.value.hint
    assert "percentile" not in error.value.hint
