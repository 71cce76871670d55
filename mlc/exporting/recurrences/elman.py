"""The plain recurrent layer, ``h <- tanh(W x + b + U h + c)``, as a scan: torch.export unrolls it over the sequence.

Elman, Finding Structure in Time (1990); torch.nn.RNN has its equations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mlc.exporting.recurrences.layers import Layer, through_layers
from mlc.exporting.replaced import replaced


@contextmanager
def plain_layers() -> Iterator[None]:
    """Trace ``torch.nn.RNN`` inside the block with a loop over its steps; packed sequences are left to torch."""
    vf: Any = torch._VF  # noqa: SLF001 - what torch.nn.RNN calls
    with (
        replaced(vf, "rnn_tanh", lambda own: _layers(own, torch.tanh)),
        replaced(vf, "rnn_relu", lambda own: _layers(own, torch.relu)),
    ):
        yield


def _layers(own: Callable[..., Any], activation: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    def rnn(*given: Any) -> Any:
        x, state, weights, has_biases, _, _, _, both_ways, batch_first = given
        if not isinstance(has_biases, bool):  # its place holds the weights where sequences are packed
            return own(*given)
        steps, ways = x.transpose(0, 1) if batch_first else x, 2 if both_ways else 1
        answers, (last,) = through_layers(steps, [state], weights, ways, _layer(activation))
        return answers.transpose(0, 1) if batch_first else answers, last

    return rnn


def _layer(activation: Callable[[Tensor], Tensor]) -> Layer:
    def layer(steps: Tensor, states: list[Tensor], weights: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        of_inputs, of_state, *biases = weights
        seen = functional.linear(steps, of_inputs, sum(biases[1:], biases[0]) if biases else None)

        def step(state: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
            state = activation(x + functional.linear(state, weight))
            return state, state.clone()  # a scan may not give one tensor twice

        last, answers = torch.ops.higher_order.scan(step, states, [seen], (of_state,))
        return [last], answers

    return layer
