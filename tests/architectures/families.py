"""Every family of transformers made tiny: its own configuration with small numbers in it, random weights.

A field is made small by its name; what that alone cannot make fit stands in ``overrides``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch

from mlc.sources.huggingface.inputs import Expectation, Expected, expectation, specs, usual_sizes
from mlc.sources.huggingface.library import offline
from mlc.sources.huggingface.loading import EAGER
from mlc.types import Dim
from tests.architectures.check import Subject
from tests.architectures.overrides import CLASSES, EXCLUDED, FIELDS, INPUTS, LONG, SIZES, SUMS

SMALL: tuple[tuple[str, int], ...] = (
    (r"type_vocab_size", 2),
    (r"rotary_dim", 4),
    (r".*vocab_size.*|.*_vocab|n_vocab", 99),
    (r"(vision_|text_|audio_)?(max|n)_(source_|target_)?position(s|_embeddings)|max_seq_len(gth)?|n_ctx", 40),
    (r".*(num_|n_)?(key_value|kv)_heads.*", 2),
    (r".*(num|n|encoder|decoder)_(\w+_)?heads?|.*attention_heads|num_heads", 4),
    (r"(\w+_)?head_dim|d_kv|kv_channels|attention_head_size|qk_nope_head_dim|qk_rope_head_dim|v_head_dim|d_head", 8),
    (r".*(kv|q|o)_lora_rank|lora_rank|.*compress_dim", 8),
    (r"(\w+_)?(num|n)_(?!feat_extract|conv)(\w+_)?layers?|num_hidden_layers|n_layers?", 2),
    (r"(encoder|decoder)_layers|num_blocks|depth|layers", 2),
    (r"first_k_dense_replace|moe_layer_start_index", 1),
    (r"(num|n)_(local_|routed_)?experts|moe_num_experts|num_moe_experts|(moe_)?n_routed_experts", 4),
    (r"(moe_)?(num_experts_per_tok|top_?k|k)|moe_k|num_experts_per_token|top_k_experts", 2),
    (r"n_group|topk_group|num_expert_group|n_shared_experts", 1),
    (
        r"(\w+_)?(ffn|feedforward|feed_forward|intermediate|mlp)(_hidden)?_(dim|size)(_mlp)?|d_ff|n_inner|dim_ff|ffn_dim",
        48,
    ),
    (
        r"(\w+_)?(hidden|embedding|embed|model|projection|codebook|bottleneck)_(size|dim|channels)|d_model|n_embd|dim",
        32,
    ),
    (r"num_queries|num_query_tokens|context_size", 5),
    (r"upsample_groups|mask_feature_size|vector_quantization_hidden_dimension", 32),
    (r"num_labels|num_classes", 3),
    (r"(image|input|img|crop|pretrain_image)_size", 32),
    (r"patch_size", 8),
    (r"(num_|n_)?mel_bins|feature_size|input_feat_per_channel", 16),
    (r"num_frames", 2),
    (r"(mamba_)?(d_)?state_size|(mamba_)?d_state|ssm_state_size", 8),
    (r"sliding_window|attention_window|window_size|local_attention", 16),
    (r"num_codebooks|num_quantizers", 2),
)
"""Names of fields that hold one number, and the number that they become where it is larger; the first that fits."""

LISTS: tuple[tuple[str, int], ...] = (
    (r"(\w+_)?depths|num_blocks|layers|(encoder|decoder)_layers|num_encoder_blocks|stage_num_blocks", 1),
    (r".*(hidden_|neck_|fusion_|embed_)?(sizes|dims?|channels)|stem_channels|tdnn_dim|widths", 16),
    (r".*num_(attention_)?heads", 2),
)
"""The same for lists: every number in them, and their length stays."""

TASKS = (
    "CAUSAL_LM", "SEQ_TO_SEQ_CAUSAL_LM", "SPEECH_SEQ_2_SEQ", "MASKED_LM", "CTC", "IMAGE_CLASSIFICATION",
    "OBJECT_DETECTION", "SEMANTIC_SEGMENTATION", "UNIVERSAL_SEGMENTATION", "DEPTH_ESTIMATION",
    "VIDEO_CLASSIFICATION", "AUDIO_CLASSIFICATION", "ZERO_SHOT_IMAGE_CLASSIFICATION", "ZERO_SHOT_OBJECT_DETECTION",
    "TIME_SERIES_PREDICTION", "IMAGE_TO_IMAGE", "KEYPOINT_DETECTION", "KEYPOINT_MATCHING", "IMAGE_TEXT_TO_TEXT",
    "MASK_GENERATION", "TEXT_TO_WAVEFORM", "RETRIEVAL", "SEQUENCE_CLASSIFICATION", "QUESTION_ANSWERING",
)  # fmt: skip
"""The tasks of which a family's first one names its class, in this order; a family without one is its bare model."""

