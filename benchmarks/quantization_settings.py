"""Every documented setting of the peers in one list: onnxruntime's 8-bit and block-wise quantizers, and NNCF's three.

onnxruntime's 8-bit settings are those of ``int8_settings``. Left out everywhere, since they name parts of one model and
have no end, are lists of nodes.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from benchmarks import int8_settings

YES_NO = (False, True)


@dataclass(frozen=True)
class Blocks:
    """One way to call onnxruntime's ``MatMulNBitsQuantizer``; ``options`` are the further ones of the algorithm."""

    algorithm: str
    bits: int = 4
    block: int = 128
    symmetric: bool = False
    accuracy_level: int | None = None
    form: str = "QOperator"
    op_types: tuple[str, ...] = ("MatMul",)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The setting in words, all of it."""
        parts = [f"{self.algorithm} {self.bits} bits", f"blocks of {self.block}"]
        parts += ["symmetric"] if self.symmetric else []
        parts += [] if self.accuracy_level is None else [f"accuracy_level {self.accuracy_level}"]
        parts += [] if self.form == "QOperator" else [self.form]
        parts += [] if self.op_types == ("MatMul",) else ["+".join(self.op_types)]
        parts += [f"{key}={value}" for key, value in self.options.items()]
        return "onnxruntime blocks, " + ", ".join(parts)


@dataclass(frozen=True)
class Nncf:
    """One way to call a function of NNCF; enumerations by the names of their members, ``advanced`` in a table."""

    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    advanced: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The setting in words, all of it."""
        pairs = [f"{key}={value}" for key, value in {**self.arguments, **self.advanced}.items()]
        return ", ".join([f"nncf {self.function}", *pairs])


Setting: TypeAlias = int8_settings.Setting | Blocks | Nncf


def name_of(setting: Setting) -> str:
    """Return the name of a setting among those of all peers."""
    return f"onnxruntime {setting.name}" if isinstance(setting, int8_settings.Setting) else setting.name


def blocks() -> tuple[Blocks, ...]:
    """Return the settings of onnxruntime's block-wise quantizer: its default algorithm in full, the others alone."""
    sizes = (32, 128)
    default = [
        Blocks("DEFAULT", bits, block, symmetric, level)
        for bits, block, symmetric, level in itertools.product((4, 8), sizes, YES_NO, (None, 4))
    ]
    both = ("MatMul", "Gather")
    default += [Blocks("DEFAULT", 2, 32), Blocks("DEFAULT", 4, 16), Blocks("DEFAULT", 4, 64), Blocks("DEFAULT", 4, 256)]
    default += [Blocks("DEFAULT", 4, 32, symmetric, 4, op_types=both) for symmetric in YES_NO]
    default += [Blocks("DEFAULT", bits, 32, symmetric, form="QDQ") for bits in (4, 8) for symmetric in YES_NO]
    default += [Blocks("DEFAULT", 4, 32, form="QDQ", options={"channel_wised_quantize": True})]
    hqq = [Blocks("HQQ", bits, block) for bits in (2, 4, 8) for block in sizes]
    hqq += [Blocks("HQQ", 4, 32, op_types=both)]
    gptq = [
        Blocks("GPTQ", 4, block, options={"actorder": order, "mse": mse, "perchannel": channel})
        for block, order, mse, channel in itertools.product(sizes, YES_NO, YES_NO, YES_NO)
    ]
    others = [Blocks(algorithm, 4, 32, accuracy_level=level) for algorithm in ("RTN", "k_quant") for level in (None, 4)]
    return (*default, *hqq, *gptq, *others)


