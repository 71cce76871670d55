"""How far outputs are from the original's: their signal to noise ratios, or those of the floats that decide them."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from mlc.compare import is_float, powers, ratio_db
from mlc.compare.decisions import decisions, with_outputs
from mlc.rewriting.outputs import OutputJudge


def ratios_of(outputs: OutputJudge, before: ir.Model, after: ir.Model) -> dict[str, float]:
    """Return the ratio in dB of every float output, and of the floats that decide the others, ``output (by value)``."""
    return {**_output_ratios(outputs, after), **_decider_ratios(outputs, before, after)}


def _output_ratios(outputs: OutputJudge, model: ir.Model) -> dict[str, float]:
    """Return the signal to noise ratio of every float output against the references together, in dB."""
    sums: dict[str, tuple[float, float]] = {}
    with outputs.runner.open(model) as run:
        for reference in outputs.references:
            given = run(reference.inputs)
            for name, expected in reference.outputs.items():
                if is_float(expected.dtype) and expected.size:
                    same = name in given and given[name].shape == expected.shape
                    signal, noise = powers(expected, given[name]) if same else (0.0, math.inf)
                    total = sums.get(name, (0.0, 0.0))
                    sums[name] = (total[0] + signal, total[1] + noise)
    return {name: ratio_db(*total) for name, total in sums.items()}


def _decider_ratios(outputs: OutputJudge, before: ir.Model, after: ir.Model) -> dict[str, float]:
    """Return, for integer and boolean outputs, the ratios of the float values that decide them, in dB.

    They are named ``output (by value)``.
    """
    old, new = decisions(before), decisions(after)
    pairs = [
        (f"{name} (by {value})", value, twin)
        for name, decision in old.items()
        if name in new
        for value, twin in zip(decision.values, new[name].values, strict=False)
        if value not in before.graph.initializers
    ]
    sums = {key: np.zeros(2) for key, _, _ in pairs}
    if not pairs:
        return {}
    models = (with_outputs(before, [pair[1] for pair in pairs]), with_outputs(after, [pair[2] for pair in pairs]))
    with outputs.runner.open(models[0]) as run_before, outputs.runner.open(models[1]) as run_after:
        for reference in outputs.references:
            expected, actual = run_before(reference.inputs), run_after(reference.inputs)
            for key, value, twin in pairs:
                known = value in expected and twin in actual and is_float(expected[value].dtype)
                if known and expected[value].shape == actual[twin].shape:
                    sums[key] += powers(expected[value], actual[twin])
    return {key: ratio_db(*total) for key, total in sums.items() if total.any()}
