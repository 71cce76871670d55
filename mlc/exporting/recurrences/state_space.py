"""The selective scan of a state space model, step by step.

For each step ``S <- exp(dt A) S + dt B x``, and the answer is ``C S + D x``: Gu and Dao, Mamba: Linear-Time Sequence
Modeling with Selective State Spaces (2023), algorithm 2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def selective_scan(  # noqa: PLR0917 - the signature is that of transformers
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,  # noqa: N803
    B: Tensor,  # noqa: N803
    C: Tensor,  # noqa: N803
    D: Tensor | None = None,  # noqa: N803
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    use_mambapy: bool = False,  # noqa: ARG001 - another way to the same, as the next
    use_associative_scan: bool = False,  # noqa: ARG001
    **_: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return what ``mamba_selective_scan`` of transformers returns: the answers, with the last state if asked.

    ``hidden_states``, ``dt`` and the gate ``z`` are [batch, channels, length], ``A`` [channels, width], ``B`` and ``C``
    [batch, width, length], ``D`` and ``delta_bias`` [channels]; answers [batch, channels, length] and states
    [batch, channels, width].
    """
    if delta_bias is not None:
        dt = dt + delta_bias.to(dt.dtype).unsqueeze(-1)
    if delta_softplus:
        dt = functional.softplus(dt)
    state = hidden_states.new_zeros(hidden_states.shape[0], *A.shape)
    steps = [part.movedim(-1, 0) for part in (hidden_states.float(), dt, B.float(), C)]
    state, answers = torch.ops.higher_order.scan(_step, [state], steps, (A,))
    answers = answers.movedim(0, -1)
    if D is not None:
        answers = answers + hidden_states * D.unsqueeze(-1)
    if z is not None:
        answers = answers * functional.silu(z)
    return (answers, state) if return_last_state else answers


def _step(  # noqa: PLR0917 - as a scan calls it
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    into: Tensor,
    out: Tensor,
    A: Tensor,  # noqa: N803
) -> tuple[Tensor, Tensor]:
    dt = dt.unsqueeze(-1)
    state = torch.exp(A * dt) * state + dt * into.unsqueeze(1) * x.unsqueeze(-1)
    return state, (state @ out.unsqueeze(-1)).squeeze(-1)
