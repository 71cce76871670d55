"""What tiny families need beside small numbers by name, one table for each kind of need."""

from __future__ import annotations

from typing import Any

RESNET: dict[str, Any] = {
    "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1],
    "layer_type": "basic", "out_features": ["stage1", "stage2", "stage3", "stage4"],
}  # fmt: skip
"""A backbone that needs no package beside transformers."""

RT_RESNET: dict[str, Any] = {
    "model_type": "rt_detr_resnet", "embedding_size": 8, "hidden_sizes": [16, 16, 16, 16], "depths": [1, 1, 1, 1],
    "layer_type": "basic", "out_features": ["stage2", "stage3", "stage4"],
}  # fmt: skip

SWIN: dict[str, Any] = {
    "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4, "image_size": 32, "patch_size": 4,
}  # fmt: skip

DINO: dict[str, Any] = {
    "model_type": "dinov2", "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "image_size": 28,
    "patch_size": 14, "out_features": ["stage1", "stage2", "stage3", "stage4"], "reshape_hidden_states": False,
}  # fmt: skip

ON_RESNET: dict[str, Any] = {"use_timm_backbone": False, "backbone": None, "backbone_config": RESNET}

QWEN_VL: dict[str, Any] = {
    "text_config": {
        "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 40,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]},
    },
}  # fmt: skip

RT: dict[str, Any] = {"backbone_config": RT_RESNET, "encoder_in_channels": [16, 16, 16], "anchor_image_size": None}

WIDE: dict[str, Any] = {
    "in_channels": [32, 16, 24, 40, 80, 112, 192], "out_channels": [16, 24, 40, 80, 112, 192, 320],
    "num_block_repeats": [1, 1, 1, 1, 1, 1, 1], "width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280,
}  # fmt: skip

MLA: dict[str, Any] = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8}

FIELDS: dict[str, dict[str, Any]] = {
    "bit": {"num_groups": 4, "hidden_sizes": [16, 16, 16, 16], "embedding_size": 16},
    "codegen": {"rotary_dim": 4},
    "conditional_detr": ON_RESNET,
    "dab-detr": ON_RESNET,
    "deepseek_v2": {"topk_method": "greedy", "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "deformable_detr": ON_RESNET,
    "depth_anything": {"backbone_config": DINO, "patch_size": 14, "reassemble_hidden_size": 32},
    "detr": ON_RESNET,
    "donut-swin": SWIN,
    "dpt": {"num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3]},
    "efficientnet": WIDE,
    "esm": {"vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2},
    "gptj": {"rotary_dim": 4},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "levit": {"image_size": 128, "patch_size": 16, "hidden_sizes": [16, 32, 48], "num_attention_heads": [2, 2, 2]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 2},
    "maskformer-swin": SWIN,
    "ministral": {"head_dim": 8},
    "mistral4": MLA,
    "mobilevitv2": {"image_size": 64},
    "nemotron": {"num_key_value_heads": 2},
    "qwen2_5_vl": QWEN_VL,
    "qwen2_vl": QWEN_VL,
    "rt_detr": RT,
    "rt_detr_v2": RT,
    "swin": SWIN,
    "table-transformer": ON_RESNET,
    "wav2vec2-bert": {"vocab_size": 99},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"layers_block_type": ["linear_attention", "hybrid"], "attention_hidden_size": 64},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"]},
}
"""Fields of a configuration by family, which come before what is made small by name."""

CLASSES: dict[str, str] = {
    "canine": "CanineModel",
    "clip": "CLIPModel",
    "reformer": "ReformerModel",
    "musicgen": "MusicgenForConditionalGeneration",
    "siglip": "SiglipModel",
}
"""Classes that are taken in the place of the registry's first."""

SERIES = [("past_values", "float32", ("batch", 32, 1))]

INPUTS: dict[str, list[tuple[Any, ...]]] = {
    "bros": [("input_ids", "int64", ("batch", "sequence"), (0, 98)), ("bbox", "float32", ("batch", "sequence", 4))],
    "canine": [("input_ids", "int64", ("batch", "characters"), (0, 9999))],
    "dac": [("input_values", "float32", ("batch", 1, 4096))],
    "encodec": [("input_values", "float32", ("batch", 1, 4096))],
    "glmasr_encoder": [("input_features", "float32", ("batch", 16, "frames"))],
    "moonshine": [
        ("input_values", "float32", ("batch", 4096)),
        ("decoder_input_ids", "int64", ("batch", "sequence"), (0, 98)),
    ],
    "omniasr_ctc": [("input_values", "float32", ("batch", "samples"))],
    "parakeet_ctc": [("input_features", "float32", ("batch", "frames", 16))],
    "patchtsmixer": SERIES,
    "patchtst": SERIES,
    "reformer": [("input_ids", "int64", ("batch", 16), (0, 98))],
    "speech_to_text": [
        ("input_features", "float32", ("batch", "frames", 16)),
        ("decoder_input_ids", "int64", ("batch", "sequence"), (0, 98)),
    ],
    "vjepa2": [("pixel_values_videos", "float32", ("batch", 4, 3, 32, 32))],
    "wav2vec2-bert": [("input_features", "float32", ("batch", "frames", 160))],
}
"""Inputs, each as name, dtype, axes and range of values, of families whose configurations do not say them."""

LONG = {"frames": (16, 64), "samples": (800, 4000), "characters": (16, 40)}
"""The ranges of axes in that table that are longer than those of text."""

ALONE = frozenset({"lxmert", "tvp"})
"""Families that are given text alone."""
