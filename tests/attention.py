"""Attention by hand and by torch, exported with batch and length free."""

import math
import warnings

import torch
from torch import nn
from torch.nn import functional

LOWEST = torch.finfo(torch.float32).min
BATCH, LENGTH = {"min": 1, "max": 64}, {"min": 2, "max": 64}


class Projected(nn.Module):
    """Self-attention of two heads of four over [batch, length, 8]; a subclass states what happens between."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x, *mask):
        batch, length, _ = x.shape
        q, k, v = (part(x).view(batch, length, 2, 4).transpose(1, 2) for part in (self.q, self.k, self.v))
        return self.o(self.attend(q, k, v, *mask).transpose(1, 2).reshape(batch, length, 8))

    def attend(self, q, k, v, *mask):
        return functional.scaled_dot_product_attention(q, k, v, *mask)


class Causal(Projected):
    def attend(self, q, k, v, *mask):
        return functional.scaled_dot_product_attention(q, k, v, is_causal=True)


class Eager(Projected):
    """Written by hand; ``scores`` is where its subclasses differ."""

    def attend(self, q, k, v, *mask):
        return functional.softmax(self.scores(q, k, *mask), dim=-1) @ v

    def scores(self, q, k, *mask):
        return q @ k.transpose(-1, -2) / math.sqrt(4)


class ScaledQueries(Eager):
    def scores(self, q, k, *mask):
        return (q * 4**-0.5) @ k.transpose(-1, -2)


class AddedMask(Eager):
    def scores(self, q, k, *mask):
        return q @ k.transpose(-1, -2) * 0.5 + mask[0]


class PaddingOfTokens(Eager):
    """The mask is 1 for tokens, 0 for padding, [batch, length]."""

    def scores(self, q, k, *mask):
        return q @ k.transpose(-1, -2) * 0.5 + (1 - mask[0][:, None, None, :]) * LOWEST


class FilledMask(Eager):
    def scores(self, q, k, *mask):
        return (q @ k.transpose(-1, -2) * 0.5).masked_fill(~mask[0], LOWEST)


class CausalByHand(Eager):
    def scores(self, q, k, *mask):
        seen = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).tril()
        return (q @ k.transpose(-1, -2) * 0.5).masked_fill(~seen, float("-inf"))


class TransformerEncoder(nn.Module):
    """PyTorch's own layer, whose heads are split from [length, batch * heads, width]."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x):
        return self.layer(x)


class Grouped(Projected):
    """Two heads of keys and values for four of queries; a subclass may repeat them otherwise."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = nn.Linear(8, 16), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(16, 8)

    def forward(self, x):
        batch, length, _ = x.shape
        q, k, v = (part(x).view(batch, length, -1, 4).transpose(1, 2) for part in (self.q, self.k, self.v))
        attended = functional.scaled_dot_product_attention(q, self.repeat(k), self.repeat(v))
        return self.o(attended.transpose(1, 2).reshape(batch, length, 16))

    def repeat(self, x):
        batch, heads, length, width = x.shape
        return x[:, :, None].expand(batch, heads, 2, length, width).reshape(batch, heads * 2, length, width)


class GroupedByElement(Grouped):
    def repeat(self, x):
        return torch.repeat_interleave(x, 2, dim=1)


class Tiled(Grouped):
    def repeat(self, x):
        return x.repeat(1, 2, 1, 1)


class Rotary(Grouped):
    """Queries and keys are rotated by their position before they meet."""

    def forward(self, x):
        batch, length, _ = x.shape
        q, k, v = (part(x).view(batch, length, -1, 4).transpose(1, 2) for part in (self.q, self.k, self.v))
        angles = torch.arange(length).float()[None, :, None] * torch.tensor([1.0, 0.1])
        whole = torch.cat((angles, angles), dim=-1)
        cos, sin = whole.cos()[:, None], whole.sin()[:, None]
        attended = functional.scaled_dot_product_attention(
            self.rotate(q, cos, sin), self.repeat(self.rotate(k, cos, sin)), self.repeat(v)
        )
        return self.o(attended.transpose(1, 2).reshape(batch, length, 16))

    def rotate(self, x, cos, sin):
        half = x.shape[-1] // 2
        return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin


class RotaryByPairs(Rotary):
    """Pairs lie side by side, and the angles are repeated one by one."""

    def rotate(self, x, cos, sin):
        cos, sin = (each[..., :2].repeat_interleave(2, -1) for each in (cos, sin))
        return x * cos + torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2) * sin


class RotaryBeforeHeads(Rotary):
    """What is rotated is [batch, length, heads, width], as Llama's own code has it."""

    def forward(self, x):
        batch, length, _ = x.shape
        q, k, v = (part(x).view(batch, length, -1, 4) for part in (self.q, self.k, self.v))
        angles = torch.arange(length).float()[:, None] * torch.tensor([1.0, 0.1])
        q, k = (self.rotate(each, angles.cos()[:, None], angles.sin()[:, None]) for each in (q, k))
        q, k, v = (each.transpose(1, 2) for each in (q, k, v))
        attended = functional.scaled_dot_product_attention(q, self.repeat(k), self.repeat(v))
        return self.o(attended.transpose(1, 2).reshape(batch, length, 16))

    def rotate(self, x, cos, sin):
        turn = torch.complex(cos, sin)
        return torch.view_as_real(torch.view_as_complex(x.reshape(*x.shape[:-1], 2, 2)) * turn).flatten(3)


class OnlyInput(nn.Module):
    """A model of transformers as a function of its first input."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).last_hidden_state


def transformer(name, **sizes):
    """A small eager model of transformers with random weights, biases too: two layers of four heads of four."""
    import transformers

    made = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4} | sizes
    configuration = getattr(transformers, f"{name}Config")(**made, use_cache=False, attn_implementation="eager")
    model = getattr(transformers, f"{name}Model")(configuration)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) / 4)
    return OnlyInput(model)


def exported(module, *example, opset=23, free=("batch", "length")):
    """What torch exports; ``free`` names the free axes of the first input, masks are free in batch and both lengths."""
    batch, length = torch.export.Dim("batch", **BATCH), torch.export.Dim("length", **LENGTH)
    first = {axis: {"batch": batch, "length": length}[name] for axis, name in enumerate(free) if name}
    masks = [dict.fromkeys(range(1 if each.ndim == 2 else 2, each.ndim), length) | {0: batch} for each in example[1:]]
    shapes = {"x": first} | ({"mask": tuple(masks)} if masks else {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(), example, dynamo=True, opset_version=opset, verbose=False, output_names=["y"],
            input_names=[f"x{index}" for index in range(len(example))],
            dynamic_shapes=shapes,
        )  # fmt: skip
    assert program is not None
    return program.model
