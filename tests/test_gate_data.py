"""Which samples an accuracy belongs to: without that no two of them compare."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from mlc.data import Batch
from mlc.gating import NO_DIFFERENT, gate
from mlc.measuring.fingerprint import Fingerprint

MODEL = '<ir_version: 8, opset_import: ["" : 20]> net (float[n,4] x) => (float[n,4] y) { y = Softmax(x) }'


def digest(answers, *sizes):
    """Return the digest of ten samples and their answers, in batches of some sizes, the last one filled up."""
    kept = Fingerprint()
    images, first = np.arange(40, dtype=np.float32).reshape(10, 4), 0
    for size in sizes:
        rows = np.resize(images[first : first + size], (max(sizes), 4))
        kept.add(Batch({"x": rows}, answers[first : first + size], min(size, 10 - first), first, np.arange(size)))
        first += size
    return kept.hexdigest()


def test_the_digest_of_what_was_evaluated_knows_samples_and_answers_but_not_batches():
    labels = np.arange(10)
    assert digest(labels, 5, 5) == digest(labels, 4, 4, 2)
    assert digest(labels, 5, 5) != digest(labels[::-1], 5, 5)
    assert digest(labels, 5, 5) != digest(labels, 5)


@pytest.mark.needs_onnxruntime
def test_every_accuracy_says_what_it_was_evaluated_on(tmp_path, quick):
    from mlc.pipeline import compile as compile_recipe
    from mlc.recipe import Recipe, parse_inputs

    onnx.save(onnx.parser.parse_model(MODEL), tmp_path / "net.onnx")
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", x=rng.random((20, 4), np.float32), labels=rng.integers(0, 4, 20))
    inputs = parse_inputs(["x=float32[n=1..64,4]"])
    recipe = Recipe(f"{tmp_path}/net.onnx", inputs, data=f"{tmp_path}/data.npz", metric="top1")
    report = compile_recipe(recipe, None)
    (accuracy,) = {trial.accuracy for trial in report.trials}
    assert accuracy is not None
    assert len(accuracy.evaluated) == 64
    assert gate(report, report).findings[0].verdict == NO_DIFFERENT
