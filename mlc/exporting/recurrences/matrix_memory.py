"""The matrix memory of an mLSTM, step by step.

For each step ``C <- f C + i k v``, ``n <- f n + i k``, and the answer is ``q C / max(|q n|, 1)``: Beck et al., xLSTM:
Extended Long Short-Term Memory (2024), section 2.3. The gates are exponentials, held over the largest so far, which
``m`` is the logarithm of.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def matrix_memory(  # noqa: PLR0917 - the signature is that of transformers
    backend: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    igate: Tensor,
    fgate: Tensor,
    c_initial: Tensor | None = None,
    n_initial: Tensor | None = None,
    m_initial: Tensor | None = None,
    return_last_states: bool | None = None,
    mode: str | None = None,
) -> Tensor | tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Return what ``xLSTMBackend.forward`` of transformers returns: the answers, with the last states where it does.

    ``query`` and ``key`` are [batch, heads, length, key width], ``value`` and the answers [batch, heads, length, value
    width], gates before their activation [batch, heads, length]; the states are [batch, heads, key width, value width],
    [batch, heads, key width] and [batch, heads, 1] in float32.
    """
    batch, heads, _, width = key.shape
    states = (c_initial, n_initial, m_initial)
    shapes = ((width, value.shape[-1]), (width,), (1,))
    first = [
        torch.zeros(batch, heads, *shape, device=key.device) if state is None else state.float()
        for state, shape in zip(states, shapes, strict=True)
    ]
    by_step = (query * width**-0.5, key, value, igate.unsqueeze(-1), functional.logsigmoid(fgate).unsqueeze(-1))
    steps = [part.movedim(2, 0) for part in by_step]
    step = partial(_step, eps=backend.config.eps)
    *last, answers = torch.ops.higher_order.scan(step, first, steps, ())
    answers = answers.movedim(0, 2).to(query.dtype)
    asked = backend.config.return_last_states if return_last_states is None else return_last_states
    return (answers, tuple(last)) if asked or "inference" in (mode or backend.config.mode) else answers


def _step(  # noqa: PLR0917 - as a scan calls it
    c: Tensor, n: Tensor, m: Tensor, q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, *, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    larger = torch.maximum(f + m, i)
    old, new = torch.exp(f + m - larger), torch.exp(i - larger)
    c = old.unsqueeze(-1) * c + new.unsqueeze(-1) * k.unsqueeze(-1) * v.unsqueeze(-2)
    n = old * n + new * k
    below = torch.maximum((q * n).sum(-1, keepdim=True).abs(), torch.exp(-larger)) + eps
    return c, n, larger, (q.unsqueeze(-2) @ c).squeeze(-2) / below
