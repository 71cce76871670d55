"""Losses in forward: what torch.onnx leaves out of them is in the file, whatever is smoothed, weighted and ignored."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.exporting import assert_alike, exported, exported_with_notes
from tests.models_for_export import Of

pytestmark = pytest.mark.needs_onnxruntime

WEIGHT = torch.tensor([0.1, 0.9, 0.5, 2.0, 0.0])

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "smoothed": {"label_smoothing": 0.2},
    "weighted": {"weight": WEIGHT},
    "ignoring": {"ignore_index": 2},
    "all": {"label_smoothing": 0.1, "weight": WEIGHT, "ignore_index": 2},
    "another class": {"label_smoothing": 0.1, "ignore_index": 9},
}

REDUCTIONS = ("none", "mean", "sum")


class Loss(nn.Module):
    """A loss of scores and a target."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x, target):
        return self.function(x, target)


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def classes(*shape):
    return np.random.default_rng(1).integers(0, 5, shape)


def reduced(function, *args, **settings):
    """A loss of each sample, their mean and their sum."""
    return tuple(function(*args, reduction=reduction, **settings) for reduction in REDUCTIONS)


@pytest.mark.parametrize("how", SETTINGS)
def test_the_cross_entropy_with_a_class_of_each_sample(workspace, how):
    module = Loss(lambda x, target: reduced(functional.cross_entropy, x, target, **SETTINGS[how]))
    net = exported(workspace, module, None, "x=float32[batch=3..9,5,n=2..7]", "target=int64[batch,n] in 0..4")
    feeds = [{"x": drawn(batch, 5, n), "target": classes(batch, n)} for batch, n in ((3, 2), (4, 7), (9, 3))]
    ignored = [{**feed, "target": np.where(feed["target"] == 3, 9, feed["target"])} for feed in feeds]
    assert_alike(workspace, net, *feeds, *(ignored if how == "another class" else ()))


@pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.1, "weight": WEIGHT}], ids=["plain", "all"])
def test_the_cross_entropy_with_shares_of_classes(workspace, settings):
    module = Loss(lambda x, y: reduced(functional.cross_entropy, x, y.softmax(1), **settings))
    net = exported(workspace, module, None, "x=float32[batch=1..9,5,n=1..7]", "target=float32[batch,5,n]")
    feeds = [{"x": drawn(batch, 5, n), "target": drawn(batch, 5, n, seed=1)} for batch, n in ((1, 1), (4, 7), (9, 3))]
    assert_alike(workspace, net, *feeds)


def test_the_cross_entropy_of_one_sample_without_a_batch(workspace):
    settings = {"label_smoothing": 0.1, "ignore_index": 1}
    module = Of(lambda x: reduced(functional.cross_entropy, x, (x[0] > 0).long() * 2, **settings))
    net = exported(workspace, module, None, "x=float32[n=3..9]")
    assert_alike(workspace, net, drawn(3), drawn(8), -drawn(8))


@pytest.mark.parametrize("shape", ["batch", "batch,n=2..7", "batch,n=2..7,3"])
def test_likelihoods_of_a_class(workspace, shape):
    module = Loss(lambda x, y: reduced(functional.nll_loss, x, y, weight=WEIGHT + 1, ignore_index=1))
    behind = shape.removeprefix("batch")
    net = exported(workspace, module, None, f"x=float32[batch=3..9,5{behind}]", f"target=int64[{shape}] in 0..4")
    sizes = ([] if "n" not in shape else [7]) + ([3] if "3" in shape else [])
    assert_alike(workspace, net, *({"x": drawn(b, 5, *sizes), "target": classes(b, *sizes)} for b in (4, 9)))


@pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.1}, {"weight": WEIGHT}])
def test_the_mean_loss_of_samples_that_are_all_ignored_is_no_number(workspace, settings):
    module = Loss(lambda x, target: functional.cross_entropy(x, target, ignore_index=2, **settings))
    net, _ = exported_with_notes(workspace, module, None, "x=float32[batch=1..9,5]", "target=int64[batch] in 2..3")
    none = {"x": drawn(4, 5), "target": np.full(4, 2)}
    assert np.isnan(net.original.run(none)["output"])
    assert_alike(workspace, net, none, {"x": drawn(4, 5), "target": np.array([2, 3, 3, 2])})


@pytest.mark.parametrize("log_target", [False, True])
@pytest.mark.filterwarnings("ignore:reduction:UserWarning")
def test_the_divergence_of_two_distributions(workspace, log_target):
    def divergences(x, y):
        target = y.log_softmax(1) if log_target else y.softmax(1) * (y > 0)
        given = (x.log_softmax(1), target)
        whole = functional.kl_div(*given, reduction="batchmean", log_target=log_target)
        return *reduced(functional.kl_div, *given, log_target=log_target), whole

    net = exported(workspace, Loss(divergences), None, "x=float32[batch=1..9,n=2..7,3]", "target=float32[batch,n,3]")
    feeds = [{"x": drawn(batch, n, 3), "target": drawn(batch, n, 3, seed=1)} for batch, n in ((1, 2), (4, 7), (9, 3))]
    assert_alike(workspace, net, *feeds)
