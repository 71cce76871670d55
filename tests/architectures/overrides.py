"""What tiny families need beside small numbers by name, one table for each kind of need."""

from __future__ import annotations

from typing import Any

RESNET: dict[str, Any] = {
    "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1],
    "layer_type": "basic", "out_features": ["stage1", "stage2", "stage3", "stage4"],
}  # fmt: skip
"""A backbone that needs no package beside transformers."""

RT_RESNET: dict[str, Any] = {
    "model_type": "rt_detr_resnet", "embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1],
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

RT: dict[str, Any] = {"backbone_config": RT_RESNET, "encoder_in_channels": [16, 24, 32], "anchor_image_size": None}

WIDE: dict[str, Any] = {
    "in_channels": [32, 16, 24, 40, 80, 112, 192], "out_channels": [16, 24, 40, 80, 112, 192, 320],
    "num_block_repeats": [1, 1, 1, 1, 1, 1, 1], "width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280,
}  # fmt: skip

MLA: dict[str, Any] = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8}

MROPE: dict[str, Any] = {
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]},
}  # fmt: skip
HALF_MROPE: dict[str, Any] = {
    "rope_parameters": {
        "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 0], "partial_rotary_factor": 0.5,
    },
}  # fmt: skip

SERIES_LENGTHS: dict[str, Any] = {
    "prediction_length": 4,
    "context_length": 16,
    "lags_sequence": [1, 2, 3],
    "num_time_features": 1,
}

HIERA: dict[str, Any] = {
    "hidden_size": 16, "embed_dim_per_stage": [16, 32, 32, 64], "num_attention_heads": 1,
    "num_attention_heads_per_stage": [1, 2, 2, 4], "blocks_per_stage": [1, 1, 1, 1], "global_attention_blocks": [2],
    "image_size": [64, 64], "window_positional_embedding_background_size": [4, 4],
    "window_size_per_stage": [4, 4, 4, 2],
}  # fmt: skip

SAM2: dict[str, Any] = {
    "backbone_config": HIERA, "backbone_channel_list": [64, 32, 32, 16], "fpn_hidden_size": 32,
    "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
}  # fmt: skip

