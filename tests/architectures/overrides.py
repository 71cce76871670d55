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

LOUD: dict[str, Any] = {"initializer_range": 0.1}
"""Weights wide enough that what a long chain of narrow convolutions gives is more than rounding."""

KEYPOINTS: dict[str, Any] = {"initializer_range": 0.2}
"""With narrower weights all scores are the same, and each pixel is a keypoint."""

ON_RESNET: dict[str, Any] = {"use_timm_backbone": False, "backbone": None, "backbone_config": RESNET}

QWEN_VL: dict[str, Any] = {
    "text_config": {
        "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 40,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]},
    },
}  # fmt: skip

RT: dict[str, Any] = {
    "backbone_config": RT_RESNET, "encoder_in_channels": [16, 24, 32], "decoder_in_channels": [32, 32, 32],
    "anchor_image_size": None, "initializer_range": 0.2,
}  # fmt: skip
"""With narrower weights nothing of the image gets through, and which queries are best hangs on rounding."""

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
    "hidden_size": 16, "embed_dim_per_stage": [16, 32, 64, 128], "num_attention_heads": 1,
    "num_attention_heads_per_stage": [1, 2, 4, 4], "blocks_per_stage": [1, 1, 2, 1], "global_attention_blocks": [3],
    "image_size": [64, 64], "window_positional_embedding_background_size": [4, 4],
    "window_size_per_stage": [4, 4, 4, 2],
}  # fmt: skip

SAM2: dict[str, Any] = {
    "backbone_config": HIERA, "backbone_channel_list": [128, 64, 32, 16], "fpn_hidden_size": 32,
    "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
}  # fmt: skip

INTRACLASS: dict[str, Any] = {
    "reduce_channel": [1, 1, 0], "return_channel": [1, 1, 0],
    "vertical_long_to_small_conv_longratio": [[7, 1], [1, 1], [3, 0]],
    "vertical_long_to_small_conv_midratio": [[5, 1], [1, 1], [2, 0]],
    "vertical_long_to_small_conv_shortratio": [[3, 1], [1, 1], [1, 0]],
    "horizontal_small_to_long_conv_longratio": [[1, 7], [1, 1], [0, 3]],
    "horizontal_small_to_long_conv_midratio": [[1, 5], [1, 1], [0, 2]],
    "horizontal_small_to_long_conv_shortratio": [[1, 3], [1, 1], [0, 1]],
    "symmetric_conv_long_longratio": [[7, 7], [1, 1], [3, 3]],
    "symmetric_conv_long_midratio": [[5, 5], [1, 1], [2, 2]],
    "symmetric_conv_long_shortratio": [[3, 3], [1, 1], [1, 1]],
}  # fmt: skip
"""Kernels, strides and paddings of convolutions that are high, wide and square."""

LCNET: dict[str, Any] = {
    "backbone_config": {
        "stem_channels": [3, 48, 96], "depths": [1, 2, 7, 3], "stage_out_channels": [96, 96, 192, 384],
    },
}  # fmt: skip
"""Its blocks are a list of lists, which stays: what follows from them stays too."""

HALVING_LCNET: dict[str, Any] = {
    "backbone_config": {
        "stem_channels": [3, 8, 16],
        "block_configs": [
            [[3, 16, 16, 1, True]], [[3, 16, 32, 2, False]], [[3, 32, 48, 2, True]], [[3, 48, 64, 2, False]],
        ],
        "depths": [1, 1, 1, 1], "stage_out_channels": [16, 32, 48, 64], "out_indices": [1, 2, 3, 4],
    },
    "layer_list_out_channels": [16, 32, 48, 64],
}  # fmt: skip
"""Blocks whose every stage halves the image, as necks of detectors take them."""

OCR_DET: dict[str, Any] = {
    "intraclass_block_config": INTRACLASS, "scale_factor_list": [1, 2, 4, 8], "kernel_list": [3, 2, 2],
}  # fmt: skip

DEPTH_PRO_DINO: dict[str, Any] = {
    "model_type": "dinov2", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 16,
    "patch_size": 8, **LOUD,
}  # fmt: skip

