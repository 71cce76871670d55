"""onnxruntime's block-wise quantizer on one model with one setting."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.int8_settings import Reader, pathless
from benchmarks.quantization_settings import Blocks
from mlc.errors import MlcError, foreign

if TYPE_CHECKING:
    from mlc.types import Arrays


def quantize_blocks(exported: Path, calibration: Arrays, setting: Blocks, path: Path) -> str:
    """Write the quantized model; return what onnxruntime said where it did not, else nothing."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    try:
        with foreign("onnxruntime"):
            quantizer = MatMulNBitsQuantizer(
                str(exported),
                bits=setting.bits,
                block_size=setting.block,
                is_symmetric=setting.symmetric,
                accuracy_level=setting.accuracy_level,
                algo_config=_algorithm(setting, calibration),
            )
            quantizer.process()
            quantizer.model.save_model_to_file(str(path))
    except MlcError as error:
        return pathless(error.message.removeprefix("onnxruntime raised "))
    return ""


def _algorithm(setting: Blocks, calibration: Arrays) -> Any:
    from onnxruntime.quantization import QuantFormat, matmul_nbits_quantizer

    common: dict[str, Any] = {
        "quant_format": QuantFormat[setting.form],
        "op_types_to_quantize": setting.op_types,
        **setting.options,
    }
    if setting.algorithm == "DEFAULT":
        return matmul_nbits_quantizer.DefaultWeightOnlyQuantConfig(
            block_size=setting.block,
            is_symmetric=setting.symmetric,
            accuracy_level=setting.accuracy_level,
            bits=setting.bits,
            **common,
        )
    if setting.algorithm == "HQQ":
        return matmul_nbits_quantizer.HQQWeightOnlyQuantConfig(block_size=setting.block, bits=setting.bits, **common)
    if setting.algorithm == "GPTQ":
        return matmul_nbits_quantizer.GPTQWeightOnlyQuantConfig(
            calibration_data_reader=Reader(calibration), block_size=setting.block, **common
        )
    if setting.algorithm == "RTN":
        return matmul_nbits_quantizer.RTNWeightOnlyQuantConfig(**common)
    return matmul_nbits_quantizer.KQuantWeightOnlyQuantConfig(**common)
