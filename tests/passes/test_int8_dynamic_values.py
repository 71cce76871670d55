"""What the integers of int8-dynamic hold, and what comes of unusual numbers."""

import numpy as np
import pytest

from mlc.emulate import exact_sums, integer_products, saturating_sums, saturation_proof
from mlc.formats import ORDERS, layout_of
from passes.int8_dynamic import Int8Dynamic
from tests.blocks import tied, token_batches
from tests.dynamic import TABLE, TWO, dynamic
from tests.quantizing import ANY_CPU, VNNI, batches, build, run, weights

pytestmark = pytest.mark.needs_onnxruntime


def test_no_product_sum_saturates():
    model = tied()
    found = dynamic(model, token_batches())
    assert [product.site for product in integer_products(found.model)] == ["l.int32", "g.int32", "y.int32"]
    safe = ("no product sum saturates on: onnxruntime (x86 without VNNI), OpenVINO (x86 without VNNI)",)
    assert saturation_proof(found.model) == safe
    assert saturation_proof(dynamic(model, token_batches(), VNNI).model)[0].startswith("product sums may saturate")


@pytest.mark.parametrize("rows", [20, 21])
def test_the_worst_activations_are_added_up_exactly(rows):
    weight = np.abs(weights(rows, w=(rows, 6))["w"])
    model = build(f"agraph (float[n,{rows}] x) => (float[n,6] y) {{\n y = MatMul(x, w)\n}}", {"w": weight})
    worst = np.full((3, rows), 255, np.uint8)
    for able, exact in ((ANY_CPU, True), (VNNI, False)):
        codes = dynamic(model, capabilities=able).array("w.int8")
        for order in ORDERS:
            sums = saturating_sums(worst, codes, layout_of("MatMul", 2), order)
            assert np.array_equal(sums, exact_sums(worst, codes.T)) is exact


def test_full_bytes_are_used_where_nothing_saturates():
    codes = dynamic(tied(), token_batches(), VNNI).array("w1.int8")
    assert (np.abs(codes).max(axis=0) == 127).all()


def test_a_table_alone_has_all_eight_bits():
    codes = dynamic(build(TABLE, weights(0, w=(1024, 64))), batches({"ids": np.array([[1]])})).array("w.int8")
    assert (np.abs(codes).max(axis=1) == 127).all()


def test_dead_and_tiny_channels():
    arrays = weights(0, w=(24, 7), v=(24, 5), b=(5,))
    arrays["w"][:, 0] = 0
    arrays["w"][:, 1] *= 1e-7
    arrays["w"][:, 2] = 1e-42
    found = dynamic(build(TWO, arrays))
    assert (found.array("w.scale") >= np.finfo(np.float32).tiny).all()
    inputs = found.data[0].inputs
    expected, actual = run(found.before, inputs)["y"], run(found.model, inputs)["y"]
    assert (actual[:, 0] == 0).all()
    assert np.allclose(actual[:, 1], expected[:, 1], atol=1e-8)
    assert np.abs(actual[:, 2]).max() < 1e-35


def test_an_empty_batch():
    found = dynamic(build(TWO, weights(0, w=(24, 7), v=(24, 5), b=(5,))))
    x = np.zeros((0, 24), np.float32)
    for optimize in (True, False):
        given = run(found.model, {"x": x}, optimize=optimize)
        assert (given["y"].shape, given["z"].shape) == ((0, 7), (0, 5))


def test_activations_of_nothing_but_zeros():
    arrays = weights(0, w=(24, 7), v=(24, 5), b=(5,))
    found = dynamic(build(TWO, arrays))
    for optimize in (True, False):
        given = run(found.model, {"x": np.zeros((4, 24), np.float32)}, optimize=optimize)
        assert (given["y"] == 0).all()
        assert (given["z"] == arrays["b"]).all()


@pytest.mark.parametrize("constant", [3.0, -2.0, 1e-30])
def test_activations_of_one_value(constant):
    found = dynamic(build(TWO, weights(0, w=(24, 7), v=(24, 5), b=(5,))))
    x = np.full((4, 24), constant, np.float32)
    expected, actual = run(found.before, {"x": x})["y"], run(found.model, {"x": x})["y"]
    assert np.allclose(actual, expected, atol=0.01 * np.abs(expected).max())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_nan_is_lost_and_an_infinity_spoils_every_row(bad):
    assert "A NaN in x is lost" in " ".join((Int8Dynamic.__doc__ or "").split())
    found = dynamic(build(TWO, weights(0, w=(24, 7), v=(24, 5), b=(5,))))
    x = weights(1, x=(3, 24))["x"]
    x[1, 5] = bad
    y = run(found.model, {"x": x})["y"]
    assert np.isnan(y).any() == (bad == np.inf)


def test_rows_depend_on_those_beside_them_and_the_report_says_so():
    found = dynamic(build(TWO, weights(0, w=(24, 7), v=(24, 5), b=(5,))))
    x = weights(1, x=(2, 24))["x"]
    alone, beside = run(found.model, {"x": x[:1]}), run(found.model, {"x": x * np.array([[1], [50]], np.float32)})
    assert not np.array_equal(alone["y"], beside["y"][:1])
    assert "the rows beside it" in found.change.notes[0]
