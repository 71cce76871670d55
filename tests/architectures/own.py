"""Modules of our own that the families of transformers do not cover, each with the inputs it is declared with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlc.dims import traced_sizes
from mlc.grammar.inputs import parse_inputs
from tests.architectures.check import Subject

IMAGE = "input=float32[batch=1..5,3,32,32]"
ANY_IMAGE = "input=float32[batch=1..4,3,h=16..48/8,w=16..48/8]"
SEQUENCE = "x=float32[batch=1..5,length=1..24,8]"
LENGTHS = "lengths=int64[batch] in 1..length"
STEPS = "x=float32[length=1..24,batch=1..5,8]"


class Packed(nn.Module):
    """Rows of different lengths, as taggers take them: what is behind the longest is cut off."""

    def __init__(self, kind: type[nn.LSTM | nn.GRU], **options: Any) -> None:
        super().__init__()
        self.layers = kind(8, 8, batch_first=True, **options)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        rows = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(self.layers(rows)[0], batch_first=True)[0]


class Residual(nn.Module):
    """``relu(x + f(x))`` with batch normalization, as in ResNet."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True),
            nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out),
        )  # fmt: skip
        self.side = nn.Conv2d(channels, out, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x):
        return functional.relu(self.body(x) + self.side(x), inplace=True)


class Inverted(nn.Module):
    """An inverted residual with squeeze and excitation, as in MobileNetV3."""

    def __init__(self, channels: int, act: Callable[[], nn.Module]) -> None:
        super().__init__()
        wide = 2 * channels
        self.wide = nn.Sequential(nn.Conv2d(channels, wide, 1), nn.BatchNorm2d(wide), act())
        self.deep = nn.Sequential(nn.Conv2d(wide, wide, 3, 1, 1, groups=wide), nn.BatchNorm2d(wide), act())
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(wide, wide, 1), nn.Hardsigmoid())
        self.narrow = nn.Conv2d(wide, channels, 1)

    def forward(self, x):
        y = self.deep(self.wide(x))
        return x + self.narrow(y * self.gate(y))


class ConvNeXtBlock(nn.Module):
    """A deep convolution and a perceptron with the channels last, scaled by layer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.deep = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.body = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))
        self.scale = nn.Parameter(torch.full((channels,), 0.1))

    def forward(self, x):
        y = self.body(self.norm(self.deep(x).permute(0, 2, 3, 1)))
        return x + (self.scale * y).permute(0, 3, 1, 2)


class UNet(nn.Module):
    """Down by pooling, up by a transposed convolution and by interpolation, with both skips."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.middle = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.SiLU())
        self.up = nn.ConvTranspose2d(16, 16, 2, 2)
        self.last = nn.Conv2d(24, 2, 1)

    def forward(self, x):
        a = functional.relu(self.first(x))
        b = functional.relu(self.second(functional.max_pool2d(a, 2)))
        c = self.up(self.middle(functional.max_pool2d(b, 2))) + b
        wide = functional.interpolate(c, size=a.shape[-2:], mode="bilinear", align_corners=False)
        return self.last(torch.cat([a, wide], 1))


class Recurrent(nn.Module):
    """A recurrent layer over a sequence of any length, and a head on its last state."""

    def __init__(self, kind: Callable[..., nn.Module], **options: bool | int) -> None:
        super().__init__()
        self.layer = kind(8, 12, **{"batch_first": True, **options})
        width = options.get("proj_size", 12)
        self.head = nn.Linear(2 * width if options.get("bidirectional") else width, 3)

    def forward(self, x):
        states, _ = self.layer(x)
        return states, self.head(states[:, -1] if self.layer.batch_first else states[-1])


class Attention(nn.Module):
    """Causal attention with a mask of padding; a row that may look at nothing gives zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x, mask):
        q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.inner(x).chunk(3, -1))
        causal = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        seen = causal & mask.bool()[:, None, None, :]
        y = functional.scaled_dot_product_attention(q, k, v, seen)
        return self.out(y.transpose(1, 2).flatten(2))


class Called(nn.Module):
    """A function of tensors as a module."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Pooled(nn.Module):
    """The mean of embeddings over what the mask shows, and its nearest rows."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 8)

    def forward(self, ids, mask):
        shown = mask.unsqueeze(-1).float()
        mean = (self.table(ids) * shown).sum(1) / shown.sum(1).clamp(min=1)
        return mean, (mean @ self.table.weight.T).topk(3).values


class Step(nn.Module):
    """A decoder's layer for new tokens behind a past of any length, none included; gives its longer cache back."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.inner, self.head = nn.Embedding(50, 8), nn.Linear(8, 24), nn.Linear(8, 50)

    def forward(self, ids, keys, values, mask):
        q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.inner(self.table(ids)).chunk(3, -1))
        keys, values = torch.cat([keys, k], 2), torch.cat([values, v], 2)
        place = torch.arange(keys.shape[2], device=ids.device)
        causal = place <= place[keys.shape[2] - ids.shape[1] :, None]
        seen = functional.scaled_dot_product_attention(q, keys, values, causal & mask.bool()[:, None, None, :])
        return self.head(seen.transpose(1, 2).flatten(2)), keys, values


