"""The LSTM whose hidden state is projected to fewer numbers, as a scan: ONNX's LSTM has no projection.

``c <- f c + i g``, ``h <- P (o tanh(c))``: Sak et al., Long Short-Term Memory Based Recurrent Neural Network
Architectures for Large Vocabulary Speech Recognition (2014), section 3; the gates as torch.nn.LSTM has them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mlc.exporting.recurrences.layers import through_layers
from mlc.exporting.replaced import replaced


@contextmanager
def projected_layers() -> Iterator[None]:
    """Trace ``torch.nn.LSTM`` with ``proj_size`` inside the block with a loop over its steps; leave others to torch."""
    vf: Any = torch._VF  # noqa: SLF001 - what torch.nn.LSTM calls
    with replaced(vf, "lstm", _layers):
        yield


def _layers(own: Callable[..., Any]) -> Callable[..., Any]:
    def lstm(*given: Any) -> Any:
        x, states, weights, has_biases, _, _, _, both_ways, batch_first = given
        # where sequences are packed, in the place of the biases there are the weights
        if not isinstance(has_biases, bool) or states[0].shape[-1] == states[1].shape[-1]:
            return own(*given)
        steps, ways = x.transpose(0, 1) if batch_first else x, 2 if both_ways else 1
        answers, (hidden, cell) = through_layers(steps, states, weights, ways, _layer)
        return answers.transpose(0, 1) if batch_first else answers, hidden, cell

    return lstm


def _layer(steps: Tensor, states: list[Tensor], weights: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    of_inputs, of_state, *biases, projection = weights
    seen = functional.linear(steps, of_inputs, sum(biases[1:], biases[0]) if biases else None)

    def step(
        hidden: Tensor, cell: Tensor, x: Tensor, weight: Tensor, projection: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        into, forget, new, out = (x + functional.linear(hidden, weight)).chunk(4, -1)
        cell = forget.sigmoid() * cell + into.sigmoid() * new.tanh()
        hidden = functional.linear(out.sigmoid() * cell.tanh(), projection)
        return hidden, cell, hidden.clone()  # a scan may not give one tensor twice

    hidden, cell, answers = torch.ops.higher_order.scan(step, states, [seen], (of_state, projection))
    return [hidden, cell], answers
