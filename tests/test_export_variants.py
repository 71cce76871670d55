"""The known traps of exporting over several modules each: names, modes, values that decide, operators, transforms."""

import contextlib
import copy
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from mlc.errors import SourceError
from mlc.runtimes.onnxruntime import open_session
from mlc.types import Target
from tests.exporting import exported

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torch")

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


def called(function):
    """A module whose forward is a plain function."""
    module: Any = nn.Module()
    module.forward = function
    return module


# names


ROUTED = {
    "inputs that change places": (lambda a, b: {"a": b, "b": a}, ["output.a", "output.b"]),
    "one twice, in a structure": (lambda x: {"first": x, "rest": [x, {"y": x + 1}]}, ["first", "rest.0", "rest.1.y"]),
    "views of one between unused ones": (
        lambda unused, x, y: [x.view(3, 4), x[:], y],
        ["output.0", "output.1", "output.2"],
    ),
    "names of the exporter": (lambda x_orig, output, val_0: {"x": x_orig, "add": output + 1}, ["x", "add"]),
}


@pytest.mark.parametrize("kind", ROUTED)
def test_inputs_keep_their_names_and_places_whatever_becomes_of_them(kind, workspace):
    forward, outputs = ROUTED[kind]
    names = list(forward.__code__.co_varnames)
    example = tuple(X + place for place in range(len(names)))
    made = exported(workspace, called(forward), example)
    assert (made.inputs, made.outputs) == (names, outputs)
    given = {name: (tensor * 3).numpy() for name, tensor in zip(names, example, strict=True)}
    with open_session(workspace.save(made.model), Target(), optimize=False) as session:
        found = session.run(given)
    for name, array in made.original.run(given).items():
        np.testing.assert_array_equal(found[name], array)


# modes


class Images(nn.Module):
    """Layers of images that compute otherwise in training, by themselves and by their mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.Sequential(
            nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.InstanceNorm2d(4, track_running_stats=True), nn.ReLU(),
            nn.SyncBatchNorm(4), nn.Dropout2d(0.5), nn.AlphaDropout(0.3), nn.FeatureAlphaDropout(0.3),
        )  # fmt: skip
        self.volume = nn.Sequential(nn.BatchNorm3d(4), nn.Dropout3d(0.5))

    def forward(self, x):
        x = self.volume(self.norms(x)[:, :, None])[:, :, 0]
        return functional.dropout(x, 0.5, self.training) * (3 if self.training else 2)


class Sequences(nn.Module):
    """Layers of sequences that drop something in training."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(6, 4, num_layers=2, dropout=0.5, batch_first=True)
        self.attention = nn.MultiheadAttention(4, 2, dropout=0.5, batch_first=True)
        self.norm, self.drop = nn.BatchNorm1d(4), nn.Dropout1d(0.5)

    def forward(self, x):
        x, _ = self.recurrent(x)
        x, weights = self.attention(x, x, x)
        return self.drop(self.norm(x.transpose(1, 2))), weights


@pytest.mark.parametrize(("make", "shape"), [(Images, (2, 3, 5, 5)), (Sequences, (2, 5, 6))])
def test_every_layer_of_a_module_in_training_is_exported_as_it_evaluates(make, shape, workspace):
    torch.manual_seed(0)
    module, x = make().train(), torch.randn(shape)
    for _ in range(3):
        module(torch.randn(shape) * 2 + 1)  # statistics of their own
    wanted = copy.deepcopy(module).eval()
    made = exported(workspace, module, x)
    with open_session(workspace.save(made.model), Target(), optimize=False) as session:
        found = list(session.run({"x": 2 * x.numpy()}).values())
    with torch.no_grad():
        expected = wanted(2 * x)
    for array, tensor in zip(found, expected if isinstance(expected, tuple) else (expected,), strict=True):
        np.testing.assert_allclose(array, tensor.numpy(), rtol=1e-4, atol=1e-5)
    assert "the module was in training mode; exported in evaluation mode" in made.artifact.origin.notes
    assert module.training


RANDOM = {
    "a dropout without a mode": lambda x: functional.dropout(x.repeat(9, 9), 0.5),
    "noise": lambda x: x + torch.randn_like(x),
    "an order": lambda x: x.flatten()[torch.randperm(x.numel())],
    "a draw": lambda x: torch.bernoulli(x.repeat(9, 9).sigmoid()),
    "a sample": lambda x: torch.multinomial(x.repeat(9, 9).softmax(-1), 8),
}


@pytest.mark.parametrize("kind", RANDOM)
def test_two_runs_have_to_agree(kind, workspace):
    assert "two runs on the same input disagree" in refused(workspace, called(RANDOM[kind])).message


