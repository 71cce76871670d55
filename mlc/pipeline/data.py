"""Which samples calibrate and which evaluate: never the same ones."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlc.data import Data, open_data, split
from mlc.errors import DataError, UsageError
from mlc.figures import counted
from mlc.grammar.formats import MIXED
from mlc.grammar.images import Images
from mlc.metrics import Metric
from mlc.pipeline.run import Live, either
from mlc.plan.formats import formats_for
from mlc.recipe import LIVE, Recipe
from mlc.references import code_parts
from mlc.registry import build
from mlc.statistics import Store, sample_digests
from mlc.types import PassSpec, Signature

if TYPE_CHECKING:
    from mlc.types import Arrays

CALIBRATION_SHARE = 0.2
"""Share of the samples that calibrate where calibration and evaluation come from one source."""

PROBED = 8
"""Samples that probe inputs are made of."""

NAMED = 10
"""Classes that a description names."""

SOURCES = "evaluate on samples that do not calibrate, or give one source and let mlc split it"


@dataclass(frozen=True)
class Datasets:
    """Two disjoint streams of samples; each may be missing. ``digests`` are those of live Python objects, by role.

    ``statistics`` were collected before; the calibration data are then what they were collected on, if that is there.
    """

    calibration: Data | None = None
    evaluation: Data | None = None
    notes: tuple[str, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)
    statistics: Store | None = None

    def first_samples(self) -> Arrays | None:
        """Return the first real samples, stacked by input name, for inputs that probe a graph; None without data."""
        data = self.evaluation or self.calibration
        if data is None:
            return None
        batch = next(iter(data.batches(PROBED)))
        return {name: array[: batch.count] for name, array in batch.inputs.items()}

    def described(self) -> dict[str, str]:
        """Return what the report says of the data: names, numbers of samples, what images became, classes."""
        parts = {"calibration": self.calibration, "evaluation": self.evaluation}
        return {role: _description(data) for role, data in parts.items() if data is not None}


def refuse_contradictions(recipe: Recipe, live: Live, specs: Sequence[PassSpec]) -> None:
    """Raise UsageError where something was asked for that could only be ignored.

    Data beside a plan from a file are not: the run that wrote it may have found no node with a scale known beforehand
    either, and a note says so.
    """
    calibrate, data, metric, statistics = (
        given is not None
        for given in (
            either(live.calibrate, recipe.calibrate),
            either(live.data, recipe.data),
            either(live.metric, recipe.metric),
            recipe.statistics,
        )
    )
    calibrating = _calibrating(specs) or recipe.plan is not None
    if statistics and not calibrating:
        raise UsageError("statistics were given and no pass reads any", "add --pass int8-static, or leave them out")
    if calibrate and not calibrating:
        raise UsageError(
            f"calibration data was given and no pass calibrates{_made_of(recipe)}",
            "leave it out, or take back a recipe's with --calibrate none; "
            "what calibrates is int8, int8-static, fp16, smooth-quant and int4-weights:method=gptq",
        )
    if recipe.images is not None and not (data or calibrate):
        raise UsageError("settings of images were given and no images", "give --data FOLDER, or --calibrate FOLDER")
    if metric and not (data or calibrate):
        raise UsageError("a metric was given and no data to compute it on", "give --data FILE.npz")
    if recipe.limits.max_drop is not None and not metric:
        raise UsageError("--max-drop is a drop of a metric, and no metric was given", "give --metric, such as top1")


def _made_of(recipe: Recipe) -> str:
    """Return what a format is made of on the target, where its name says less."""
    if recipe.to != MIXED:
        return ""
    return f": {MIXED} is {' and '.join(formats_for(MIXED, recipe.target))} on {recipe.target.provider}"


def has_data(recipe: Recipe, live: Live) -> bool:
    """Whether anything is given that a pass can calibrate on: data for it or for both ends, or statistics."""
    given = (either(live.calibrate, recipe.calibrate), either(live.data, recipe.data), recipe.statistics)
    return any(source is not None for source in given)


def refuse_missing_data(recipe: Recipe, live: Live, specs: Sequence[PassSpec], *, divided: bool) -> None:
    """Raise UsageError where a pass has nothing to calibrate on.

    Where lossy passes have ``divided`` the nodes among themselves, it is seen later whether any has to calibrate.
    """
    calibrating = _calibrating(specs)
    if calibrating and not divided and not has_data(recipe, live):
        raise UsageError(
            f"{calibrating[0].name} needs data to calibrate on, and none was given",
            "give --calibrate FILE.npz, --data for both, or --statistics FILE; random data is never used",
        )


def refuse_missing_answers(metric: Metric | None, evaluation: Data | None) -> None:
    """Raise DataError at once where a metric needs answers that the samples to be evaluated do not have."""
    if metric is None or evaluation is None or not metric.needs_answers or evaluation.has_answers:
        return
    raise DataError(
        f"the metric {metric.name} needs answers, and {evaluation.name} has none",
        "give --data with labels or targets beside the inputs, or a metric that needs none: cosine, agreement, sqnr",
    )


def datasets(
    recipe: Recipe, live: Live, signature: Signature, specs: Sequence[PassSpec], metric: Metric | None = None
) -> Datasets:
    """Open what was given, each a path, a function or a re-iterable; split where one source has to serve both ends.

    Raises DataError as ``open_data`` and ``Store.load`` do, and where the metric needs answers that what evaluates does
    not have; UsageError for settings of images where there are none.
    """
    calibration = _opened(either(live.calibrate, recipe.calibrate), signature, recipe.images)
    evaluation = _opened(either(live.data, recipe.data), signature, recipe.images)
    refuse_missing_answers(metric, evaluation or calibration)
    opened = {"calibrate": calibration, "data": evaluation}
    told = _told([data for data in opened.values() if data is not None], recipe, signature)
    digests = {
        key: _digest_of(data) for key, data in opened.items() if data is not None and getattr(live, key) is not None
    }
    if recipe.statistics is not None:
        statistics = Store.load(Path(recipe.statistics))
        calibration, evaluation, notes = _beside(statistics, calibration, evaluation)
        if metric is not None and evaluation is None:
            raise UsageError(
                f"the statistics {statistics.name} leave the metric {metric.name} nothing to be computed on",
                "give --data with samples that did not calibrate",
            )
        return Datasets(calibration, evaluation, (*told, *notes), digests, statistics)
    if calibration is not None and evaluation is not None:
        calibration, notes = _apart(calibration, evaluation)
        return Datasets(calibration, evaluation, (*told, *notes), digests)
    only = calibration or evaluation
    if only is None or (calibration is None and not _calibrating(specs)):
        return Datasets(None, only, told, digests)
    first, second = split(only, CALIBRATION_SHARE, recipe.seed)
    first, notes = _apart(first, second, "it holds the same samples again and again: give others")
    return Datasets(first, second, (*told, *notes), digests)


def _calibrating(specs: Sequence[PassSpec]) -> list[PassSpec]:
    return [spec for spec in specs if build(spec).calibrates]


def _opened(source: str | Iterable[Any] | None, signature: Signature, images: Images | None) -> Data | None:
    return None if source is None else open_data(source, signature.inputs, signature.outputs, images)


def _told(opened: Sequence[Data], recipe: Recipe, signature: Signature) -> tuple[str, ...]:
    """Return what the user has to know of the data. Raises UsageError for settings of images where there are none."""
    if recipe.images is not None and not any(data.source.from_images for data in opened):
        names = " and ".join(data.name for data in opened)
        raise UsageError(f"settings of images were given, and there are no images in {names}", "leave them out")
    notes = [note for data in opened for note in (*data.source.notes, *_class_notes(data, signature))]
    return tuple(dict.fromkeys(notes))


def _class_notes(data: Data, signature: Signature) -> Iterator[str]:
    """Say where the names of classes are not as many as the scores, and so may not stand in the model's order."""
    scores = [output.dims[-1] for output in signature.outputs if len(output.dims) == 2]  # noqa: PLR2004
    classes = len(data.source.classes)
    if classes and scores and classes not in scores and all(isinstance(size, int) for size in scores):
        yield (
            f"{data.source.name} has {classes} classes and the model {' and '.join(map(str, scores))} scores: "
            f"the label of a sample is the place of its class among the {classes}, in order of their names"
        )


