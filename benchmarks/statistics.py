"""What collecting statistics costs: seconds beside the plain session, and memory as the samples grow."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import (
    MET,
    MISSED,
    ROOT,
    Claim,
    Progress,
    Result,
    Summary,
    Table,
    fresh_process,
    over_rounds,
    result,
    run,
)  # fmt: skip
from benchmarks.models import CALIBRATION, EVALUATION, Sample, sample, write
from benchmarks.statistics_worker import BATCH, COLLECTORS
from mlc.figures import ends, middle
from mlc.machine import memory_bytes

WORKER = "benchmarks.statistics_worker"
BASELINE = "session"
SAMPLES = (100, 1_000, 10_000)
ROUNDS = 3
FLAT = 0.05
"""The share by which the peak of memory may grow from the fewest samples to the most."""

MEMORY_SHARE = 0.5
BYTES_IN_MB = 1e6


def measure(quick: bool, progress: Progress, made: Sample | None = None) -> Result:
    """Run every collector in fresh processes, in random order, the fewest samples first; no round is dropped."""
    samples, rounds = ((25, 50), 1) if quick else (SAMPLES, ROUNDS)
    order = random.Random(0)  # noqa: S311
    kept: dict[str, dict[str, list[dict[str, Any]]]] = {name: {} for name in COLLECTORS}
    not_run: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="mlc-benchmark-") as folder:
        images = Path(folder, "images.npy")
        np.save(images, np.concatenate([np.load(ROOT / file)["image"] for file in (CALIBRATION, EVALUATION)]))
        model = write({"model": (made or sample()).rewritten}, Path(folder))["model"]
        for count in samples:
            for number in range(rounds):
                progress(f"{count} samples, round {number + 1} of {rounds}")
                for name in order.sample(list(COLLECTORS), len(COLLECTORS)):
                    reason = too_much(kept[name], count)
                    if reason:
                        not_run[f"{name}, {count} samples"] = reason
                        continue
                    asked = {"collector": name, "samples": count, "model": str(model), "images": str(images)}
                    try:
                        answer = fresh_process(WORKER, {**asked, "folder": folder})
                    except RuntimeError as error:
                        if not name.startswith("onnxruntime"):
                            raise
                        not_run[f"{name}, {count} samples"] = str(error).replace(folder, "")
                        continue
                    kept[name].setdefault(str(count), []).append(answer)
    settings = {"samples": list(samples), "rounds": rounds, "batch": BATCH, "seed": 0, "model": "fashion_cnn",
                "graph": "the export after the default passes"}  # fmt: skip
    return result("statistics", settings, rounds=kept, not_run=not_run)


def too_much(kept: Mapping[str, Sequence[Mapping[str, float]]], count: int) -> str:
    """Return why so many samples would not fit into memory, by what the two largest runs before took; or nothing."""
    done = sorted(int(samples) for samples in kept if int(samples) < count)
    if len(done) < 2:
        return ""
    fewer, more = done[-2:]
    peaks = [max(one["peak"] for one in kept[str(samples)]) for samples in (fewer, more)]
    expected = peaks[1] + (peaks[1] - peaks[0]) / (more - fewer) * (count - more)
    if expected <= memory_bytes() * MEMORY_SHARE:
        return ""
    return f"would take about {expected / 1e9:.0f} GB, by the growth from {fewer} to {more} samples"


def summary(measured: Result) -> Summary:
    """Set seconds beside the session's of the same round and samples, and peaks of memory beside each other."""
    kept = measured["rounds"]
    claims = [flat(name, by_samples) for name, by_samples in kept.items() if name.startswith("mlc")]
    notes = [f"Not run: {what}: {why}." for what, why in measured["not_run"].items()]
    notes.append(
        "Values are the arrays of which statistics are kept: mlc asks for those that give a scale, onnxruntime for "
        "every array at an operator that it could quantize."
    )
    return Summary(tuple(claims), (time_table(measured), memory_table(measured)), tuple(notes))


def flat(name: str, by_samples: Mapping[str, Sequence[Mapping[str, float]]]) -> Claim:
    """Return whether the peak of memory stays where it was."""
    fewest, *_, most = by_samples
    first, last = (float(np.median([one["peak"] for one in by_samples[key]])) for key in (fewest, most))
    text = f"{name}: memory flat (within {FLAT:.0%}) from {int(fewest):,} to {int(most):,} samples"
    figure = f"{first / BYTES_IN_MB:.0f} to {last / BYTES_IN_MB:.0f} MB"
    return Claim(text, figure, MET if last <= first * (1 + FLAT) else MISSED)


def ran(measured: Result) -> list[tuple[str, dict[str, list[dict[str, Any]]]]]:
    """Return the collectors that ran at all, with their rounds by number of samples."""
    return [(name, by_samples) for name, by_samples in measured["rounds"].items() if by_samples]


def time_table(measured: Result) -> Table:
    """Return the seconds for each number of samples, and the ratio to the session's for the most of them."""
    counts = measured["settings"]["samples"]
    rows = []
    for name, by_samples in ran(measured):
        most = max(int(count) for count in by_samples)
        own, base = ([one["seconds"] for one in kept[str(most)]] for kept in (by_samples, measured["rounds"][BASELINE]))
        ratio = over_rounds(np.array(own) / np.array(base))
        cells = [cell([one["seconds"] for one in by_samples.get(str(count), [])], 2) for count in counts]
        values = str(next(iter(by_samples.values()))[0]["values"])
        beside = "1" if name == BASELINE else f"{middle(ratio)} ({ends(ratio)})"
        rows.append((name, values, *cells, beside))
    columns = ("collector", "values", *(f"{count:,} samples, s" for count in counts), "times the session")
    title = "Seconds, median of the rounds, and times the plain session at the most samples that ran (95 % interval)"
    return Table(title, columns, tuple(rows))


def memory_table(measured: Result) -> Table:
    """Return the peaks of memory for each number of samples."""
    counts = measured["settings"]["samples"]
    rows = []
    for name, by_samples in ran(measured):
        peaks = [[one["peak"] / BYTES_IN_MB for one in by_samples.get(str(count), [])] for count in counts]
        rows.append((name, *(cell(each, 0) for each in peaks)))
    title = "Peak memory of the whole process, MB, median of the rounds"
    return Table(title, ("collector", *(f"{count:,} samples" for count in counts)), tuple(rows))


def cell(values: Sequence[float], decimals: int) -> str:
    """Return the median, or that it was not run."""
    return f"{np.median(values):,.{decimals}f}" if len(values) else "not run"


if __name__ == "__main__":
    run(measure, summary)
