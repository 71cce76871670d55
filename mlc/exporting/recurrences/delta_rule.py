"""The gated delta rule, chunk by chunk: linear attention that corrects what its state already knows of a key.

For each step ``S <- exp(g) S``, then ``S <- S + beta k (v - k S)``, and the answer is ``q S``. The steps of a chunk are
taken at once: Yang et al., Parallelizing Linear Transformers with the Delta Rule over Sequence Length (2024), section
3, with decays as in Gated Delta Networks (2024), section 3.3, and for each channel of the keys in Kimi Linear (2025).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def gated_delta_rule(  # noqa: PLR0917 - the signature is that of transformers
    query: Tensor,
    key: Tensor,
    value: Tensor,
    g: Tensor,
    beta: Tensor,
    chunk_size: int = 64,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    **_: Any,
) -> tuple[Tensor, Tensor | None]:
    """Return what ``torch_chunk_gated_delta_rule`` of transformers returns: the answers, and the last state if asked.

    ``query`` and ``key`` are [batch, length, key heads, key width], ``value`` [batch, length, heads, value width],
    ``beta`` and the logarithms ``g`` of the decays [batch, length, heads] or, by channel, with the key width behind.
    States are [batch, heads, key width, value width] in float32.
    """
    dtype, length = query.dtype, query.shape[1]
    by_step = (g if g.ndim == key.ndim else g.unsqueeze(-1), beta.unsqueeze(-1))
    query, key = (part.repeat_interleave(value.shape[2] // key.shape[2], dim=2) for part in (query, key))
    query, key, value, g, beta = (part.transpose(1, 2).float() for part in (query, key, value, *by_step))
    if use_qk_l2norm_in_kernel:
        query, key = (part * torch.rsqrt(part.square().sum(-1, keepdim=True) + 1e-6) for part in (query, key))
    query = query * query.shape[-1] ** -0.5
    if initial_state is None:
        state = key.new_zeros(key.shape[0], key.shape[1], key.shape[-1], value.shape[-1])
    else:
        state = initial_state.float()
    chunks = _count(length, chunk_size)
    steps = [_chunked(part, chunks, chunk_size) for part in (query, key, value, g, beta)]
    state, answers = torch.ops.higher_order.scan(_chunk, [state], steps, _masks(chunk_size, key))
    answers = answers.movedim(0, 2).flatten(2, 3)[:, :, :length]
    return answers.transpose(1, 2).to(dtype), state if output_final_state else None


def _count(length: int, size: int) -> Any:
    """Return how many chunks hold all steps: where the length varies, a value that the trace does not know.

    At the traced length it may be one, and torch takes a size of one for granted.
    """
    chunks: Any = (length + size - 1) // size
    if not isinstance(chunks, torch.SymInt):
        return chunks
    unknown = torch.scalar_tensor(chunks, dtype=torch.int64).item()  # type: ignore[arg-type]
    torch._check(unknown > 0)  # type: ignore[no-untyped-call]  # noqa: SLF001 - the public name of it
    torch._check(unknown * size >= length)  # type: ignore[no-untyped-call]  # noqa: SLF001
    return unknown


def _chunked(steps: Tensor, chunks: int, size: int) -> Tensor:
    """Return [batch, heads, length, width] as [chunks, batch, heads, size, width]; added zeros change no state."""
    padded = functional.pad(steps, (0, 0, 0, chunks * size - steps.shape[2]))
    return padded.reshape(*steps.shape[:2], chunks, size, steps.shape[-1]).movedim(2, 0)


def _masks(size: int, like: Tensor) -> tuple[Tensor, ...]:
    """Return which steps each step sees, and for the inverse those of pairs of blocks of 1, 2, 4, ... steps.

    The latter are 1 where the row is in the second and the column in the first block of a pair.
    """
    place = torch.arange(size, device=like.device)
    blocks = [place >> level for level in range((size - 1).bit_length())]
    pairs = [(block[:, None] == block + 1) & (block % 2 == 0) for block in blocks]
    return place[:, None] >= place, *(pair.to(like.dtype) for pair in pairs)


def _chunk(  # noqa: PLR0917 - as a scan calls it
    state: Tensor, query: Tensor, key: Tensor, value: Tensor, g: Tensor, beta: Tensor, seen: Tensor, *pairs: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the state behind one chunk, and the answers in it: [batch, heads, size, value width].

    ``written`` is what each step writes for its key; it solves ``written + beta (k k^T) written = beta (v - k S)``,
    where a product of two steps decays by what lies between them.
    """
    since = g.cumsum(-2)
    between = (since.unsqueeze(-2) - since.unsqueeze(-3)).masked_fill(~seen.unsqueeze(-1), float("-inf")).exp()
    scaled = key * beta
    system = _products(scaled, key, between)
    written = _inverse(system, pairs) @ (value * beta - (scaled * since.exp()) @ state)
    answers = (query * since.exp()) @ state + _products(query, key, between) @ written
    last = since[..., -1:, :]
    return state * last.exp().mT + (key * (last - since).exp()).mT @ written, answers


def _products(left: Tensor, right: Tensor, decays: Tensor) -> Tensor:
    """Return the product of each step of the left with each of the right, with decays [..., size, size, width or 1]."""
    if decays.shape[-1] == 1:
        return (left @ right.mT) * decays.squeeze(-1)
    return (left.unsqueeze(-2) * right.unsqueeze(-3) * decays).sum(-1)


def _inverse(system: Tensor, pairs: Sequence[Tensor]) -> Tensor:
    """Return the inverse of ``I`` plus what is below the diagonal, for which ONNX has no operator.

    The inverse of ``[[A, 0], [C, B]]`` is ``[[A', 0], [-B' C A', B']]``: blocks of 1, 2, 4, ... steps are joined, all
    pairs of a size at once. Powers of the matrix would need no more products, but cancel where keys are alike.
    """
    inverse = torch.eye(system.shape[-1], dtype=system.dtype, device=system.device) - system * pairs[0]
    for pair in pairs[1:]:
        inverse = inverse - inverse @ (system * pair) @ inverse
    return inverse
