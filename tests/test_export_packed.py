"""Packed sequences: rows of different lengths in one batch, at lengths other than the traced ones."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from mlc.errors import SourceError
from tests.exporting import assert_alike, exported

pytestmark = pytest.mark.needs_onnxruntime

X, ROWS = "x=float32[batch=1..5,steps=1..9,4]", "lengths=int64[batch] in 1..steps"


class Layers(nn.Module):
    """Two layers both ways over rows in any order."""

    def __init__(self, kind=nn.LSTM, *, batch_first=True, total=None, value=0.0, **options):
        super().__init__()
        self.layers = kind(4, 5, **{"num_layers": 2, "bidirectional": True, **options}, batch_first=batch_first)
        self.first, self.total, self.value = batch_first, total, value

    def forward(self, x, lengths):
        x = x if self.first else x.transpose(0, 1)
        rows = pack_padded_sequence(x, lengths, batch_first=self.first, enforce_sorted=False)
        answers, last = self.layers(rows)
        total = x.shape[1] if self.total == "steps" else self.total
        padded, again = pad_packed_sequence(answers, self.first, self.value, total)
        return padded, last, again


def feeds(dtype=np.int64):
    x = np.random.default_rng(0).standard_normal((3, 7, 4)).astype(np.float32)
    return [{"x": x, "lengths": np.array(rows, dtype)} for rows in ((7, 7, 7), (1, 1, 1), (2, 6, 3), (3, 1, 5))]


@pytest.mark.parametrize(
    "module",
    [
        Layers(),
        Layers(total="steps", value=-2.0),
        Layers(total=12),
        Layers(nn.GRU, batch_first=False),
        Layers(nn.GRU, bias=False, num_layers=1),
        Layers(nn.RNN, value=1.0),
        Layers(nn.RNN, nonlinearity="relu", bidirectional=False),
    ],
)
def test_rows_of_any_length(workspace, module):
    assert_alike(workspace, exported(workspace, module, None, X, ROWS), *feeds())


def test_what_is_behind_the_longest_row_is_cut_off(workspace):
    net = exported(workspace, Layers(), (torch.randn(3, 7, 4), torch.tensor([7, 5, 3])), X, ROWS)
    outputs = {output.name: output.dims for output in net.original.signature.outputs}
    assert outputs["output.0"] == ("batch", None, 10)
    assert net.shape("output.0")[1] != "steps"
    assert_alike(workspace, net, *feeds())


class Head(nn.Module):
    """One way over rows that fall in length, from states that are given, with a layer on what is packed."""

    def __init__(self):
        super().__init__()
        self.lstm, self.linear = nn.LSTM(4, 5), nn.Linear(5, 3)

    def forward(self, x, lengths, hidden):
        rows = pack_padded_sequence(x.transpose(0, 1), lengths.cpu())
        answers, (last, _) = self.lstm(rows, (hidden, hidden + 1))
        scores = PackedSequence(self.linear(answers.data).relu(), answers.batch_sizes)
        return pad_packed_sequence(scores, batch_first=True)[0], last


def test_rows_in_order_with_states_of_their_own(workspace):
    example = torch.randn(3, 7, 4), torch.tensor([7, 5, 3]), torch.randn(1, 3, 5)
    inputs = X, "lengths=int32[batch] in 1..steps", "hidden=float32[1,batch,5]"
    net = exported(workspace, Head(), (example[0], example[1].int(), example[2]), *inputs)
    hidden = np.ones((1, 3, 5), np.float32)
    falling = [feed | {"hidden": hidden} for feed in feeds(np.int32)[:2]]
    assert_alike(workspace, net, *falling)


class Rows(nn.Module):
    """What is computed of packed rows themselves."""

    def __init__(self, function):
        super().__init__()
        self.layers, self.function = nn.GRU(4, 5, batch_first=True), function

    def forward(self, x, lengths):
        rows = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.function(self.layers(rows)[0])


def softened(packed):
    rows = PackedSequence(torch.softmax(packed.data, 0), *packed[1:])
    return pad_packed_sequence(rows, batch_first=True)[0]


@pytest.mark.parametrize("function", [lambda packed: packed.data.mean(0), lambda packed: packed.data, softened])
def test_rows_that_are_packed_are_those_of_torch(workspace, function):
    example = torch.randn(3, 7, 4), torch.tensor([7, 7, 7])
    assert_alike(workspace, exported(workspace, Rows(function), example, X, ROWS), *feeds())


def test_what_is_packed_for_a_projection_is_refused(workspace):
    with pytest.raises(SourceError, match="a packed sequence before an LSTM with proj_size") as caught:
        exported(workspace, Layers(proj_size=3), None, X, ROWS)
    assert "test_export_packed.py" in caught.value.message
    assert "self.layers(rows)" in caught.value.message
