"""``istft``: torch.export fixes how many frames overlap, and torch.onnx adds them up with indices that do not load.

Each frame is transformed back, multiplied with the window and added where it was, and the sum is divided by that of the
squares of the window: Griffin and Lim, Signal estimation from modified short-time Fourier transform (1984), equation 6.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mlc.exporting.replaced import replaced


def frames_added_up() -> AbstractContextManager[None]:
    """Trace ``torch.istft`` of real signals inside the block by operators that hold for any number of frames."""
    return replaced(torch, "istft", _of_any_number)


def _of_any_number(own: Callable[..., Any]) -> Callable[..., Any]:
    def istft(  # noqa: PLR0917 - torch's own signature
        input: Tensor,  # noqa: A002 - torch's name
        n_fft: int,
        hop_length: int | None = None,
        win_length: int | None = None,
        window: Tensor | None = None,
        center: bool = True,
        normalized: bool = False,
        onesided: bool | None = None,
        length: Any = None,
        return_complex: bool = False,
    ) -> Any:
        if onesided is False or return_complex:
            options = (hop_length, win_length, window, center, normalized, onesided, length, return_complex)
            return own(input, n_fft, *options)
        hop, wide = hop_length or n_fft // 4, win_length or n_fft
        frames = torch.fft.irfft(input, n=n_fft, dim=-2, norm="ortho" if normalized else None)
        shape = torch.ones(wide, dtype=frames.dtype, device=frames.device) if window is None else window
        before = (n_fft - wide) // 2
        weights = functional.pad(shape, (before, n_fft - wide - before))[:, None]
        batch = frames if frames.ndim > 2 else frames[None]  # noqa: PLR2004 - [batch, n_fft, frames]
        summed = _added_up(batch * weights, hop)
        squares = _added_up((weights * weights).expand(n_fft, batch.shape[-1])[None], hop)
        start = n_fft // 2 if center else 0
        count = summed.shape[-1] - 2 * start if length is None else length
        signal = (summed / squares).narrow(-1, start, count)
        return signal if frames.ndim > 2 else signal[0]  # noqa: PLR2004

    return istft


def _added_up(frames: Tensor, hop: int) -> Tensor:
    """Return frames, [batch, n_fft, frames], each added ``hop`` samples behind the one before: [batch, samples].

    In pieces of ``hop`` samples, of which each frame has one more place behind those of the frame before.
    """
    count = -(-frames.shape[-2] // hop)
    beyond = count * hop - frames.shape[-2]
    pieces = functional.pad(frames, (0, 0, 0, beyond)).unflatten(-2, (count, hop)).unbind(1)  # type: ignore[no-untyped-call]
    moved = [functional.pad(piece, (place, count - 1 - place)) for place, piece in enumerate(pieces)]
    samples = torch.stack(moved).sum(0).transpose(-1, -2).flatten(1)
    return samples[:, : samples.shape[-1] - beyond]