SPECIAL = 50
"""Special tokens with a larger number than this get one between it and the end of the small vocabulary."""

SIDE = 64
"""The side of an image of a model whose configuration names none."""

RANGES: Mapping[str, tuple[int, int]] = {
    "batch": (1, 5),
    "images": (1, 5),
    "sequence": (1, 24),
    "decoder_sequence": (1, 12),
}
"""What is declared of each axis that varies, within what the model can take."""

USUAL = 9
"""The length that is traced."""


def families() -> dict[str, str]:
    """Return the class of each family that the registry has, by the name of its configuration."""
    registry = import_module("transformers.models.auto.modeling_auto")
    found: dict[str, str] = {}
    for task in (*(f"MODEL_FOR_{name}" for name in TASKS), "MODEL"):
        for family, named in getattr(registry, f"{task}_MAPPING_NAMES").items():
            found.setdefault(family, named if isinstance(named, str) else named[0])
    return {name: kind for name, kind in sorted({**found, **CLASSES}.items()) if name not in EXCLUDED}


def build(family: str, *, attention: str = EAGER) -> Subject:
    """Return a tiny model of a family, in evaluation mode and without a cache."""
    library = import_module("transformers")
    with offline(library):
        module = tiny(library, family, attention=attention)
        for part in module.modules():
            own = getattr(part, "config", None)
            if isinstance(own, library.PreTrainedConfig):
                own.return_dict = True
                if hasattr(own, "use_cache"):
                    own.use_cache = False
        found = expected(family, module)
        inputs = specs(found, ())
        return Subject(module, inputs, usual_sizes(found, inputs))


def tiny(library: Any, family: str, *, attention: str = EAGER) -> Any:
    """Return a tiny model of a family with random weights in float32, in evaluation mode."""
    kind = getattr(library, families()[family])
    config = _config(library, kind, family)
    config._attn_implementation = attention
    torch.manual_seed(0)
    module = kind(config).eval().float()
    _unlike(module)
    return module


def _unlike(module: torch.nn.Module) -> None:
    """Fill weights and codebooks that begin all alike: behind a router of zeros every expert is as good as any other.

    What a checkpoint holds beside weights and has one row is a bias, which may be zero.
    """
    for weight in module.state_dict(keep_vars=True).values():
        if weight.ndim < 2 or not weight.numel() or not weight.is_floating_point():
            continue
        table = isinstance(weight, torch.nn.Parameter) or len(weight) > 1
        if table and bool((weight == weight.flatten()[0]).all()):
            torch.nn.init.normal_(weight, std=0.02)


