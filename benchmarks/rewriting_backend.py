"""How reliable rewriting is: the models of the onnx package's backend tests through the default passes and peers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from benchmarks.common import MET, MISSED, ROOT, Claim, Progress, Result, Summary, Table, result, run
from benchmarks.rewriting_backend_worker import REWRITERS
from tests.backend_models import FORMS, NOT_RUN, OUTCOMES, RAISED, SAME

WORKER = "benchmarks.rewriting_backend_worker"
OURS = "mlc"
EVERY = 200
"""A quick run takes one model of so many."""

TOLD = 500
"""Models between two lines of progress."""

PASS_COUNTS = {
    "models": "models changed",
    "sites": "sites",
    "nodes": "nodes fewer",
    "left_out": "sites left out by the verification",
    "dropped": "models on which it was dropped",
}
PASS_COLUMNS = ("pass", "form", *PASS_COUNTS.values())

NOTE = (
    "Same: the same bits where only exact passes changed something, else within their tolerances; models in float16, "
    "which the CPU computes in float32, and those of peers within the tolerance of an export. Silent: other numbers. "
    "Not run: onnxruntime does not run the model, or strings or sequences go in or out of it. Nodes are those that "
    "compute: no Constant, and no copy of an initializer that gives an output. Those of models that are the same."
)

Line: TypeAlias = dict[str, Any]


def measure(quick: bool, progress: Progress) -> Result:
    """Judge all models, in both forms, by every rewriter that is installed; count what became of them."""
    every = EVERY if quick else 1
    found = by_rewriter(WORKER, every, progress)
    absent = [name for name in REWRITERS if name not in found]
    return result("rewriting_backend", {"every": every, "forms": list(FORMS)}, packages=list(found),
                  rewriters={name: counted(some) for name, some in found.items()}, absent=absent)  # fmt: skip


def by_rewriter(worker: str, every: int, progress: Progress) -> dict[str, list[Line]]:
    """Return what became of every so many models, by what rewrote them."""
    found: dict[str, list[Line]] = {}
    for done, one in enumerate(lines(worker, every), 1):
        found.setdefault(one["rewriter"], []).append(one)
        if done % TOLD == 0:
            progress(f"{done} models judged, the last by {one['rewriter']}")
    return found


def lines(worker: str, every: int) -> Iterator[Line]:
    """Yield what became of each model; one that ends the process is counted, and the next process goes on behind it."""
    done, begun, ended = 0, None, False
    while not ended:
        command = [sys.executable, "-m", worker, str(every), str(done)]
        with subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8"
        ) as process:
            assert process.stdout is not None
            for one in map(json.loads, process.stdout):
                begun = None if "outcome" in one else one
                if begun is None:
                    done += 1
                    yield one
        ended = begun is None
        if begun is not None:
            done += 1
            reason = f"the process ended with {process.returncode}"
            yield {**begun, "outcome": RAISED, "reason": reason, "nodes": [0, 0], "steps": []}
            begun = None
        elif process.returncode:
            raise RuntimeError(f"{worker} ended with exit code {process.returncode}")


def counted(found: Sequence[Line]) -> dict[str, Any]:
    """Count outcomes, nodes and sites, and keep every failure with its reason."""
    forms: dict[str, Any] = {}
    for form in FORMS:
        mine = [one for one in found if one["form"] == form]
        same = [one["nodes"] for one in mine if one["outcome"] == SAME]
        forms[form] = {
            "outcomes": outcomes(mine),
            "nodes": [sum(pair[place] for pair in same) for place in (0, 1)],
            "passes": by_pass(mine),
        }
    refused = Counter(one["reason"] for one in found if one["outcome"] == NOT_RUN)
    return {"forms": forms, "failed": failures(found), "not_run": dict(refused.most_common())}


def outcomes(found: Sequence[Line]) -> dict[str, int]:
    """Count how many models came to each outcome."""
    return {outcome: sum(one["outcome"] == outcome for one in found) for outcome in OUTCOMES}


def failures(found: Sequence[Line]) -> list[Line]:
    """Return every model whose numbers or interface did not hold, with the reason."""
    kept = ("model", "form", "outcome", "reason")
    return [{key: one[key] for key in kept} for one in found if one["outcome"] not in {SAME, NOT_RUN}]


def by_pass(found: Sequence[Line]) -> dict[str, dict[str, int]]:
    """Count, for each pass: models changed, its sites, nodes that went, sites left out by the verification."""
    passes: dict[str, Counter[str]] = {}
    for one in found:
        for step in one["steps"]:
            counts = passes.setdefault(step["pass"], Counter())
            left = 0 if step["dropped"] else len(step["left_out"])
            counts.update(models=step["sites"] > 0, sites=step["sites"], nodes=step["nodes"], left_out=left,
                          dropped=bool(step["dropped"]))  # fmt: skip
    return {name: dict(counts) for name, counts in passes.items()}


def summary(measured: Result) -> Summary:
    """Lay the counts side by side; only what mlc does is promised."""
    found: dict[str, Any] = measured["rewriters"]
    claims = []
    for form in FORMS:
        counts = found[OURS]["forms"][form]["outcomes"]
        ran = sum(counts.values()) - counts[NOT_RUN]
        kept = f"{counts[SAME]} of {ran}"
        claims.append(Claim(f"numbers and interface are kept, {form}", kept, MET if counts[SAME] == ran else MISSED))
    claims += [_as_many(found, form) for form in FORMS if len(found) > 1]
    rows = list(outcome_rows(found))
    failed = [(name, *one.values()) for name, counts in found.items() for one in counts["failed"]]
    refused = [(reason, str(count)) for reason, count in found[OURS]["not_run"].items()]
    tables = (
        Table("What became of the models", ("rewriter", "form", *OUTCOMES, "nodes before", "after"), tuple(rows)),
        Table("What the passes of mlc did", PASS_COLUMNS, tuple(pass_rows(found[OURS]))),
        Table("What did not hold", ("rewriter", "model", "form", "outcome", "reason"), tuple(failed), brief=False),
        Table("Why models were not run", ("reason", "models"), tuple(refused), brief=False),
    )
    missing = (f"Not installed, so not measured: {', '.join(measured['absent'])}.",) if measured["absent"] else ()
    return Summary(tuple(claims), tables, (NOTE, *missing))


def _as_many(found: dict[str, Any], form: str) -> Claim:
    """Return what became of the aim to leave out as many nodes as the best of the others does rightly."""
    fewer = {name: before - after for name, one in found.items() for before, after in [one["forms"][form]["nodes"]]}
    best = max((name for name in fewer if name != OURS), key=lambda name: fewer[name])
    told = f"{fewer[OURS]:,} and {fewer[best]:,} {best}"
    met = MET if fewer[OURS] >= fewer[best] else MISSED
    return Claim(f"as many nodes fewer as the best of the others, {form}", told, met)


def outcome_rows(found: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield a row for each rewriter and form."""
    for name, counts in found.items():
        for form, one in counts["forms"].items():
            yield (name, form, *(str(one["outcomes"][outcome]) for outcome in OUTCOMES), *map(str, one["nodes"]))


def pass_rows(counts: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield a row for each pass and form in which it found anything."""
    for form, one in counts["forms"].items():
        for name, sums in one["passes"].items():
            if sums["sites"] or sums["left_out"]:
                yield (name, form, *(str(sums[key]) for key in PASS_COUNTS))


if __name__ == "__main__":
    run(measure, summary)
