"""Packed sequences, as ``pack_padded_sequence`` makes them, as padded ones with the lengths that layers of ONNX take.

torch packs the rows of all steps behind each other; how many there are hangs on values. Here they stay padded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import onnxscript
import torch
from torch import Tensor, nn

from mlc.exporting.errors import UnwrittenError
from mlc.exporting.replaced import replaced

op: Any = onnxscript.opset18

GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "Tanh": (0,), "Relu": (0,)}
"""For each layer the place in torch of the gates in ONNX's order; a plain layer is called by its activation."""


@contextmanager
def packed_sequences() -> Iterator[None]:
    """Trace packed sequences inside the block as padded ones with their lengths."""
    vf: Any = torch._VF  # noqa: SLF001 - what torch.nn.utils.rnn and its layers call
    with ExitStack() as stack:
        for name, by in (
            ("_pack_padded_sequence", lambda _own: _packed),
            ("_pad_packed_sequence", lambda _own: _padded),
            ("lstm", lambda own: _layers(own, "LSTM")),
            ("gru", lambda own: _layers(own, "GRU")),
            ("rnn_tanh", lambda own: _layers(own, "Tanh")),
            ("rnn_relu", lambda own: _layers(own, "Relu")),
        ):
            stack.enter_context(replaced(vf, name, by))
        stack.enter_context(replaced(nn.RNNBase, "get_expected_hidden_size", _expected))
        yield


class _Lengths:
    """What stands for the batch sizes of a packed sequence: the lengths of its rows, int64 [batch].

    It knows the padded steps, [steps, batch, ...], of what is packed; a tensor that was computed of packed rows is
    padded anew where a layer or ``pad_packed_sequence`` reads it.
    """

    device = torch.device("cpu")

    def __init__(self, lengths: Tensor, steps: int) -> None:
        self.lengths, self.steps = lengths, steps
        self._known: list[tuple[Tensor, Tensor]] = []

    def __getitem__(self, step: int) -> Any:
        if step != 0:
            raise UnwrittenError("the batch sizes of a packed sequence, which hang on the values of lengths")
        return self.lengths.shape[0]

    def size(self, _axis: int = 0) -> Any:
        """Return the length of the longest row."""
        longest = self.lengths.max().item()
        torch._check(longest <= self.steps)  # type: ignore[no-untyped-call] # noqa: SLF001 - torch raises otherwise
        return longest

    def packed(self, padded: Tensor) -> Tensor:
        """Return the rows of all steps behind each other, as torch has them."""
        rows: Tensor = padded.flatten(0, 1)[self._places()]
        self._known.append((rows, padded))
        return rows

    def padded(self, rows: Tensor) -> Tensor:
        """Return the steps of packed rows, with zeros behind the end of each."""
        for known, padded in self._known:
            if known is rows:
                return padded
        batch = self.lengths.shape[0]
        zeros = rows.new_zeros(self.steps * batch, *rows.shape[1:])
        return zeros.index_copy(0, self._places(), rows).reshape(self.steps, batch, *rows.shape[1:])

    def _places(self) -> Tensor:
        return (torch.arange(self.steps)[:, None] < self.lengths).flatten().nonzero().squeeze(1)


def _packed(padded: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, _Lengths]:
    steps = padded.transpose(0, 1) if batch_first else padded
    sizes = _Lengths(lengths, steps.shape[0])
    return sizes.packed(steps), sizes


def _padded(data: Tensor, sizes: _Lengths, batch_first: bool, value: float, total: int) -> tuple[Tensor, Tensor]:
    places = torch.arange(total)
    steps = sizes.padded(data)[places.clamp(max=sizes.steps - 1)]
    behind = places[:, None] >= sizes.lengths
    rows = torch.where(behind.reshape(*behind.shape, *(1 for _ in steps.shape[2:])), value, steps)
    return rows.transpose(0, 1) if batch_first else rows, sizes.lengths