def nncf() -> tuple[Nncf, ...]:
    """Return the settings of NNCF's quantize, compress_weights and quantize_with_accuracy_control."""
    quantize = [
        Nncf("quantize", _given(preset=preset, model_type=kind, fast_bias_correction=fast), _given(overflow_fix=fix))
        for preset, kind, fast, fix in itertools.product(
            ("PERFORMANCE", "MIXED"), (None, "TRANSFORMER"), (None, False), (None, "ENABLE", "DISABLE")
        )
    ]
    quantize += [Nncf("quantize", {"target_device": device}) for device in ("CPU", "CPU_SPR", "GPU", "NPU")]
    further: tuple[Mapping[str, Any], ...] = (
        {"quantize_outputs": True},
        {"inplace_statistics": False},
        {"disable_channel_alignment": False},
        {"disable_bias_correction": True},
        {"batchwise_statistics": True},
        {"quantizer_propagation_rule": "DO_NOT_MERGE_BRANCHES"},
        {"quantizer_propagation_rule": "MERGE_IF_ALL_BRANCHES_SAME"},
        {"quantizer_propagation_rule": "MERGE_WITH_POTENTIAL_REQUANTIZATION"},
        {"smooth_quant_alphas": -1.0},
        {"smooth_quant_alphas": 0.5},
        {"activations_range_estimator_params": "MINMAX"},
        {"activations_range_estimator_params": "MEAN_MINMAX"},
        {"activations_range_estimator_params": "MEDIAN_MINMAX"},
        {"activations_range_estimator_params": "MEAN_NO_OUTLIERS_MINMAX"},
        {"activations_range_estimator_params": "MEAN_QUANTILE"},
        {"activations_range_estimator_params": "HISTOGRAM"},
        {"weights_quantization_params": {"per_channel": False}},
        {"activations_quantization_params": {"per_channel": True}},
    )
    quantize += [
        Nncf("quantize", _given(model_type=kind), advanced) for kind in (None, "TRANSFORMER") for advanced in further
    ]
    control = [
        Nncf("quantize_with_accuracy_control", _given(max_drop=drop, drop_type=kind, model_type=model))
        for drop, kind, model in itertools.product((0.01, 0.001), (None, "RELATIVE"), (None, "TRANSFORMER"))
    ]
    control += [
        Nncf("quantize_with_accuracy_control", {}, {"restore_mode": "ONLY_ACTIVATIONS"}),
        Nncf("quantize_with_accuracy_control", {}, {"tune_hyperparams": True}),
    ]
    return (*quantize, *weights(), *control)  # what takes longest comes last, for what is not done in time


def weights() -> tuple[Nncf, ...]:
    """Return the settings of NNCF's compress_weights."""
    four = ("INT4_SYM", "INT4_ASYM")
    compress = [Nncf("compress_weights", {"mode": mode}) for mode in ("INT8_SYM", "INT8_ASYM", "NF4", "E2M1")]
    compress += [
        Nncf("compress_weights", _given(mode=mode, group_size=size, all_layers=every))
        for mode, size, every in itertools.product(four, (-1, 32, 64, 128), (None, True))
    ]
    alone: tuple[Mapping[str, Any], ...] = (
        {"awq": True},
        {"scale_estimation": True},
        {"gptq": True},
        {"lora_correction": True},
        {"ratio": 0.8},
        {"ratio": 0.8, "sensitivity_metric": "HESSIAN_INPUT_ACTIVATION"},
        {"ratio": 0.8, "sensitivity_metric": "MEAN_ACTIVATION_VARIANCE"},
        {"ratio": 0.8, "sensitivity_metric": "MAX_ACTIVATION_VARIANCE"},
        {"ratio": 0.8, "sensitivity_metric": "MEAN_ACTIVATION_MAGNITUDE"},
        {"backup_mode": "NONE"},
        {"backup_mode": "INT8_SYM"},
    )
    compress += [Nncf("compress_weights", {"mode": mode, "group_size": 32, **one}) for mode in four for one in alone]
    return tuple(compress)


def _given(**options: Any) -> dict[str, Any]:
    """Return the options that are not left to the peer."""
    return {key: value for key, value in options.items() if value is not None}


def peers() -> tuple[Setting, ...]:
    """Return the one list: all settings of all peers, those that they will refuse too."""
    return (*int8_settings.settings(), *blocks(), *nncf())


def few() -> tuple[Setting, ...]:
    """Return one setting of each kind that needs nothing installed, one that fails among them."""
    return (*int8_settings.few(), Blocks("DEFAULT", 4, 32))


def recommended() -> tuple[int8_settings.Setting, ...]:
    """Return what onnxruntime's documentation says: for transformers and recurrent layers, and for convolutions.

    Each without its pre-processing too, which fails on some models.
    """
    dynamic = (
        int8_settings.Setting("dynamic", "", "s8", per_channel=True, reduce_range=False, method="", pre_process=yes)
        for yes in YES_NO
    )
    static = (
        int8_settings.Setting("QDQ", "u8", "s8", per_channel=True, reduce_range=False, method="MinMax", pre_process=yes)
        for yes in YES_NO
    )
    return *dynamic, *static


DYNAMIC = name_of(recommended()[0])

RECOMMENDED = (
    *map(name_of, recommended()),
    Nncf("quantize", {"preset": "PERFORMANCE"}).name,
    Nncf("quantize", {"preset": "MIXED", "model_type": "TRANSFORMER"}).name,
)
"""Timed on every model, however accurate they are: what a person who reads the documentation takes first."""
