"""Models that compute with complex numbers: by spectra, state spaces and in-place parts of them."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.architectures.own import Spectral, StateSpace
from tests.exporting import assert_alike, exported
from tests.models_for_export import Of

pytestmark = pytest.mark.needs_onnxruntime


def alike(workspace, module, spec, *shapes):
    drawn = np.random.default_rng(3)
    arrays = (drawn.standard_normal(shape).astype(np.float32) for shape in shapes)
    assert_alike(workspace, exported(workspace, module, None, spec), *arrays, rtol=1e-3, atol=1e-4)


def test_a_fourier_neural_operator(workspace):
    alike(workspace, Spectral(), "x=float32[batch=1..3,2,8,8]", (1, 2, 8, 8), (3, 2, 8, 8))


def test_a_diagonal_state_space_of_any_length(workspace):
    alike(workspace, StateSpace(), "x=float32[batch=1..3,4,n=4..20]", (1, 4, 4), (2, 4, 11), (3, 4, 20))


def pairs(x):
    return torch.complex(x, x.flip(-1) * 0.5)


def without_the_highest(x):
    spectrum = torch.fft.rfft(x)
    spectrum[:, :, 3:] = 0
    return torch.fft.irfft(spectrum)


def one_row_real(x):
    rows = torch.zeros_like(pairs(x))
    rows[:, 1] = x[:, 0]
    return rows.abs()


OPERATIONS = {
    "where": lambda x: torch.where(x > 0, pairs(x), pairs(x) * 2).abs(),
    "expand": lambda x: pairs(x)[:, :, None].expand(-1, -1, 3, -1).abs(),
    "repeat": lambda x: pairs(x).repeat(1, 2, 1).imag,
    "index": lambda x: pairs(x)[:, [2, 0]].imag,
    "the last": lambda x: pairs(x)[..., -1].abs(),
    "pad": lambda x: nn.functional.pad(pairs(x), (1, 2)).imag,
    "bmm": lambda x: torch.bmm(pairs(x), pairs(x).mT).real,
    "mm": lambda x: torch.mm(pairs(x)[0], pairs(x)[0].mT).imag,
    "tensordot": lambda x: torch.tensordot(pairs(x), pairs(x)[0], dims=([2], [1])).imag,
    "three factors": lambda x: torch.einsum("bij,bij,bij->bi", pairs(x), pairs(x), pairs(x)).imag,
    "exp": lambda x: torch.exp(pairs(x)).imag,
    "cumsum": lambda x: pairs(x).cumsum(-1).imag,
    "times 1j": lambda x: (x * 1j + pairs(x)).abs(),
    "square": lambda x: (pairs(x) ** 2).imag,
    "chunk": lambda x: torch.cat([part.abs() for part in pairs(x).chunk(2, -1)], 1),
    "unbind": lambda x: torch.stack(pairs(x).unbind(1), 1).real,
    "part of zeros": without_the_highest,
    "real part": one_row_real,
    "conjugates": lambda x: torch.einsum("bij,bkj->bik", pairs(x), pairs(x).conj()).real,
    "imaginary parts of conjugates": lambda x: pairs(x).conj().imag,
    "parts of conjugates": lambda x: torch.stack(pairs(x).conj().transpose(0, 1).unbind(0)).imag,
    "angles of conjugates": lambda x: pairs(x).conj().angle(),
    "sums of a dtype": lambda x: pairs(x).cumsum(-1, dtype=torch.complex64).imag,
    "real zeros": lambda x: torch.zeros_like(pairs(x), dtype=torch.float32) + x,
    "linear": lambda x: nn.functional.linear(pairs(x), pairs(x)[0], pairs(x)[0, :, 0]).imag,
}


def test_operations_on_complex_numbers(workspace):
    every = Of(lambda x: {name: operation(x) for name, operation in OPERATIONS.items()})
    alike(workspace, every, "x=float32[batch=1..3,4,8]", (1, 4, 8), (3, 4, 8))


def by_frequency(x):
    spectrum = torch.fft.rfft(x)
    return spectrum.abs() / torch.arange(1, spectrum.shape[-1] + 1)


def correlated(x):
    """The correlation of a signal with itself, by its powers, which are real."""
    return torch.fft.irfft(torch.fft.rfft(x).abs() ** 2)


def there_and_back(x):
    window = torch.hann_window(8)
    return torch.istft(torch.stft(x, 8, 4, window=window, return_complex=True), 8, 4, window=window)


@pytest.mark.parametrize("function", [by_frequency, correlated, there_and_back])
@pytest.mark.parametrize("steps", ["16..32", "16..32/4"])
def test_sizes_of_complex_numbers(workspace, function, steps):
    alike(workspace, Of(function), f"x=float32[batch=1..3,t={steps}]", (1, 16), (3, 20), (2, 32))
