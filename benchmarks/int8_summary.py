"""What the result of ``benchmarks.int8`` says: who is ahead of whom, beyond which interval."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.common import MET, MISSED, Claim, Result, Summary, Table
from benchmarks.sets import speed
from mlc.figures import ends, middle
from mlc.judging import noise_band
from mlc.types import Interval

NATIVE, TRAVELS, FP32, REWRITTEN = "mlc cpu:native", "mlc cpu", "fp32 export", "fp32 after the default passes"
AGAIN = f"{NATIVE} again"
FIXED = (NATIVE, AGAIN, TRAVELS, FP32)
"""In every set that is timed: what is compared, and a second copy of the first that tells the noise."""

OURS = (NATIVE, TRAVELS)


def speeds(measured: Result, than: str, stage: str) -> dict[str, tuple[Interval, Interval]]:
    """Return the speed of every model that was timed at a stage, and the noise of its set."""
    found: dict[str, tuple[Interval, Interval]] = {}
    for one in measured[stage]:
        noise = speed(one, AGAIN, NATIVE)
        found |= {name: (speed(one, name, than), noise) for name in one if name not in FIXED}
    return found


def ahead(measured: Result, ours: str, stage: str) -> list[str]:
    """Return the settings of onnxruntime that came near: ahead in speed and in an accuracy, by however little.

    Those too that are better in an accuracy, and may be faster by the interval of their speed.
    """
    names = []
    for name, (ratio, _) in speeds(measured, ours, stage).items():
        figures = [figure for figure in measured["accuracy"][name]["against"][ours].values() if figure]
        by_figures = ratio.value > 1 and any(value > 0 for value, _, _ in figures)
        by_intervals = ratio.high > 1 and any(low > 0 for _, low, _ in figures)
        if (by_figures or by_intervals) and not is_mlc(name):
            names.append(name)
    return names


def beyond(measured: Result, ours: str, accuracy: str) -> list[str]:
    """Return the settings that were, timed afresh, ahead in speed and in an accuracy beyond both intervals."""
    names = []
    for name, (ratio, noise) in speeds(measured, ours, "afresh").items():
        figure = measured["accuracy"][name]["against"][ours][accuracy]
        if ratio.low > noise_band(noise)[1] and figure and figure[1] > 0:
            names.append(name)
    return names


def is_mlc(name: str) -> bool:
    """Whether a model is not onnxruntime's."""
    return name.startswith("mlc") or name in (FP32, REWRITTEN)


def summary(measured: Result) -> Summary:
    """Compare every setting with mlc's int8, in accuracy and in speed."""
    claims = []
    for ours in OURS:
        for accuracy, title in (("top1", "top-1"), ("sqnr_db", "SQNR")):
            found = beyond(measured, ours, accuracy)
            text = f"{ours}: no setting of onnxruntime better in both {title} and speed"
            figure = f"{len(found)} of {measured['settings']['settings']}" + (f": {'; '.join(found)}" if found else "")
            claims.append(Claim(text, figure, MISSED if found else MET))
    listed = (all_table(measured), same_table(measured), failed_table(measured))
    tables = (ours_table(measured), near_table(measured), *listed)
    return Summary(tuple(claims), tables, notes(measured))


def notes(measured: Result) -> tuple[str, ...]:
    """Return what a reader of the tables should know."""
    saturating = [
        f"{name}: {'; '.join(text)}." for name, text in measured["saturation"].items() if text and name in OURS
    ]
    batch = measured["settings"]["timed_batch"]
    better = (
        "A setting counts as better where the 95 % interval of the difference, paired by image or by round, lies on "
        "its side; for speed it has to lie beyond what two copies of one model show, too."
    )
    return (
        f"Speed at {batch} images a run, accuracy on {measured['accuracy'][NATIVE]['images']:,} images.",
        better,
        *saturating,
    )


def ours_table(measured: Result) -> Table:
    """Return what mlc makes, and the fp32 models."""
    names = [name for name in measured["accuracy"] if is_mlc(name)]
    rows = [(*accuracy_cells(measured, name), fp32_cell(measured, name)) for name in names]
    return Table("By mlc", ("model", "top-1", "SQNR, dB", "times the fp32 export"), tuple(rows))


def fp32_cell(measured: Result, name: str) -> str:
    """Return how many times as fast as the fp32 export a model is, in the first set that it is in."""
    one = next((found for found in measured["sets"] if name in found), None)
    return "1" if name == FP32 else "not timed" if one is None else interval_text(speed(one, name, FP32))


def near_table(measured: Result) -> Table:
    """Return the settings that came near, as they were timed afresh."""
    rows = []
    for ours in OURS:
        near = set(ahead(measured, ours, "sets"))
        for name, (ratio, noise) in speeds(measured, ours, "afresh").items():
            if name not in near:
                continue
            figures = measured["accuracy"][name]["against"][ours]
            saturates = any("may saturate" in text for text in measured["saturation"][name])
            rows.append((ours, name, ends(noise), interval_text(ratio), *map(figure_text, figures.values()),
                         "may" if saturates else "no"))  # fmt: skip
    columns = ("beside", "setting", "noise", "times as fast", "top-1 more", "SQNR more, dB", "saturates without VNNI")
    title = "Settings of onnxruntime that came near when first timed, timed afresh"
    return Table(title, columns, tuple(rows))


def all_table(measured: Result) -> Table:
    """Return every setting that worked, the fastest first."""
    found = speeds(measured, NATIVE, "sets")
    names = sorted((name for name in found if not is_mlc(name)), key=lambda name: -found[name][0].value)
    rows = [
        (*accuracy_cells(measured, name), interval_text(found[name][0]), fp32_cell(measured, name)) for name in names
    ]
    columns = ("setting", "top-1", "SQNR, dB", f"times {NATIVE}", "times the fp32 export")
    return Table(f"All {len(names)} different files of the settings that work", columns, tuple(rows), brief=False)


def same_table(measured: Result) -> Table:
    """Return the settings that gave the file of another one."""
    same = measured["same"]
    title = f"The {len(same)} settings that give, byte for byte, the file of another one"
    return Table(title, ("setting", "the file of"), tuple(same.items()), brief=False)


def failed_table(measured: Result) -> Table:
    """Return the settings that do not work, and what onnxruntime says."""
    failed = measured["failed"]
    title = f"The {len(failed)} settings that do not work"
    return Table(title, ("setting", "error"), tuple(failed.items()), brief=False)


def accuracy_cells(measured: Result, name: str) -> tuple[str, str, str]:
    """Return a model's name and accuracy."""
    figures = measured["accuracy"][name]
    sqnr = figures["sqnr_db"]
    return name, f"{figures['top1']:.2%}", "equal" if sqnr is None else f"{sqnr:.1f}"


def interval_text(interval: Interval) -> str:
    """Return a ratio with its interval."""
    return f"{middle(interval)} ({ends(interval)})"


def figure_text(figure: Sequence[float] | None) -> str:
    """Return a difference with its interval."""
    return "equal" if figure is None else interval_text(Interval(*figure))
