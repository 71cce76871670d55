"""Layers that cost the most at the outputs get a better format by themselves, and only where outputs lose much."""

import numpy as np
import pytest
import torch
from torch import nn

from mlc import api

WIDTH = 32


class Blocks(nn.Module):
    """Four products behind normalizations; the second one reads two columns a hundred times larger than all others."""

    def __init__(self, outliers):
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Linear(WIDTH, WIDTH) for _ in range(4)]
        norms = [nn.LayerNorm(WIDTH) for _ in range(4)]
        with torch.no_grad():
            if outliers:
                norms[1].weight[:2] = 100.0
                layers[1].weight[:, :2] /= 100.0
        self.layers, self.norms = nn.ModuleList(layers), nn.ModuleList(norms)

    def forward(self, x):
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = x + torch.tanh(layer(norm(x)))
        return x


DATA = [{"x": np.random.default_rng(0).standard_normal((16, WIDTH)).astype(np.float32)}]


def rewritten(outliers, **asked):
    original = api.load(Blocks(outliers).eval(), inputs=[f"x=float32[batch=1..16,{WIDTH}]"])
    artifact = api.rewrite(api.export(original), original)
    found = api.rewrite(artifact, original, calibrate=DATA, **{"passes": ["none"], **asked})
    (step,) = (step for step in found.steps if step.exactness == "lossy")
    return step


@pytest.fixture(scope="module")
def by_name():
    """What the pass alone makes of it: everything is quantized."""
    return rewritten(True, passes=["none", "int8-static"])


def test_the_outlier_stays_float_and_the_outputs_gain(by_name):
    step = rewritten(True, to="int8-static")
    assert set(by_name.sites) - set(step.sites) >= {"linear_1"}
    assert {"linear", "linear_2", "linear_3"} <= set(step.sites)
    assert step.sqnr["output"] > by_name.sqnr["output"] + 6


def test_nothing_is_given_up_where_nothing_stands_out():
    step = rewritten(False, to="int8-static")
    assert {"linear", "linear_1", "linear_2", "linear_3"} <= set(step.sites)


def test_what_outliers_cost_in_4_bits_they_get_in_8():
    original = api.load(Blocks(False).eval(), inputs=[f"x=float32[batch=1..16,{WIDTH}]"])
    artifact = api.rewrite(api.export(original), original)
    alone = api.rewrite(artifact, original, passes=["none", "int4-weights"])
    mixed = api.rewrite(artifact, original, passes=["none"], to="int4-weights")
    steps = {step.spec.name: step for step in mixed.steps if step.exactness == "lossy"}
    assert list(steps) == ["int4-weights", "int8-weights"]
    assert 1 <= len(steps["int8-weights"].sites) < len(steps["int4-weights"].sites)
    assert steps["int8-weights"].sqnr["output"] > alone.steps[-1].sqnr["output"]