def _expected(own: Callable[..., Any]) -> Callable[..., Any]:
    def get_expected_hidden_size(layers: nn.RNNBase, data: Tensor, sizes: Any) -> tuple[int, int, int]:
        layer_count, _, width = own(layers, data[None], None)
        return layer_count, sizes[0] if isinstance(sizes, _Lengths) else own(layers, data, sizes)[1], width

    return get_expected_hidden_size


def _layers(own: Callable[..., Any], kind: str) -> Callable[..., Any]:
    def layers(data: Any, sizes: Any, *given: Any) -> Any:
        if not isinstance(sizes, _Lengths):
            return own(data, sizes, *given)
        states, weights, has_biases, _, _, _, both_ways = given
        hidden, cell = states if kind == "LSTM" else (states, states)
        if hidden.shape[-1] != cell.shape[-1]:
            raise UnwrittenError("a packed sequence before an LSTM with proj_size, which ONNX has not")
        ways, each = 2 if both_ways else 1, 4 if has_biases else 2
        steps, ends = sizes.padded(data), []
        for below in range(0, hidden.shape[0], ways):
            here = slice(below, below + ways)
            parts = [_in_order(kind, weights[part::each][here]) for part in range(each)]
            biases = torch.cat(parts[2:], -1) if has_biases else None
            steps, *last = torch.ops.mlc.recurrent(
                kind, steps, sizes.lengths, parts[0], parts[1], biases, hidden[here], cell[here]
            )
            ends.append(last)
        found = [torch.cat(end) for end in zip(*ends, strict=True)]
        return sizes.packed(steps), *(found if kind == "LSTM" else found[:1])

    return layers


def _in_order(kind: str, weights: Sequence[Tensor]) -> Tensor:
    """Return one part of the weights of each way, the gates in the order of ONNX."""
    gates = GATES[kind]
    return torch.stack([torch.cat([weight.chunk(len(gates))[gate] for gate in gates]) for weight in weights])


torch.library.define(
    "mlc::recurrent",
    "(str kind, Tensor steps, Tensor lengths, Tensor of_inputs, Tensor of_state, Tensor? biases, Tensor hidden,"
    " Tensor cell) -> (Tensor, Tensor, Tensor)",
)
"""A layer of ONNX over rows of these lengths, in a trace alone: it gives answers and the last states."""


@torch.library.register_fake("mlc::recurrent")  # type: ignore[untyped-decorator]
def _answers_and_states(_kind: str, steps: Tensor, *given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    *_, hidden, cell = given
    ways, batch, width = hidden.shape
    return steps.new_empty(steps.shape[0], batch, ways * width), torch.empty_like(hidden), torch.empty_like(cell)


def of_packed() -> dict[Any, Callable[..., Any]]:
    """Return a function for each operator, as torch.onnx takes them."""
    return {torch.ops.mlc.recurrent.default: _written}


def _written(  # noqa: PLR0917 - the operator's own
    kind: str, steps: Any, lengths: Any, of_inputs: Any, of_state: Any, biases: Any, hidden: Any, cell: Any
) -> tuple[Any, Any, Any]:
    given = [steps, of_inputs, of_state, biases, op.Cast(lengths, to=6), hidden]  # int32
    ways, _, width = hidden.shape
    common = {"hidden_size": width, "direction": "bidirectional" if ways == 2 else "forward"}  # noqa: PLR2004
    if kind == "LSTM":
        answers, hidden, cell = op.LSTM(*given, cell, **common)
    elif kind == "GRU":
        answers, hidden = op.GRU(*given, linear_before_reset=1, **common)
    else:
        answers, hidden = op.RNN(*given, activations=[kind] * ways, **common)
    rows = op.Transpose(answers, perm=[0, 2, 1, 3])
    return op.Reshape(rows, op.Constant(value_ints=[0, 0, -1])), hidden, cell
