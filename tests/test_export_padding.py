"""torch.nn.TransformerEncoder and padding: what torch gives in evaluation mode without gradients, and nothing else."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from mlc.runtimes.onnxruntime import open_session
from mlc.types import Target
from mlc.workspace import Workspace
from tests.exporting import exported

pytestmark = pytest.mark.needs_onnxruntime

INPUTS = ("x=float32[batch=1..3,length=2..9,16]", "padding=bool[batch,length]")
MASKS = {
    "behind": [[0, 0, 0, 1, 1], [0, 0, 0, 0, 0]],
    "in front": [[1, 1, 0, 0, 0], [0, 0, 0, 0, 0]],
    "between": [[0, 1, 0, 1, 1], [0, 0, 0, 0, 1]],
    "a sample of nothing": [[1, 1, 1, 1, 1], [0, 0, 0, 1, 1]],
    "none": [[0, 0, 0, 0, 0], [0, 0, 0, 0, 0]],
}


class Encoder(nn.Module):
    def __init__(self, *, floats=False, norm=False, causal=False, norm_first=False, batch_first=True, **settings):
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=batch_first, norm_first=norm_first)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.layers = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(16) if norm else None, **settings)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3)
        self.floats, self.causal, self.batch_first = floats, causal, batch_first

    def forward(self, x, padding):
        if self.floats:
            padding = torch.zeros_like(padding, dtype=x.dtype).masked_fill(padding, float("-inf"))
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1) if self.causal else None
        given = x if self.batch_first else x.transpose(0, 1)
        answers = self.layers(given, mask=mask, src_key_padding_mask=padding)
        return answers if self.batch_first else answers.transpose(0, 1)


SETTINGS = [
    {}, {"norm": True}, {"floats": True, "norm": True}, {"mask_check": False}, {"causal": True}, {"norm_first": True},
    {"enable_nested_tensor": False}, {"batch_first": False},
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_padding_gives_what_it_gives_in_evaluation_mode(settings):
    """Where every key is padded and nothing is left out torch has NaN, of which nothing is asked."""
    module = Encoder(**settings).eval()
    generator = torch.Generator().manual_seed(0)
    with Workspace() as workspace:
        net = exported(workspace, module, None, *INPUTS)
        with open_session(workspace.save(net.model, "again"), Target(), optimize=False) as session:
            for name, mask in MASKS.items():
                x, padding = torch.randn(2, 5, 16, generator=generator), torch.tensor(mask, dtype=torch.bool)
                with torch.no_grad():
                    expected = module(x, padding).numpy()
                ours = session.run({"x": x.numpy(), "padding": padding.numpy()})["output"]
                known = np.isfinite(expected)
                assert known.all() or name == "a sample of nothing" or "causal" in settings
                np.testing.assert_allclose(ours[known], expected[known], rtol=1e-5, atol=1e-5, err_msg=name)


def test_the_encoder_is_left_as_it_was():
    forward, module = nn.TransformerEncoder.forward, Encoder(norm=True).eval()
    with Workspace() as workspace:
        exported(workspace, module, None, *INPUTS)
    assert nn.TransformerEncoder.forward is forward
    assert isinstance(module.layers.norm, nn.LayerNorm)
    assert torch.backends.mha.get_fastpath_enabled()


def test_without_the_fast_path_padding_is_computed():
    """As a user may ask torch for."""
    module = Encoder().eval()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with Workspace() as workspace:
            net = exported(workspace, module, None, *INPUTS)
            x, padding = torch.randn(2, 5, 16), torch.tensor(MASKS["behind"], dtype=torch.bool)
            answers = net.original.run({"x": x.numpy(), "padding": padding.numpy()})["output"]
            assert not np.allclose(answers[0, 3:], 0)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
