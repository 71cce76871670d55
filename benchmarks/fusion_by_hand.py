"""Networks whose formulas are written by hand, as users' own code has them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Mixer(nn.Module):
    """Blocks of MLP-Mixer (Tolstikhin et al., MLP-Mixer, section 2), their GELU written out with x * x * x."""

    class Block(nn.Module):
        """Two linear layers over the patches of each channel, and two over the channels of each patch."""

        def __init__(self, patches: int, width: int) -> None:
            super().__init__()
            self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(2)])
            self.across, self.back = nn.Linear(patches, width), nn.Linear(width, patches)
            self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: Tensor) -> Tensor:
            """float32 [batch, patches, width] in and out."""
            x = x + self.back(_gelu(self.across(self.norms[0](x).transpose(1, 2)))).transpose(1, 2)
            return x + self.narrow(_gelu(self.wide(self.norms[1](x))))  # type: ignore[no-any-return]

    def __init__(self, width: int = 192) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 16, stride=16)
        self.blocks, self.norm = nn.Sequential(*(self.Block(14 * 14, width) for _ in range(4))), nn.LayerNorm(width)

    def forward(self, image: Tensor) -> Tensor:
        """float32 [batch, 3, 224, 224] to [batch, 192]."""
        return self.norm(self.blocks(self.stem(image).flatten(2).transpose(1, 2))).mean(1)  # type: ignore[no-any-return]


def _gelu(x: Tensor) -> Tensor:
    """Return GELU by its formula with a tanh (Hendrycks and Gimpel, Gaussian Error Linear Units, section 2)."""
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


class LlamaByHand(nn.Module):
    """Blocks of Llama (Touvron et al., LLaMA, section 2.2) as tutorials write them, every formula by hand."""

    class Norm(nn.Module):
        """RMSNorm (Zhang and Sennrich, Root Mean Square Layer Normalization, equation 4)."""

        def __init__(self, width: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.rand(width))

        def forward(self, x: Tensor) -> Tensor:
            """float32 [batch, length, width] in and out."""
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight

    class Block(nn.Module):
        """Causal attention with rotary embeddings, its softmax by hand, and SwiGLU."""

        def __init__(self, width: int, heads: int) -> None:
            super().__init__()
            self.heads, self.norms = heads, nn.ModuleList([LlamaByHand.Norm(width) for _ in range(2)])
            self.q, self.k, self.v, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
            self.gate, self.up = (nn.Linear(width, 3 * width, bias=False) for _ in range(2))
            self.down = nn.Linear(3 * width, width, bias=False)

        def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
            """float32 [batch, length, width] in and out; cos and sin [length, width of a head], mask by place."""
            y = self.norms[0](x)
            q, k, v = (part(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
            q, k = (part * cos + _turned(part) * sin for part in (q, k))
            scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).masked_fill(mask, float("-inf"))
            x = x + self.out((torch.softmax(scores, -1) @ v).transpose(1, 2).flatten(2))
            y = self.norms[1](x)
            return x + self.down(nn.functional.silu(self.gate(y)) * self.up(y))  # type: ignore[no-any-return]

    def __init__(self, width: int = 384, heads: int = 6) -> None:
        super().__init__()
        self.table, self.norm = nn.Embedding(1000, width), self.Norm(width)
        self.blocks = nn.ModuleList([self.Block(width, heads) for _ in range(6)])
        self.register_buffer("rates", 10000.0 ** (-torch.arange(0, width // heads, 2) / (width // heads)))

    def forward(self, input_ids: Tensor) -> Tensor:
        """int64 [batch, length] to float32 [batch, length, width]."""
        length = input_ids.shape[1]
        angles = torch.outer(torch.arange(length), self.rates).repeat(1, 2)
        mask = torch.ones(length, length, dtype=torch.bool).triu(1)
        x = self.table(input_ids)
        for block in self.blocks:
            x = block(x, angles.cos(), angles.sin(), mask)
        return self.norm(x)  # type: ignore[no-any-return]


def _turned(x: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat([-second, first], -1)


class VitByHand(nn.Module):
    """A vision transformer (Dosovitskiy et al., An Image is Worth 16x16 Words, section 3.1) as research code has it.

    Every formula is written by hand; images are normalized by statistics, and each block has a gate.
    """

    class Norm(nn.Module):
        """LayerNorm (Ba et al., Layer Normalization, section 3)."""

        def __init__(self, width: int) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.rand(width)), nn.Parameter(torch.rand(width))

        def forward(self, x: Tensor) -> Tensor:
            """float32 [batch, patches, width] in and out."""
            apart = x - x.mean(-1, keepdim=True)
            spread = torch.sqrt(apart.pow(2).mean(-1, keepdim=True) + 1e-6)
            return apart / spread * self.weight + self.bias

    class Block(nn.Module):
        """Attention of which rows without a score give nothing, and a feed-forward part behind two linear layers."""

        def __init__(self, width: int, heads: int) -> None:
            super().__init__()
            self.heads, self.norms = heads, nn.ModuleList([VitByHand.Norm(width) for _ in range(2)])
            self.q, self.k, self.v, self.out, self.turn, self.gate = (nn.Linear(width, width) for _ in range(6))
            self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: Tensor) -> Tensor:
            """float32 [batch, patches, width] in and out."""
            y = self.norms[0](x)
            q, k, v = (part(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
            seen = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, -1)
            seen = torch.where(torch.isnan(seen), torch.zeros_like(seen), seen)
            x = x + self.out(self.turn((seen @ v).transpose(1, 2).flatten(2)))
            y = self.norms[1](x)
            y = self.narrow(0.5 * (y := self.wide(y)) * (1 + torch.erf(y * math.sqrt(0.5))))
            return x + y * torch.reciprocal(1 + self.gate(x).abs())  # type: ignore[no-any-return]

    def __init__(self, width: int = 384, heads: int = 6) -> None:
        super().__init__()
        self.statistics = nn.BatchNorm2d(3, affine=False)
        self.stem = nn.Conv2d(3, width, 16, stride=16)
        self.blocks, self.norm = nn.Sequential(*(self.Block(width, heads) for _ in range(6))), self.Norm(width)

    def forward(self, image: Tensor) -> Tensor:
        """float32 [batch, 3, 224, 224] to [batch, 384]."""
        x = self.stem(self.statistics(image)).permute(0, 2, 3, 1).double().float().flatten(1, 2)
        return self.norm(self.blocks(x)).mean(1)  # type: ignore[no-any-return]
