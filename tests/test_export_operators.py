"""Operators that torch.onnx writes wrongly, or not at all, at some values or lengths."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from mlc.errors import SourceError
from tests.exporting import assert_alike, exported, exported_with_notes
from tests.models_for_export import Of

pytestmark = pytest.mark.needs_onnxruntime

LOGITS = np.array([[-90, -20, -1, 0, 1, 20, 90]], np.float32)


@pytest.mark.parametrize(
    "function",
    [
        functional.logsigmoid,
        lambda x: torch.logaddexp(x, -x),
        lambda x: torch.log(torch.sigmoid(x.clamp(-80, 80))),
        lambda x: functional.binary_cross_entropy_with_logits(x, torch.ones_like(x), reduction="none"),
    ],
    ids=["logsigmoid", "logaddexp", "of a sigmoid", "cross entropy"],
)
def test_logarithms_of_what_float32_does_not_hold(workspace, function):
    net = exported(workspace, Of(function), None, "x=float32[batch=1..4,7]")
    assert_alike(workspace, net, LOGITS, LOGITS.repeat(3, axis=0))


def test_equal_infinities_are_added(workspace):
    net = exported(workspace, Of(lambda x: torch.logaddexp(x, x.abs())), None, "x=float32[batch=1..4,2]")
    assert_alike(workspace, net, np.array([[np.inf, 1]], np.float32))


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool1d(2),
        nn.MaxPool1d((3,), stride=(2,), padding=1),
        nn.MaxPool1d(3, stride=2, padding=1, dilation=2, ceil_mode=True),
    ],
)
def test_lengths_of_what_is_pooled_vary(workspace, pool):
    net = exported(workspace, Of(pool), None, "x=float32[batch=1..3,3,length=8..64]")
    lengths = (8, 9, 17, 64)
    assert_alike(workspace, net, *(np.random.default_rng(n).normal(size=(2, 3, n)).astype(np.float32) for n in lengths))


@pytest.mark.parametrize(
    "pool",
    [
        lambda x: functional.adaptive_avg_pool2d(x, (5, 7)),
        lambda x: functional.adaptive_avg_pool2d(x, (None, 1)) + functional.adaptive_avg_pool2d(x[..., :9], (1, 1)),
        lambda x: functional.interpolate(x, scale_factor=0.5, mode="area"),
        nn.AdaptiveMaxPool2d((3, 11)),
        lambda x: functional.adaptive_max_pool1d(x[0], 4) + functional.adaptive_avg_pool1d(x[0], 4),
    ],
    ids=["means", "to one place", "area", "largest", "a row"],
)
def test_lengths_of_what_is_pooled_to_a_size_vary(workspace, pool):
    net = exported(workspace, Of(pool), None, "x=float32[1,2,n=3..40,m=9..30]")
    assert_alike(workspace, net, *(drawn(1, 2, *size) for size in ((3, 9), (5, 14), (40, 30), (17, 11))))


def test_places_of_the_largest_are_torchs_own(workspace):
    net = exported(workspace, Of(lambda x: functional.max_pool1d(x, 2, return_indices=True)[0]), None,
                   "x=float32[batch=1..3,3,8]")  # fmt: skip
    assert_alike(workspace, net, np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32))


def fractions(x):
    n = x.shape[1]
    ends = (
        math.ceil(n * 0.07),
        math.ceil(n / 3),
        1 + math.floor(n * 0.29),
        1 + round(n * 0.35),
        1 + math.floor((n + 2) * 0.1 + n * 0.2),
        math.ceil(n**0.5),
        1 + math.ceil(math.trunc(n * 0.25) * 0.5),
    )
    return tuple(x[:, :end] * 1.0 for end in ends)


def test_fractions_of_sizes_are_those_of_python(workspace):
    net = exported(workspace, Of(fractions), None, "x=float32[2,n=4..220]")
    assert_alike(workspace, net, *(np.ones((2, n), np.float32) for n in (4, 5, 30, 43, 90, 100, 170, 180, 200, 220)))


def test_a_tensor_reads_fractions_of_sizes_in_float32(workspace):
    net = exported(
        workspace,
        Of(lambda x: x * (x.shape[1] * 0.7) + x.shape[1] / 3 + ((abs(x.shape[1] - 20) * 0.7 - 5.0) % 3)),
        None,
        "x=float32[2,n=4..220]",
    )
    assert_alike(workspace, net, *(np.ones((2, n), np.float32) for n in (13, 16, 90, 91)))


RESIZED: dict[str, dict[str, Any]] = {
    "nearest": {"mode": "nearest"},
    "linear": {"mode": "bilinear"},
    "corners": {"mode": "bilinear", "align_corners": True},
    "cubic": {"mode": "bicubic"},
}


@pytest.mark.parametrize("how", RESIZED)
def test_lengths_of_what_is_resized_are_torchs(workspace, how):
    def resize(x):
        return tuple(
            functional.interpolate(x, scale_factor=scale, **RESIZED[how]) for scale in (0.7, 1.3, (2.0, 0.7), 0.5)
        )

    net = exported(workspace, Of(resize), None, "x=float32[1,2,n=4..220,9]")
    assert_alike(workspace, net, *(drawn(1, 2, n, 9) for n in (90, 112, 170, 5)), atol=1e-3)


def test_lengths_of_what_is_resized_along_one_axis_are_torchs(workspace):
    def resize(x):
        return tuple(functional.interpolate(x, scale_factor=1.15, mode=mode) for mode in ("nearest", "linear"))

    net = exported(workspace, Of(resize), None, "x=float32[1,2,n=7..220]")
    assert_alike(workspace, net, *(drawn(1, 2, n) for n in (100, 180, 200, 7)), atol=1e-3)


def test_sizes_to_resize_to_may_vary(workspace):
    resize = Of(lambda x: functional.interpolate(x, size=(x.shape[2] * 2, 7), mode="bilinear"))
    net = exported(workspace, resize, None, "x=float32[1,2,n=4..30,9]")
    assert_alike(workspace, net, *(drawn(1, 2, n, 9) for n in (4, 7, 30)), atol=1e-3)


def test_the_nearest_neighbours_of_a_number_of_sizes_are_torchs(workspace):
    resize = Of(lambda x: (functional.interpolate(x, size=(7, 32)), functional.interpolate(x, size=(14, 28))))
    net = exported(workspace, resize, None, "x=float32[1,2,n=4..70,14]")
    assert_alike(workspace, net, *(drawn(1, 2, n, 14) for n in (4, 26, 49, 70)))
    kinds = {node.op_type for node in net.model.graph}
    assert {"Gather", "Resize"} <= kinds


@pytest.mark.parametrize("p", [0.0, 1.0, 2.0, 3.0, math.inf])
def test_distances_of_few_rows(workspace, p):
    net = exported(workspace, Of(lambda x: torch.cdist(x[:, :5], x, p=p)), None, "x=float32[1,n=5..20,3]")
    assert_alike(workspace, net, *(drawn(1, n, 3) for n in (5, 8, 20)))


def test_distances_are_one_graph_for_few_rows_and_many(workspace):
    net = exported(workspace, Of(lambda x: torch.cdist(x, x[:, :4] + 1)), None, "x=float32[1,n=5..60,3]")
    assert_alike(workspace, net, *(drawn(1, n, 3) for n in (5, 25, 26, 60)), atol=1e-5)


@pytest.mark.parametrize(("hop", "width", "length"), [(4, None, True), (5, 12, False)])
def test_frames_are_added_up_for_any_length(workspace, hop, width, length):
    def shaped(x):
        window = torch.hann_window(width or 16)
        spectrum = torch.stft(x, 16, hop, width, window=window, return_complex=True)
        return torch.istft(spectrum * 0.5, 16, hop, width, window=window, length=x.shape[-1] if length else None)

    net = exported(workspace, Of(shaped), None, "x=float32[batch=1..2,n=20..90]")
    assert_alike(workspace, net, *(drawn(2, n) for n in (20, 33, 90)), atol=1e-5)


class Beside(nn.Module):
    """Resizes to the size of another tensor, as beside a skip."""

    def forward(self, x, y):
        return functional.interpolate(x, size=y.shape[2:]) + y


def test_the_nearest_neighbours_of_what_is_resized_to_another_size_are_torchs(workspace):
    net = exported(workspace, Beside(), None, "x=float32[1,2,n=4..30,9]", "y=float32[1,2,m=4..70,9]")
    sizes = ((14, 32), (20, 24), (21, 24), (28, 14), (30, 70), (7, 14))
    assert_alike(workspace, net, *({"x": drawn(1, 2, n, 9), "y": drawn(1, 2, m, 9)} for n, m in sizes))
    assert "Gather" in {node.op_type for node in net.model.graph}


def test_to_go_back_to_sizes_before_is_a_resize(workspace):
    def skip(x):
        return x + functional.interpolate(functional.avg_pool2d(x, 2, ceil_mode=True), size=x.shape[2:])

    net = exported(workspace, Of(skip), None, "x=float32[1,2,n=4..200,m=4..200]")
    assert_alike(workspace, net, *(drawn(1, 2, n, n + 3) for n in (4, 7, 30, 150)))
    assert [node.op_type for node in net.model.graph if node.op_type in {"Resize", "Gather"}] == ["Resize"]


SECONDS = np.array([1700000001.5, 1700000100, 0, -3.25])


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x - 1700000001.0,
        lambda x: (x > 1700000001.25).double() + x.clamp(max=1700000001.75),
        lambda x: torch.where(x > 0, x * 0.001, 1700000001.5),
        lambda x: (x.abs() + 1e-60).log(),
        lambda x: x.add(x, alpha=0.1) + torch.full_like(x, 0.1),
    ],
    ids=["difference", "bounds", "where", "small", "filled"],
)
def test_numbers_are_in_double_precision_where_the_model_is(workspace, function):
    net = exported(workspace, Of(function), None, "x=float64[n=1..9]")
    assert_alike(workspace, net, SECONDS, rtol=1e-15, atol=0)


LARGE = np.array([1999999999, -1999999999, 33554431, -7, 7, 0])
TENTHS = np.array([1, 0.5, 0.3, 2, -1, 0, 100, -3], np.float32)


@pytest.mark.parametrize("mode", ["floor", "trunc"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16])
def test_integers_are_divided_as_integers(workspace, mode, dtype):
    divided = Of(lambda x: torch.div(x.to(dtype), 1000, rounding_mode=mode) + torch.div(x.to(dtype), -7).floor())
    net = exported(workspace, divided, None, "x=int64[n=1..9] in -9..9")
    assert_alike(workspace, net, LARGE if dtype != torch.int16 else LARGE % 30000)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x // 0.1,
        lambda x: x % 0.1,
        lambda x: 1.0 // (x + 0.3),
        lambda x: 1.0 % (x.abs() + 0.1),
        lambda x: x % -2,
    ],
    ids=["quotient", "rest", "of a number", "rest of a number", "rest of an integer"],
)
def test_quotients_are_rounded_down_as_torch_does(workspace, function):
    net = exported(workspace, Of(function), None, "x=float32[n=1..9]")
    assert_alike(workspace, net, TENTHS)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.clamp(min=0.5) + x.clamp_max(3),
        lambda x: x.clamp_min(0) - x.clamp(max=-0.5),
        lambda x: x.clamp(-1, 2) + (x > 0).long().clamp(min=1),
    ],
    ids=["one bound", "zero", "both"],
)
def test_infinity_stays_where_a_bound_is_not_given(workspace, function):
    net = exported(workspace, Of(function), None, "x=float32[n=1..9]")
    assert_alike(workspace, net, np.array([np.inf, 3, 0.2], np.float32), np.array([-np.inf, -3, -0.2, 1], np.float32))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.cat([part * 2 for part in x.chunk(3, dim=-1)][::-1], -1),
        lambda x: torch.fft.ifftshift(torch.fft.fftshift(x)[:, 1:]),
        lambda x: torch.take_along_dim(x, x[:1].argsort(1), 1) + torch.take_along_dim(x, x.argmax(1, keepdim=True), 1),
        lambda x: x.cumprod(1) + x.long().cumprod(0),
        lambda x: torch.hypot(x, x.flip(1)) + torch.copysign(x, x.flip(1)),
        lambda x: functional.relu(x.round().long()) + torch.round(x.long()),
    ],
    ids=["parts", "shifted", "taken", "products", "sides", "integers"],
)
def test_what_hangs_on_sizes_that_vary_or_torch_onnx_does_not_know(workspace, function):
    net = exported(workspace, Of(function), None, "x=float32[batch=1..4,n=5..20]")
    assert_alike(workspace, net, *(drawn(*size) for size in ((2, 5), (1, 8), (4, 20), (3, 7))), atol=1e-5)


def test_a_diagonal_beside_infinity(workspace):
    net = exported(workspace, Of(lambda x: x.diagonal(1, -1, 0)), None, "x=float32[n=2..5,3,m=2..5]")
    assert_alike(workspace, net, np.where(drawn(4, 3, 5) > 0.5, -np.inf, drawn(4, 3, 5)), drawn(5, 3, 2))


def test_no_more_is_scattered_than_there_are_indices(workspace):
    def scattered(x):
        first = torch.zeros(x.shape[0], 1, dtype=torch.int64)
        return torch.zeros_like(x).scatter_add(1, first, x) + x.scatter(1, first + 1, x * 3)

    net = exported(workspace, Of(scattered), None, "x=float32[batch=1..4,n=2..9]")
    assert_alike(workspace, net, drawn(2, 3), drawn(4, 9), drawn(1, 2))


def test_each_part_of_a_batch_that_varies(workspace):
    net = exported(workspace, Of(lambda x: x.chunk(2)[0] - x.chunk(2)[1]), None, "x=float32[batch=2..8/2,3]")
    assert_alike(workspace, net, *(drawn(size, 3) for size in (2, 4, 8)))


@pytest.mark.parametrize(
    ("function", "dim", "sizes"),
    [
        (lambda x: x.split(x.shape[0] // 2)[1] - x.split(x.shape[0] // 2)[0], "2..8/2", (2, 4, 8)),
        (lambda x: torch.stack([part.sum(0) for part in x.split(2)]), "7..8", (7, 8)),
    ],
)
def test_each_part_of_a_split_that_varies(workspace, function, dim, sizes):
    net = exported(workspace, Of(function), None, f"x=float32[batch={dim},3]")
    assert_alike(workspace, net, *(drawn(size, 3) for size in sizes))


def test_means_by_another_divisor(workspace):
    pool = Of(lambda x: functional.avg_pool2d(x, (2, 3), padding=(1, 1), divisor_override=5))
    net = exported(workspace, pool, None, "x=float32[1,2,6,n=4..9]")
    assert_alike(workspace, net, *(drawn(1, 2, 6, size) for size in (4, 7, 9)))


def test_running_sums_of_powers_keep_what_is_far_below_the_largest(workspace):
    net = exported(workspace, Of(lambda x: x.logcumsumexp(-1)), None, "x=float32[n=1..9]")
    assert_alike(
        workspace, net, *(np.array(row, np.float32) for row in ([0, 100], [-200, 0], [0, -100, 200], [-np.inf, 1]))
    )


def test_the_larger_of_two_numbers_where_one_is_none(workspace):
    net = exported(
        workspace, Of(lambda x: torch.fmax(x, x.flip(0)) - torch.fmin(x, x.flip(0))), None, "x=float32[n=1..9]"
    )
    assert_alike(workspace, net, np.array([np.nan, 1, 2, 3], np.float32), np.array([1, 5, -2], np.float32))


ROUND = np.array([[0.0, -1], [-0.0, -1], [0, 1], [-0.0, 1], [1, 0], [-1, -0.0], [0, 0], [2, -2], [-3, -4]], np.float32)


def test_the_angle_of_a_point_has_the_sign_of_its_zero(workspace):
    net = exported(workspace, Of(lambda x: torch.atan2(x[:, 0], x[:, 1])), None, "x=float32[n=1..9,2]")
    assert_alike(workspace, net, ROUND)


def test_the_angle_of_complex_numbers(workspace):
    angle = Of(lambda x: torch.fft.rfft(x).angle())
    net = exported(workspace, angle, None, "x=float32[batch=1..3,n=4..9]")
    assert_alike(workspace, net, -np.ones((2, 7), np.float32) + 0.1 * drawn(2, 7), atol=1e-4)


SMALL = np.array([1e-8, 1e-6, -1e-6, 0.1, -0.4, 0.6, 30, 0, -0.99], np.float32)


@pytest.mark.parametrize("function", [torch.log1p, torch.expm1, lambda x: torch.log1p(torch.exp(-1e6 * x.abs() - 9))])
def test_small_numbers_are_not_lost_beside_one(workspace, function):
    net = exported(workspace, Of(function), None, "x=float32[n=1..9]")
    assert_alike(workspace, net, SMALL, atol=0)


def test_large_powers_of_two_are_added(workspace):
    net = exported(workspace, Of(lambda x: torch.logaddexp2(x, x.flip(0))), None, "x=float32[n=1..9]")
    assert_alike(workspace, net, np.array([200, -200, 1, 3], np.float32))


def drawn(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


NONE, SOME = -np.ones((6, 3), np.float32), np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)


@pytest.mark.parametrize(
    "mean",
    [
        lambda x: x[x[:, 0] > 0].mean(0),
        lambda x: x[x[:, 0] > 0].mean((0, -1), keepdim=True),
        lambda x: x[x > 0].mean(),
        lambda x: x[x[:, 0] > 0].double().mean(0),
        lambda x: (x[x[:, 0] > 0] * 5).long().mean(0, dtype=torch.float32),
        lambda x: x[x[:, 0] > 0].var((0, -1), keepdim=True),
        lambda x: x[x[:, 0] > 0].std(0, correction=0),
        lambda x: torch.cat(torch.var_mean(x[x[:, 0] > 0], 0, correction=0)),
        lambda x: torch.stack(torch.std_mean(x[x > 0], unbiased=False)),
    ],
    ids=["an axis", "both", "all", "double", "of integers", "var", "std", "var_mean", "std_mean"],
)
@pytest.mark.filterwarnings("ignore:.*degrees of freedom:UserWarning")
def test_the_moments_of_nothing_are_no_numbers(workspace, mean):
    net = exported(workspace, Of(mean), None, "x=float32[n=1..9,3]")
    assert np.isnan(net.original.run({"x": NONE})["output"]).all()
    assert_alike(workspace, net, NONE, SOME)


REDUCED = {
    "mean": lambda part: part.mean(1),
    "var": lambda part: part.var(1, correction=0),
    "spread": lambda part: torch.stack(torch.std_mean(part, 1)),
    "sum": lambda part: part.sum(1),
    "norm": lambda part: part.norm(dim=1),
    "all": lambda part: (part > 0).all(1),
    "logarithm": lambda part: part.logsumexp(1),
}


@pytest.mark.parametrize("how", REDUCED)
@pytest.mark.parametrize(
    ("parts", "shape"),
    [
        (lambda x: x.split([1, x.shape[1] - 1], 1), "batch=1..3,n=1..9,2"),
        (lambda x: x.tensor_split(4, 1), "batch=1..3,n=1..9,2"),
        (lambda x: (x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]), "batch=1..3,n=1..9,2"),
        (lambda x: (x[:, 2:],), "batch=1..3,n=1..9,2"),
        (lambda x: x.split([2, 0], 1), "batch=1..3,2,2"),
    ],
    ids=["split", "sections", "halves", "rest", "fixed"],
)
@pytest.mark.filterwarnings("ignore:.*degrees of freedom:UserWarning")
def test_a_part_of_nothing_is_reduced(workspace, parts, shape, how):
    module = Of(lambda x: tuple(REDUCED[how](part) for part in parts(x)))
    net, _ = exported_with_notes(workspace, module, None, f"x=float32[{shape}]")
    sizes = (1, 2, 3, 4, 6, 9) if "n" in shape else (2,)
    assert_alike(workspace, net, *(drawn(batch, n, 2) for batch, n in zip((1, 2, 3) * 2, sizes, strict=False)))


def test_the_mean_of_what_is_never_nothing_is_one_operator(workspace):
    module = Of(lambda x: (x.flatten(1).mean(1), x[:, : x.shape[1] // 2].mean(1), x.mean(), x.sum().mean(0)))
    net = exported(workspace, module, None, "x=float32[2,n=2..4000,m=2..4000]")
    kinds = [node.op_type for node in net.model.graph]
    assert kinds.count("ReduceMean") == 3
    assert "Div" in kinds  # the size that is halved
    assert_alike(workspace, net, drawn(2, 3, 5), drawn(2, 7, 2))


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("sections", [1, 3, 4])
def test_an_axis_that_varies_is_split_into_sections(workspace, sections, axis):
    def joined(x):
        parts = (torch.tensor_split(x, sections=sections, dim=axis), x.tensor_split(sections, axis))
        return tuple(torch.cat([part * place for place, part in enumerate(each, 1)], axis) for each in parts)

    net = exported(workspace, Of(joined), None, "x=float32[batch=1..3,n=2..11]")
    assert_alike(workspace, net, *(drawn(2, n) for n in range(2, 12)))


@pytest.mark.parametrize(
    "chosen",
    [
        lambda x: x.masked_select(x > 0),
        lambda x: x.masked_select(x[:, :1] > 0),
        lambda x: x[:, :1].masked_select(x > 0),
    ],
    ids=["alike", "a column of the mask", "a column of the values"],
)
def test_what_a_mask_selects(workspace, chosen):
    net = exported(workspace, Of(chosen), None, "x=float32[n=1..9,3]")
    assert_alike(workspace, net, NONE, SOME, SOME[:1])


ORDERED = [
    np.array([[3, 1, 2, 1], [0.5, -7, np.inf, -np.inf]], np.float32),
    np.array([[1, np.nan, 0, 5, 2], [np.nan] * 5], np.float32),
    np.array([[4, 4]], np.float32),
]


def test_order_statistics(workspace):
    every = Of(
        lambda x: {
            "median": x.median(1)[0], "its place": x.gather(1, x.median(1, keepdim=True)[1]), "of all": x - x.median(),
            "but NaN": torch.nanmedian(x, -1, keepdim=True)[0], "of all but NaN": x.nanmedian(),
            "second": x.kthvalue(2)[0], "smallest by column": x.kthvalue(1, 0, keepdim=True)[0],
        }
    )  # fmt: skip
    net = exported(workspace, every, None, "x=float32[batch=1..4,n=2..7]")
    assert_alike(workspace, net, *ORDERED, np.array([[np.inf, np.nan, np.inf, 0, np.nan]], np.float32))


def test_the_kth_of_a_size(workspace):
    net = exported(workspace, Of(lambda x: x.flatten().kthvalue(x.numel() // 2)[0]), None, "x=float32[n=2..5,4]")
    assert_alike(workspace, net, np.arange(12, dtype=np.float32).reshape(3, 4)[::-1].copy())


def test_the_middle_of_integers(workspace):
    net = exported(
        workspace, Of(lambda x: (x.median(1)[0], x.nanmedian(0)[0], x.median())), None, "x=int64[b=1..4,5] in -9..9"
    )
    assert_alike(workspace, net, np.array([[3, 1, 2, 2, 9], [0, 0, -5, 7, 1]]))


EDGES = torch.tensor([-1.0, 0, 0, 1])


def test_places_in_sorted_rows(workspace):
    every = Of(
        lambda x: {
            "left": torch.searchsorted(EDGES, x), "right": torch.searchsorted(EDGES, x, right=True, out_int32=True),
            "of a side": torch.searchsorted(EDGES, x, side="right"), "a number": x + torch.searchsorted(EDGES, 0.5),
            "rows": torch.searchsorted(x.nan_to_num().sort(1)[0], x),
            "by a sorter": torch.searchsorted(x.nan_to_num(), x, sorter=x.nan_to_num().argsort(1)),
        }
    )  # fmt: skip
    net = exported(workspace, every, None, "x=float32[batch=1..4,n=2..7]")
    assert_alike(workspace, net, *ORDERED)


def test_values_that_are_copied_are_broadcast(workspace):
    net = exported(workspace, Of(lambda x: torch.zeros_like(x).copy_(x[0])), None, "x=float32[batch=1..4,3]")
    assert_alike(workspace, net, np.arange(9, dtype=np.float32).reshape(3, 3))


def test_a_product_of_three_factors_of_any_batch(workspace):
    net = exported(
        workspace, Of(lambda x: torch.einsum("bij,bkj,bkl->bil", x, x + 1, x)), None, "x=float32[batch=1..3,2,4]"
    )
    assert_alike(workspace, net, *(np.arange(8.0 * n, dtype=np.float32).reshape(n, 2, 4) / 9 for n in (1, 3)))


GROUPS = torch.tensor([0, 2, 2, 1, 0, 2])


@pytest.mark.parametrize("include_self", [True, False])
def test_means_of_what_is_scattered(workspace, include_self):
    def means(x):
        groups = GROUPS.expand(x.shape[0], 6)
        written = torch.ones(x.shape[0], 5)
        written.scatter_reduce_(1, groups, x, "mean", include_self=include_self)
        return written + torch.ones(x.shape[0], 5).scatter_reduce(1, groups, x, "mean", include_self=include_self)

    net = exported(workspace, Of(means), None, "x=float32[batch=1..4,6]")
    assert_alike(workspace, net, *(np.arange(6.0 * n, dtype=np.float32).reshape(n, 6) for n in (1, 4)))


@pytest.mark.parametrize("reduce", ["amax", "amin"])
def test_the_largest_of_what_is_scattered_may_be_infinite(workspace, reduce):
    def ends(x):
        groups = GROUPS.expand(x.shape[0], 6)
        written = torch.ones(x.shape[0], 5)
        written.scatter_reduce_(1, groups, x, reduce, include_self=False)
        return written, torch.ones(x.shape[0], 5).scatter_reduce(1, groups, -x, reduce, include_self=False)

    net = exported(workspace, Of(ends), None, "x=float32[batch=1..4,6]")
    assert_alike(workspace, net, np.full((2, 6), -np.inf, np.float32), np.arange(6, dtype=np.float32)[None])


def test_what_is_scattered_in_place_may_have_fewer_indices(workspace):
    def scattered(x):
        rows = torch.zeros(x.shape[0], 5)
        rows.scatter_add_(1, GROUPS[:4].expand(x.shape[0], 4), x)
        return rows

    net = exported(workspace, Of(scattered), None, "x=float32[batch=1..4,6]")
    assert_alike(workspace, net, np.arange(18, dtype=np.float32).reshape(3, 6))


EXPONENTS = torch.arange(4)


@pytest.mark.parametrize("function", [lambda x: x >> 2, lambda x: x.int() >> 1, lambda x: x.unsqueeze(-1) << EXPONENTS])
def test_shifted_bits(workspace, function):
    net = exported(workspace, Of(function), None, "x=int64[n=1..9] in -99..99")
    assert_alike(workspace, net, np.array([-99, -4, -1, 0, 1, 6, 99]))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int8"])
@pytest.mark.parametrize(
    "function",
    [lambda x: x << 4, lambda x: x >> 1, lambda x: ((x & 15) << 4).float(), lambda x: x.clone().bitwise_left_shift_(3)],
)
def test_shifted_bits_of_narrow_integers(workspace, dtype, function):
    net = exported(workspace, Of(function), None, f"x={dtype}[n=1..9] in 0..3")
    assert_alike(workspace, net, np.array([0, 1, 8, 9, 15, 100, 127]).astype(dtype), np.array([200]).astype(dtype))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x / x.abs().amax() - x.amin(),
        lambda x: torch.cat([*x.aminmax(keepdim=True)]),
        lambda x: torch.stack([*torch.aminmax(x.long())]) + x.amax((0, 1)).long(),
        lambda x: x.aminmax(dim=1).max - x.amax(dim=1),
        lambda x: x.sum().amax() + x.mean().aminmax().min + x.mean().amin(0),
        lambda x: torch.cond(x.sum() > 0, lambda x: x - x.aminmax().min, lambda x: x / x.abs().amax(), (x,)),
    ],
)
def test_the_extremes_of_all_elements(workspace, function):
    net = exported(workspace, Of(function), None, "x=float32[batch=1..3,n=1..9]")
    assert_alike(workspace, net, drawn(3, 4), drawn(1, 1), drawn(2, 9) - 5)


@pytest.mark.parametrize("function", [torch.special.erfcx, torch.special.log_ndtr, torch.special.ndtr])
def test_tails_of_the_normal_distribution(workspace, function):
    net = exported(workspace, Of(function), None, "x=float32[n=1..12]")
    assert_alike(
        workspace, net, np.array([-30, -9, -3, -1, 0, 0.5, 2, 6, 20], np.float32)[function is torch.special.erfcx :]
    )


def test_shifted_bits_are_of_the_dtype_that_holds_both(workspace):
    def shifted(x):
        return x.int() >> x, x.to(torch.uint8) << x.to(torch.int8), x.int() >> x.sum(), x.to(torch.int16) << 2

    net = exported(workspace, Of(shifted), None, "x=int64[n=1..9] in 0..6")
    assert_alike(workspace, net, np.array([0, 1, 2, 5]))


def filled_below(x):
    x = x.clone()
    x[0].clamp_(min=0)
    x[:, 1].remainder_(0.3)
    return x


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x * 1).remainder_(0.1),
        lambda x: x.sigmoid().log_(),
        lambda x: (x * 5).long().relu_() + (x * 5).long().round_() + (x * 7).int().floor_(),
        lambda x: (x * 1).cumprod_(1),
        lambda x: (x * 1).fill_diagonal_(-2.0),
        lambda x: functional.rrelu_(x * 1),
        lambda x: (x * 1).scatter_reduce_(1, x.argsort(1) // 2, x, "mean", include_self=False),
        filled_below,
    ],
    ids=["remainder", "log", "integers", "cumprod", "diagonal", "rrelu", "scatter", "parts"],
)
def test_what_is_written_in_place_is_what_it_is_elsewhere(workspace, function):
    net = exported(workspace, Of(function), None, "x=float32[n=2..5,m=2..5]")
    values = np.random.default_rng(0).normal(0, 30, (5, 4)).astype(np.float32)
    assert_alike(workspace, net, values, values[:2, :3], atol=1e-5)


def test_what_is_clamped_in_place_is_a_clip_and_no_more(workspace):
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), Of(lambda x: x.clamp_(0, 6)), Of(lambda x: x.add_(1).clamp_(min=0)))
    net = exported(workspace, layers, None, "input=float32[batch=1..3,3,h=8..20,8]")
    assert [node.op_type for node in net.model.graph] == ["Conv", "Clip", "Add", "Relu"]


def test_the_sign_of_a_zero(workspace):
    whole = exported(workspace, Of(lambda x: torch.signbit(x.int())), None, "x=float32[n=1..9]")
    assert_alike(workspace, whole, np.array([-2, 0, 3], np.float32))
    net = exported(workspace, Of(torch.signbit), None, "x=float32[n=1..9]")
    assert_alike(workspace, net, np.array([-0.0, 0.0, -1, 1, -np.inf], np.float32))


@pytest.mark.parametrize("divisor", [3, -3, 2])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_the_largest_integers_are_divided(workspace, dtype, divisor):
    net = exported(workspace, Of(lambda x: x // divisor), None, f"x={np.dtype(dtype).name}[n=1..9] in -9..9")
    ends = np.iinfo(dtype)
    assert_alike(workspace, net, np.array([ends.min, ends.min + 1, -7, -6, 0, 6, 7, ends.max], dtype))


@pytest.mark.parametrize("inplace", [False, True])
def test_a_random_slope_is_its_mean_where_nothing_is_trained(workspace, inplace):
    net = exported(workspace, nn.RReLU(0.2, 0.4, inplace=inplace).eval(), None, "input=float32[n=1..9]")
    assert_alike(workspace, net, np.array([-2, -0.5, 0, 3], np.float32))


IDS = np.array([[3, 2, 2, 9], [2, 2, 2, 2], [0, 1, 2, 9]])


@pytest.mark.parametrize("options", [{}, {"padding_idx": 2}, {"mode": "sum", "padding_idx": -8}])
def test_bags_of_embeddings_are_lookups(workspace, options):
    net = exported(workspace, nn.EmbeddingBag(10, 4, **options), None, "input=int64[batch=1..4,n=1..5] in 0..9")
    assert not {"Loop", "SequenceEmpty"} & {node.op_type for node in net.model.graph}
    assert_alike(workspace, net, IDS, IDS[1:2])


@pytest.mark.parametrize("mode", ["mean", "max"])
@pytest.mark.parametrize("padding", [None, 2])
def test_bags_of_embeddings_by_offsets(workspace, mode, padding):
    class Bags(nn.Module):
        def __init__(self):
            super().__init__()
            self.bag = nn.EmbeddingBag(10, 4, mode=mode, padding_idx=padding)

        def forward(self, ids, offsets):
            return self.bag(ids, offsets)

    example = torch.tensor([3, 2, 2, 9, 1]), torch.tensor([0, 2, 2])
    net = exported(workspace, Bags(), example, "ids=int64[n=4..6] in 0..9", "offsets=int64[bags=1..3]")
    feeds = ({"ids": IDS[row], "offsets": np.array(starts)} for row, starts in ((0, [0, 1, 1]), (1, [0, 3]), (2, [0])))
    assert_alike(workspace, net, *feeds)


def test_products_of_large_integers(workspace):
    function = Of(lambda x: (x.prod(-1), x.prod(0, keepdim=True), x.int().prod(1)))
    net = exported(workspace, function, None, "x=int64[3,4] in -9..9")
    large = 2**28 + 1
    assert_alike(workspace, net, np.array([[large, large, 3, 1], [1 - 2**31, 2**31 - 1, 1, 1], [-9, 0, 1, 2]]))


@pytest.mark.filterwarnings("ignore:index_reduce")  # torch says that it may change
@pytest.mark.parametrize("reduce", ["mean", "amax", "amin", "prod"])
@pytest.mark.parametrize("include_self", [True, False])
def test_rows_that_are_reduced_by_index(workspace, reduce, include_self):
    def reduced(x):
        rows = torch.ones(5, x.shape[1])
        rows.index_reduce_(0, GROUPS[:3], x, reduce, include_self=include_self)
        return rows, rows.index_reduce(-2, GROUPS[:3], -x, reduce, include_self=include_self)

    net = exported(workspace, Of(reduced), None, "x=float32[3,n=2..6]")
    assert_alike(workspace, net, np.arange(-6, 6, dtype=np.float32).reshape(3, 4))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.cov(x),  # noqa: PLW0108 - found where it stands when it is called
        lambda x: torch.cov(x[0], correction=0),
        lambda x: torch.corrcoef(x),  # noqa: PLW0108
        lambda x: torch.corrcoef(x.T),
    ],
    ids=["cov", "one row", "corrcoef", "columns"],
)
def test_covariances(workspace, function):
    net = exported(workspace, Of(function), None, "x=float32[batch=2..4,n=3..7]")
    assert_alike(workspace, net, np.array([[1, 2, 4], [-3, 0, 5]], np.float32), rtol=1e-4)


@pytest.mark.parametrize(
    "count",
    [
        lambda x: torch.bincount(x.argmin(1), minlength=x.shape[0]),
        lambda x: torch.bincount(x.argmin(1)),
        lambda x: torch.bincount(x.argmin(1).int(), x[:, 0], 5),
        lambda x: torch.bincount(x.argmin(1), x[:, 0].long()),
    ],
    ids=["as long as the input", "as long as there are numbers", "weights", "whole weights"],
)
def test_numbers_are_counted_up_to_a_length_that_varies(workspace, count):
    net = exported(workspace, Of(count), None, "x=float32[n=1..60,3]")
    draw = np.random.default_rng(0)
    assert_alike(workspace, net, *(9 * draw.standard_normal((n, 3)).astype(np.float32) for n in (1, 2, 60)))


def test_an_operator_with_an_argument_that_may_not_vary_is_named(workspace):
    def strided(x):
        return functional.conv1d(x.T[None], torch.ones(1, 3, 1), stride=x.shape[0])

    with pytest.raises(SourceError, match=r"an argument of the operator aten\.conv1d at .* varies"):
        exported(workspace, Of(strided), None, "x=float32[n=4..60,3]")
