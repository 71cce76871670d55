"""The models of the onnx package's own backend tests through the default passes: a seeded sample of them all."""

from __future__ import annotations

import random

import pytest

from passes.bf16 import Bf16
from passes.fp16 import Fp16
from tests.backend_models import (
    FORMS,
    NOT_RUN,
    SAME,
    SLOW,
    STORED,
    WithoutRanges,
    cases,
    judged,
    through_lossy,
    with_initializers,
)

pytestmark = pytest.mark.needs_onnxruntime

COUNTS = {"node": 85, "simple": 5, "pytorch-converted": 15, "pytorch-operator": 15}
"""So many models of each kind are in the sample; ``python -m benchmarks.rewriting_backend`` takes all."""


def sample():
    """Return a seeded choice, the same in every process that runs a part of the tests."""
    assert set(COUNTS) == {"node", *STORED}
    draw = random.Random(0)  # noqa: S311
    found = cases(without=SLOW)
    kinds = {kind: [case for case in found if case.name.startswith(f"{kind}/")] for kind in COUNTS}
    return [case for kind, count in COUNTS.items() for case in draw.sample(kinds[kind], count)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", sample(), ids=lambda case: case.name)
def test_rewriting_keeps_what_a_model_computes(case, form):
    verdict = judged(case if form == FORMS[0] else with_initializers(case))
    if verdict.outcome == NOT_RUN:
        pytest.skip(verdict.reason)
    assert (verdict.outcome, verdict.reason) == (SAME, "")


LOSSY = {"fp16": (Fp16(), WithoutRanges()), "bf16": (Bf16(),)}
IN_16_BITS = {case.name: case for case in sample()[::4]}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("subject", LOSSY)
@pytest.mark.parametrize("name", IN_16_BITS)
def test_16_bits_keep_what_a_model_computes(name, subject, form, monkeypatch):
    monkeypatch.setattr("passes._half.STORED_FROM", 64)
    case = IN_16_BITS[name]
    verdict = judged(case if form == FORMS[0] else with_initializers(case), through_lossy(*LOSSY[subject]))
    if verdict.outcome == NOT_RUN:
        pytest.skip(verdict.reason)
    assert (verdict.outcome, verdict.reason) == (SAME, "")
