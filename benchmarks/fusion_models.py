"""The networks whose rewriting is measured: seeded weights, the shapes of the families that people deploy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.models import RESNET_INPUTS, resnet18

TOKENS = ["input_ids=int64[batch=1..4,length=8..256] in 0..999"]
"""The range of what the language models read."""


@dataclass(frozen=True)
class Network:
    """A network, its inputs as mlc writes them, and the sizes at which it is timed."""

    name: str
    build: Callable[[], nn.Module]
    inputs: list[str]
    at: dict[str, int]


def _transformers(kind: str, **config: Any) -> Callable[[], nn.Module]:
    """Return what builds a model of transformers from its configuration, with seeded weights and biases."""

    def build() -> nn.Module:
        import transformers

        torch.manual_seed(0)
        settings = getattr(transformers, f"{kind}Config")(vocab_size=1000, **config)
        settings.use_cache = False
        return _with_biases(getattr(transformers, f"{kind}Model")(settings))

    return build


def _vit() -> nn.Module:
    import transformers

    torch.manual_seed(0)
    config = transformers.ViTConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=6, intermediate_size=1536)
    return _with_biases(transformers.ViTModel(config, add_pooling_layer=False))


def _with_biases(network: nn.Module) -> nn.Module:
    """Draw biases, which start at zero: a rewrite that lost one would still be right."""
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
    return network.eval()


class ConvNext(nn.Module):
    """Blocks of ConvNeXt (Liu et al., A ConvNet for the 2020s, figure 4) with their scale by channel."""

    class Block(nn.Module):
        """Depthwise convolution, normalization, two linear layers and a scale by channel."""

        def __init__(self, width: int) -> None:
            super().__init__()
            self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
            self.norm, self.wide = nn.LayerNorm(width), nn.Linear(width, 4 * width)
            self.narrow, self.scale = nn.Linear(4 * width, width), nn.Parameter(torch.rand(width))

        def forward(self, x: Tensor) -> Tensor:
            """Images and their channels in and out: float32 [batch, width, height, columns]."""
            y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
            y = self.scale * self.narrow(nn.functional.gelu(self.wide(y)))
            return x + y.permute(0, 3, 1, 2)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 96, 4, stride=4)
        self.blocks = nn.Sequential(*(self.Block(96) for _ in range(4)))

    def forward(self, image: Tensor) -> Tensor:
        """float32 [batch, 3, 224, 224] to [batch, 96]."""
        return self.blocks(self.stem(image)).mean((2, 3))  # type: ignore[no-any-return]


class MobileNet(nn.Module):
    """Inverted residuals with depthwise convolutions (Sandler et al., MobileNetV2, section 3)."""

    def __init__(self, activation: type[nn.Module]) -> None:
        super().__init__()

        def block(width: int) -> nn.Sequential:
            wide = 4 * width
            layers = [nn.Conv2d(width, wide, 1, bias=False), nn.BatchNorm2d(wide), activation()]
            layers += [nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False), nn.BatchNorm2d(wide), activation()]
            return nn.Sequential(*layers, nn.Conv2d(wide, width, 1, bias=False), nn.BatchNorm2d(width))

        self.stem = nn.Conv2d(3, 32, 3, stride=4, padding=1)
        self.blocks = nn.ModuleList([block(32) for _ in range(6)])

    def forward(self, image: Tensor) -> Tensor:
        """float32 [batch, 3, 224, 224] to [batch, 32]."""
        x = self.stem(image)
        for block in self.blocks:
            x = x + block(x)
        return x.mean((2, 3))


class Recurrent(nn.Module):
    """Two layers of LSTM over a sequence of fixed length, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(64, 128, 2, batch_first=True), nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        """float32 [batch, 32, 64] to [batch, 32, 10]."""
        return self.head(self.lstm(x)[0])  # type: ignore[no-any-return]


class Triangle(nn.Module):
    """Triangle updates of a pair representation by einsum (Jumper et al., AlphaFold 2, supplement, algorithm 11)."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.ModuleList([nn.Linear(32, 32) for _ in range(3)])
        self.right = nn.ModuleList([nn.Linear(32, 32) for _ in range(3)])
        self.norms = nn.ModuleList([nn.LayerNorm(32) for _ in range(3)])

    def forward(self, pair: Tensor) -> Tensor:
        """float32 [residues, residues, 32] in and out."""
        for left, right, norm in zip(self.left, self.right, self.norms, strict=True):
            pair = pair + norm(torch.einsum("ikc,jkc->ijc", torch.sigmoid(left(pair)), right(pair)))
        return pair


def _seeded(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def built() -> nn.Module:
        torch.manual_seed(0)
        return build().eval()

    return built


TEXT = {"batch": 1, "length": 128}
IMAGE = ["image=float32[batch=1..8,3,224,224]"]

NETWORKS = (
    Network("BERT", _transformers("Bert", hidden_size=384, num_hidden_layers=6, num_attention_heads=6,
                                  intermediate_size=1536), TOKENS, TEXT),
    Network("GPT-2 prefill", _transformers("GPT2", n_embd=384, n_layer=6, n_head=6), TOKENS, TEXT),
    Network("Llama prefill", _transformers("Llama", hidden_size=384, num_hidden_layers=6, num_attention_heads=6,
                                           num_key_value_heads=2, intermediate_size=1024), TOKENS, TEXT),
    Network("ViT", _vit, ["pixel_values=float32[batch=1..4,3,224,224]"], {"batch": 1}),
    Network("ConvNeXt", _seeded(ConvNext), IMAGE, {"batch": 1}),
    Network("MobileNet, ReLU6", _seeded(lambda: MobileNet(nn.ReLU6)), IMAGE, {"batch": 1}),
    Network("MobileNet, hard-swish", _seeded(lambda: MobileNet(nn.Hardswish)), IMAGE, {"batch": 1}),
    Network("ResNet-18", lambda: resnet18()[0], RESNET_INPUTS, {"batch": 1}),
    Network("LSTM", _seeded(Recurrent), ["x=float32[batch=1..8,32,64]"], {"batch": 1}),
    Network("triangle updates", _seeded(Triangle), ["pair=float32[96,96,32]"], {}),
)  # fmt: skip
