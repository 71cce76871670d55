"""A linear recurrence with a gate for each channel, step by step: ``h <- a h + x``.

De et al., Griffin: Mixing Gated Linear Recurrences with Local Attention (2024), section 2.4.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def linear_recurrence(
    _layer: Any,
    hidden_states: Tensor,
    recurrent_gate: Tensor,
    reset: Tensor,
    recurrent_states: Tensor | None,
    acc_dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Return what ``RecurrentGemmaRglru._rnn_scan`` of transformers returns: the answers and the last state.

    ``hidden_states``, ``recurrent_gate`` and the answers are [batch, length, width], ``reset`` [batch, length, 1] says
    where what came before is forgotten; states are [batch, width] in ``acc_dtype``.
    """
    if recurrent_states is None:
        recurrent_states = torch.zeros_like(hidden_states[:, 0])
    steps = [part.to(acc_dtype).movedim(1, 0) for part in (recurrent_gate * ~reset, hidden_states)]
    last, answers = torch.ops.higher_order.scan(_step, [recurrent_states.to(acc_dtype)], steps, ())
    return answers.movedim(0, 1).to(hidden_states.dtype), last


def _step(state: Tensor, gate: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    state = gate * state + x
    return state, state.clone()  # a scan may not give one tensor twice
