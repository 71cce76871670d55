"""The weighted keys and values of RWKV, step by step.

The answer of a step is the mean of all values up to it, weighted by ``exp(key)`` and by how long ago they were: Peng et
al., RWKV: Reinventing RNNs for the Transformer Era (2023), appendix D. Sums are held over ``exp(largest)``, so that no
exponential overflows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LEAST = -1e38
"""The largest exponent of no step at all."""


def weighted_keys(  # noqa: PLR0917 - the signature is that of transformers
    time_decay: Tensor,
    time_first: Tensor,
    key: Tensor,
    value: Tensor,
    state: Sequence[Tensor] | None = None,
    return_state: bool = False,
) -> tuple[Tensor, Sequence[Tensor] | None]:
    """Return what ``rwkv_linear_attention`` of transformers returns: the answers, and the last state if asked.

    ``time_decay`` and ``time_first`` are [width], ``key``, ``value`` and the answers [batch, length, width]; a state is
    numerator, denominator and exponent, each [batch, width] in float32.
    """
    if state is None:
        none = torch.zeros_like(key[:, 0], dtype=torch.float32)
        states = [none, torch.zeros_like(none), torch.full_like(none, LEAST)]
    else:
        states = [*state]
    steps = [part.movedim(1, 0) for part in (key.float(), value)]
    constants = (-torch.exp(time_decay), time_first)
    *states, answers = torch.ops.higher_order.scan(_step, states, steps, constants)
    kept = states if return_state or state is not None else None
    return answers.movedim(0, 1).to(key.dtype), kept


def _step(  # noqa: PLR0917 - as a scan calls it
    numerator: Tensor, denominator: Tensor, largest: Tensor, key: Tensor, value: Tensor, decay: Tensor, first: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    above, below, _ = _added(numerator, denominator, largest, key + first, value)
    return *_added(numerator, denominator, largest + decay, key, value), above / below


def _added(
    numerator: Tensor, denominator: Tensor, exponent: Tensor, key: Tensor, value: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return both sums with one more value, over the larger of the two exponents."""
    larger = torch.maximum(exponent, key)
    old, new = torch.exp(exponent - larger), torch.exp(key - larger)
    return old * numerator + new * value, old * denominator + new, larger
