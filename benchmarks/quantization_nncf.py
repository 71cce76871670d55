"""NNCF on one ONNX model with any number of settings; run as a module, in an environment where NNCF is installed.

    python -m benchmarks.quantization_nncf JOB.json

JOB.json names the model, its calibration and evaluation samples, the metric and the settings, each with the file to
write, and a file to which each setting adds a line when it is done: its name and what went wrong, in JSON.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlc.errors import MlcError, foreign
from mlc.metrics import load_metric

ENUMERATIONS = {
    "preset": "QuantizationPreset",
    "target_device": "TargetDevice",
    "model_type": "ModelType",
    "drop_type": "DropType",
    "mode": "CompressWeightsMode",
    "sensitivity_metric": "SensitivityMetric",
    "backup_mode": "BackupMode",
}


def split(path: str) -> tuple[list[dict[str, Any]], list[Any]]:
    """Return the samples of a file one by one, which NNCF's documentation prefers to batches, and their answers."""
    with np.load(path) as file:
        arrays = dict(file)
    answers = next((arrays.pop(name) for name in ("labels", "targets") if name in arrays), None)
    count = len(next(iter(arrays.values())))
    inputs = [{name: array[one : one + 1] for name, array in arrays.items()} for one in range(count)]
    return inputs, [None if answers is None else answers[one : one + 1] for one in range(count)]


def outputs_of(model: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return what runs a model in onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def validator(text: str) -> Callable[[Any, Iterable[Any]], tuple[float, list[float]]]:
    """Return what NNCF judges a model by: the metric, turned so that higher is better, and its score by sample.

    A sample of it is inputs, answer and what the original makes of them.
    """
    metric = load_metric(text)
    sign = 1 if metric.higher_is_better else -1

    def validate(model: Any, samples: Iterable[Any]) -> tuple[float, list[float]]:
        run = outputs_of(model)
        scores = [
            float(metric.scores(run(inputs), answer, expected, np.array([number]))[0][0])
            for number, (inputs, answer, expected) in enumerate(samples)
        ]
        return sign * float(metric.value(np.array([np.mean(scores)]))[0]), [sign * score for score in scores]

    return validate


def given(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with members of NNCF's enumerations in the place of their names."""
    import nncf

    return {
        key: getattr(getattr(nncf, ENUMERATIONS[key]), value) if key in ENUMERATIONS else value
        for key, value in arguments.items()
    }


def advanced(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return advanced options as NNCF takes them."""
    import nncf
    from nncf.common.quantization.quantizer_propagation.structs import QuantizerPropagationRule
    from nncf.quantization import advanced_parameters, range_estimator

    make: Mapping[str, Callable[[Any], Any]] = {
        "overflow_fix": lambda value: getattr(nncf.OverflowFix, value),
        "quantizer_propagation_rule": lambda value: getattr(QuantizerPropagationRule, value),
        "smooth_quant_alphas": lambda value: nncf.AdvancedSmoothQuantParameters(matmul=value),
        "activations_range_estimator_params": lambda value: getattr(range_estimator.RangeEstimatorParametersSet, value),
        "weights_quantization_params": lambda value: advanced_parameters.QuantizationParameters(**value),
        "activations_quantization_params": lambda value: advanced_parameters.QuantizationParameters(**value),
        "restore_mode": lambda value: getattr(advanced_parameters.RestoreMode, value),
    }
    return {key: make[key](value) if key in make else value for key, value in options.items()}


def quantized(asked: Mapping[str, Any], setting: Mapping[str, Any]) -> Any:
    """Return the model that NNCF makes with one setting."""
    import nncf
    import onnx

    model = onnx.load(asked["model"])
    arguments, further = given(setting["arguments"]), advanced(setting["advanced"])
    calibration = nncf.Dataset(split(asked["calibration"])[0])
    if setting["function"] == "compress_weights":
        needs_data = {"scale_estimation", "gptq", "lora_correction", "sensitivity_metric"} & set(arguments)
        return nncf.compress_weights(model, **arguments, **({"dataset": calibration} if needs_data else {}))
    if setting["function"] == "quantize":
        parameters = nncf.AdvancedQuantizationParameters(**further) if further else None
        return nncf.quantize(model, calibration, **arguments, advanced_parameters=parameters)
    inputs, answers = split(asked["evaluation"])
    run = outputs_of(model)
    restoring = nncf.AdvancedAccuracyRestorerParameters(**further) if further else None
    return nncf.quantize_with_accuracy_control(
        model,
        calibration,
        nncf.Dataset([(each, answer, run(each)) for each, answer in zip(inputs, answers, strict=True)]),
        validator(asked["metric"]),
        **arguments,
        advanced_accuracy_restorer_parameters=restoring,
    )


def results(asked: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield for each setting its name and what went wrong, which is empty where a file was written."""
    import nncf
    import onnx

    logging.getLogger("nncf").setLevel(logging.ERROR)
    for number, setting in enumerate(asked["settings"]):
        print(f"nncf: setting {number + 1} of {len(asked['settings'])}: {setting['name']}", file=sys.stderr, flush=True)
        try:
            with foreign(f"nncf {nncf.__version__}"):
                onnx.save(quantized(asked, setting), setting["path"])
            yield setting["name"], ""
        except MlcError as error:
            yield setting["name"], error.message


if __name__ == "__main__":
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    for done in results(job):
        with Path(job["results"]).open("a", encoding="utf-8") as file:
            file.write(json.dumps(done) + "\n")
