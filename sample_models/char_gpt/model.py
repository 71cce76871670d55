"""A small causal transformer that guesses the next character: the sample of a language model."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

CHARACTERS = "\n" + "".join(chr(code) for code in range(32, 127))
"""The characters that it knows, in the order of their tokens."""

LONGEST = 128
WIDTH, HEADS, LAYERS = 128, 4, 4


class Attention(nn.Module):
    """Attention of several heads to what came before (Vaswani et al., Attention Is All You Need, 2017, section 3.2)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.queries_keys_values, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, past: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """float32 [batch, length, width] in and out, with all keys and values, [batch, heads, past + length, size].

        With a past there is one token, which may look at all.
        """
        batch, length, width = x.shape
        parts = self.queries_keys_values(x).split(width, dim=2)
        queries, keys, values = (part.view(batch, length, self.heads, -1).transpose(1, 2) for part in parts)
        if past is not None:
            keys, values = torch.cat([past[0], keys], 2), torch.cat([past[1], values], 2)
        heads = scaled_dot_product_attention(queries, keys, values, is_causal=past is None)
        return self.out(heads.transpose(1, 2).reshape(batch, length, width)), keys, values


class Block(nn.Module):
    """Attention and two linear layers, each normalized before and added to what went in."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.before_attention, self.before_wide = nn.LayerNorm(width), nn.LayerNorm(width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, past: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """As ``Attention`` does."""
        attended, keys, values = self.attention(self.before_attention(x), past)
        x = x + attended
        return x + self.narrow(gelu(self.wide(self.before_wide(x)))), keys, values


class CharGPT(nn.Module):
    """Tokens and their places, four blocks (or ``layers``), and the embedding once more as the head."""

    def __init__(self, width: int = WIDTH, heads: int = HEADS, layers: int = LAYERS) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(len(CHARACTERS), width), nn.Embedding(LONGEST, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """int64 [batch, length] -> logits of the next token at each place, float32 [batch, length, 96]."""
        x = self.tokens(tokens) + self.places.weight[: tokens.shape[1]]
        for block in self.blocks:
            x, _, _ = block(x)
        return self.norm(x) @ self.tokens.weight.T


class NextToken(CharGPT):
    """One step of the same network: one token, and the keys and values of those before it."""

    def forward(self, token: Tensor, past: list[Tensor]) -> tuple[Tensor, ...]:  # type: ignore[override]
        """int64 [batch, 1], and keys and values of each block, float32 [batch, heads, past, size].

        Returns logits, float32 [batch, 1, 96], and the keys and values with those of the token.
        """
        x = self.tokens(token) + self.places.weight[past[0].shape[2]]
        held: list[Tensor] = []
        for block, keys, values in zip(self.blocks, past[::2], past[1::2], strict=True):
            x, *longer = block(x, (keys, values))
            held += longer
        return (self.norm(x) @ self.tokens.weight.T, *held)


def model() -> tuple[nn.Module, tuple[Tensor]]:
    """The network with fresh weights, in evaluation mode, and an example of its input: int64 [2, 16]."""
    return CharGPT().eval(), (torch.zeros(2, 16, dtype=torch.int64),)


def step() -> tuple[nn.Module, tuple[Tensor, list[Tensor]]]:
    """One step of the network, as ``model`` returns it whole: one token each after 15 others."""
    past = [torch.zeros(2, HEADS, 15, WIDTH // HEADS) for _ in range(2 * LAYERS)]
    return NextToken().eval(), (torch.zeros(2, 1, dtype=torch.int64), past)


def perplexity(outputs: Mapping[str, NDArray[np.float32]], answers: NDArray[np.int64]) -> NDArray[np.float64]:
    """The mean surprise at the true next characters in nats, by sample; the perplexity is its exponential.

    ``answers`` are those characters' tokens, [batch, length].
    """
    (logits,) = outputs.values()
    logits = logits.astype(np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    right = np.take_along_axis(shifted, answers[..., np.newaxis], axis=-1)[..., 0]
    surprise: NDArray[np.float64] = (np.log(np.exp(shifted).sum(axis=-1)) - right).mean(axis=-1)
    return surprise


perplexity.higher_is_better = False  # type: ignore[attr-defined]
perplexity.finish = math.exp  # type: ignore[attr-defined]
