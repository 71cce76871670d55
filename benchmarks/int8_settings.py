"""Every documented setting of onnxruntime's 8-bit quantization, and how a model is quantized with one.

The product of formats, types, granularity, range and calibration with and without pre-processing; every further option
alone, on the two settings that the documentation recommends for CPUs with and without VNNI.
"""

from __future__ import annotations

import itertools
import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlc.errors import MlcError, foreign

if TYPE_CHECKING:
    from mlc.types import Array, Arrays

BATCH = 32
TYPES = {"u8": "QUInt8", "s8": "QInt8", "u16": "QUInt16", "s16": "QInt16"}
METHODS = ("MinMax", "Entropy", "Percentile")

OPTIONS: tuple[Mapping[str, Any], ...] = (
    {"ActivationSymmetric": True},
    {"ActivationRestrictedAsymmetric": True},
    {"WeightSymmetric": False},
    {"EnableSubgraph": True},
    {"ForceQuantizeNoInputCheck": True},
    {"MatMulConstBOnly": True},
    {"AddQDQPairToWeight": True},
    {"OpTypesToExcludeOutputQuantization": ["Conv"]},
    {"OpTypesToExcludeOutputQuantization": ["Add"]},
    {"OpTypesToExcludeOutputQuantization": ["Gemm"]},
    {"DedicatedQDQPair": True},
    {"QDQOpTypePerChannelSupportToAxis": {"Gemm": 0}},
    {"CalibTensorRangeSymmetric": True},
    {"CalibStridedMinMax": 4},
    {"CalibMovingAverage": True},
    {"CalibMovingAverage": True, "CalibMovingAverageConstant": 0.1},
    {"CalibMaxIntermediateOutputs": 4},
    {"SmoothQuant": True},
    {"UseQDQContribOps": True},
    {"MinimumRealRange": 0.01},
    {"QDQKeepRemovableActivations": True},
    {"QDQDisableWeightAdjustForInt32Bias": True},
    {"method": "Percentile", "CalibPercentile": 99.99},
    {"method": "Percentile", "CalibPercentile": 99.9},
    {"method": "Percentile", "CalibPercentile": 99.0},
    {"method": "Distribution"},
    {"op_types_to_quantize": ["Conv"]},
    {"op_types_to_quantize": ["Conv", "Gemm", "MatMul"]},
    {"op_types_to_quantize": ["Conv", "Relu", "Add", "Gemm", "MatMul"]},
    {"activation": "u16"},
    {"activation": "s16"},
)
"""Options beside the product; ``method``, ``activation`` and ``op_types_to_quantize`` stand for those arguments.

Left out, since they name parts of one model and have no end: ``nodes_to_quantize``, ``nodes_to_exclude`` and
``TensorQuantOverrides``; and numbers of fewer than 8 bits.
"""

DYNAMIC_OPTIONS: tuple[Mapping[str, Any], ...] = (
    {"WeightSymmetric": False},
    {"MatMulConstBOnly": False},
    {"ForceQuantizeNoInputCheck": True},
    {"op_types_to_quantize": ["MatMul"]},
)


@dataclass(frozen=True)
class Setting:
    """One way to call ``quantize_static``, or ``quantize_dynamic`` where there is no calibration method."""

    form: str
    activation: str
    weight: str
    per_channel: bool
    reduce_range: bool
    method: str
    pre_process: bool
    options: Mapping[str, Any] = field(default_factory=dict)
    op_types: Sequence[str] | None = None

    @property
    def name(self) -> str:
        """The setting in words, all of it."""
        types = f"{self.activation}{self.weight}" if self.method else self.weight
        parts = [self.form, types, "per channel" if self.per_channel else "per tensor"]
        parts += ["reduce_range"] if self.reduce_range else []
        parts += [self.method] if self.method else []
        parts += [f"{key}={value}" for key, value in self.options.items()]
        parts += [f"op_types_to_quantize={','.join(self.op_types)}"] if self.op_types else []
        return ", ".join([*parts, "pre-processed"] if self.pre_process else parts)


def settings() -> tuple[Setting, ...]:
    """Return all settings, those that onnxruntime will refuse too."""
    yes_no = (False, True)
    static = [
        Setting(*parts)
        for parts in itertools.product(
            ("QDQ", "QOperator"), ("u8", "s8"), ("s8", "u8"), yes_no, yes_no, METHODS, yes_no
        )
    ]
    dynamic = [
        Setting("dynamic", "", weight, per_channel, reduce_range, "", pre_process)
        for weight, per_channel, reduce_range, pre_process in itertools.product(("s8", "u8"), yes_no, yes_no, yes_no)
    ]
    further = [_further("QDQ", options, reduce_range) for reduce_range in yes_no for options in OPTIONS]
    further += [_further("dynamic", options, reduce_range=False) for options in DYNAMIC_OPTIONS]
    return (*static, *dynamic, *further)