def _description(data: Data) -> str:
    parts = [data.name, counted(len(data), "sample"), data.source.detail]
    classes = data.source.classes
    if classes:
        named = f"{', '.join(classes[:NAMED])}{', ...' if len(classes) > NAMED else ''}"
        parts.append(f"{counted(len(classes), 'class', 'classes')}: {named}")
    return ", ".join(part for part in parts if part).encode("utf-8", "replace").decode("utf-8")


def _apart(calibration: Data, evaluation: Data, hint: str = SOURCES) -> tuple[Data, tuple[str, ...]]:
    """Leave out of calibration what is in the evaluation data too, bit for bit, and say so.

    Raises UsageError where nothing is left.
    """
    kept, shared = _without(calibration, set(_digests(evaluation)))
    if not shared:
        return calibration, ()
    if kept is None:
        raise UsageError(
            f"every sample of the calibration data {calibration.name} is in the evaluation data {evaluation.name} too",
            hint,
        )
    note = f"{shared} calibration samples are evaluation samples too and were left out of calibration"
    return kept, (note,)


def _beside(
    statistics: Store, calibration: Data | None, evaluation: Data | None
) -> tuple[Data | None, Data | None, tuple[str, ...]]:
    """Return what the statistics were collected on, where that is there, and what else there is to evaluate on.

    Raises DataError for calibration data that they were not collected on, and UsageError where nothing is left to
    evaluate on.
    """
    seen = Counter(row.tobytes() for row in statistics.samples)
    if calibration is not None and evaluation is not None:
        calibration, notes = _apart(calibration, evaluation)
        if Counter(_digests(calibration)) != seen:
            raise _other_samples(statistics, calibration)
        return calibration, evaluation, notes
    only = calibration or evaluation
    if only is None:
        return None, None, ()
    digests = _digests(only)
    known = np.array([digest in seen for digest in digests], bool)
    same = Counter(digest for digest in digests if digest in seen) == seen
    rest = only.subset(~known, only.name) if not known.all() else None
    if calibration is not None and not same:
        raise _other_samples(statistics, calibration)
    if evaluation is not None and rest is None:
        raise UsageError(
            f"the statistics {statistics.name} were collected on every sample of the evaluation data {evaluation.name}",
            "evaluate on samples that did not calibrate",
        )
    told = f"evaluation samples are those of the statistics {statistics.name} and were left out of evaluation"
    notes = (f"{known.sum()} {told}",) if evaluation is not None and known.any() else ()
    return only.subset(known, only.name) if same else None, rest, notes


