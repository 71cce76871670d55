"""The networks whose rewriting is measured: seeded weights, the shapes of the families that people deploy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.fusion_by_hand import LlamaByHand, Mixer, VitByHand
from benchmarks.models import RESNET_INPUTS, resnet18

TOKENS = ["input_ids=int64[batch=1..4,length=8..256] in 0..999"]
"""The range of what the language models read."""


@dataclass(frozen=True)
class Network:
    """A network, its inputs as mlc writes them, the sizes at which it is timed, and its kind in onnxruntime's words.

    An example is needed where the arguments are not flat.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: list[str]
    at: dict[str, int]
    kind: str = "bert"
    example: tuple[Any, ...] | None = None


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


class Decoder(nn.Module):
    """A step of Llama with a cache: one token in, its keys and values beside those of the tokens before."""

    def __init__(self, heads_of_keys: int) -> None:
        super().__init__()
        import transformers

        config = transformers.LlamaConfig(
            vocab_size=1000, hidden_size=384, num_hidden_layers=6, num_attention_heads=6, intermediate_size=1024,
            num_key_value_heads=heads_of_keys,
        )  # fmt: skip
        self.model = transformers.LlamaModel(config)

    def forward(self, input_ids: Tensor, past: list[Tensor]) -> tuple[Tensor, ...]:
        """Return the hidden state, float32 [batch, 1, 384], and all keys and values, [batch, heads, past + 1, 64]."""
        from transformers import DynamicCache

        cache = DynamicCache(list(zip(past[::2], past[1::2], strict=True)))
        hidden = self.model(input_ids, past_key_values=cache, use_cache=True).last_hidden_state
        return (hidden, *(part for layer in cache.layers for part in (layer.keys, layer.values)))


class UNet(nn.Module):
    """A U-Net with two levels (Ronneberger et al., figure 1), batch-normalized."""

    def __init__(self) -> None:
        super().__init__()

        def block(narrow: int, wide: int) -> nn.Sequential:
            first = (nn.Conv2d(narrow, wide, 3, padding=1, bias=False), nn.BatchNorm2d(wide), nn.ReLU())
            return nn.Sequential(*first, nn.Conv2d(wide, wide, 3, padding=1), nn.ReLU())

        self.down, self.deep, self.deepest = block(3, 32), block(32, 64), block(64, 128)
        self.rise, self.up = nn.ConvTranspose2d(128, 64, 2, stride=2), block(128, 64)
        self.rise_again, self.top = nn.ConvTranspose2d(64, 32, 2, stride=2), block(64, 32)
        self.head = nn.Conv2d(32, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        """float32 [batch, 3, 128, 128] to [batch, 2, 128, 128]."""
        pool = nn.functional.max_pool2d
        first = self.down(image)
        second = self.deep(pool(first, 2))
        third = self.up(torch.cat([self.rise(self.deepest(pool(second, 2))), second], 1))
        return self.head(self.top(torch.cat([self.rise_again(third), first], 1)))  # type: ignore[no-any-return]


class Diffusion(nn.Module):
    """A residual block and attention of a diffusion U-Net (Ho et al., DDPM, appendix B): GroupNorm and SiLU."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.first, self.second = nn.GroupNorm(32, width), nn.GroupNorm(32, width)
        self.conv, self.again = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.time, self.norm = nn.Linear(64, width), nn.GroupNorm(32, width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, image: Tensor, time: Tensor) -> Tensor:
        """float32 [batch, 128, 32, 32] in and out, beside the step's embedding, [batch, 64]."""
        silu = nn.functional.silu
        y = self.conv(silu(self.first(image))) + self.time(silu(time))[:, :, None, None]
        x = image + self.again(silu(self.second(y)))
        tokens = self.qkv(self.norm(x).flatten(2).transpose(1, 2)).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(*tokens.unbind(0)).transpose(1, 2).flatten(2)
        return x + self.out(seen).transpose(1, 2).unflatten(-1, x.shape[-2:])  # type: ignore[no-any-return]


class Evoformer(nn.Module):
    """Blocks of triangle updates, row attention and a transition (Jumper et al., AlphaFold 2, supplement, 11-15)."""

    class Block(nn.Module):
        """Both triangle updates by einsum, attention along rows with a bias of the pairs, a transition."""

        def __init__(self, width: int) -> None:
            super().__init__()
            self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(4)])
            self.gates = nn.ModuleList([nn.Linear(width, width) for _ in range(4)])
            self.values = nn.ModuleList([nn.Linear(width, width) for _ in range(4)])
            self.qkv, self.bias, self.out = nn.Linear(width, 3 * width), nn.Linear(width, 4), nn.Linear(width, width)
            self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, pair: Tensor) -> Tensor:
            """float32 [residues, residues, width] in and out."""
            for turn, equation in enumerate(("ikc,jkc->ijc", "kic,kjc->ijc")):
                x = self.norms[turn](pair)
                left, right = (
                    torch.sigmoid(self.gates[side](x)) * self.values[side](x) for side in (2 * turn, 2 * turn + 1)
                )
                pair = pair + torch.einsum(equation, left, right)
            x = self.norms[2](pair)
            q, k, v = self.qkv(x).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4).unbind(0)
            bias = self.bias(x).permute(2, 0, 1)[None]
            seen = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
            pair = pair + self.out(seen.transpose(1, 2).flatten(2))
            return pair + self.narrow(torch.relu(self.wide(self.norms[3](pair))))  # type: ignore[no-any-return]

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(self.Block(64) for _ in range(2)))

    def forward(self, pair: Tensor) -> Tensor:
        """float32 [residues, residues, 64] in and out."""
        return self.blocks(pair)  # type: ignore[no-any-return]


