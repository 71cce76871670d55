"""Operators that torch.onnx writes wrongly, or not at all, at some values or lengths."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from mlc.runtimes.onnxruntime import open_session
from mlc.types import Target
from tests.exporting import exported, one_registry  # noqa: F401 - a fixture for all of this file
from tests.models_for_export import Of

pytestmark = pytest.mark.needs_onnxruntime

LOGITS = np.array([[-90, -20, -1, 0, 1, 20, 90]], np.float32)


def assert_alike(workspace, net, *arrays):
    (name,) = net.inputs
    with open_session(workspace.save(net.model, "again"), Target(), optimize=False) as session:
        for array in arrays:
            ours, theirs = session.run({name: array})["output"], net.original.run({name: array})["output"]
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "function",
    [
        functional.logsigmoid,
        lambda x: torch.logaddexp(x, -x),
        lambda x: functional.binary_cross_entropy_with_logits(x, torch.ones_like(x), reduction="none"),
    ],
    ids=["logsigmoid", "logaddexp", "cross entropy"],
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


def test_places_of_the_largest_are_torchs_own(workspace):
    net = exported(workspace, Of(lambda x: functional.max_pool1d(x, 2, return_indices=True)[0]), None,
                   "x=float32[batch=1..3,3,8]")  # fmt: skip
    assert_alike(workspace, net, np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32))
