"""Written models against each other, nothing else: no torch, no original."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mlc.dims import legal, named, smallest
from mlc.errors import UsageError
from mlc.grammar.text import within
from mlc.manifest import Located, locate
from mlc.measuring import Candidate, Trial, measure
from mlc.pipeline.peaks import with_peaks
from mlc.pipeline.run import Progress, silent
from mlc.probes import probe
from mlc.recipe import check_sizes
from mlc.runtimes.strict import refuse_fallbacks
from mlc.sources.onnx.declared import OPEN, declared
from mlc.types import InputSpec, Sizes, Target


def bench(
    models: Sequence[Path],
    target: Target,
    at: Sizes,
    seconds: float,
    progress: Progress = silent,
    *,
    strict_provider: bool = False,
) -> tuple[Trial, ...]:
    """Measure models on seeded inputs of one size; the first is what the others are compared with.

    A dim that ``at`` does not name has the size at which the first artifact was measured, where that is legal for all;
    else the smallest legal one above 1, in an ``.onnx`` file 1. Raises UsageError where the models do not take the same
    inputs, or one was not verified at such a size, TargetError with ``strict_provider`` where nodes of one fall back
    from the target's provider.
    """
    located = [locate(model) for model in models]
    signatures = [_inputs(one) for one in located]
    for model, inputs in zip(models, signatures, strict=True):
        if _kinds(inputs) != _kinds(signatures[0]):
            raise UsageError(
                f"{model} takes {', '.join(_kinds(inputs))}; {models[0]} takes {', '.join(_kinds(signatures[0]))}",
                "measure models of one interface together",
            )
    inputs = next((one for one, place in zip(signatures, located, strict=True) if place.signature), signatures[0])
    check_sizes(at, inputs)
    sizes = _sizes(inputs, {**_measured(located), **at})
    for model, place in zip(models, located, strict=True):
        if place.signature:
            with within(str(model)):
                check_sizes(sizes, place.signature.inputs)
    values = probe(inputs, sizes, {}, None, 0)
    candidates = [
        Candidate(str(model), place.path, place.session_options) for model, place in zip(models, located, strict=True)
    ]
    if strict_provider:
        for candidate in candidates:
            refuse_fallbacks(candidate.name, candidate.path, target, candidate.session_options)
    trials = measure(candidates, values, target, sizes, seconds=seconds, progress=progress)
    return with_peaks(trials, inputs, target, progress)


def _inputs(located: Located) -> tuple[InputSpec, ...]:
    """Return the inputs as the manifest has them, or as the file does, which says nothing of values.

    Integers are all zero then: the one value that every index and id may have.
    """
    if located.signature:
        return located.signature.inputs
    inputs = declared(located.path).inputs
    return tuple(replace(spec, values=(0, 0)) if np.dtype(spec.dtype).kind in "iu" else spec for spec in inputs)


def _sizes(inputs: Sequence[InputSpec], at: Sizes) -> dict[str, int]:
    return {**{name: 1 if dim.high == OPEN else smallest(dim, above=1) for name, dim in named(inputs).items()}, **at}


def _measured(located: Sequence[Located]) -> dict[str, int]:
    """Return the sizes at which the first artifact was measured, as far as every artifact may have them."""
    first = next((dict(place.sizes) for place in located if place.signature), {})
    ranges = [named(place.signature.inputs) for place in located if place.signature]
    return {
        name: size for name, size in first.items() if all(name in dims and legal(dims[name], size) for dims in ranges)
    }


def _kinds(inputs: Sequence[InputSpec]) -> list[str]:
    return [f"{spec.name}={spec.dtype} of rank {len(spec.dims)}" for spec in inputs]
