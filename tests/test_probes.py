"""Probes take real values where there are any; references cover every size that memory and time allow."""

from dataclasses import replace

import numpy as np
import pytest

from mlc.dims import verified_sizes
from mlc.errors import SourceError, UsageError
from mlc.probes import check_example, probe, references
from mlc.probes import runs as probes
from mlc.recipe import parse_inputs
from mlc.types import Signature

IMAGE = parse_inputs(["image=float32[batch=1..8,2,h=4..8]"])
IDS = parse_inputs(["ids=int64[batch=1..8,seq=1..16] in 5..9"])


class Twice:
    """An original that doubles its input, and fails above a size."""

    def __init__(self, inputs, example=None, fails_above=10**9):
        self.signature = Signature(tuple(inputs), ())
        self.example = example or {}
        self.fails_above = fails_above
        self.ran: list[tuple[int, ...]] = []

    def run(self, inputs):
        (array,) = inputs.values()
        self.ran.append(array.shape)
        if array.shape[0] > self.fails_above:
            raise SourceError("the module Twice raised ValueError at model.py:3 in forward: too many rows")
        return {"y": array * 2}


def test_samples_come_first_and_are_tiled_and_cropped():
    samples = {"image": np.arange(3 * 2 * 6, dtype=np.float32).reshape(3, 2, 6)}
    made = probe(IMAGE, {"batch": 5, "h": 4}, {"image": np.ones((2, 2, 4), np.float32)}, samples, 0)["image"]
    assert made.shape == (5, 2, 4)
    np.testing.assert_array_equal(made[:3], samples["image"][:, :, :4])
    np.testing.assert_array_equal(made[3:], samples["image"][:2, :, :4])


def test_the_example_is_tiled_and_cropped_integers_too():
    example = {"ids": np.array([[1, 2, 3]])}
    made = probe(IDS, {"batch": 2, "seq": 5}, example, None, 0)["ids"]
    np.testing.assert_array_equal(made, [[1, 2, 3, 1, 2]] * 2)
    assert probe(IDS, {"batch": 1, "seq": 2}, example, None, 0)["ids"].tolist() == [[1, 2]]


def test_the_declared_range_is_kept_to_and_reached():
    made = probe(IDS, {"batch": 8, "seq": 16}, {}, None, 0)["ids"]
    assert (str(made.dtype), made.min(), made.max()) == ("int64", 5, 9)
    floats = probe(parse_inputs(["x=float32[64] in -2..3"]), {}, {}, None, 0)["x"]
    assert floats.min() >= -2
    assert floats.max() <= 3
    assert floats.dtype == np.float32


def test_integers_without_range_or_example_are_never_random():
    with pytest.raises(UsageError, match="nothing says which values the integer input 'ids'") as caught:
        probe(parse_inputs(["ids=int64[3]"]), {}, {}, None, 0)
    assert "in 0..99" in caught.value.hint


LENGTHS = parse_inputs(["x=float32[batch=1..8,seq=1..16]", "lengths=int64[batch] in 1..seq"])


def test_values_that_end_with_a_size_are_drawn_and_cut_by_it():
    drawn = probe(LENGTHS, {"batch": 8, "seq": 3}, {}, None, 0)["lengths"]
    assert (drawn.min(), drawn.max()) == (1, 3)
    example = {"lengths": np.array([2, 9, 4])}
    assert probe(LENGTHS, {"batch": 3, "seq": 3}, example, None, 0)["lengths"].tolist() == [2, 3, 3]
    assert probe(LENGTHS, {"batch": 4, "seq": 16}, example, None, 0)["lengths"].tolist() == [2, 9, 4, 2]


def test_lengths_that_fall_still_fall_where_there_are_more():
    example = {"lengths": np.array([9, 4, 2])}
    assert probe(LENGTHS, {"batch": 5, "seq": 16}, example, None, 0)["lengths"].tolist() == [9, 9, 4, 4, 2]


class Cut:
    """An original that needs the sequence to be as long as its lengths say."""

    signature = Signature(LENGTHS, ())

    def __init__(self, example):
        self.example, self.ran = example, []

    def run(self, inputs):
        self.ran.append(tuple(inputs["lengths"]))
        if inputs["lengths"].max() > inputs["x"].shape[1]:
            raise SourceError("too long")
        return {"y": inputs["x"]}


