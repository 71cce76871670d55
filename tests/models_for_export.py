"""Small modules, each with one property that an export may get wrong."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class Net(nn.Module):
    """Convolution, normalisation, dropout and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(4, 5)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(image).mean((2, 3)))
        return logits


class TableHead(nn.Module):
    """A table whose transpose is the head."""

    def __init__(self) -> None:
        super().__init__()
        self.e = nn.Embedding(9, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return torch.relu(self.e(ids)) @ self.e.weight.t()


class Gate(nn.Module):
    """Ten times its input for more than four rows."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 10 if x.shape[0] > 4 else x


class OneRow(nn.Module):
    """Drops axis 0 when it is 1: the export never sees that."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(0) if x.shape[0] == 1 else x * 2


class Odd(nn.Module):
    """Another sign for exactly seven rows."""

    def forward(self, x: Tensor) -> Tensor:
        return -x if x.shape[0] == 7 else x


class FixedRows(nn.Module):
    """Holds for any even number of rows in torch; the export fixes it."""

    def forward(self, x: Tensor) -> Tensor:
        rows = int(x.shape[0])
        return x + torch.arange(rows * 1.0)[:, None] * (1.0 if str(rows) else 0.0)


class ValueBranch(nn.Module):
    """Branches on a value."""

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x * 2
        return x


class Mode(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.mode(x, 1)[0]


def most_frequent(x: Tensor) -> Tensor:
    most = torch.mode(x, 1)
    return most[0]


class ModeInside(nn.Module):
    """Calls the function with the operator."""

    def forward(self, x: Tensor) -> Tensor:
        return most_frequent(x)


class Cache(nn.Module):
    """A toy attention with a cache of past keys."""

    def forward(self, past: Tensor, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        keys = torch.cat([past, x], 1)
        scores = x @ keys.transpose(1, 2) + mask[:, None]
        return scores.softmax(-1) @ keys, keys


class LongGate(nn.Module):
    """Computes otherwise when a sum of two dims is large."""

    def forward(self, past: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        factor = 10.0 if mask.shape[1] > 20 else 1.0
        return past.sum((1, 2)) + x.sum((1, 2)) + mask.sum(1) * factor


class UNet(nn.Module):
    """Down and up by two: holds for even sizes only."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.inner = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.relu(self.down(x))
        deep = self.inner(functional.max_pool2d(wide, 2))
        return torch.cat([wide, functional.interpolate(deep, scale_factor=2.0)], 1)


class Crop(nn.Module):
    """Down and up by two, cut to size: any size in torch."""

    def forward(self, x: Tensor) -> Tensor:
        small = functional.max_pool2d(x, 2, ceil_mode=True)
        return functional.interpolate(small, scale_factor=2.0)[:, :, : x.shape[2], : x.shape[3]] + x


class Pair(nn.Module):
    """Two inputs that share their axes."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a * b + a.mean()


class Echo(nn.Module):
    """Returns an input, and does not use another."""

    def forward(self, image: Tensor, unused: Tensor) -> dict[str, Tensor]:
        return {"image": image, "sum": image.sum(-1)}


class Same(nn.Module):
    """The same tensor twice, and an input."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = x + 1
        return y, y, x


@dataclass
class Found:
    boxes: Tensor
    hidden: tuple[Tensor, ...]
    extra: Tensor | None = None


class Detector(nn.Module):
    def forward(self, x: Tensor) -> Found:
        return Found(x + 1, (x * 2, x * 3))


class Answer(NamedTuple):
    logits: Tensor
    scores: list[Tensor]


class NamedTupleOut(nn.Module):
    def forward(self, x: Tensor) -> Answer:
        return Answer(x + 1, [x - 1])


class Batch(nn.Module):
    """One dict goes in."""

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"logits": batch["ids"].float() * batch["scale"]}


class Nested(nn.Module):
    def forward(
        self, x: Tensor, states: tuple[Tensor, Tensor], mask: Tensor | None = None, factor: float = 1.0
    ) -> Tensor:
        result = (x + states[0] * states[1]) * factor
        return result if mask is None else result * mask


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 16)
        self.head = nn.Linear(16, 100, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(self.embedding(ids))
        return logits


class Counter(nn.Module):
    """A buffer counts the calls, an attribute too."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))
        self.count = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.count += 1
        return x + self.calls


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


class Scalars(nn.Module):
    """A 0-d float64, a bool and an integer input."""

    def forward(self, x: Tensor, factor: Tensor, keep: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.where(keep, x * factor, -x), keep.logical_not(), shift + 1


class Spectrum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        magnitudes: Tensor = torch.fft.rfft(x).abs()
        return magnitudes


class Encoder(nn.Module):
    """A transformer layer has a fast path of its own in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        encoded: Tensor = self.layer(x)
        return encoded


class Recurrent(nn.Module):
    """A recurrent layer over sequences of any length, and its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.GRU(4, 8, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        states, last = self.layer(x)
        return states, last


class Rank(nn.Module):
    """The index of the largest value, and how many values are positive."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.argmax(-1), x.topk(2)[1]


class MaskBuffer(nn.Module):
    """A causal mask of minus infinity is no broken weight."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.full((4, 4), float("-inf")).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.mask).softmax(-1)


class Raises(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("nothing to see")


class Autocast(nn.Module):
    """Computes in bfloat16 inside."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result: Tensor = self.layer(x)
        return result.float()


class NoTensor(nn.Module):
    def forward(self, x: Tensor) -> str:
        return f"{x.shape}"


def net() -> nn.Module:
    """Net, without an example."""
    return Net()


def net_with_example() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Net, with an example of two images."""
    return Net(), (torch.randn(2, 3, 8, 8),)


def tied() -> tuple[nn.Module, Tensor]:
    """Tied, with an example."""
    return Tied(), torch.arange(6).reshape(2, 3)


def unet() -> nn.Module:
    """UNet, without an example."""
    return UNet()


class Of(nn.Module):
    """A function of one tensor as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)
