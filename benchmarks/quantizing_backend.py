"""How reliable conversions to float16 and dynamic int8 are, on the models of the onnx package's backend tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from benchmarks.common import MET, MISSED, Claim, Progress, Result, Summary, Table, result, run
from benchmarks.quantizing_backend_worker import TOLERANCE, TOOLS
from benchmarks.rewriting_backend import EVERY, Line, by_rewriter, failures, outcomes
from tests.backend_models import FORMS, NOT_RUN, OUTCOMES, SAME

WORKER = "benchmarks.quantizing_backend_worker"
OURS = "mlc"
MANY = 40
"""Reasons of so many nodes are told."""

NOTE = (
    f"Same: outputs within {TOLERANCE:g} of their rms, computed by onnxruntime's CPU provider without optimizations, "
    "in float16 with every value rounded, as a GPU has it. Silent: other numbers. Raised: the tool refused the model "
    "or failed. Not run: onnxruntime does not run the model as it is, or strings or sequences go in or out of it. "
    "Converted are nodes that then compute in float16, or products of matrices and recurrent layers that then compute "
    "on bytes, of models that are the same; a convolution whose scale is not known beforehand is slower on bytes, and "
    "mlc leaves it float. Floats made of whole numbers are sizes and positions: float16 holds those to 2,048 and ends "
    "at 65,504, and another size would be wrong."
)


def measure(quick: bool, progress: Progress) -> Result:
    """Judge all models, in both forms, by every tool that is installed; count what became of them."""
    every = EVERY if quick else 1
    found = by_rewriter(WORKER, every, progress)
    packages = [TOOLS[name].package.replace("_", "-") for name in found]
    return result("quantizing_backend", {"every": every, "forms": list(FORMS)}, packages=packages,
                  tools={name: counted(some) for name, some in found.items()},
                  absent=[name for name in TOOLS if name not in found])  # fmt: skip


def counted(found: list[Line]) -> dict[str, Any]:
    """Count outcomes and converted nodes, and keep every failure with its reason."""
    forms = {}
    for form in FORMS:
        mine = [one for one in found if one["form"] == form]
        right = [one["converted"] for one in mine if one["outcome"] == SAME]
        forms[form] = {
            "outcomes": outcomes(mine),
            "converted": sum(after - before for before, after in right),
            "left": dict(sum((Counter(one["left"]) for one in mine), Counter[str]()).most_common()),
        }
    return {"forms": forms, "failed": failures(found)}


def summary(measured: Result) -> Summary:
    """Lay the counts side by side; only what mlc does is promised."""
    found: dict[str, Any] = measured["tools"]
    claims = [claim for name in found if TOOLS[name].package == OURS for form in FORMS
              for claim in _claims(found, name, form)]  # fmt: skip
    failed = [(name, *one.values()) for name, counts in found.items() for one in counts["failed"]]
    tables = (
        Table("What became of the models", ("tool", "form", *OUTCOMES, "nodes converted"), tuple(_rows(found))),
        Table(
            f"Why mlc leaves nodes as they are, from {MANY} nodes on",
            ("tool", "form", "nodes", "why"),
            tuple(_left(found)),
        ),
        Table("What did not hold", ("tool", "model", "form", "outcome", "reason"), tuple(failed), brief=False),
    )
    missing = (f"Not installed, so not measured: {', '.join(measured['absent'])}.",) if measured["absent"] else ()
    return Summary(tuple(claims), tables, (NOTE, *missing))


def _claims(found: dict[str, Any], name: str, form: str) -> Iterator[Claim]:
    ours = found[name]["forms"][form]
    ran = sum(ours["outcomes"].values()) - ours["outcomes"][NOT_RUN]
    right = ours["outcomes"][SAME]
    yield Claim(f"{name}: numbers and interface are kept, {form}", f"{right} of {ran}", MET if right == ran else MISSED)
    peers = {other: found[other]["forms"][form]["converted"] for other in found
             if TOOLS[other].format == TOOLS[name].format and TOOLS[other].package != OURS}  # fmt: skip
    if peers:
        best = max(peers, key=lambda other: peers[other])
        told = f"{ours['converted']:,} and {peers[best]:,} {best.partition(',')[0]}"
        met = MET if ours["converted"] >= peers[best] else MISSED
        yield Claim(f"{name}: as many nodes as the best of the others converts rightly, {form}", told, met)


def _rows(found: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for name, counts in found.items():
        for form, one in counts["forms"].items():
            yield (name, form, *(str(one["outcomes"][outcome]) for outcome in OUTCOMES), str(one["converted"]))


def _left(found: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield the reasons of many nodes."""
    for name, counts in found.items():
        for form, one in counts["forms"].items():
            yield from ((name, form, f"{count:,}", reason) for reason, count in one["left"].items() if count >= MANY)


if __name__ == "__main__":
    run(measure, summary)