FIELDS: dict[str, dict[str, Any]] = {
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid"],
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
    },
    "upernet": {"backbone_config": RESNET, "use_auxiliary_head": False},
    "textnet": {"stem_out_channels": 16},
    "t5gemma2_encoder": {"text_config": {"dropout_rate": 0.0}},
    "shieldgemma2": {"yes_token_index": 50, "no_token_index": 51},
    "sam2_video": {"vision_config": SAM2, "prompt_encoder_config": {"image_size": 64, "patch_size": 16}},
    "sam2": {"vision_config": SAM2, "prompt_encoder_config": {"image_size": 64, "patch_size": 16}},
    "sam2_vision_model": SAM2,
    "sam2_hiera_det_model": HIERA,
    "sam_hq": {"prompt_encoder_config": {"image_embedding_size": 4}, "vision_config": {"output_channels": 32}},
    "sam": {"prompt_encoder_config": {"image_embedding_size": 4}, "vision_config": {"output_channels": 32}},
    "prompt_depth_anything": {"backbone_config": DINO, "patch_size": 14, "reassemble_hidden_size": 32},
    "pix2struct": {"vision_config": {"patch_embed_hidden_size": 32}},
    "neomme": {"head_dim": 16},
    "moonshine": {"encoder_num_key_value_heads": 4, "decoder_num_key_value_heads": 4},
    "longcat_flash": {"qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "qk_head_dim": 16},
    "lilt": {"hidden_size": 48},
    "layoutlmv3": {"coordinate_size": 6, "shape_size": 4, "visual_embed": False},
    "hunyuan_vl": {"text_config": {**MROPE, "head_dim": 8}},
    "hunyuan_vl_text": {**MROPE, "head_dim": 8},
    "pocket_tts": {"flow_head_config": {"condition_dim": 32}},
    "gradium_phonon_tts": {"flow_head_config": {"condition_dim": 32}},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "fun_asr_nano": {"adaptor_config": {"intermediate_size": 8}},
    "ernie4_5_vl_moe": {
        "text_config": {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}}
    },
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "moe_intermediate_size": 16, "num_experts_per_tok": 2},
    "dory": {"n_input_layers": 1, "n_recurrent_layers": 1, "n_output_layers": 1, "num_hidden_layers": 3},
    "diffusion_gemma": {"text_config": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 16}},
    "dbrx": {"attn_config": {"rope_theta": 10000.0}},
    "pp_doclayout_v4": RT,
    "pp_doclayout_v3": RT,
    "pp_doclayout_v2": RT,
    "deimv2": RT,
    "d_fine": RT,
    "cohere_compass": {
        "text_config": {
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 10000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            }
        }
    },
    "cohere_compass_text": {
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        }
    },
    "bros": {"hidden_size": 64},
    "apertus1p5": {
        "image_token_offset": 40,
        "audio_token_offset": 72,
        "codebook_size": 32,
        "text_config": {"vocab_size": 120},
    },
    "align": {"vision_config": WIDE},
    "autoformer": {**SERIES_LENGTHS, "moving_average": 3, "label_length": 4},
    "bridgetower": {"text_config": {"hidden_size": 64}, "vision_config": {"hidden_size": 64}, "hidden_size": 64},
    "chameleon": {"vocabulary_map": {"<image>": 98}},
    "glm46v": {"text_config": MROPE},
    "glm4v": {"text_config": MROPE},
    "glm4v_moe": {"text_config": HALF_MROPE},
    "glm4v_moe_text": HALF_MROPE,
    "glm4v_text": MROPE,
    "glm_image": {"text_config": MROPE},
    "glm_image_text": MROPE,
    "glm_ocr": {"text_config": MROPE},
    "glm_ocr_text": MROPE,
    "glmga": {"text_config": MROPE},
    "granite_speech5_ctc": {"context_size": 8},
    "informer": SERIES_LENGTHS,
    "mask2former": {"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32},
    "moonshine_streaming": {},
    "paddleocr_vl": {"text_config": {**MROPE, "head_dim": 8}},
    "qwen2_5_vl_text": MROPE,
    "qwen2_vl_text": MROPE,
    "time_series_transformer": SERIES_LENGTHS,
    "wav2vec2-conformer": {"vocab_size": 99},
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

PAST = [
    ("past_values", "float32", ("batch", 19)), ("past_time_features", "float32", ("batch", 19, 1)),
    ("past_observed_mask", "float32", ("batch", 19)), ("future_time_features", "float32", ("batch", 4, 1)),
    ("future_values", "float32", ("batch", 4)),
]  # fmt: skip
"""The past that a forecast is made of, with the lags before it, and what is known of the time to come."""

VIDEO = [("pixel_values_videos", "float32", ("batch", 4, 3, 32, 32))]
PAIR = [("pixel_values", "float32", ("batch", 2, 3, 64, 64))]
FEATURES = [("input_features", "float32", ("batch", "frames", 16))]
FEATURES_MASKED = [*FEATURES, ("attention_mask", "int64", ("batch", "frames"), (1, 1))]
WAVE = [("input_values", "float32", ("batch", 1, 4096))]
IDS = [("input_ids", "int64", ("batch", "sequence"), (0, 98))]

INPUTS: dict[str, list[tuple[Any, ...]]] = {
    "sam3_lite_text": [
        ("pixel_values", "float32", ("batch", 3, 64, 64)),
        ("input_ids", "int64", ("batch", "sequence"), (0, 98)),
        ("attention_mask", "int64", ("batch", "sequence"), (0, 1)),
    ],
    "sam3": [
        ("pixel_values", "float32", ("batch", 3, 64, 64)),
        ("input_ids", "int64", ("batch", "sequence"), (0, 98)),
        ("attention_mask", "int64", ("batch", "sequence"), (0, 1)),
    ],
    "git": [
        ("input_ids", "int64", ("batch", "sequence"), (0, 98)),
        ("attention_mask", "int64", ("batch", "sequence"), (0, 1)),
    ],
    "dia": [
        ("input_ids", "int64", ("batch", "sequence"), (0, 98)),
        ("decoder_input_ids", "int64", ("batch", "decoder_sequence", 2), (0, 98)),
    ],
    "musicgen_melody": [("input_ids", "int64", (4, "sequence"), (0, 98))],
    "musicgen": [
        ("input_ids", "int64", (2, "sequence"), (0, 98)),
        ("attention_mask", "int64", (2, "sequence"), (0, 1)),
        ("decoder_input_ids", "int64", (4, "decoder_sequence"), (0, 98)),
    ],
    "owlv2": [
        ("input_ids", "int64", ("batch", 9), (0, 98)),
        ("attention_mask", "int64", ("batch", 9), (0, 1)),
        ("pixel_values", "float32", ("batch", 3, 32, 32)),
    ],
    "owlvit": [
        ("input_ids", "int64", ("batch", 9), (0, 98)),
        ("attention_mask", "int64", ("batch", 9), (0, 1)),
        ("pixel_values", "float32", ("batch", 3, 32, 32)),
    ],
    "qwen3_asr_encoder": [
        ("input_features", "float32", ("batch", 16, 100)),
        ("input_features_mask", "int64", ("batch", 100), (1, 1)),
    ],
    "speech-encoder-decoder": [
        ("input_values", "float32", ("batch", "samples")),
        ("decoder_input_ids", "int64", ("batch", "sequence"), (0, 98)),
    ],
    "oneformer": [("pixel_values", "float32", ("batch", 3, 64, 64)), ("task_inputs", "int64", ("batch", 77), (0, 98))],
    "seggpt": [
        ("pixel_values", "float32", ("batch", 3, 64, 32)),
        ("prompt_pixel_values", "float32", ("batch", 3, 64, 32)),
        ("prompt_masks", "float32", ("batch", 3, 64, 32)),
    ],
    "videoprism": [
        ("pixel_values_videos", "float32", ("batch", 2, 3, 32, 32)),
        ("input_ids", "int64", ("batch", "sequence"), (0, 98)),
    ],
    "vibevoice_acoustic_tokenizer_encoder": [("hidden_states", "float32", ("batch", 1, 4096))],
    "vibevoice_acoustic_tokenizer": WAVE,
    "udop": [
        ("input_ids", "int64", ("batch", "sequence"), (0, 98)),
        ("bbox", "float32", ("batch", "sequence", 4), (0, 1)),
        ("decoder_input_ids", "int64", ("batch", "sequence"), (0, 98)),
    ],
    "t5gemma2": [
        ("input_ids", "int64", ("batch", "sequence"), (0, 98)),
        ("decoder_input_ids", "int64", ("batch", "sequence"), (0, 98)),
    ],
    "pp_ocrv6_tiny_rec": [("pixel_values", "float32", ("batch", 3, 48, 320))],
    "pp_ocrv6_small_rec": [("pixel_values", "float32", ("batch", 3, 48, 320))],
    "pp_ocrv5_server_rec": [("pixel_values", "float32", ("batch", 3, 48, 320))],
    "pp_ocrv5_mobile_rec": [("pixel_values", "float32", ("batch", 3, 48, 320))],
    "nemotron3_5_asr": [*FEATURES, ("decoder_input_ids", "int64", ("batch", "sequence"), (0, 98))],
    "nemotron_asr_streaming": [*FEATURES, ("decoder_input_ids", "int64", ("batch", "sequence"), (0, 98))],
    "parakeet_tdt": [*FEATURES, ("decoder_input_ids", "int64", ("batch", "sequence"), (0, 98))],
    "parakeet_rnnt": [*FEATURES, ("decoder_input_ids", "int64", ("batch", "sequence"), (0, 98))],
    "omniasr_audio": [("input_values", "float32", ("batch", 1, "samples"))],
    "omniasr_ctc": [("input_values", "float32", ("batch", 1, "samples"))],
    "pocket_tts_audio_tokenizer_decoder": [("latents", "float32", ("batch", 32, "frames"))],
    "mimi_decoder": [("latents", "float32", ("batch", 32, "frames"))],
    "lxmert": [
        ("input_ids", "int64", ("batch", "sequence"), (0, 98)),
        ("attention_mask", "int64", ("batch", "sequence"), (0, 1)),
        ("visual_feats", "float32", ("batch", 5, 2048)),
        ("visual_pos", "float32", ("batch", 5, 4)),
    ],
    "kyutai_speech_to_text": [("input_ids", "int64", ("batch", "sequence", 3), (0, 98))],
    "idefics": [
        ("input_ids", "int64", ("batch", "sequence"), (0, 98)),
        ("attention_mask", "int64", ("batch", "sequence"), (0, 1)),
        ("pixel_values", "float32", ("batch", 1, 3, 32, 32)),
        ("image_attention_mask", "int64", ("batch", "sequence", 1), (0, 1)),
    ],
    "gemma4_audio": [("input_features", "float32", ("batch", 64, 16)), ("attention_mask", "bool", ("batch", 64))],
    "gemma3n_audio": [("audio_mel", "float32", ("batch", 64, 16)), ("audio_mel_mask", "bool", ("batch", 64))],
    "flava": [
        ("input_ids", "int64", ("batch", "sequence"), (0, 98)),
        ("attention_mask", "int64", ("batch", "sequence"), (0, 1)),
        ("pixel_values", "float32", ("batch", 3, 32, 32)),
    ],
    "fastspeech2_conformer_with_hifigan": [("input_ids", "int64", ("batch", "sequence"), (0, 98))],
    "shieldgemma2": [
        ("input_ids", "int64", ("batch", "sequence"), (0, 98)),
        ("attention_mask", "int64", ("batch", "sequence"), (0, 1)),
    ],
    "colpali": [
        ("input_ids", "int64", ("batch", "sequence"), (0, 98)),
        ("attention_mask", "int64", ("batch", "sequence"), (0, 1)),
    ],
    "colmodernvbert": [
        ("input_ids", "int64", ("batch", "sequence"), (0, 98)),
        ("attention_mask", "int64", ("batch", "sequence"), (0, 1)),
    ],
    "bros": [("input_ids", "int64", ("batch", "sequence"), (0, 98)), ("bbox", "float32", ("batch", "sequence", 4))],
    "bridgetower": [
        ("input_ids", "int64", ("batch", "sequence"), (0, 98)),
        ("attention_mask", "int64", ("batch", "sequence"), (0, 1)),
        ("pixel_values", "float32", ("batch", 3, 32, 32)),
    ],
    "blip_2_qformer": [
        ("query_embeds", "float32", ("batch", 5, 32)),
        ("encoder_hidden_states", "float32", ("batch", "sequence", 1408)),
    ],
    "blip-2": [
        ("pixel_values", "float32", ("batch", 3, 32, 32)),
        ("input_ids", "int64", ("batch", "sequence"), (0, 98)),
        ("attention_mask", "int64", ("batch", "sequence"), (0, 1)),
    ],
    "audioflamingo3_encoder": [
        ("input_features", "float32", ("batch", 16, 80)),
        ("input_features_mask", "int64", ("batch", 80), (1, 1)),
    ],
    "autoformer": PAST,
    "canary": [*FEATURES, ("decoder_input_ids", "int64", ("batch", "sequence"), (0, 98))],
    "clap": [
        ("input_ids", "int64", ("batch", "sequence"), (0, 98)),
        ("input_features", "float32", ("batch", 1, 64, 64)),
    ],
    "cohere_asr": [*FEATURES, ("decoder_input_ids", "int64", ("batch", "sequence"), (0, 98))],
    "decision_transformer": [
        ("states", "float32", ("batch", "sequence", 17)),
        ("actions", "float32", ("batch", "sequence", 4)),
        ("rewards", "float32", ("batch", "sequence", 1)),
        ("returns_to_go", "float32", ("batch", "sequence", 1)),
        ("timesteps", "int64", ("batch", "sequence"), (0, 39)),
        ("attention_mask", "int64", ("batch", "sequence"), (0, 1)),
    ],
    "granite_speech5_ctc": FEATURES,
    "granite_speech5_encoder": FEATURES,
    "informer": PAST,
    "lasr_ctc": FEATURES,
    "lasr_encoder": FEATURES,
    "lightglue": PAIR,
    "mimi": WAVE,
    "mimi_encoder": WAVE,
    "neucodec": WAVE,
    "nemotron_asr_streaming_encoder": FEATURES,
    "parakeet_encoder": FEATURES,
    "perceiver": [
        ("inputs", "int64", ("batch", "sequence"), (0, 98)),
        ("attention_mask", "int64", ("batch", "sequence"), (0, 1)),
    ],
    "pix2struct": [
        ("flattened_patches", "float32", ("batch", "frames", 770)),
        ("decoder_input_ids", "int64", ("batch", "sequence"), (0, 98)),
    ],
    "pocket_tts_audio_tokenizer": WAVE,
    "pocket_tts_audio_tokenizer_encoder": WAVE,
    "superglue": PAIR,
    "time_series_transformer": PAST,
    "timesfm": [("past_values", "float32", ("batch", 64))],
    "timesfm2_5": [("past_values", "float32", ("batch", 64))],
    "univnet": [
        ("input_features", "float32", ("batch", "frames", 16)),
        ("noise_sequence", "float32", ("batch", "frames", 64)),
    ],
    "videoprism_vision_model": VIDEO,
    "wavtokenizer": WAVE,
    "wavtokenizer_encoder": WAVE,
    "xclip": [
        ("input_ids", "int64", ("images", "sequence"), (0, 98)),
        ("pixel_values", "float32", ("batch", 8, 3, 32, 32)),
    ],
    "xcodec": WAVE,
    "canine": [("input_ids", "int64", ("batch", "characters"), (0, 9999))],
    "dac": [("input_values", "float32", ("batch", 1, 4096))],
    "encodec": [("input_values", "float32", ("batch", 1, 4096))],
    "glmasr_encoder": [("input_features", "float32", ("batch", 16, "frames"))],
    "moonshine": [
        ("input_values", "float32", ("batch", 4096)),
        ("decoder_input_ids", "int64", ("batch", "sequence"), (0, 98)),
    ],
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

ALONE = frozenset({"tvp"})
"""Families that are given text alone."""

LOOPED: dict[str, tuple[int, int]] = {"sequence": (9, 9)}
"""For code that loops over the sequence one step after another: its length is fixed, as mlc's own hint says."""

ONE = {"batch": (2, 2)}
"""For code that loops over the batch."""

SIZES: dict[str, dict[str, tuple[int, int]]] = {
    "cpmant": LOOPED,
    "falcon_mamba": LOOPED,
    "jamba": LOOPED,
    "mamba": LOOPED,
    "pixtral": ONE,
    "recurrent_gemma": LOOPED,
    "reformer": ONE,
    "rwkv": LOOPED,
    "superpoint": ONE,
    "tipsv2": {"sequence": (2, 24)},
    "tipsv2_text_model": {"sequence": (2, 24)},
    "xlstm": LOOPED,
    "zamba": LOOPED,
}
"""Ranges of axes that a family is declared with in the place of the usual ones."""

TIMM = "needs the package timm"
GRID = "takes the grid of its patches as an input, whose values decide all sizes inside"
STATES = "takes the states of another model"
NO_FORWARD = "has no forward that takes tensors alone"

EXCLUDED: dict[str, str] = {
    **dict.fromkeys((
        "edgetam", "edgetam_video", "edgetam_vision_model", "fast_vlm", "gemma3n", "gemma3n_vision", "omdet-turbo",
        "pe_audio_video", "pe_audio_video_encoder", "pe_video", "pe_video_encoder", "perception_lm", "timm_backbone",
        "timm_wrapper",
    ), TIMM),
    **dict.fromkeys((
        "cohere_compass_vision", "cosmos3_edge_vision", "exaone4_5_vision", "gemma4_vision", "glm4v_moe_vision",
        "glm4v_vision", "glm5_next_vision", "glm_image_vision", "glm_ocr_vision", "hunyuan_vl_vision",
        "hy_v4_vl_vision", "inkling2_vision", "kimi_k25_vision", "lfm3_vl_vision", "muse_glimmer_vision",
        "muse_spark_vision", "qwen2_5_vl_vision", "qwen3_5_moe_vision", "qwen3_5_vision", "qwen3_vl_moe_vision",
        "qwen3_vl_vision", "qwen4_exp_vision", "video_llama_3_vision", "minicpm_ocr_vision", "minicpmv4_7_vision",
        "siglip2", "siglip2_vision_model",
    ), GRID),
    **dict.fromkeys(("gemma4_assistant", "gemma4_unified_assistant", "muse_glimmer_assistant"), STATES),
    **dict.fromkeys(("bark", "glm_image_vqmodel", "qwen2_5_omni", "sam3_tracker_video", "voxtral_realtime_text"),
                    NO_FORWARD),
    "dinat": "needs the package natten",
    "higgs_audio_v2_tokenizer": "needs the package torchaudio",
    "layoutlmv2": "needs the package detectron2",
    "vit_mae": "draws the patches that it masks at random",
    "vits": "draws its noise at random",
}  # fmt: skip
"""Families that are left out, and why."""