def few() -> tuple[Setting, ...]:
    """Return one setting of each kind, one that fails among them."""
    return (
        Setting("QDQ", "u8", "s8", per_channel=True, reduce_range=False, method="MinMax", pre_process=True),
        Setting("QDQ", "s8", "u8", per_channel=True, reduce_range=False, method="MinMax", pre_process=True),
        Setting("dynamic", "", "s8", per_channel=True, reduce_range=False, method="", pre_process=False),
    )


def _further(form: str, options: Mapping[str, Any], reduce_range: bool) -> Setting:
    rest = dict(options)
    static = form != "dynamic"
    return Setting(
        form,
        rest.pop("activation", "u8" if static else ""),
        "s8",
        per_channel=True,
        reduce_range=reduce_range,
        method=rest.pop("method", "MinMax" if static else ""),
        pre_process=True,
        op_types=rest.pop("op_types_to_quantize", None),
        options=rest,
    )


class Reader:
    """The calibration samples in batches, as ``quantize_static`` reads them; arrays by the name of the input."""

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays
        self.set_range(0, len(self))

    def __len__(self) -> int:
        return math.ceil(len(next(iter(self.arrays.values()))) / BATCH)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Begin again, with these batches alone."""
        self._places = iter(range(start_index, min(end_index, len(self))))

    def __iter__(self) -> Iterator[dict[str, Array]]:
        while (batch := self.get_next()) is not None:
            yield batch

    def get_next(self) -> dict[str, Array] | None:
        """Return the next batch, or None at the end."""
        place = next(self._places, None)
        if place is None:
            return None
        return {name: array[place * BATCH : (place + 1) * BATCH] for name, array in self.arrays.items()}


class Quantizer:
    """Quantizes one model with any setting; what calibration found is kept where settings share it."""

    def __init__(self, exported: Path, calibration: Arrays, folder: Path) -> None:
        from onnxruntime.quantization.shape_inference import quant_pre_process

        logging.getLogger().setLevel(logging.ERROR)
        self.arrays = {name: np.ascontiguousarray(array) for name, array in calibration.items()}
        self.folder = folder
        self.sources = {False: exported}
        self.refused: dict[bool, str] = {}
        pre_processed = folder / "pre-processed.onnx"
        try:
            with foreign("quant_pre_process"):
                quant_pre_process(str(exported), str(pre_processed))
            self.sources[True] = pre_processed
        except MlcError as error:
            self.refused[True] = error.message

    def __call__(self, setting: Setting, number: int) -> tuple[Path | None, str]:
        """Return the quantized file; or none, and what onnxruntime said."""
        if setting.pre_process in self.refused:
            return None, self.refused[setting.pre_process]
        place = self.folder / f"setting-{number}"
        place.mkdir()
        path = place / "model.onnx"
        try:
            with foreign("onnxruntime"):
                self._quantize(setting, path)
        except MlcError as error:
            return None, pathless(error.message.removeprefix("onnxruntime raised "))
        return path, ""

    def _quantize(self, setting: Setting, path: Path) -> None:
        from onnxruntime.quantization import (
            CalibrationMethod,
            QuantFormat,
            QuantType,
            quantize_dynamic,
            quantize_static,
        )

        common: dict[str, Any] = {
            "model_input": str(self.sources[setting.pre_process]),
            "model_output": str(path),
            "per_channel": setting.per_channel,
            "reduce_range": setting.reduce_range,
            "weight_type": QuantType[TYPES[setting.weight]],
            "extra_options": dict(setting.options),
            "op_types_to_quantize": list(setting.op_types) if setting.op_types else None,
        }
        if not setting.method:
            quantize_dynamic(**common)
            return
        quantize_static(
            **common,
            calibration_data_reader=Reader(self.arrays),
            quant_format=QuantFormat[setting.form],
            activation_type=QuantType[TYPES[setting.activation]],
            calibrate_method=CalibrationMethod[setting.method],
            calibration_cache_path=self._cache(setting),
        )

    def _cache(self, setting: Setting) -> Path | None:
        """Return where the ranges are kept that calibration finds; a setting with options finds its own."""
        if setting.options or setting.op_types or setting.activation not in ("u8", "s8"):
            return None
        return self.folder / f"ranges-{setting.method}-{setting.pre_process}.json"


def pathless(text: str) -> str:
    """Return a message without the folders of this machine and the line of this file."""
    return re.sub(r"(/[\w.-]+)+/| at (int8_settings|quantization_\w+)\.py:\d+ in \w+", "", text)[:200]
