import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlc.errors import PassError
from mlc.formats import (
    ORDERS,
    Affine,
    Order,
    WeightLayout,
    activation_parameters,
    bias_codes,
    bias_safe_scales,
    dequantize,
    full_scales,
    layout_of,
    pairs,
    pairs_fit,
    quantize,
    quantize_weight,
    safe_scales,
    weight_axis,
)

TINY = np.finfo(np.float32).tiny
finite = st.floats(-(2.0**100), 2.0**100, width=32)


@given(finite, finite)
def test_zero_has_a_code_of_its_own_and_the_range_is_covered(one, other):
    low, high = sorted((one, other))
    affine = activation_parameters(low, high)
    assert affine.scale >= TINY
    assert 0 <= affine.zero_point <= 255
    assert dequantize(quantize(np.zeros(1, np.float32), affine), affine) == 0
    assert affine.low <= min(low, 0) + 0.51 * float(affine.scale)
    assert affine.high >= max(high, 0) - 0.51 * float(affine.scale)


@given(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=20))
def test_no_value_inside_the_range_moves_by_more_than_half_a_step(values):
    array = np.array(values, np.float32)
    affine = activation_parameters(float(array.min()), float(array.max()))
    back = dequantize(quantize(array, affine), affine)
    assert np.abs(back - array).max() <= float(affine.scale) * 0.5001 + 1e-30 + 0.5 * float(affine.scale)
    inside = (array >= affine.low) & (array <= affine.high)
    assert np.abs(back - array)[inside].max(initial=0) <= float(affine.scale) * 0.5001


def test_a_range_above_zero_starts_at_code_zero():
    assert activation_parameters(0.5, 5.1) == Affine(np.float32(np.float32(5.1) / np.float32(255)), 0)


def test_a_range_below_zero_ends_at_the_last_code():
    assert activation_parameters(-2.0, -1.0).zero_point == 255


@pytest.mark.parametrize("high", [1e-45, 1e-40, 1e-38])
def test_the_scale_is_a_normal_number(high):
    assert activation_parameters(0.0, high).scale >= TINY


def test_constant_zero_activations_are_taken_for_zero_to_one():
    affine = activation_parameters(0.0, 0.0)
    assert affine == activation_parameters(0.0, 1.0)
    assert quantize(np.zeros(3, np.float32), affine).tolist() == [0, 0, 0]


def test_a_range_as_wide_as_float32_has_a_finite_scale():
    limit = float(np.finfo(np.float32).max)
    assert np.isfinite(activation_parameters(-limit, limit).scale)


@pytest.mark.parametrize(("low", "high"), [(-np.inf, 1.0), (0.0, np.inf), (np.nan, 1.0)])
def test_a_range_that_is_not_finite_is_refused_by_name(low, high):
    with pytest.raises(PassError, match=r"the range of scores is .* which no scale can hold"):
        activation_parameters(low, high, "scores")


AXES = [
    ("Conv", 4, False, 0),
    ("ConvTranspose", 4, False, 1),
    ("Gemm", 2, True, 0),
    ("Gemm", 2, False, 1),
    ("MatMul", 2, False, 1),
    ("MatMul", 3, False, 2),
    ("Gather", 2, False, 0),
]


@pytest.mark.parametrize(("op", "rank", "trans_b", "axis"), AXES)
def test_the_axis_of_every_operator(op, rank, trans_b, axis):
    assert weight_axis(op, rank, trans_b=trans_b) == axis


@pytest.mark.parametrize("trans_b", [False, True])
def test_gemm_scales_run_over_the_outputs(trans_b):
    weight = np.array([[1, -2, 4], [0.5, 1, 8]], np.float32)
    layout = layout_of("Gemm", 2, trans_b=trans_b)
    expected = np.abs(weight).max(axis=1 if trans_b else 0) / np.float32(127)
    assert full_scales(weight, layout).tolist() == expected.tolist()
    codes = quantize_weight(weight, full_scales(weight, layout), layout)
    assert np.abs(codes).max(axis=1 if trans_b else 0).tolist() == [127] * len(expected)


def test_dead_and_tiny_channels_have_normal_scales():
    weight = np.array([[0, 0], [1e-7, -5e-8], [1e-44, 0]], np.float32)
    layout = WeightLayout("Gemm", 0)
    scales = full_scales(weight, layout)
    assert (scales >= TINY).all()
    assert quantize_weight(weight, scales, layout).tolist()[:2] == [[0, 0], [127, -64]]