def seeded(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """Return what builds the same module, with the same weights, each time."""

    def built() -> nn.Module:
        torch.manual_seed(0)
        return _with_biases(build())

    return built


def _decoder(heads: int, past: int) -> Network:
    """Return a decode step at so many tokens in the cache."""
    cache = [f"past.{index}=float32[batch,{heads},past=1..2048,64]" for index in range(12)]
    inputs = ["input_ids=int64[batch=1..4,1] in 0..999", *cache]
    kind = "decode" if heads == HEADS else "grouped-query decode"
    example = (torch.ones(2, 1, dtype=torch.int64), [torch.rand(2, heads, 4, 64) for _ in range(12)])
    sizes = {"batch": 1, "past": past}
    return Network(f"Llama {kind} at {past}", seeded(lambda: Decoder(heads)), inputs, sizes, GENERATIVE, example)


HEADS = 6
GENERATIVE = "gpt2"
TEXT = {"batch": 1, "length": 128}
IMAGE = ["image=float32[batch=1..8,3,224,224]"]

NETWORKS = (
    Network("BERT", _transformers("Bert", hidden_size=384, num_hidden_layers=6, num_attention_heads=6,
                                  intermediate_size=1536), TOKENS, TEXT),
    Network("GPT-2 prefill", _transformers("GPT2", n_embd=384, n_layer=6, n_head=6), TOKENS, TEXT, GENERATIVE),
    Network("Llama prefill", _transformers("Llama", hidden_size=384, num_hidden_layers=6, num_attention_heads=6,
                                           num_key_value_heads=2, intermediate_size=1024), TOKENS, TEXT,
            GENERATIVE),
    Network("Llama written out", seeded(LlamaByHand), TOKENS, TEXT, GENERATIVE),
    Network("ViT", _vit, ["pixel_values=float32[batch=1..4,3,224,224]"], {"batch": 1}, "vit"),
    Network("ViT written out", seeded(VitByHand), IMAGE, {"batch": 1}, "vit"),
    Network("ConvNeXt", seeded(ConvNext), IMAGE, {"batch": 1}),
    Network("MLP-Mixer", seeded(Mixer), IMAGE, {"batch": 1}),
    Network("MobileNet, ReLU6", seeded(lambda: MobileNet(nn.ReLU6)), IMAGE, {"batch": 1}),
    Network("MobileNet, hard-swish", seeded(lambda: MobileNet(nn.Hardswish)), IMAGE, {"batch": 1}),
    Network("ResNet-18", lambda: resnet18()[0], RESNET_INPUTS, {"batch": 1}),
    Network("LSTM", seeded(Recurrent), ["x=float32[batch=1..8,32,64]"], {"batch": 1}),
    Network("U-Net", seeded(UNet), ["image=float32[batch=1..4,3,128,128]"], {"batch": 1}),
    Network("diffusion block", seeded(Diffusion), ["image=float32[batch=1..4,128,32,32]", "time=float32[batch,64]"],
            {"batch": 1}, "unet"),
    Network("Evoformer", seeded(Evoformer), ["pair=float32[96,96,64]"], {}),
    _decoder(HEADS, 128),
    *(_decoder(2, past) for past in (128, 512, 1024)),
)  # fmt: skip
