"""Decoders of transformers with their cache as flat tensors, in and out: what one step of generation computes."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from torch import Tensor, nn

from mlc.dims import traced_sizes
from mlc.recipe import parse_inputs
from mlc.sources.huggingface.library import offline
from tests.architectures.check import Subject
from tests.architectures.families import tiny

LAYERS = 2

CACHED = {f"{family}, cache in and out": family for family in ("gpt2", "llama", "qwen3", "gemma2")}
"""Rows of decoders with a cache, and the family of each."""


class WithCache(nn.Module):
    """The next logits of a decoder and its longer cache, from new tokens and the keys and values of those before."""

    def __init__(self, model: nn.Module, library: Any) -> None:
        super().__init__()
        self.model, self._make = model, library.DynamicCache

    def forward(  # noqa: PLR0917 - the layers of a cache
        self, input_ids: Tensor, attention_mask: Tensor, k0: Tensor, v0: Tensor, k1: Tensor, v1: Tensor
    ) -> tuple[Tensor, ...]:
        """Fill a cache, ask the model, take the cache apart."""
        cache = self._make()
        for layer, (keys, values) in enumerate(((k0, v0), (k1, v1))):
            cache.update(keys, values, layer)
        logits = self.model(
            input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, use_cache=True
        ).logits
        return (logits, *(part for layer in cache.layers for part in (layer.keys, layer.values)))


def build_cached(name: str) -> Subject:
    """Return a tiny decoder of two layers with its cache as inputs and outputs."""
    library = import_module("transformers")
    with offline(library):
        model = tiny(library, CACHED[name])
    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    past = [f"{part}{layer}=float32[batch,{heads},past=1..16,{width}]" for layer in range(LAYERS) for part in "kv"]
    inputs = parse_inputs((
        "input_ids=int64[batch=1..4,new=1..8] in 0..98",
        "attention_mask=int64[batch,total=past+new] in 0..1",
        *past,
    ))  # fmt: skip
    return Subject(WithCache(model, library), inputs, {**traced_sizes(inputs, {}), "past": 5, "new": 3})