def test_a_bias_beyond_32_bits_enlarges_the_scale_of_its_channel_alone():
    weight = np.array([[1e-7, 5e-8], [0, 0], [1, 0.5]], np.float32)
    bias, x_scale = np.array([3, -4, 5], np.float32), np.float32(0.01)
    scales = full_scales(weight, WeightLayout("Gemm", 0))
    wide = bias_safe_scales(scales, bias, x_scale, 2)
    assert (wide[:2] > scales[:2]).all()
    assert wide[2] == scales[2]
    codes = bias_codes(bias, x_scale, wide)
    assert codes.dtype == np.int32
    np.testing.assert_allclose(codes * (x_scale * wide), bias, rtol=1e-5)


@given(st.integers(1, 60_000), st.floats(2.0**-20, 2.0**20, width=32), st.floats(2.0**-100, 2.0**10, width=32))
def test_sums_and_bias_fit_into_32_bits_together(reduction, magnitude, x_scale):
    scales = np.full(1, TINY, np.float32)
    wide = bias_safe_scales(scales, np.full(1, magnitude, np.float32), np.float32(x_scale), reduction)
    codes = bias_codes(np.full(1, magnitude, np.float32), np.float32(x_scale), wide)
    worst = min(255 * 127 * reduction, 2**31 - 1 - (2**31 - 1) // 4)
    assert int(codes[0]) + worst <= 2**31 - 1


def test_a_bias_that_does_not_fit_is_never_written():
    with pytest.raises(AssertionError, match="32 bits"):
        bias_codes(np.ones(1, np.float32), np.float32(1e-6), np.full(1, 1e-6, np.float32))


def test_conv_pairs_wrap_over_taps_in_one_runtime_and_stay_inside_in_the_other():
    # [out 1, in 3, taps 2]: channel c of tap t is 10 * t + c, so the reduction runs 0 1 2 10 11 12.
    weight = np.array([[[0, 10], [1, 11], [2, 12]]], np.int8)
    layout = layout_of("Conv", 3)
    assert pairs(weight, layout, Order.ONNXRUNTIME).tolist() == [[[0, 1], [2, 10], [11, 12]]]
    assert pairs(weight, layout, Order.OPENVINO).tolist() == [[[0, 1], [2, 0], [10, 11], [12, 0]]]


def test_matrix_pairs_run_along_the_reduction():
    weight = np.array([[1, 2], [3, 4], [5, 6]], np.int8)
    assert pairs(weight, layout_of("MatMul", 2), Order.ONNXRUNTIME).tolist() == [[[1, 3], [5, 0]], [[2, 4], [6, 0]]]


def test_depthwise_has_no_pairs_and_a_multiplier_has():
    codes = np.full((4, 1, 3, 3), 127, np.int8)
    assert pairs_fit(codes, layout_of("Conv", 4, group=4))
    assert not pairs_fit(codes, layout_of("Conv", 4, group=2))


def weight_and_layout(draw):
    kind = draw(st.sampled_from(["Conv", "Gemm", "MatMul"]))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if kind == "Conv":
        group = draw(st.sampled_from([1, 1, 2, 3]))
        shape = [
            group * draw(st.integers(1, 3)),
            draw(st.integers(1, 5)),
            *draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)),
        ]
        layout = layout_of("Conv", len(shape), group=group)
    else:
        shape = [draw(st.integers(1, 9)), draw(st.integers(1, 9))]
        layout = layout_of(kind, 2, trans_b=draw(st.booleans()))
    kinds = {"normal": generator.normal(size=shape), "same": np.ones(shape), "wide": generator.standard_cauchy(shape)}
    return kinds[draw(st.sampled_from(sorted(kinds)))].astype(np.float32), layout


weighted = st.composite(weight_and_layout)()


@settings(max_examples=150)
@given(weighted)
def test_safe_scales_fit_and_are_the_smallest(case):
    weight, layout = case
    full = full_scales(weight, layout)
    safe = safe_scales(weight, full, layout)
    assert (safe >= full).all()
    assert (safe <= 2 * full).all()
    assert pairs_fit(quantize_weight(weight, safe, layout), layout)
    for channel in np.nonzero(safe > full)[0]:
        smaller = safe.copy()
        smaller[channel] = np.nextafter(safe[channel], np.float32(0))
        assert not pairs_fit(quantize_weight(weight, smaller, layout), layout)


def test_each_order_alone_may_allow_a_smaller_scale():
    # Three channels, two taps: only across the taps do two large weights of one sign meet.
    weight = np.array([[[0.1, 1.0], [-0.1, -0.1], [1.0, -0.1]]], np.float32)
    layout = layout_of("Conv", 3)
    full = full_scales(weight, layout)
    assert safe_scales(weight, full, layout, [Order.OPENVINO]) == full
    assert safe_scales(weight, full, layout, [Order.ONNXRUNTIME]) > full
    assert safe_scales(weight, full, layout, ORDERS) > full