def test_the_ends_of_values_that_end_with_a_size_are_those_of_the_sizes_that_run():
    original = Cut({"x": np.ones((2, 5), np.float32), "lengths": np.array([2, 4])})
    kept, _ = references(original, None, 0)
    assert [one.values for one in kept if one.values] == ["lengths = 1", "lengths = 5"]
    assert original.ran[-2:] == [(1, 1), (5, 5)]


def test_where_lengths_may_be_too_long_the_hint_says_how_they_are_told():
    original = Cut({"x": np.ones((2, 5), np.float32), "lengths": np.array([2, 4])})
    original.signature = Signature(tuple(replace(spec, values=None, ceiling=None) for spec in LENGTHS), ())
    with pytest.raises(SourceError, match="does not hold at batch=1, seq=1: too long") as caught:
        references(original, None, 0)
    assert "as in --input 'lengths=int64[batch=1..8] in 1..seq'" in caught.value.hint


def test_floats_are_seeded_normal_and_a_blank_example_stands_for_its_shape():
    sizes = {"batch": 8, "h": 8}
    drawn = probe(IMAGE, sizes, {}, None, 3)["image"]
    np.testing.assert_array_equal(
        drawn, probe(IMAGE, sizes, {"image": np.zeros((2, 2, 4), np.float32)}, None, 3)["image"]
    )
    assert not np.array_equal(drawn, probe(IMAGE, sizes, {}, None, 4)["image"])
    assert 0.5 < drawn.std() < 1.5


def test_scalars_booleans_and_empty_axes():
    specs = parse_inputs(["a=float32[]", "b=bool[16]", "c=float32[n=0..4]"])
    made = probe(specs, {"n": 3}, {"c": np.empty(0, np.float32)}, None, 0)
    assert made["a"].shape == ()
    assert made["b"].dtype == bool
    assert set(made["b"].tolist()) == {True, False}
    np.testing.assert_array_equal(made["c"], np.zeros(3))
    assert probe(specs, {"n": 0}, {}, None, 0)["c"].shape == (0,)


def test_the_sizes_of_an_example_must_agree():
    specs = parse_inputs(["a=float32[n=1..9]", "b=float32[n]", "c=float32[total=n+m]", "d=float32[m=1..9]"])
    good = {"a": np.ones(2), "b": np.ones(2), "c": np.ones(5), "d": np.ones(3)}
    assert check_example(specs, good) == {"n": 2, "m": 3}
    with pytest.raises(UsageError, match=r"the example's c has 4 at axis 0 \(total\), but it should be 5"):
        check_example(specs, {**good, "c": np.ones(4)})
    with pytest.raises(UsageError, match=r"outside n=1\.\.9"):
        check_example(specs, {**good, "a": np.ones(12)})


def test_references_cover_the_verified_sizes_the_traced_first():
    original = Twice(IMAGE, {"image": np.ones((3, 2, 5), np.float32)})
    answers, skipped = references(original, None, 0)
    assert skipped == ()
    wanted = verified_sizes(IMAGE, {"batch": 3, "h": 5})
    assert [dict(answer.sizes) for answer in answers][: len(wanted)] == [dict(sizes) for sizes in wanted]
    assert answers[0].sizes == {"batch": 3, "h": 5}
    for answer in answers:
        np.testing.assert_array_equal(answer.outputs["y"], answer.inputs["image"] * 2)
        assert answer.inputs["image"].shape == (answer.sizes["batch"], 2, answer.sizes["h"])


def test_a_model_without_dims_has_one_reference():
    answers, skipped = references(Twice(parse_inputs(["x=float32[3]"])), None, 0)
    assert ([dict(answer.sizes) for answer in answers], skipped) == ([{}], ())


def test_what_memory_forbids_is_listed_and_the_rest_runs(monkeypatch):
    monkeypatch.setattr(probes, "memory_bytes", lambda: 4 * 2**20)
    big = parse_inputs(["x=float32[batch=1..4096,256]"])
    original = Twice(big)
    answers, skipped = references(original, None, 0)
    assert [answer.sizes["batch"] for answer in answers] == [2, 1, 3]
    (line,) = skipped
    assert line.startswith("batch=4096 was not run: it would take about")


