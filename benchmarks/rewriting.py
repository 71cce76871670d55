"""What rewriting, verifying and writing cost beside the export, on a network of ResNet-18's size."""

from __future__ import annotations

import numpy as np

from benchmarks.common import Claim, Progress, Result, Summary, Table, fresh_process, result, run, seconds_text

WORKER = "benchmarks.rewriting_worker"
ROUNDS = 3
FROM_MODULE, FROM_FILE = "torch module", ".onnx file, exported without optimization"
SOURCES = (FROM_MODULE, FROM_FILE)


def measure(quick: bool, progress: Progress) -> Result:
    """Compile both sources in turn, each time in a fresh process, and keep every stage's seconds."""
    rounds = 1 if quick else ROUNDS
    kept: dict[str, list[dict[str, object]]] = {source: [] for source in SOURCES}
    for number in range(rounds):
        for source in SOURCES[:: -1 if number % 2 else 1]:
            progress(f"round {number + 1} of {rounds}: {source}")
            kept[source].append(fresh_process(WORKER, {"file": source == FROM_FILE, "quick": quick}))
    settings = {"rounds": rounds, "model": "tiny_resnet" if quick else "resnet18", "passes": "the default ones"}
    return result("rewriting", settings, rounds=kept)


def summary(measured: Result) -> Summary:
    """Set the seconds of each stage beside those of the export."""
    tables, claims = [], []
    for source, rounds in measured["rounds"].items():
        export = [one["export"] for one in rounds]
        rows = []
        for stage in stages(rounds):
            seconds = [one["stages"].get(stage, 0.0) for one in rounds]
            rows.append((stage, seconds_text(seconds), share(seconds, export)))
        own = [one["stages"]["rewrite"] + one["writing"] for one in rounds]
        rows.append(("torch.onnx.export", seconds_text(export), "1"))
        title = f"From a {source.removeprefix('.onnx ')}: seconds of each stage, median (smallest to largest)"
        tables.append(Table(title, ("stage", "s", "of the export"), tuple(rows)))
        if rounds[0]["steps"]:
            tables.append(passes_table(source, rounds))
        claims.append(Claim(f"rewriting, verifying and writing beside the export, {source}",
                            f"{share(own, export)} of {np.median(export):.1f} s", "reported"))  # fmt: skip
    note = "`rewrite` is rewriting and verifying; of an unmodified export, which ships where no pass changed anything, "
    return Summary(tuple(claims), tuple(tables), (f"{note}the report has no seconds by pass.",))


def share(seconds: list[float], export: list[float]) -> str:
    """Return the median ratio over the rounds."""
    return f"{np.median(np.array(seconds) / np.array(export)):.2f}"


def stages(rounds: list[dict[str, dict[str, float]]]) -> list[str]:
    """Return the names of the stages in the order in which they ran."""
    return list(dict.fromkeys(stage for one in rounds for stage in one["stages"]))


def passes_table(source: str, rounds: list[dict[str, list[dict[str, float]]]]) -> Table:
    """Return what each pass did, and the seconds of rewriting and of verifying."""
    rows = []
    for index, step in enumerate(rounds[0]["steps"]):
        each = [one["steps"][index] for one in rounds]
        rows.append((str(step["name"]), str(step["sites"]), seconds_text([one["seconds"] for one in each]),
                     seconds_text([one["verify_seconds"] for one in each])))  # fmt: skip
    title = f"Passes over it ({source})"
    return Table(title, ("pass", "sites", "rewriting, s", "verifying, s"), tuple(rows))


if __name__ == "__main__":
    run(measure, summary)