# values that decide, and operators without a counterpart


def refused(workspace, module):
    """The error of an export that has to fail: one sentence and a hint on one screen, and nothing else said."""
    streams = io.StringIO()
    with contextlib.redirect_stderr(streams), contextlib.redirect_stdout(streams), pytest.raises(SourceError) as caught:
        exported(workspace, module, X)
    assert streams.getvalue() == ""
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 500
    assert caught.value.hint
    return caught.value


def by_a_loop(x):
    while x.sum() < 9:  # decides
        x = x * 2 + 1
    return x


def by_a_number(x):
    return x * 2 if x.max().item() > 1 else x  # decides


def by_a_count(x):
    for _ in range(int(x.argmax())):  # decides
        x = x + 1
    return x


def by_a_truth(x):
    return x if bool((x > 0).all()) else -x  # decides


@pytest.mark.parametrize("forward", [by_a_loop, by_a_number, by_a_count, by_a_truth])
def test_a_value_that_decides_is_told_with_its_line(forward, workspace):
    first = forward.__code__.co_firstlineno
    source = Path(__file__).read_text(encoding="utf-8").splitlines()
    number = next(line for line in range(first, first + 5) if "# decides" in source[line - 1])
    assert f"test_export_variants.py:{number} in {forward.__name__}" in refused(workspace, called(forward)).message


OPERATORS = {
    "mode": lambda x: x.mode(1)[0],
    "_int_mm": lambda x: torch._int_mm(x.to(torch.int8), x.to(torch.int8).T),
}


@pytest.mark.parametrize("operator", OPERATORS)
def test_an_operator_without_a_counterpart_is_named_with_a_rewrite(operator, workspace):
    error = refused(workspace, called(OPERATORS[operator]))
    assert f"the operator aten.{operator}" in error.message
    assert "write instead: " in error.hint


# transforms


class Spectra(nn.Module):
    """Transforms of Fourier in the forms that users write them."""

    window: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(16))

    def forward(self, x):
        half, whole = torch.fft.rfft(x), torch.fft.fft(x)
        framed = torch.stft(x, 16, 4, window=self.window, return_complex=True)
        return {
            "rfft": torch.view_as_real(half), "of a size": torch.fft.rfft(x, 20).abs(),
            "scaled": torch.fft.rfft(x, norm="ortho").real, "along an axis": torch.fft.rfft(x[:, None], dim=1).real,
            "whole": whole.abs(), "angle": half.angle().cos(), "back": torch.fft.irfft(half, x.shape[-1]),
            "stft": framed.abs() ** 2, "stft of both sides": torch.stft(
                x, 16, 8, window=self.window, center=False, onesided=False, return_complex=True).real,
            "normalized": torch.stft(x, 16, 16, window=self.window, normalized=True, return_complex=True).imag,
        }  # fmt: skip


def test_transforms_of_fourier(workspace):
    x = torch.randn(3, 48, generator=torch.Generator().manual_seed(1))
    made = exported(workspace, Spectra(), x, "x=float32[batch=1..5,48]")
    assert all(check.held for check in made.checks)
    assert len(made.outputs) == 10


class Bessel(nn.Module):
    def forward(self, x):
        return torch.special.spherical_bessel_j0(x.tanh())


def test_an_operator_that_others_are_taken_apart_into_has_their_line(workspace):
    error = refused(workspace, Bessel())
    assert "the operator prims.spherical_bessel_j0 at test_export_variants.py" in error.message
    assert "return torch.special.spherical_bessel_j0(x.tanh())" in error.message


def test_an_operator_that_the_runtime_lacks_in_float64(workspace):
    with pytest.raises(SourceError) as caught:
        exported(workspace, nn.Conv1d(3, 3, 2).double(), torch.randn(2, 3, 8, dtype=torch.float64))
    assert "module.float()" in caught.value.hint


class Modulated(nn.Module):
    """A filter of its own for each sample."""

    def forward(self, x, filters):
        batch = x.shape[0]
        return nn.functional.conv1d(x.flatten(0, 1)[None], filters.flatten(0, 1), groups=batch).unflatten(1, (batch, 2))


def test_an_attribute_that_would_vary_is_told_with_its_line(workspace):
    example = torch.randn(2, 3, 8), torch.randn(2, 2, 3, 3)
    with pytest.raises(SourceError, match=r"at test_export_variants\.py:\d+ .* varies, which ONNX has as an attribute"):
        exported(workspace, Modulated(), example, "x=float32[batch=1..4,3,8]", "filters=float32[batch,2,3,3]")
