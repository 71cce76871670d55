"""Ranges that are cut: against a search on the raw data itself."""

import numpy as np
import pytest

from mlc.statistics.histograms import BINS, ascending, edges, histogram
from mlc.statistics.observers import Observer

SIZE = 40_000


def draw(name):
    generator = np.random.default_rng(len(name))
    normal = generator.normal(size=SIZE)
    found = {
        "normal": normal,
        "shifted": normal + 2,
        "laplace": generator.laplace(size=SIZE),
        "student": generator.standard_t(3, size=SIZE),
        "outliers": np.concatenate([normal, [60, -200]]),
        "relu": np.maximum(normal, 0),
        "relu6": np.clip(4 * normal, 0, 6),
        "lognormal": generator.lognormal(size=SIZE),
        "negative": -np.abs(normal),
        "tiny": normal * 1e-30,
        "huge": normal * 1e37,
        "few": np.array([-1, 0.5, 2]),
    }
    return found[name].astype(np.float32)


NAMES = [
    "normal",
    "shifted",
    "laplace",
    "student",
    "outliers",
    "relu",
    "relu6",
    "lognormal",
    "negative",
    "tiny",
    "huge",
]


def observed(x):
    """An observer that has counted every element."""
    observer = Observer()
    observer.add(x, "x", np.arange(1))
    observer.counts = histogram(x)
    return observer


def with_zero(low, high):
    return min(low, 0.0), max(high, 0.0)


def squared_error(x, low, high):
    low, high = with_zero(low, high)
    scale = (high - low) / 255
    zero = np.rint(-low / scale)
    return np.square(x - (np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale).mean()


def divergence(x, low, high, bins=8192):
    """Migacz's divergence on raw data: bins of one width between the extremes, zeros aside."""
    low, high = with_zero(low, high)
    x = x[x != 0]
    step = (high - low) / 255
    first = -np.rint(-low / step)
    start, end = (first - 0.5) * step, (first + 255.5) * step
    width = (max(x.max(), 0) - min(x.min(), 0)) / bins
    sides = np.arange(np.floor(start / width), np.ceil(end / width) + 1) * width
    inside = np.histogram(x[(x >= start) & (x <= end)], sides)[0].astype(float)
    level = np.clip(np.rint((sides[1:] + sides[:-1]) / 2 / step) - first, 0, 255).astype(int)
    shares = np.bincount(level, inside, 256) / np.maximum(np.bincount(level, inside > 0, 256), 1)
    coded = np.where(inside > 0, shares[level], 0)
    filled = np.flatnonzero(inside)
    inside[filled[0]] += (x < start).sum()
    inside[filled[-1]] += (x > end).sum()
    expected, coded = inside[filled] / inside.sum(), coded[filled] / coded.sum()
    return float((expected * np.log(expected / coded)).sum())


def candidates(x, steps=24):
    """Ranges inside the extremes: both ends alike over 6 octaves, and each by itself."""
    low, high = with_zero(x.min(), x.max())
    together = [(low * share, high * share) for share in 2.0 ** -np.linspace(0, 6, 4 * steps + 1)]
    shares = 2.0 ** -np.linspace(0, 6, steps // 2 + 1)
    return together if not low or not high else [*together, *((low * a, high * b) for a in shares for b in shares)]


def spread(x):
    """Every eighth element and the extremes, which a search by brute force has time for."""
    return np.concatenate([x[::8], [x.min(), x.max()]]).astype(np.float64)


@pytest.mark.parametrize("name", NAMES)
def test_mse_is_as_good_as_a_search_on_the_data(name):
    x = spread(draw(name))
    found = observed(x.astype(np.float32)).mse()
    best = min(squared_error(x, *each) for each in candidates(x))
    assert squared_error(x, *found) <= 1.02 * best


@pytest.mark.parametrize("name", NAMES)
def test_entropy_is_as_good_as_migacz_on_the_data(name):
    x = draw(name)
    found = observed(x).entropy()
    x = x.astype(np.float64)
    low, high = with_zero(x.min(), x.max())
    shares = 2.0 ** -np.linspace(0, 4, 25)
    best = min(divergence(x, low * share, high * share) for share in shares)
    assert divergence(x, *found) <= 1.05 * best + 1e-4


def test_entropy_does_not_see_what_one_outlier_does_to_bins_of_one_width():
    x = np.concatenate([draw("normal"), np.array([1e4], np.float32)])
    low, high = observed(x).entropy()
    assert -5 < low < -2
    assert 2 < high < 10


@pytest.mark.parametrize(("name", "size"), [("relu", 256), ("lognormal", 1000)])
def test_entropy_does_not_cut_off_most_of_few_elements(name, size):
    """Nearly every bin has one element or none, so that one alone inside a range would not diverge from itself."""
    for start in range(0, 8 * size, size):
        x = draw(name)[start : start + size]
        low, high = observed(x).entropy()
        assert np.mean((x < low) | (x > high)) < 0.02


@pytest.mark.parametrize("name", [*NAMES, "few"])
@pytest.mark.parametrize("method", ["mse", "entropy"])
def test_a_cut_range_is_never_wider_than_the_extremes(name, method):
    observer = observed(draw(name))
    low, high = getattr(observer, method)()
    least, most = observer.range()
    assert least <= low <= high <= most
    if least >= 0:
        assert low == least
    if most <= 0:
        assert high == most


@pytest.mark.parametrize("method", ["mse", "entropy"])
@pytest.mark.parametrize(
    "x",
    [
        [3.3] * 100,
        [-7.0],
        [0.0] * 20,
        [1e-42, -1e-42, 3e-42],
        [1.0] * 10 + [3.0] * 10,
        [],
        [3e38, -3e38],
        np.geomspace(0.009, 2.74, 44),
    ],
    ids=["constant", "one", "zeros", "denormal", "two", "none", "largest", "one in each bin"],
)
def test_ranges_of_next_to_nothing_stay(x, method):
    observer = observed(np.array(x, np.float32))
    assert getattr(observer, method)() == observer.range()


def test_without_a_histogram_nothing_can_be_cut():
    for method in ("mse", "entropy"):
        with pytest.raises(KeyError):
            getattr(Observer(low=-1.0, high=1.0, elements=1), method)()


def test_every_float_lies_between_the_edges_of_its_bin():
    generator = np.random.default_rng(0)
    x = (generator.normal(size=300) * 10.0 ** generator.integers(-40, 38, 300)).astype(np.float32)
    for number in [*x, np.float32(0), np.finfo(np.float32).max, np.finfo(np.float32).min]:
        place = int(np.argmax(ascending(histogram(np.array([number])))))
        assert edges()[place] <= number <= edges()[place + 1]
    assert len(edges()) == BINS + 1
