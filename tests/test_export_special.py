"""Functions for which ONNX has no operators are right to float32 over all numbers, at poles and infinities too."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Beta, Normal, StudentT

from tests.exporting import assert_alike, exported
from tests.models_for_export import Of

pytestmark = pytest.mark.needs_onnxruntime

ENDS = [0.0, -0.0, math.inf, -math.inf, math.nan]

WIDE = np.logspace(-37, 36, 500)

NUMBERS = np.concatenate([np.linspace(-30, 30, 6001), WIDE, -WIDE, [-1e30, 0.5, 1.5], ENDS])

MODERATE = NUMBERS[(NUMBERS > -50) & (NUMBERS < 1e36)]
"""Those that torch sums up to 9 in steps of one, and no infinity, of which it gives NaN."""

NEAR = np.logspace(-7, -1, 100)

BETWEEN = np.concatenate([np.linspace(-1, 1, 2001), 1 - NEAR, NEAR - 1, np.logspace(-37, -1, 100), [1.5, -2], ENDS])

FUNCTIONS = {
    "lgamma": (torch.lgamma, NUMBERS),
    "digamma": (torch.digamma, NUMBERS),
    "polygamma, 0": (lambda x: torch.polygamma(0, x), NUMBERS),
    "polygamma, 1": (lambda x: torch.polygamma(1, x), NUMBERS[(NUMBERS >= 0) | (np.round(NUMBERS) != NUMBERS)]),
    "polygamma, 2": (lambda x: torch.polygamma(2, x), MODERATE),
    "polygamma, 5": (lambda x: torch.polygamma(5, x), MODERATE),
    "polygamma, 4": (lambda x: torch.polygamma(4, x), np.arange(-9.5, 10)),
    "i0": (torch.special.i0, NUMBERS),
    "i0e": (torch.special.i0e, NUMBERS),
    "i1": (torch.special.i1, NUMBERS),
    "i1e": (torch.special.i1e, NUMBERS),
    "j0": (torch.special.bessel_j0, NUMBERS[abs(NUMBERS) < 1e3]),
    "j1": (torch.special.bessel_j1, NUMBERS[abs(NUMBERS) < 1e3]),
    "erfinv": (torch.erfinv, BETWEEN),
    "ndtri": (torch.special.ndtri, np.concatenate([BETWEEN / 2 + 0.5, np.logspace(-40, -1, 200), 1 - NEAR])),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_over_all_numbers(workspace, name, dtype):
    function, numbers = FUNCTIONS[name]
    net = exported(workspace, Of(function), None, f"x={dtype}[n=1..9] in 0.1..0.9")
    assert_alike(workspace, net, numbers.astype(dtype), rtol=2e-6, atol=4e-6)


def test_the_logarithm_of_gamma_keeps_its_digits_near_its_zeros(workspace):
    net = exported(workspace, Of(torch.lgamma), None, "x=float32[n=1..9] in 0.1..3")
    near = np.concatenate([base + sign * np.logspace(-6, -1, 50) for base in (1, 2) for sign in (1, -1)])
    assert_alike(workspace, net, near.astype(np.float32), rtol=2e-6, atol=0)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: Normal(x[:1], 2.0).icdf(x.sigmoid()),
        lambda x: Beta(x.exp(), x.exp() + 1).entropy(),
        lambda x: StudentT(x.exp()).log_prob(x),
        lambda x: torch.mvlgamma(x.abs() + 2, 2),
        lambda x: torch.lgamma((x * 3).long().abs() + 1),
        lambda x: (x.abs() + 1).lgamma_() + (x.abs() + 1).digamma_(),
    ],
    ids=["quantiles", "entropy", "likelihood", "of several variables", "of integers", "in place"],
)
def test_what_is_made_of_them(workspace, function):
    net = exported(workspace, Of(function), None, "x=float32[n=1..9]")
    drawn = np.random.default_rng(0)
    assert_alike(workspace, net, *(drawn.normal(size=n).astype(np.float32) for n in (1, 3, 9)), atol=1e-5)