FIELDS: dict[str, dict[str, Any]] = {
    "align": {"vision_config": WIDE, "projection_dim": 320},
    "apertus1p5": {
        "image_token_offset": 40,
        "audio_token_offset": 72,
        "codebook_size": 32,
        "text_config": {"vocab_size": 120},
    },
    "autoformer": {**SERIES_LENGTHS, "moving_average": 3, "label_length": 4},
    "bit": {"num_groups": 4, "hidden_sizes": [16, 16, 16, 16], "embedding_size": 16},
    "blip-2": {"qformer_config": {"use_qformer_text_input": True}},
    "blt": {"encoder_config": {"hidden_size_global": 32}, "decoder_config": {"hidden_size_global": 32}},
    "bridgetower": {"text_config": {"hidden_size": 64}, "vision_config": {"hidden_size": 64}, "hidden_size": 64},
    "bros": {"hidden_size": 64},
    "chameleon": {"vocabulary_map": {"<image>": 98}},
    "clap": {"audio_config": {"num_mel_bins": 32, "spec_size": 128, "window_size": 4, "hidden_size": 256}},
    "clvp": {"text_config": {"hidden_size": 128}, "speech_config": {"hidden_size": 128}},
    "codegen": {"rotary_dim": 4},
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
    "colpali": {"vlm_config": {"text_config": {"num_key_value_heads": 1}}},
    "conditional_detr": ON_RESNET,
    "d_fine": RT,
    "dab-detr": ON_RESNET,
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8.0}},
    "deepseek_ocr2": {
        "text_config": {"mlp_layer_types": ["dense", "sparse"], "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
    },
    "deepseek_v2": {"topk_method": "greedy", "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "deformable_detr": ON_RESNET,
    "deimv2": RT,
    "depth_anything": {"backbone_config": DINO, "patch_size": 14, "reassemble_hidden_size": 32},
    "depth_pro": {
        **LOUD,
        "image_model_config": DEPTH_PRO_DINO,
        "patch_model_config": DEPTH_PRO_DINO,
        "fov_model_config": DEPTH_PRO_DINO,
        "patch_size": 16,
        "fusion_hidden_size": 16,
        "intermediate_hook_ids": [1, 0],
        "intermediate_feature_dims": [10, 8],
        "scaled_images_ratios": [0.5, 1.0],
        "scaled_images_overlap_ratios": [0.0, 0.2],
        "scaled_images_feature_dims": [12, 12],
    },
    "detr": ON_RESNET,
    "diffusion_gemma": {"text_config": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 16}},
    "donut-swin": SWIN,
    "dory": {"n_input_layers": 1, "n_recurrent_layers": 1, "n_output_layers": 1, "num_hidden_layers": 3},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "moe_intermediate_size": 16, "num_experts_per_tok": 2},
    "dpt": {"num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3], **LOUD},
    "efficientloftr": {
        "hidden_size": 64,
        "out_features": [16, 16, 32, 64],
        "stage_num_blocks": [1, 1, 1, 1],
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "stage_in_channels": [1, 16, 16, 32],
        "fine_fusion_dims": [64, 32, 16],
    },
    "efficientnet": WIDE,
    "ernie4_5_vl_moe": {
        "text_config": {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}}
    },
    "esm": {"vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32},
    "fastspeech2_conformer_with_hifigan": {"model_config": {"num_mel_bins": 80}},
    "fun_asr_nano": {"adaptor_config": {"intermediate_size": 8}},
    "fun_asr_nano_encoder": {"max_position_embeddings": 80},
    "gemma3n_text": {"num_kv_shared_layers": 0},
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
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2},
    "gptj": {"rotary_dim": 4},
    "gradium_phonon_tts": {"flow_head_config": {"condition_dim": 32}},
    "granite4_vision": {
        "vision_config": {"hidden_size": 64},
        "deepstack_layer_map": [],
        "spatial_target_layers": [],
        "downsample_rate": "2/4",
    },
    "granite_speech5_ctc": {"context_size": 8},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "hunyuan_vl": {"text_config": {**MROPE, "head_dim": 8}},
    "hunyuan_vl_text": {**MROPE, "head_dim": 8},
    "layoutlmv3": {"coordinate_size": 6, "shape_size": 4, "visual_embed": False},
    "levit": {"image_size": 128, "patch_size": 16, "hidden_sizes": [16, 32, 48], "num_attention_heads": [2, 2, 2]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "lightglue": {"keypoint_detector_config": KEYPOINTS},
    "lilt": {"hidden_size": 48},
    "longcat_flash": {"qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "qk_head_dim": 16, "zero_expert_num": 2},
    "lw_detr": {
        "backbone_config": {
            "model_type": "lw_detr_vit",
            "hidden_size": 32,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": 64,
            "pretrain_image_size": 64,
            "patch_size": 8,
            "num_windows": 4,
            "window_block_indices": [0, 2],
            "out_indices": [2, 4],
        },
        "projector_scale_factors": [1.0],
        "group_detr": 1,
    },
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 2},
    "mask2former": {"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32},
    "maskformer-swin": SWIN,
    "ministral": {"head_dim": 8},
    "mistral4": {
        **MLA,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.5,
            "llama_4_scaling_beta": 0.1,
            "original_max_position_embeddings": 40,
        },
    },
    "mobilevitv2": {"image_size": 64},
    "molmo2": {"adapter_config": {"vision_feature_layer": [1, 0], "text_hidden_size": 32}},
    "moonshine": {"encoder_num_key_value_heads": 4, "decoder_num_key_value_heads": 4},
    "moonshine_streaming": {"num_attention_heads": 4, "num_key_value_heads": 4},
    "muse_spark": {"audio_config": {"num_hidden_layers": 4, "out_hidden_size": 32}},
    "muse_spark_audio": {"num_hidden_layers": 4},
    "nemo_speechlm": {"text_config": {"n_groups": 2, "num_key_value_heads": 2}},
    "nemotron": {"num_key_value_heads": 2},
    "nemotron_h": {"n_groups": 2},
    "nemotron_h_omni": {"text_config": {"n_groups": 2}, "vision_config": {"video_temporal_patch_size": 2}},
    "neomme": {"head_dim": 16},
    "neucodec": {"quantization_dim": 64, "encoder_hidden_size": 4, **LOUD},
    "paddleocr_vl": {"text_config": {**MROPE, "head_dim": 8}},
    "paligemma": {"text_config": {"num_key_value_heads": 1}},
    "perceiver": {
        "num_latents": 8,
        "d_latents": 32,
        "d_model": 32,
        "num_blocks": 1,
        "num_self_attends_per_block": 2,
        "qk_channels": 32,
        "v_channels": 32,
    },
    "pix2struct": {"vision_config": {"patch_embed_hidden_size": 32}},
    "pocket_tts": {"flow_head_config": {"condition_dim": 32}},
    "pp_doclayout_v2": {**RT, "class_thresholds": [0.5, 0.5, 0.5], "class_order": [0, 1, 2]},
    "pp_doclayout_v3": {
        **RT,
        "backbone_config": {**RT_RESNET, "out_features": ["stage1", "stage2", "stage3", "stage4"]},
        "x4_feat_dim": 8,
    },
    "pp_doclayout_v4": RT,
    "pp_ocrv5_server_det": OCR_DET,
    "pp_ocrv6_medium_det": {**OCR_DET, **HALVING_LCNET},
    "pp_ocrv6_small_det": HALVING_LCNET,
    "pp_ocrv6_small_rec": LCNET,
    "pp_ocrv6_tiny_rec": LCNET,
    "prompt_depth_anything": {"backbone_config": DINO, "patch_size": 14, "reassemble_hidden_size": 32},
    "qwen2_5_omni_thinker": {"vision_start_token_id": 97, "text_config": MROPE},
    "qwen2_5_vl": QWEN_VL,
    "qwen2_5_vl_text": MROPE,
    "qwen2_vl": QWEN_VL,
    "qwen2_vl_text": MROPE,
    "qwen3_omni_moe_thinker": {"vision_start_token_id": 97},
    "rt_detr": RT,
    "rt_detr_v2": RT,
    "sam": {
        "prompt_encoder_config": {"image_embedding_size": 4},
        "vision_config": {"output_channels": 32, "num_pos_feats": 16},
    },
    "sam2": {"vision_config": SAM2, "prompt_encoder_config": {"image_size": 64, "patch_size": 16}},
    "sam2_hiera_det_model": HIERA,
    "sam2_video": {"vision_config": SAM2, "prompt_encoder_config": {"image_size": 64, "patch_size": 16}},
    "sam2_vision_model": SAM2,
    "sam3_tracker": {"vision_config": {"backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]}},
    "sam3_video": {"vision_config": {"backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]}},
    "sam_hq": {
        "prompt_encoder_config": {"image_embedding_size": 4},
        "vision_config": {"output_channels": 32, "num_pos_feats": 16},
    },
    "sapiens2": {"head_config": {"upsample_out_channels": [16], "conv_out_channels": [16]}},
    "seggpt": {"image_size": [64, 32], "patch_size": 8},
    "shieldgemma2": {"yes_token_index": 50, "no_token_index": 51},
    "step3p7": {"text_config": {"sliding_window": 16}},
    "superglue": {
        "keypoint_detector_config": {"descriptor_decoder_dim": 32, **KEYPOINTS},
        "keypoint_encoder_sizes": [8, 16],
        "gnn_layers_types": ["self", "cross"],
        "sinkhorn_iterations": 5,
    },
    "superpoint": KEYPOINTS,
    "swin": SWIN,
    "t5gemma2_encoder": {"text_config": {"dropout_rate": 0.0}},
    "table-transformer": ON_RESNET,
    "textnet": {"stem_out_channels": 16},
    "time_series_transformer": SERIES_LENGTHS,
    "timesfm2_5": {"context_length": 128},
    "tvp": {"backbone_config": {**RESNET, "out_features": ["stage4"]}, "max_img_size": 64, "visual_prompt_size": 8},
    "univnet": {"kernel_predictor_hidden_channels": 64},
    "upernet": {"backbone_config": RESNET, "use_auxiliary_head": False},
    "uvdoc": {"backbone_config": {"out_indices": [1, 2, 3, 4, 5, 6]}},
    "vibevoice_acoustic_tokenizer_decoder": {"num_filters": 4},
    "vibevoice_acoustic_tokenizer_encoder": {"num_filters": 4},
    "wav2vec2-bert": {"vocab_size": 99},
    "wav2vec2-conformer": {"vocab_size": 99},
    "wavtokenizer": {"decoder_attention_num_groups": 4, "upsampling_ratios": [4, 4, 4, 2], "num_filters": 8},
    "xcodec": {"codebook_dim": 64},
    "xcodec2": {"quantization_dim": 64, "encoder_hidden_size": 4, **LOUD},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "num_hidden_layers": 3,
        "layers_block_type": ["linear_attention", "hybrid", "hybrid"],
        "attention_hidden_size": 64,
    },
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid"],
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
    },
    "zoedepth": {"bottleneck_features": 32},
}
"""Fields of a configuration by family, which come before what is made small by name."""

CLASSES: dict[str, str] = {
    "canine": "CanineModel",
    "clip": "CLIPModel",
    "reformer": "ReformerModel",
    "musicgen": "MusicgenForConditionalGeneration",
    "musicgen_melody": "MusicgenMelodyForConditionalGeneration",
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
MASK = [("attention_mask", "int64", ("batch", "sequence"), (0, 1))]
TEXT = [*IDS, *MASK]
DECODER = [("decoder_input_ids", "int64", ("batch", "decoder_sequence"), (0, 98))]
CODES = [*TEXT, ("decoder_input_ids", "int64", ("rows", "decoder_sequence"), (0, 98))]
"""A text, and what two codebooks hold of each sound: their rows come one after another."""

IMAGE = [("pixel_values", "float32", ("batch", 3, 32, 32))]
LARGE_IMAGE = [("pixel_values", "float32", ("batch", 3, 64, 64))]
LARGEST_IMAGE = [("pixel_values", "float32", ("batch", 3, 128, 128))]
"""For pyramids whose last level would be one pixel, which a normalization of one channel a group cannot take."""

INPUTS: dict[str, list[tuple[Any, ...]]] = {
    "audioflamingo3_encoder": [
        ("input_features", "float32", ("batch", 16, 80)),
        ("input_features_mask", "int64", ("batch", 80), (1, 1)),
    ],
    "autoformer": PAST,
    "blip-2": [*IMAGE, *TEXT],
    "blip_2_qformer": [
        ("query_embeds", "float32", ("batch", 5, 32)),
        ("encoder_hidden_states", "float32", ("batch", "sequence", 32)),
    ],
    "bridgetower": [*TEXT, *IMAGE],
    "bros": [("input_ids", "int64", ("batch", "sequence"), (0, 98)), ("bbox", "float32", ("batch", "sequence", 4))],
    "canary": [*FEATURES, ("decoder_input_ids", "int64", ("batch", "sequence"), (0, 98))],
    "canine": [("input_ids", "int64", ("batch", "characters"), (0, 9999))],
    "clap": [*IDS, ("input_features", "float32", ("batch", 1, 60, 32))],
    "clvp": [*IDS, ("input_features", "float32", ("batch", 16, "frames"))],
    "cohere_asr": [*FEATURES, ("decoder_input_ids", "int64", ("batch", "sequence"), (0, 98))],
    "colmodernvbert": TEXT,
    "colpali": TEXT,
    "dac": [("input_values", "float32", ("batch", 1, 4096))],
    "decision_transformer": [
        ("states", "float32", ("batch", "sequence", 17)),
        ("actions", "float32", ("batch", "sequence", 4)),
        ("rewards", "float32", ("batch", "sequence", 1)),
        ("returns_to_go", "float32", ("batch", "sequence", 1)),
        ("timesteps", "int64", ("batch", "sequence"), (0, 39)),
        ("attention_mask", "int64", ("batch", "sequence"), (0, 1)),
    ],
    "depth_pro": [("pixel_values", "float32", ("batch", 3, 32, 32))],
    "dia": [*IDS, ("decoder_input_ids", "int64", ("batch", "decoder_sequence", 9), (0, 98))],
    "diffusion_gemma": [*TEXT, *DECODER],
    "efficientloftr": PAIR,
    "encodec": [("input_values", "float32", ("batch", 1, 4096))],
    "fastspeech2_conformer_with_hifigan": [("input_ids", "int64", ("batch", "sequence"), (0, 30))],
    "flava": [*TEXT, *IMAGE],
    "fun_asr_nano_encoder": [
        ("input_features", "float32", ("batch", "frames", 112)),
        ("input_features_mask", "int64", ("batch", "frames"), (1, 1)),
    ],
    "gemma3n_audio": [("audio_mel", "float32", ("batch", 64, 128)), ("audio_mel_mask", "bool", ("batch", 64))],
    "gemma4_audio": [("input_features", "float32", ("batch", 64, 16)), ("attention_mask", "bool", ("batch", 64))],
    "git": [*TEXT, *IMAGE],
    "glmasr_encoder": [("input_features", "float32", ("batch", 16, "frames"))],
    "granite_speech5_ctc": [("input_features", "float32", ("batch", "frames", 64))],
    "granite_speech5_encoder": [("input_features", "float32", ("batch", "frames", 64))],
    "grounding-dino": [*LARGEST_IMAGE, *TEXT],
    "idefics": [
        *TEXT,
        ("pixel_values", "float32", ("batch", 1, 3, 32, 32)),
        ("image_attention_mask", "int64", ("batch", "sequence", 1), (0, 1)),
    ],
    "kyutai_speech_to_text": [("input_ids", "int64", ("batch", "sequence", 3), (0, 98))],
    "lasr_ctc": FEATURES,
    "lasr_encoder": FEATURES,
    "layoutlmv3": TEXT,
    "lightglue": PAIR,
    "lxmert": [*TEXT, ("visual_feats", "float32", ("batch", 5, 2048)), ("visual_pos", "float32", ("batch", 5, 4))],
    "mask2former": LARGE_IMAGE,
    "mimi": WAVE,
    "mimi_decoder": [("latents", "float32", ("batch", 32, "frames"))],
    "mimi_encoder": WAVE,
    "mm-grounding-dino": [*LARGEST_IMAGE, *TEXT],
    "moonshine": [
        ("input_values", "float32", ("batch", 4096)),
        ("decoder_input_ids", "int64", ("batch", "sequence"), (0, 98)),
    ],
    "moonshine_streaming": [
        ("input_values", "float32", ("batch", 3200)),
        ("decoder_input_ids", "int64", ("batch", "sequence"), (0, 98)),
    ],
    "muse_spark_audio": [("input_values", "float32", ("batch", 3840))],
    "musicgen": CODES,
    "musicgen_melody": CODES,
    "nemotron3_5_asr": [*FEATURES, ("decoder_input_ids", "int64", ("batch", "sequence"), (0, 98))],
    "nemotron3_5_transcribe_asr_audio": FEATURES,
    "nemotron3_5_transcribe_audio": [("input_features", "float32", ("batch", 64, 16))],
    "nemotron3_5_transcribe_word_timestamp": [("inputs_embeds", "float32", ("batch", "sequence", 32))],
    "nemotron3_diarization": FEATURES,
    "nemotron3_diarization_audio": FEATURES,
    "nemotron_asr_streaming": [*FEATURES, ("decoder_input_ids", "int64", ("batch", "sequence"), (0, 98))],
    "nemotron_asr_streaming_encoder": FEATURES,
    "neucodec": [*WAVE, ("input_features", "float32", ("batch", 12, 160))],
    "omniasr_audio": [("input_values", "float32", ("batch", 1, "samples"))],
    "omniasr_ctc": [("input_values", "float32", ("batch", 1, "samples"))],
    "oneformer": [("pixel_values", "float32", ("batch", 3, 64, 64)), ("task_inputs", "int64", ("batch", 77), (0, 98))],
    "owlv2": [*TEXT, *IMAGE],
    "owlvit": [*TEXT, *IMAGE],
    "parakeet_ctc": [("input_features", "float32", ("batch", "frames", 16))],
    "parakeet_encoder": FEATURES,
    "parakeet_rnnt": [*FEATURES, ("decoder_input_ids", "int64", ("batch", "sequence"), (0, 98))],
    "parakeet_tdt": [*FEATURES, ("decoder_input_ids", "int64", ("batch", "sequence"), (0, 98))],
    "patchtsmixer": SERIES,
    "patchtst": SERIES,
    "pe_audio": [*TEXT, *WAVE],
    "pe_audio_encoder": WAVE,
    "perceiver": [
        ("inputs", "int64", ("batch", "sequence"), (0, 98)),
        ("attention_mask", "int64", ("batch", "sequence"), (0, 1)),
    ],
    "pix2struct": [
        ("flattened_patches", "float32", ("batch", "frames", 34), (0, 30)),
        ("decoder_input_ids", "int64", ("batch", "sequence"), (0, 98)),
    ],
    "pocket_tts_audio_tokenizer": WAVE,
    "pocket_tts_audio_tokenizer_decoder": [("latents", "float32", ("batch", 32, "frames"))],
    "pocket_tts_audio_tokenizer_encoder": WAVE,
    "pp_ocrv5_mobile_rec": [("pixel_values", "float32", ("batch", 3, 96, 320))],
    "pp_ocrv5_server_rec": [("pixel_values", "float32", ("batch", 3, 48, 320))],
    "pp_ocrv6_small_rec": [("pixel_values", "float32", ("batch", 3, 48, 320))],
    "pp_ocrv6_tiny_rec": [("pixel_values", "float32", ("batch", 3, 48, 320))],
    "qwen3_asr_encoder": [
        ("input_features", "float32", ("batch", 16, 100)),
        ("input_features_mask", "int64", ("batch", 100), (1, 1)),
    ],
    "reformer": [("input_ids", "int64", ("batch", 16), (0, 98))],
    "sam3": [*LARGE_IMAGE, *TEXT],
    "sam3_lite_text": [*LARGE_IMAGE, *TEXT],
    "seggpt": [
        (name, "float32", ("batch", 3, 32, 32)) for name in ("pixel_values", "prompt_pixel_values", "prompt_masks")
    ],
    "shieldgemma2": TEXT,
    "speech-encoder-decoder": [
        ("input_values", "float32", ("batch", "samples")),
        ("decoder_input_ids", "int64", ("batch", "sequence"), (0, 98)),
    ],
    "speech_to_text": [*FEATURES, ("decoder_input_ids", "int64", ("batch", "sequence"), (0, 98))],
    "superglue": PAIR,
    "t5gemma2": [*IDS, *DECODER],
    "time_series_transformer": PAST,
    "timesfm": [("past_values", "float32", ("batch", 64))],
    "timesfm2_5": [("past_values", "float32", ("batch", 64))],
    "tvp": [  # its table of columns is viewed with the size of the batch, which holds of one alone
        ("input_ids", "int64", (1, "sequence"), (0, 98)),
        ("attention_mask", "int64", (1, "sequence"), (0, 1)),
        ("pixel_values", "float32", (1, 2, 3, 64, 64)),
    ],
    "udop": [
        *TEXT,
        ("bbox", "float32", ("batch", "sequence", 4), (0, 1)),
        *DECODER,
        ("decoder_attention_mask", "int64", ("batch", "decoder_sequence"), (0, 1)),
    ],
    "univnet": [*FEATURES, ("noise_sequence", "float32", ("batch", "frames", 64))],
    "vibevoice_acoustic_tokenizer_decoder": [("hidden_states", "float32", ("batch", 32, "frames"))],
    "vibevoice_acoustic_tokenizer_encoder": [("hidden_states", "float32", ("batch", 1, 4096))],
    "videomt": [("pixel_values_videos", "float32", ("batch", 2, 3, 32, 32))],
    "videoprism": [("pixel_values_videos", "float32", ("batch", 2, 3, 32, 32)), *IDS],
    "videoprism_vision_model": [("pixel_values_videos", "float32", ("batch", 2, 3, 32, 32))],
    "vjepa2": [("pixel_values_videos", "float32", ("batch", 4, 3, 32, 32))],
    "voxtral_realtime": [
        ("input_ids", "int64", ("batch", 8), (0, 98)),
        ("input_features", "float32", ("batch", 16, 64)),
    ],
    "voxtral_realtime_encoder": [("input_features", "float32", ("batch", 16, "frames"))],
    "wav2vec2-bert": [("input_features", "float32", ("batch", "frames", 160))],
    "wavtokenizer": WAVE,
    "wavtokenizer_encoder": WAVE,
    "xclip": [
        ("input_ids", "int64", ("images", "sequence"), (0, 98)),
        ("pixel_values", "float32", ("batch", 2, 3, 32, 32)),
    ],
    "xcodec": WAVE,
    "xcodec2": [*WAVE, ("input_features", "float32", ("batch", 13, 160))],
}
"""Inputs, each as name, dtype, axes and range of values, of families whose configurations do not say them."""

LONG = {"frames": (16, 64), "samples": (800, 4000), "characters": (16, 40)}
"""The ranges of axes in that table that are longer than those of text."""

SUMS = {"rows": ("batch", "batch")}
"""The terms of axes that count what other axes count together."""

LOOPED: dict[str, tuple[int, int]] = {"sequence": (9, 9)}
"""For code that loops over the sequence one step after another: its length is fixed, as mlc's own hint says."""

ONE = {"batch": (2, 2)}
"""For code that loops over the batch."""

SQUEEZED = {"sequence": (2, 24)}
"""For code whose outputs lose an axis of one, or that normalizes over the sequence: one token is another case."""

SIZES: dict[str, dict[str, tuple[int, int]]] = {
    "cpmant": LOOPED,
    "funnel": LOOPED,
    "nemotron3_5_asr": SQUEEZED,
    "nemotron_asr_streaming": SQUEEZED,
    "owlv2": {"sequence": (1, 16)},
    "owlvit": {"sequence": (1, 16)},
    "parakeet_rnnt": SQUEEZED,
    "parakeet_tdt": SQUEEZED,
    "pixtral": ONE,
    "reformer": ONE,
    "superpoint": ONE,
    "timesfm": ONE,
    "timesfm2_5": ONE,
    "tipsv2": SQUEEZED,
    "tipsv2_text_model": SQUEEZED,
}
"""Ranges of axes that a family is declared with in the place of the usual ones."""

TIMM = "needs the package timm"
GRID = "takes the grid of its patches as an input, whose values decide all sizes inside"
PLACES = "takes an image always, and a text with a token for each of its patches"
STATES = "takes the states of another model"
RANDOM = "draws at random in evaluation mode too"
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
    **dict.fromkeys(("instructblip", "instructblipvideo", "kosmos-2", "pi0"), PLACES),
    **dict.fromkeys(("gemma4_assistant", "gemma4_unified_assistant", "muse_glimmer_assistant"), STATES),
    **dict.fromkeys((
        "bark", "glm_image_vqmodel", "qwen2_5_omni", "qwen3_omni_moe", "sam3_tracker_video", "voxtral_realtime_text",
    ), NO_FORWARD),
    "dinat": "needs the package natten",
    "higgs_audio_v2_tokenizer": "needs the package torchaudio",
    "layoutlmv2": "needs the package detectron2",
    **dict.fromkeys(("informer", "vibevoice_acoustic_tokenizer", "vilt", "vit_mae", "vits"), RANDOM),
}  # fmt: skip
"""Families that are left out, and why."""