def expected(family: str, module: Any) -> Expectation:
    """Return the inputs of a model: what mlc reads from its configuration, or the table, with short ranges."""
    found = expectation(module, {"size": {"height": SIDE, "width": SIDE}})
    if family in INPUTS:
        found.inputs = [Expected(*each) for each in INPUTS[family]]
        for each in found.inputs:
            for axis in each.axes:
                if isinstance(axis, str):
                    low, high = LONG.get(axis, (1, 24))
                    usual = 2 * low if axis in LONG else USUAL  # of the shortest, convolutions may leave a single step
                    found.ranges[axis] = (Dim(low, high, name=axis), usual)
    elif _places_images(module.config):
        found.inputs = [each for each in found.inputs if each.name in {"input_ids", "attention_mask"}]
    for axis, (low, high) in RANGES.items():
        if axis in found.ranges:
            declared = found.ranges[axis][0]
            least, most = SIZES.get(family, {}).get(axis, (max(low, declared.low), min(high, declared.high)))
            found.ranges[axis] = (Dim(least, most, name=axis), 2 if axis in {"batch", "images"} else min(USUAL, most))
    for axis, terms in SUMS.items():
        if axis in found.ranges:
            dims = [found.ranges[term][0] for term in terms]
            low, high = sum(dim.low for dim in dims), sum(dim.high for dim in dims)
            found.ranges[axis] = (Dim(low, high, name=axis, terms=terms), low)
    return found


def _places_images(config: Any) -> bool:
    """Whether images come in where tokens of the text stand for them: without such tokens there are none."""
    return any(hasattr(config, name) for name in ("image_token_id", "image_token_index", "audio_token_id"))


def _config(library: Any, kind: Any, family: str) -> Any:
    own = kind.config_class
    registered = library.CONFIG_MAPPING.get(family, own) if hasattr(library.CONFIG_MAPPING, "get") else own
    chosen = registered if isinstance(registered, type) and issubclass(registered, own) else own
    return chosen(**_merged(_shrunk(chosen()), FIELDS.get(family, {})))


def _merged(fields: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields with the given ones in their place, those of the configurations inside of it one by one."""
    inner = {
        name: _merged(fields[name], value)
        for name, value in given.items()
        if isinstance(value, Mapping)
        and isinstance(fields.get(name), Mapping)
        and name.endswith("_config")
        and value.get("model_type") in {None, fields[name].get("model_type")}
    }
    return {**fields, **given, **inner}


def _shrunk(config: Any) -> dict[str, Any]:
    """Return the fields of a configuration that have to change, with those of the configurations inside of it."""
    found: dict[str, Any] = {}
    heads = vars(config).get("num_attention_heads")  # where layers differ, there is none for all
    for name, value in vars(config).items():
        if name == "num_key_value_heads" and value == heads:
            found[name] = _small("num_attention_heads", value)
        elif name.startswith("rope_") and isinstance(value, dict) and "mrope_section" in value:
            found[name] = {**value, "mrope_section": [2, 1, 1]}
        elif hasattr(value, "to_dict"):
            found[name] = {**_shrunk(value), **_stages(value), "model_type": value.model_type}
        elif not name.startswith("_"):
            small = _small(name, value)
            if small != value:
                found[name] = small
    return found


def _stages(config: Any) -> dict[str, Any]:
    """Return the fields of a backbone as its model has them, and which stages it gives.

    Where each layer is a stage, there are as many layers as stages to give.
    """
    if not hasattr(config, "stage_names"):
        return {}
    fields = {**config.to_diff_dict(), **_shrunk(config), "out_features": None, "out_indices": list(config.out_indices)}
    if len(config.stage_names) == vars(config).get("num_hidden_layers", -1) + 1:
        stages = len(config.out_indices)
        fields |= {"num_hidden_layers": stages, "out_indices": list(range(1, stages + 1))}
    return fields


def _small(name: str, value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        if name.endswith(("token_id", "token_index")):
            return value if value < SPECIAL else SPECIAL + value % 40
        return min(value, next((number for pattern, number in SMALL if re.fullmatch(pattern, name)), value))
    if isinstance(value, (list, tuple)) and value and all(type(each) is int for each in value):
        if name in {"image_size", "patch_size"}:
            return type(value)(_small(name, each) for each in value)
        number = next((number for pattern, number in LISTS if re.fullmatch(pattern, name)), None)
        return value if number is None else type(value)(min(each, number) for each in value)
    return value
