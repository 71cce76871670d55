"""The final check: the written file, with the session options that it ships with, against the kept answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mlc.compare import (
    END_TOLERANCE,
    Check,
    Difference,
    Reference,
    compare,
    compare_end,
    is_float,
    powers,
    ratio_db,
    sqnr,
)
from mlc.compare.decisions import deciders, decisions, with_outputs
from mlc.emulate import computes_half, rounded_half
from mlc.rewriting.sessions import Runner
from mlc.types import Target
from mlc.workspace import Workspace

if TYPE_CHECKING:
    from mlc.types import Arrays

STEP_FLOOR = 20.0
"""Ratio in dB that an output behind a discontinuity keeps where the optimized runtime flips some of its decisions."""

FLAWLESS, REARRANGED = 40.0, 20.0
"""Ratios in dB: more than the first says nothing of the size of an error, and the second is what a runtime may cost."""


FEW = 8
"""An output of no more numbers may be near 0 by chance: its error stands beside what the output has elsewhere too."""


def check_files(  # noqa: PLR0917 - one place calls it
    path: Path,
    references: Sequence[Reference],
    tolerance: float,
    floor: float | None,
    session_options: Mapping[str, str],
    target: Target,
    export: Path | None = None,
) -> tuple[Check, ...]:
    """Run a written model as it ships, at the size of every reference, and compare it with what the original answered.

    ``floor`` (dB) judges float outputs of a lossy artifact by their signal to noise ratio instead of the tolerance;
    integer outputs of one are counted, not judged. The runtime's optimizations may join its nodes and round
    differently, which costs it little; more than ``REARRANGED``, and they compute something else than the graph says.
    At the ends of declared ranges, which no calibration has seen, it has to give finite values where the original does.
    An output behind a discontinuity of an exact artifact may flip in the optimized runtime: it holds where it holds
    without optimizations, or is there what the checked ``export`` gives, and keeps ``STEP_FLOOR``.
    """
    from mlc.runtimes.opening import open_session, open_unoptimized

    with open_session(path, target, options=session_options) as session:
        answers = [session.run(reference.inputs) for reference in references]
    if floor is None:
        return tuple(
            _exact_check(path, references[0], reference, actual, tolerance, export)
            for reference, actual in zip(references, answers, strict=True)
        )
    with open_unoptimized(path, target if target.runtime == "onnxruntime" else Target()) as session:
        plain = [session.run(reference.inputs) for reference in references]
    usual = _usual_powers(references)
    return tuple(
        _lossy_check(path.name, reference, actual, tolerance, floor, usual, unoptimized)
        for reference, actual, unoptimized in zip(references, answers, plain, strict=True)
    )


def check_half(path: Path, references: Sequence[Reference], tolerance: float, floor: float) -> tuple[Check, ...]:
    """Check a lossy file that computes in float16 as a GPU computes it; no checks where it does not."""
    model = ir.load(path)
    if not computes_half(model):
        return ()
    with Workspace() as workspace, Runner(workspace).open(rounded_half(model)) as run:
        name, usual = f"{path.name} in strict float16", _usual_powers(references)
        return tuple(
            _lossy_check(name, reference, run(reference.inputs), tolerance, floor, usual) for reference in references
        )


def _usual_powers(references: Sequence[Reference]) -> dict[str, float]:
    """Return the mean square, over all references of usual values, of each float output that has few numbers in one."""
    usual = [reference.outputs for reference in references if not reference.values]
    few = {name for outputs in usual for name, array in outputs.items() if is_float(array.dtype) and array.size <= FEW}
    arrays = {name: [outputs[name] for outputs in usual if name in outputs] for name in few}
    sizes = {name: sum(array.size for array in each) for name, each in arrays.items()}
    return {name: sum(powers(array, array)[0] for array in arrays[name]) / size for name, size in sizes.items() if size}


def _lossy_check(  # noqa: PLR0917 - two places call it
    name: str,
    reference: Reference,
    actual: Arrays,
    tolerance: float,
    floor: float,
    usual: Mapping[str, float],
    unoptimized: Arrays | None = None,
) -> Check:
    """Hold the outputs at one reference to the floor, at the ends of declared ranges to finite values."""
    least, allowed = (-math.inf, math.inf) if reference.values else (floor, tolerance)
    differences = tuple(
        lossy_difference(output, array, actual, least, usual.get(output, 0.0))
        for output, array in reference.outputs.items()
    )
    if unoptimized is not None and not reference.values:
        differences = tuple(
            _as_unoptimized(each, reference.outputs, actual, unoptimized, usual.get(each.output, 0.0))
            for each in differences
        )
    return Check(name, reference.sizes, allowed, differences, None if reference.values else floor, reference.values)


def _as_unoptimized(
    difference: Difference, expected: Arrays, actual: Arrays, unoptimized: Arrays, usual: float
) -> Difference:
    """Refuse an output that the runtime's optimizations made worse than rounding can."""
    name = difference.output
    if difference or not is_float(expected[name].dtype) or not expected[name].size:
        return difference
    optimized, plain = (_ratio(expected[name], answers[name], usual) for answers in (actual, unoptimized))
    if optimized >= min(plain, FLAWLESS) - REARRANGED:
        return difference
    reason = f"{name} is at {optimized:.1f} dB, without the runtime's optimizations at {plain:.1f} dB"
    return Difference(name, difference.error, reason)