class Spectral(nn.Module):
    """The layer of a Fourier neural operator: the lowest frequencies by weights, the others are 0.

    Li and others, Fourier Neural Operator for Parametric Partial Differential Equations (2021), section 4.
    """

    def __init__(self) -> None:
        super().__init__()
        self.low = nn.Parameter(torch.randn(2, 3, 3, 3, dtype=torch.cfloat))
        self.high = nn.Parameter(torch.randn(2, 3, 3, 3, dtype=torch.cfloat))

    def forward(self, x):
        spectrum = torch.fft.rfft2(x)
        kept = torch.zeros(x.shape[0], 3, x.size(-2), x.size(-1) // 2 + 1, dtype=torch.cfloat)
        kept[:, :, :3, :3] = torch.einsum("bixy,ioxy->boxy", spectrum[:, :, :3, :3], self.low)
        kept[:, :, -3:, :3] = torch.einsum("bixy,ioxy->boxy", spectrum[:, :, -3:, :3], self.high)
        return torch.fft.irfft2(kept, s=(x.size(-2), x.size(-1)))


class StateSpace(nn.Module):
    """A convolution with the kernel of a diagonal state space: Gu and others, S4D (2022), section 3."""

    def __init__(self) -> None:
        super().__init__()
        self.real, self.imaginary = nn.Parameter(torch.rand(4, 3)), nn.Parameter(math.pi * torch.arange(3.0))
        self.output = nn.Parameter(torch.randn(4, 3, 2))

    def forward(self, x):
        steps = 0.1 * (-torch.exp(self.real) + 1j * self.imaginary)
        powers = torch.exp(steps.unsqueeze(-1) * torch.arange(x.size(-1)))
        kernel = (
            2 * torch.einsum("hn,hnl->hl", torch.view_as_complex(self.output) * (torch.exp(steps) - 1), powers).real
        )
        length = 2 * x.size(-1)
        product = torch.fft.rfft(x, n=length) * torch.fft.rfft(kernel, n=length)
        return torch.fft.irfft(product, n=length)[..., : x.size(-1)]


def fourier(x: Tensor) -> Tensor:
    """A filter in the frequency domain along an axis whose length varies."""
    filtered: Tensor = torch.fft.irfft(torch.fft.rfft(x, dim=1) * 0.5, n=x.shape[1], dim=1)
    return filtered


def spectrogram(x):
    """The magnitudes of a short-time Fourier transform."""
    return torch.stft(x, 32, 16, window=torch.hann_window(32), return_complex=True).abs()


def updated(x: Tensor) -> Tensor:
    """Single elements, every second column and a masked part written in place."""
    y = x.clone()
    y[:, 0].mul_(2)
    y[y > 2] = 2.0
    y[..., ::2] = y[..., 1::2].neg()
    return y


def shifted(x: Tensor) -> Tensor:
    """Each step added to the next in place: of one step, none is left."""
    y = x.clone()
    y[:, 1:] += x[:, :-1]
    return y


def averaged(x: Tensor) -> Tensor:
    """A running mean."""
    return x.cumsum(1) / torch.arange(1, x.shape[1] + 1, device=x.device).view(1, -1, 1)


def highest(x: Tensor) -> Tensor:
    """A running maximum."""
    return x.cummax(1).values


def windows(x: Tensor) -> Tensor:
    """Patches of 8 by 8, each normalized by itself, rolled and put together again."""
    b, c, h, w = x.shape
    y = x.view(b, c, h // 8, 8, w // 8, 8).permute(0, 2, 4, 1, 3, 5).reshape(-1, c, 64)
    y = (y - y.mean(-1, keepdim=True)) / (y.std(-1, keepdim=True) + 1)
    y = y.view(b, h // 8, w // 8, c, 8, 8).permute(0, 3, 1, 4, 2, 5).reshape(b, c, h, w)
    return torch.roll(y, (3, -3), (2, 3))


def counted(x: Tensor) -> Tensor:
    """As many steps as the values say."""
    for _ in range(int(x.abs().max())):
        x = x / 2
    return x


def cnn(*blocks: nn.Module) -> nn.Module:
    """A stem, some blocks of 8 channels and a head for three classes."""
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU6(inplace=True))
    return nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(3))


@dataclass(frozen=True)
class Own:
    """How a module is made, what it takes, and a part of the sentence with which it is refused, if it is."""

    make: Callable[[], nn.Module]
    specs: tuple[str, ...]
    refused: str = ""

    def subject(self) -> Subject:
        """Return it in evaluation mode, its weights from one seed."""
        torch.manual_seed(0)
        module = self.make().eval()
        inputs = parse_inputs(self.specs)
        sizes = traced_sizes(inputs, {})
        if any(isinstance(part, nn.LazyLinear) for part in module.modules()):
            module(torch.zeros(2, 3, 32, 32))
        return Subject(module, inputs, sizes)


OWN: dict[str, Own] = {
    "resnet-like": Own(lambda: cnn(Residual(8, 8, 1), nn.MaxPool2d(3, 2, 1), Residual(8, 16, 2)), (ANY_IMAGE,)),
    "mobilenet-like, relu6": Own(lambda: cnn(Inverted(8, nn.ReLU6), Inverted(8, nn.ReLU6)), (IMAGE,)),
    "mobilenet-like, hard-swish": Own(lambda: cnn(Inverted(8, nn.Hardswish), Inverted(8, nn.Hardswish)), (IMAGE,)),
    "convnext-like": Own(lambda: cnn(ConvNeXtBlock(8), ConvNeXtBlock(8)), (ANY_IMAGE,)),
    "u-net": Own(UNet, (ANY_IMAGE.replace("input", "x"),)),
    "lstm": Own(lambda: Recurrent(nn.LSTM, num_layers=2), (SEQUENCE,)),
    "lstm, both directions": Own(lambda: Recurrent(nn.LSTM, bidirectional=True), (SEQUENCE,)),
    "gru": Own(lambda: Recurrent(nn.GRU), (SEQUENCE,)),
    "rnn, both directions": Own(lambda: Recurrent(nn.RNN, num_layers=2, bidirectional=True), (SEQUENCE,)),
    "lstm, projected": Own(
        lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True, proj_size=4), (SEQUENCE,)
    ),
    "lstm, sequence first": Own(lambda: Recurrent(nn.LSTM, batch_first=False, num_layers=2), (STEPS,)),
    "lstm, packed": Own(lambda: Packed(nn.LSTM, num_layers=2), (SEQUENCE, LENGTHS)),
    "gru, packed, both directions": Own(lambda: Packed(nn.GRU, bidirectional=True), (SEQUENCE, LENGTHS)),
    "attention, causal and padded": Own(Attention, (SEQUENCE, "mask=int64[batch,length] in 0..1")),
    "transformer encoder": Own(
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2),
        ("src=float32[batch=1..5,length=1..24,8]",),
    ),
    "decoder with a cache": Own(
        Step,
        (
            "ids=int64[batch=1..5,new=1..6] in 0..49",
            "keys=float32[batch,2,past=0..16,4]",
            "values=float32[batch,2,past,4]",
            "mask=int64[batch,total=past+new] in 0..1",
        ),
    ),
    "masked mean and top-k": Own(Pooled, ("ids=int64[batch=1..5,n=1..24] in 0..49", "mask=int64[batch,n] in 0..1")),
    "dilated convolutions": Own(
        lambda: nn.Sequential(nn.Conv1d(2, 8, 3, padding=1), nn.ELU(), nn.Conv1d(8, 4, 3, padding=4, dilation=4)),
        ("input=float32[batch=1..5,2,samples=4..64]",),
    ),
    "fft": Own(lambda: Called(fourier), ("x=float32[batch=1..5,16,8]",)),
    "fft, any length": Own(lambda: Called(fourier), (SEQUENCE,)),
    "fourier neural operator": Own(Spectral, ("x=float32[batch=1..5,2,8,10]",)),
    "fourier neural operator, any grid": Own(Spectral, ("x=float32[batch=1..5,2,height=8..20,width=8..20]",)),
    "state space, diagonal": Own(StateSpace, ("x=float32[batch=1..5,4,length=1..24]",)),
    "stft": Own(lambda: Called(spectrogram), ("x=float32[batch=1..4,samples=64..256]",)),
    "in-place updates": Own(lambda: Called(updated), (SEQUENCE,)),
    "in-place, by one step": Own(lambda: Called(shifted), (SEQUENCE,)),
    "running mean": Own(lambda: Called(averaged), (SEQUENCE,)),
    "running maximum": Own(lambda: Called(highest), (SEQUENCE,)),
    "windows": Own(lambda: Called(windows), (ANY_IMAGE.replace("input", "x"),)),
    "loop by value": Own(lambda: Called(counted), (SEQUENCE,), refused="hangs on the values"),
}  # fmt: skip
