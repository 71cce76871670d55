"""Metrics: the built-in ones by hand, the user's own as asked, and a sentence for every fault."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mlc.errors import DataError, UsageError
from mlc.metrics import BUILT_IN, decibels, from_function, load_metric

LOGITS = np.array([[0.1, 0.9, 0.0], [0.8, 0.1, 0.1], [0.2, 0.3, 0.5], [0.6, 0.3, 0.1]], np.float32)
LABELS = np.array([1, 0, 0, 1])


def scores(name, outputs, answers=None, original=None):
    """Scores and weights of a built-in metric, with plain arrays as the only output."""
    count = len(outputs)
    original = outputs if original is None else original
    return BUILT_IN[name].scores({"y": outputs}, answers, {"y": original}, np.arange(count))


def message(error):
    return f"{error.value.message} | {error.value.hint}"


def test_top1():
    values, weights = scores("top1", LOGITS, LABELS)
    assert values.tolist() == [1, 1, 0, 0]
    assert weights.tolist() == [1, 1, 1, 1]


def test_a_column_of_labels_is_taken():
    assert scores("top1", LOGITS, LABELS[:, np.newaxis].astype(np.uint8))[0].tolist() == [1, 1, 0, 0]


def test_top5():
    logits = np.tile(np.arange(8.0, dtype=np.float32), (8, 1))
    assert scores("top5", logits, np.arange(8))[0].tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    assert scores("top5", LOGITS, LABELS)[0].tolist() == [1, 1, 1, 1]


def test_mse():
    answers = LOGITS + np.array([[0.0], [1.0], [2.0], [-3.0]], np.float32)
    np.testing.assert_allclose(scores("mse", LOGITS, answers)[0], [0, 1, 4, 9], rtol=1e-6)
    column = np.zeros((4, 1), np.float32)
    assert scores("mse", column, np.full(4, 2.0))[0].tolist() == [4, 4, 4, 4]


def test_cosine():
    original = np.array([[3, 4], [0, 0], [0, 0], [1, 0]], np.float32)
    outputs = np.array([[6, 8], [0, 0], [1, 0], [0, 1]], np.float32)
    np.testing.assert_allclose(scores("cosine", outputs, None, original)[0], [1, 1, 0, 0], rtol=1e-12)


def test_agreement():
    original = LOGITS[[0, 0, 2, 2]]
    assert scores("agreement", LOGITS, None, original)[0].tolist() == [1, 0, 1, 0]
    tokens = np.stack([LOGITS, LOGITS])
    assert scores("agreement", tokens, None, np.stack([LOGITS, original]))[0].tolist() == [1, 0.5]


def test_sqnr_is_all_signal_over_all_noise():
    original = np.array([[3.0, 4.0], [0.0, 10.0], [0.0, 0.0]])
    outputs = np.array([[3.0, 4.5], [1.0, 10.0], [0.5, 0.0]])
    noise, signal = scores("sqnr", outputs, None, original)
    value = BUILT_IN["sqnr"].value(np.asarray((noise * signal).sum() / signal.sum()))
    assert float(value) == pytest.approx(10 * math.log10(125 / 1.5))
    assert decibels(np.array([0.0, 0.1])).tolist() == [math.inf, 10.0]


def test_what_each_metric_says_of_itself():
    assert sorted(BUILT_IN) == ["agreement", "cosine", "mse", "sqnr", "top1", "top5"]
    assert [name for name, metric in BUILT_IN.items() if not metric.higher_is_better] == ["mse"]
    assert [name for name, metric in BUILT_IN.items() if not metric.takes_max_drop] == ["sqnr"]
    assert [name for name, metric in BUILT_IN.items() if metric.needs_answers] == ["top1", "top5", "mse"]
    assert all("the first float output" in metric.reads for metric in BUILT_IN.values())


def test_the_first_float_output_is_read():
    outputs = {"ids": np.array([[5, 1]]), "logits": np.array([[0.0, 1.0]], np.float32), "other": np.zeros((1, 2))}
    values, _ = BUILT_IN["top1"].scores(outputs, np.array([1]), outputs, np.arange(1))
    assert values.tolist() == [1]
    with pytest.raises(DataError, match="no float output"):
        BUILT_IN["top1"].scores({"ids": outputs["ids"]}, np.array([1]), {}, np.arange(1))


@pytest.mark.parametrize(
    ("name", "outputs", "answers", "said"),
    [
        ("top1", LOGITS, None, "the metric top1 needs answers, and the data have none"),
        ("top1", LOGITS, np.array([0, 1, 2, 3]), "the answers hold the class 3, the output y has 3 classes"),
        ("top5", LOGITS, np.array([0, -1, 2, 2]), "the answers hold the class -1"),
        ("top1", LOGITS, LOGITS, "the answers are float32 of the shape (4, 3), not classes"),
        ("top1", np.stack([LOGITS]), np.array([0]), "the output y has the shape (1, 4, 3)"),
        ("mse", LOGITS, LABELS, "the answers have the shape (4,), which mse cannot compare"),
        ("agreement", np.zeros(4, np.float32), None, "agreement needs a row of classes a sample"),
        ("mse", LOGITS * np.nan, LOGITS, "the metric mse gave the score nan for sample 0"),
    ],
)
def test_answers_and_outputs_that_do_not_fit(name, outputs, answers, said):
    with pytest.raises(DataError) as error:
        scores(name, outputs, answers)
    assert said in message(error)


@pytest.mark.parametrize(("name", "said"), [("top2", "did you mean top"), ("x", "(or file.py:function)")])
def test_an_unknown_metric(name, said):
    with pytest.raises(UsageError) as error:
        load_metric(name)
    assert said in message(error)


# the user's own

INDEXES = np.array([10, 20, 30])


def own(function):
    return from_function("mine.py:metric", function).scores({"y": LOGITS[:3]}, LABELS[:3], {}, INDEXES)


def test_scores_alone_and_scores_with_weights():
    assert [one.tolist() for one in own(lambda outputs, answers: answers)] == [[1, 0, 0], [1, 1, 1]]
    values, weights = own(lambda outputs, answers: (outputs["y"][:, 0], [1, 2, 3]))
    np.testing.assert_array_equal(values, LOGITS[:3, 0])
    assert weights.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda outputs, answers: 1 / 0, "the metric mine.py:metric raised ZeroDivisionError at test_metrics.py"),
        (lambda outputs, answers: [1, 2], "gave 2 scores for 3 samples | it must return one score for each sample"),
        (lambda outputs, answers: 0.5, "gave 1 score for 3 samples"),
        (lambda outputs, answers: [1, math.nan, 2], "gave the score nan for sample 20"),
        (lambda outputs, answers: [1, 2, math.inf], "gave the score inf for sample 30"),
        (lambda outputs, answers: ([1, 2, 3], [1, 2]), "gave 2 weights for 3 samples"),
        (lambda outputs, answers: ([1, 2, 3], [1, -1, 2]), "gave a negative weight for sample 20"),
        (lambda outputs, answers: "good", "raised ValueError"),
        (lambda outputs, answers: outputs["z"], "raised KeyError"),
    ],
)
def test_metrics_that_fail(function, said):
    with pytest.raises(DataError) as error:
        own(function)
    assert said in message(error)


def test_a_metric_cannot_change_what_others_read():
    def spoil(outputs, answers):
        outputs["y"] *= 0
        answers *= 0
        return answers

    outputs, answers = {"y": LOGITS.copy()}, LABELS.copy()
    from_function("mine", spoil).scores(outputs, answers, {}, np.arange(4))
    np.testing.assert_array_equal(outputs["y"], LOGITS)
    np.testing.assert_array_equal(answers, LABELS)


def test_a_file_with_a_metric(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import math\n"
        "def perplexity(outputs, answers):\n"
        "    return -outputs['y'][:, 0], answers\n"
        "perplexity.higher_is_better = False\n"
        "perplexity.finish = math.exp\n"
    )
    metric = load_metric(f"{tmp_path / 'mine.py'}:perplexity")
    assert not metric.higher_is_better
    assert not metric.needs_answers
    np.testing.assert_allclose(metric.value(np.array([0.0, 1.0])), [1, math.e])


def test_a_finish_that_fails(tmp_path):
    def metric(outputs, answers):
        return answers

    vars(metric).update(finish=lambda mean: 1 / 0)
    with pytest.raises(DataError, match="finish of the metric mine raised ZeroDivisionError"):
        from_function("mine", metric).value(np.array([1.0]))


@pytest.mark.parametrize("function", [lambda outputs, _: outputs["logits"], lambda outputs, _: outputs + 1])
def test_a_metric_that_reads_what_is_not_there_is_told_what_is(function):
    metric = from_function("mine", function)
    outputs = {"output.0": LOGITS, "output.1": LOGITS}
    with pytest.raises(DataError) as caught:
        metric.scores(outputs, LABELS, outputs, np.arange(4))
    assert caught.value.hint == (
        "outputs is a dict by output name: output.0, output.1 (NumPy arrays); "
        "answers is a NumPy array, int64 of the shape (4,)"
    )
