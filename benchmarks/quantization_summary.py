"""What the result of ``benchmarks.quantization`` says: who is ahead of mlc's default, and which aims are met."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.common import INCONCLUSIVE, MET, MISSED, Claim, Interval, Result, Summary, Table
from benchmarks.int8_summary import figure_text, interval_text
from benchmarks.quantization_models import MINILM, STEP, WIDE_STEP
from benchmarks.quantization_settings import DYNAMIC, RECOMMENDED
from benchmarks.sets import speed
from mlc.judging import noise_band

FP32, DEFAULT = "fp32 export", "mlc int8"
AGAIN = f"{DEFAULT} again"
FIXED = (DEFAULT, AGAIN, FP32)
"""In every set that is timed: what is compared, a second copy of it that tells the noise, and what both are made of."""

GPTQ = "int4-weights:method=gptq"
FORMATS = ("int8-static", "int8-dynamic", "int8-weights", "int4-weights", GPTQ, "fp16", "bf16")
"""What mlc is asked for beside its default."""

THREADS = {"sets": "", "one_thread": ", one thread"}
"""How a claim calls the number of threads, by the key of its rounds."""

Rounds = list[dict[str, list[list[int]]]]


def ahead(accuracy: Mapping[str, Any], sets: Rounds) -> list[str]:
    """Return the peers' settings that came near: ahead of mlc's default in speed and an accuracy, by however little."""
    names = []
    for name, (ratio, _) in speeds(sets, DEFAULT).items():
        figures = [figure for figure in accuracy[name]["against"].values() if figure]
        if not is_ours(name) and ratio.high > 1 and any(value > 0 for value, _, _ in figures):
            names.append(name)
    return names


def beyond(one: Mapping[str, Any], figure: str) -> list[str]:
    """Return the settings that were, timed afresh, ahead in speed and in an accuracy beyond both intervals."""
    names = []
    for name, (ratio, noise) in speeds(one["afresh"], DEFAULT).items():
        better = one["accuracy"][name]["against"][figure]
        if ratio.low > noise_band(noise)[1] and better and better[1] > 0:
            names.append(name)
    return names


def speeds(sets: Rounds, than: str) -> dict[str, tuple[Interval, Interval]]:
    """Return how many times as fast every timed model is, and the noise of its set."""
    found: dict[str, tuple[Interval, Interval]] = {}
    for one in sets:
        noise = speed(one, AGAIN, DEFAULT)
        found |= {name: (speed(one, name, than), noise) for name in one if name not in FIXED}
    return found


def is_ours(name: str) -> bool:
    """Whether a model is not a peer's."""
    return name.startswith("mlc") or name == FP32


def cases(measured: Result) -> Iterator[tuple[str, str, Mapping[str, Any], Mapping[str, Any]]]:
    """Yield model, runtime, what is known of the model and what of it on the runtime, where mlc's default was timed."""
    for model, about in measured["models"].items():
        for runtime, one in about["runtimes"].items():
            if one.get("accuracy") and one.get("sets"):
                yield model, runtime, about, one


def summary(measured: Result) -> Summary:
    """Compare every setting with mlc's default, in accuracy and in speed, and the default with the aims."""
    claims = []
    for model, runtime, about, one in cases(measured):
        for figure, title in (("metric", title_of(about)), ("sqnr_db", "SQNR")):
            found = beyond(one, figure)
            text = f"{model} on {runtime}: no setting of a peer better in both {title} and speed"
            peers = sum(not is_ours(name) for name in one["accuracy"])
            measure = f"{len(found)} of {peers}" + (f": {'; '.join(found)}" if found else "")
            claims.append(Claim(text, measure, MISSED if found else MET))
    for model, about in measured["models"].items():
        for runtime, one in about["runtimes"].items():
            if not one.get("sets"):
                why = one["failed"].get(DEFAULT, "it could not be timed")
                claims.append(Claim(f"{model} on {runtime}: {DEFAULT} is made", why, MISSED))
    unmeasured = [f"Not measured: {model}: {reason}." for model, reason in measured["unmeasured"].items()]
    listed = (timed_table(measured), near_table(measured), all_table(measured), same_table(measured))
    return Summary((*claims, *aims(measured)), (*listed, failed_table(measured)), (*notes(measured), *unmeasured))


def title_of(about: Mapping[str, Any]) -> str:
    """Return what a model's metric is called, without its file."""
    return str(about["metric"]).rpartition(":")[2]