def _exact_check(  # noqa: PLR0917 - one place calls it
    path: Path, first: Reference, reference: Reference, actual: Arrays, tolerance: float, export: Path | None
) -> Check:
    """Compare what loses nothing on purpose with the answers at one reference; ``first`` is that of usual values."""
    if reference.values:
        tolerance = max(END_TOLERANCE, tolerance)
        differences = compare_end(first, reference, actual, tolerance)
    else:
        differences = compare(reference.outputs, actual, tolerance)
    if any(differences):
        differences = _judged_by_deciders(path, reference, actual, differences, tolerance, export)
    return Check(path.name, reference.sizes, tolerance, differences, values=reference.values)


def lossy_difference(name: str, expected: np.ndarray, answers: Arrays, floor: float, usual: float = 0.0) -> Difference:
    """Judge one output of a lossy artifact; the error of an integer output is the share of elements that differ.

    Where the original gives NaN, any number will do: integers hold none. ``usual`` is the mean square of the output
    over all that was asked: an output of few numbers is held against that where it is smaller by itself.
    """
    actual = answers.get(name)
    if actual is not None and is_float(expected.dtype) and actual.shape == expected.shape:
        actual = np.where(np.isnan(expected), expected, actual).astype(actual.dtype)
    (difference,) = compare({name: expected}, {} if actual is None else {name: actual}, float("inf"))
    if actual is None or actual.dtype != expected.dtype:
        return difference
    if not is_float(expected.dtype):
        same = actual.shape == expected.shape
        share = float(np.mean(actual != expected)) if same and expected.size else float(not same)
        return Difference(name, share)
    ratio = _ratio(expected, actual, usual) if expected.size else float("inf")
    if not difference and ratio < floor:
        return Difference(name, difference.error, f"{name} is at {ratio:.1f} dB, below the floor of {floor:g} dB")
    return difference


def _ratio(expected: np.ndarray, actual: np.ndarray, usual: float) -> float:
    """Return the signal to noise ratio in dB, of few numbers with the signal that is usual where theirs is smaller."""
    if expected.size > FEW or expected.shape != actual.shape:
        return sqnr(expected, actual)
    signal, noise = powers(expected, actual)
    return ratio_db(max(signal, usual * expected.size), noise)


def _judged_by_deciders(  # noqa: PLR0917 - one place calls it
    path: Path,
    reference: Reference,
    actual: Arrays,
    differences: Sequence[Difference],
    tolerance: float,
    export: Path | None,
) -> tuple[Difference, ...]:
    """Judge outputs that differ once more, by the floats that decide them, where there are such."""
    model = ir.load(path)
    known, behind = decisions(model), deciders(model)
    if not any(
        difference and (difference.output in known or difference.output in behind) for difference in differences
    ):
        return tuple(differences)
    extended = with_outputs(model, [name for decision in known.values() for name in decision.values])
    with Workspace() as workspace:
        values = Runner(workspace).run(extended, reference.inputs)
    plain = {each.output: each for each in compare(reference.outputs, values, tolerance, decisions=known)}
    shipped = {**values, **actual}
    judged = []
    for difference in differences:
        name = difference.output
        if difference and name in known:
            (judged_again,) = compare({name: reference.outputs[name]}, shipped, tolerance, decisions=known)
            judged.append(judged_again)
        elif (
            difference
            and name in behind
            and _close(reference.outputs[name], actual[name])
            and (not plain[name] or (export is not None and _as_exported(export, model, name, reference, tolerance)))
        ):
            judged.append(Difference(name, difference.error))
        else:
            judged.append(difference)
    return tuple(judged)


def _as_exported(export: Path, model: ir.Model, name: str, reference: Reference, tolerance: float) -> bool:
    """Whether an output is what the export gives, flips of what decides it excused.

    The export itself was compared with the original, flip by flip where a module brings its own quantizers.
    """
    from mlc.rewriting.outputs import OutputJudge
    from mlc.rewriting.sessions import Runner

    before = ir.load(export)
    with Workspace() as workspace:
        runner = Runner(workspace)
        wanted = Reference(reference.sizes, reference.inputs, runner.run(before, reference.inputs))
        judge = OutputJudge(runner, [wanted])
        (found,) = judge.differences(model, tolerance)
        same = not any(difference for difference in found if difference.output == name)
        return same or judge.excused(before, model, name, reference.inputs, tolerance)


def _close(expected: np.ndarray, actual: np.ndarray) -> bool:
    return is_float(expected.dtype) and expected.shape == actual.shape and sqnr(expected, actual) >= STEP_FLOOR