def _other_samples(statistics: Store, calibration: Data) -> DataError:
    return DataError(
        f"the statistics {statistics.name} were collected on {counted(len(statistics.samples), 'sample')}, and not on "
        f"the calibration data {calibration.name}",
        "give what they were collected on, or leave out one: --statistics, or a recipe's data with --calibrate none",
    )


def _digests(data: Data) -> list[bytes]:
    return [digest for batch in data for digest in sample_digests(batch)]


def _without(data: Data, seen: Collection[bytes]) -> tuple[Data | None, int]:
    """Leave out the samples of these digests; return the rest, None where there is none, and how many they were."""
    keep = np.array([digest not in seen for digest in _digests(data)], bool)
    shared = int((~keep).sum())
    return data.subset(keep, data.name) if keep.any() else None, shared


def replayable(recipe: Recipe, live: Live, source: str, sets: Datasets) -> Recipe:
    """Return the recipe with a digest, ``python:<digest>``, in the place of every live Python object."""
    places: dict[str, Any] = {}
    if live.module is not None:
        places["source"] = source
    places |= {key: f"{LIVE}{digest}" for key, digest in sets.digests.items()}
    if live.metric is not None:
        code = getattr(live.metric, "__code__", None) or getattr(type(live.metric).__call__, "__code__", None)
        parts = [repr(type(live.metric)).encode()] if code is None else code_parts(code)
        places["metric"] = f"{LIVE}{hashlib.sha256(b' '.join(parts)).hexdigest()[:16]}"
    return replace(recipe, **places)


def _digest_of(data: Data) -> str:
    digest = hashlib.sha256()
    for batch in data:
        digest.update(b"".join(sample_digests(batch)))
        if batch.answers is not None:
            digest.update(np.ascontiguousarray(batch.answers).tobytes())
    return digest.hexdigest()[:16]