def notes(measured: Result) -> tuple[str, ...]:
    """Return what a reader of the tables should know."""
    lines = [f"{model}: {about['first_line']}" for model, about in measured["models"].items() if "first_line" in about]
    how = (
        "A setting counts as better where the 95 % interval of the difference, paired by sample or by round, lies on "
        "its side; for speed it has to lie beyond what two copies of one model show, too. Timed is what is more "
        "accurate than mlc's default so, and what the peers' documentation recommends."
    )
    places: dict[str, list[str]] = {}
    for model, about in measured["models"].items():
        places.setdefault(about["where"], []).append(model)
    machines = [f"Measured on {where}: {'; '.join(models)}." for where, models in places.items()]
    return how, *machines, *lines


def aims(measured: Result) -> Iterator[Claim]:
    """Yield the aims by model, where it was measured on onnxruntime."""
    found = {model: one for model, runtime, _, one in cases(measured) if runtime == "onnxruntime"}
    for model in (model for model in found if model.startswith(MINILM)):
        one = found[model]
        yield at_least(f"{model}, int8: cosine at least .995", one["accuracy"][DEFAULT]["value"], 0.995)
        yield from beside_dynamic(model, one)
        share = one["sizes"][DEFAULT] / one["sizes"][FP32]
        yield Claim(f"{model}, int8: file at most .26", f"{share:.3f}", MET if share < 0.265 else MISSED)
        if "mlc int4-weights" in one["accuracy"]:
            cosine = one["accuracy"]["mlc int4-weights"]["value"]
            yield at_least(f"{model}, int4 with embeddings: cosine at least .985", cosine, 0.985)
        yield from soon_enough(model, one["seconds"])
    for model in (model for model in found if model.startswith("char_gpt")):
        one = found[model]
        more = one["accuracy"][DEFAULT]["value"] / one["accuracy"][FP32]["value"] - 1
        yield Claim(f"{model}: perplexity within 0.1 %", f"{more:+.3%}", MET if more <= 0.001 else MISSED)
        yield from fast_enough(model, one, 1.5)
    for step in (STEP, WIDE_STEP):
        if step in measured["models"]:
            one = measured["models"][step]["runtimes"]["onnxruntime"]
            yield from fast_enough(step, one, 3.4)
    for model in (model for model in found if model.startswith("lstm")):
        yield from fast_enough(model, found[model], 2.0)
    for model, about in measured["models"].items():
        if "first_line" in about:
            yield said_plainly(model, about)


def said_plainly(model: str, about: Mapping[str, Any]) -> Claim:
    """Return whether the first line of the report says that fp32 is faster, where it is, and not where it is not."""
    timed = about["runtimes"]["onnxruntime"]
    ratio = speed((timed["afresh"] or timed["sets"])[0], DEFAULT, FP32)
    said = "slower" in about["first_line"].lower()
    right = ratio.high < 1 if said else ratio.low > 1
    outcome = MET if right else INCONCLUSIVE if ratio.low <= 1 <= ratio.high else MISSED
    told = f"{'slower' if said else 'not slower'}; {interval_text(ratio)} times the fp32 export"
    return Claim(f"{model}: the report says plainly whether fp32 is faster", told, outcome)


ALIKE = 0.97
"""What is as fast as another is surely no slower than this: a noisy round shows nothing."""


def beside_dynamic(model: str, one: Mapping[str, Any]) -> Iterator[Claim]:
    """Yield whether mlc's default is as fast as onnxruntime's dynamic quantization."""
    for threads in ("sets", "one_thread"):
        timed = next((each for each in one[threads] if DYNAMIC in each), None)
        if timed is not None:
            ratio, noise = speed(timed, DEFAULT, DYNAMIC), noise_band(speed(timed, AGAIN, DEFAULT))
            alike = ratio.low >= max(noise[0], ALIKE)
            outcome = MET if alike else MISSED if ratio.high < noise[0] else INCONCLUSIVE
            text = f"{model}, int8{THREADS[threads]}: as fast as onnxruntime's dynamic"
            yield Claim(text, interval_text(ratio), outcome)


def soon_enough(model: str, seconds: Mapping[str, float]) -> Iterator[Claim]:
    """Yield whether mlc's gptq of a model, with its verification, takes no more than 90 s; beside it onnxruntime's."""
    if f"mlc {GPTQ}" in seconds:
        mine, theirs = seconds[f"mlc {GPTQ}"], [value for name, value in seconds.items() if "blocks, GPTQ" in name]
        beside = f"; onnxruntime's {min(theirs):.0f} to {max(theirs):.0f} s" if theirs else ""
        text = f"{model}: gptq in at most 90 s"
        yield Claim(text, f"{mine:.0f} s{beside}", MET if mine <= 90 else MISSED)