def test_what_time_forbids_is_listed(monkeypatch):
    monkeypatch.setattr(probes, "SECONDS", -1.0)
    answers, skipped = references(Twice(IMAGE), None, 0)
    assert [dict(answer.sizes) for answer in answers] == [
        {"batch": 2, "h": 4},
        {"batch": 1, "h": 4},
        {"batch": 3, "h": 5},
    ]
    assert all("was not run: it would take more than" in line for line in skipped)
    assert len(skipped) == len(verified_sizes(IMAGE, {"batch": 2, "h": 4})) - 2


def test_a_size_at_which_the_model_fails_is_named_with_the_users_line():
    with pytest.raises(
        SourceError, match=r"does not hold at batch=8, h=4: .*model\.py:3 in forward: too many rows"
    ) as caught:
        references(Twice(IMAGE, fails_above=4), None, 0)
    assert "narrow the range" in caught.value.hint


class Lookup:
    """An original with a table of 10 rows, that refuses other indexes."""

    def __init__(self, *specs, example=None):
        self.signature = Signature(parse_inputs(specs), ())
        self.example = example or {}

    def run(self, inputs):
        if any(array.min() < 0 or array.max() > 9 for array in inputs.values()):
            raise SourceError("the module Lookup raised IndexError at model.py:3 in forward: index out of range")
        return {"y": sum(inputs.values()) * 1.0}


@pytest.mark.parametrize(("values", "value", "end"), [("0..2000", "ids = 2000", "high"), ("-3..9", "ids = -3", "low")])
def test_the_ends_of_a_range_are_run_although_the_example_lies_inside(values, value, end):
    original = Lookup(
        f"ids=int64[n=1..4] in {values}",
        "other=int64[n] in 0..9",
        example={"ids": np.array([1, 2]), "other": np.ones(2, int)},
    )
    with pytest.raises(SourceError) as caught:
        references(original, None, 0)
    assert caught.value.message == (
        f"the model does not hold for {value} (the {end} end of its range in {values}): "
        "the module Lookup raised IndexError at model.py:3 in forward: index out of range"
    )
    assert "narrow the range of ids" in caught.value.hint


def test_references_hold_the_ends_at_the_traced_sizes():
    answers, _ = references(Lookup("ids=int64[n=1..4] in 2..9", example={"ids": np.array([3, 4, 5])}), None, 0)
    ends = {answer.values: (answer.sizes, answer.inputs["ids"].tolist()) for answer in answers if answer.values}
    assert ends == {"ids = 2": ({"n": 3}, [2, 2, 2]), "ids = 9": ({"n": 3}, [9, 9, 9])}


class Masked(Twice):
    """Gives NaN for rows that are negative throughout, as a softmax over nothing does."""

    def run(self, inputs):
        (x,) = inputs.values()
        return {"y": np.where((x < 0).all(axis=-1, keepdims=True), np.nan, x).astype(np.float32)}


def test_nan_of_the_original_is_said():
    _, notes = references(Masked(parse_inputs(["x=float32[batch=1..8,1]"])), None, 0)
    assert notes[-1].startswith("the original itself gives NaN in y at batch=")
    _, notes = references(Twice(parse_inputs(["x=float32[batch=1..8,1]"])), None, 0)
    assert not [note for note in notes if "NaN" in note]


def test_tiles_of_an_example_differ_a_little_so_that_nothing_is_equal():
    example = np.array([[0.25, -1.5, 3.125]], np.float32)
    (wide,) = probe(parse_inputs(["x=float32[1,n=3..9]"]), {"n": 9}, {"x": example}, None, 0).values()
    assert len(np.unique(wide)) == wide.size
    assert (wide[:1, :3] == example).all()
    np.testing.assert_allclose(wide[0, 3:6], example[0], rtol=2**-7)
    (turned,) = probe(parse_inputs(["x=float32[a=1..4,n=2..9]"]), {"a": 4, "n": 2}, {"x": example}, None, 0).values()
    assert len(np.unique(turned)) == turned.size
    mask = np.array([[1, 0, 1]], np.float32)
    (marks,) = probe(parse_inputs(["x=float32[1,n=3..9]"]), {"n": 9}, {"x": mask}, None, 0).values()
    assert set(marks.ravel()) == {0, 1}