def at_least(text: str, value: float, limit: float) -> Claim:
    """Return a claim on a figure."""
    return Claim(text, f"{value:.4f}", MET if value >= limit else MISSED)


def fast_enough(model: str, one: Mapping[str, Any], limit: float) -> Iterator[Claim]:
    """Yield claims on mlc's default beside the fp32 export: with one thread, as the aims are set, and with all."""
    for threads in ("one_thread", "sets"):
        ratio = speed(one[threads][0], DEFAULT, FP32)
        outcome = MET if ratio.low >= limit else MISSED if ratio.high < limit else INCONCLUSIVE
        text = f"{model}{THREADS[threads]}: at least {limit} times the fp32 export"
        yield Claim(text, interval_text(ratio), outcome)


def timed_table(measured: Result) -> Table:
    """Return mlc's formats and what the peers recommend, as far as it was timed; the rest is among all files."""
    rows: list[tuple[str, ...]] = []
    for model, runtime, about, one in cases(measured):
        timed = {name for each in one["sets"] for name in each if is_ours(name) or name in RECOMMENDED}
        rows += [(model, runtime, name, *row_of(about, one, name)) for name in one["accuracy"] if name in timed]
    for model, about in measured["models"].items():
        for runtime, one in about["runtimes"].items():
            if "accuracy" not in one:
                names = dict.fromkeys(name for each in one["sets"] for name in each if name != AGAIN)
                rows += [(model, runtime, name, "", "", "", fp32_cell(one, name)) for name in names]
    columns = ("model", "runtime", "format or setting", "metric", "SQNR, dB", "file", "times the fp32 export")
    return Table("What mlc makes, and what the peers recommend", columns, tuple(rows))


def row_of(about: Mapping[str, Any], one: Mapping[str, Any], name: str) -> tuple[str, str, str, str]:
    """Return metric, SQNR, size and speed of one file."""
    figures, sizes = one["accuracy"][name], one["sizes"]
    sqnr = "equal" if figures["sqnr_db"] is None else f"{figures['sqnr_db']:.1f}"
    value = f"{figures['value']:.4f} {title_of(about)}"
    return value, sqnr, f"{sizes[name] / sizes[FP32]:.2f}", fp32_cell(one, name)


def fp32_cell(one: Mapping[str, Any], name: str) -> str:
    """Return how many times as fast as the fp32 export a model is, in the first set that it is in."""
    timed = next((found for found in one["sets"] if name in found), None)
    return "1" if name == FP32 else "not timed" if timed is None else interval_text(speed(timed, name, FP32))


def near_table(measured: Result) -> Table:
    """Return the settings that came near, as they were timed afresh."""
    rows = []
    for model, runtime, _, one in cases(measured):
        for name, (ratio, noise) in speeds(one["afresh"], DEFAULT).items():
            figures = one["accuracy"][name]["against"].values()
            rows.append((model, runtime, name, interval_text(noise), interval_text(ratio), *map(figure_text, figures)))
    columns = ("model", "runtime", "setting", "noise", f"times {DEFAULT}", "metric better", "SQNR more, dB")
    return Table("Settings of peers that came near when first timed, timed afresh", columns, tuple(rows))


def all_table(measured: Result) -> Table:
    """Return every file that was judged."""
    rows = [
        (model, runtime, name, *row_of(about, one, name))
        for model, runtime, about, one in cases(measured)
        for name in one["accuracy"]
    ]
    columns = ("model", "runtime", "format or setting", "metric", "SQNR, dB", "file", "times the fp32 export")
    return Table(f"All {len(rows)} files", columns, tuple(rows), brief=False)


def same_table(measured: Result) -> Table:
    """Return the settings that gave the file of another one."""
    rows = [(model, *pair) for model, about in measured["models"].items() for pair in about.get("same", {}).items()]
    title = f"The {len(rows)} settings that give, byte for byte, the file of another one"
    return Table(title, ("model", "setting", "the file of"), tuple(rows), brief=False)


def failed_table(measured: Result) -> Table:
    """Return what does not work, and what is said of it."""
    rows = []
    for model, about in measured["models"].items():
        rows += [(model, "", *pair) for pair in about["failed"].items()]
        for runtime, one in about["runtimes"].items():
            rows += [(model, runtime, *pair) for pair in one.get("failed", {}).items()]
    title = f"The {len(rows)} that do not work"
    return Table(title, ("model", "runtime", "format or setting", "error"), tuple(rows), brief=False)
