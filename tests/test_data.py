"""Data: streamed, stacked, read again the same, and refused with one sentence where something is wrong."""

from __future__ import annotations

import tracemalloc
import zipfile
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from mlc.data import batch_size, filled_size, open_data, split
from mlc.errors import DataError, UsageError
from mlc.pipeline.data import datasets
from mlc.pipeline.run import Live
from mlc.recipe import merge, parse_inputs
from mlc.types import Dim, InputSpec, OutputSpec, PassSpec, Signature

BATCH = Dim(1, 64, name="batch")


def fixed(size):
    return Dim(size, size)


X = (InputSpec("x", "float32", (BATCH, fixed(3))),)
IDS = (
    InputSpec("ids", "int64", (BATCH, Dim(2, 16, 2, "seq")), (0, 99)),
    InputSpec("mask", "float32", (BATCH, Dim(2, 16, 2, "seq"))),
)


def rows(count, first=0):
    """Rows that tell their own index: [count, 3]."""
    return np.repeat(np.arange(first, first + count, dtype=np.float32)[:, np.newaxis], 3, axis=1)


def npz(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def message(error):
    return f"{error.value.message} | {error.value.hint}"


def all_rows(data, size=None):
    """All samples of the first input and all answers, the filling dropped."""
    batches = list(data.batches(size))
    name = data.inputs[0].name
    inputs = np.concatenate([batch.inputs[name][: batch.count] for batch in batches])
    answers = None if batches[0].answers is None else np.concatenate([batch.answers for batch in batches])
    return inputs, answers


# .npz files


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("size", [1, 7, 32, 64])
def test_a_file_is_read_whole_and_in_order(tmp_path, save, size):
    save(tmp_path / "d.npz", x=rows(101), labels=np.arange(101))
    data = open_data(str(tmp_path / "d.npz"), X)
    for _ in range(2):
        inputs, answers = all_rows(data, size)
        np.testing.assert_array_equal(inputs, rows(101))
        np.testing.assert_array_equal(answers, np.arange(101))
    assert (len(data), data.name, data.has_answers) == (101, "d.npz", True)
    assert [batch.first for batch in data.batches(size)] == list(range(0, 101, size))
    assert all(len(batch.inputs["x"]) == batch.count <= size for batch in data.batches(size))


def test_a_fixed_size_is_filled_up_and_the_filling_is_marked(tmp_path):
    spec = (InputSpec("x", "float32", (fixed(4), fixed(3))),)
    data = open_data(npz(tmp_path / "d.npz", x=rows(10), targets=rows(10)), spec)
    batches: Any = list(data)
    assert [batch.inputs["x"].shape for batch in batches] == [(4, 3)] * 3
    assert [batch.count for batch in batches] == [4, 4, 2]
    assert batches[-1].answers.shape == (2, 3)
    assert batches[-1].inputs["x"][:, 0].tolist() == [8, 9, 9, 9]
    assert batches[-1].indexes.tolist() == [8, 9]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_file_is_never_held_whole(tmp_path, save):
    spec = (InputSpec("x", "float32", (BATCH, fixed(4096))),)
    save(tmp_path / "d.npz", x=np.ones((2000, 4096), np.float32))
    array_bytes = 2000 * 4096 * 4
    tracemalloc.start()
    try:
        total = sum(float(batch.inputs["x"].sum()) for batch in open_data(str(tmp_path / "d.npz"), spec))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert total == 2000 * 4096
    assert peak < array_bytes / 8


def test_other_byte_order_is_the_same_numbers(tmp_path):
    data = open_data(npz(tmp_path / "d.npz", x=rows(5).astype(">f4")), X)
    (batch,) = data
    assert batch.inputs["x"].dtype.isnative
    np.testing.assert_array_equal(batch.inputs["x"], rows(5))


def test_arrays_can_be_written_to(tmp_path):
    (batch,) = open_data(npz(tmp_path / "d.npz", x=rows(5)), X)
    assert batch.inputs["x"].flags.writeable


def test_an_input_called_labels_is_an_input(tmp_path):
    specs = (*X, InputSpec("labels", "int64", (BATCH,)))
    data = open_data(npz(tmp_path / "d.npz", x=rows(5), labels=np.arange(5), targets=rows(5)), specs)
    (batch,) = data
    assert batch.inputs["labels"].tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(batch.answers, rows(5))


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"xx": rows(4)}, "d.npz has no array for the input 'x' | did you mean xx?"),
        ({"labels": np.arange(4)}, "d.npz has no array for the input 'x' | it has: labels"),
        ({"x": rows(4), "extra": rows(4)}, "has an array 'extra' that is not an input of the model"),
        ({"x": rows(4), "logits": rows(4)}, "it is an output of the model: call the answers labels or targets"),
        ({"x": rows(4), "labels": np.arange(4), "targets": rows(4)}, "has both labels and targets"),
        ({"x": rows(4).astype(np.float64)}, "the input x of d.npz is float64, the model takes float32"),
        ({"x": rows(4)[:, :, np.newaxis]}, "the input x of d.npz has the shape (4, 3, 1), not 2 axes"),
        ({"x": rows(4)[:, :2]}, "the input x of d.npz has size 2 at axis 1, the model takes 3"),
        ({"x": rows(4), "labels": np.arange(3)}, "d.npz has 4 samples of x and 3 of labels"),
        ({"x": rows(0)}, "d.npz has no samples"),
        ({"x": np.array([[1, "a"]], object)}, "the array x of d.npz holds Python objects"),
        ({"x": np.float32(1)}, "the array x of d.npz has no axis that runs over samples"),
        ({"x": np.asfortranarray(rows(4))}, "the array x of d.npz is in Fortran order"),
        ({"x": np.zeros(4, [("a", "f4")])}, "the input x of d.npz is void32, the model takes float32"),
        ({}, "d.npz holds no arrays"),
    ],
)
def test_files_that_do_not_fit(tmp_path, arrays, said):
    with pytest.raises(DataError) as error:
        open_data(npz(tmp_path / "d.npz", **arrays), X, (OutputSpec("logits", "float32", ("batch", 3)),))
    assert said in message(error)


@pytest.mark.parametrize(
    ("ids", "mask", "said"),
    [
        (
            np.zeros((2, 4), np.int64),
            np.zeros((2, 6), np.float32),
            "size 6 at axis 1, while ids has 4 for the same seq",
        ),
        (np.zeros((2, 18), np.int64), np.zeros((2, 18), np.float32), "has size 18 at axis 1, outside seq=2..16/2"),
        (np.zeros((2, 5), np.int64), np.zeros((2, 5), np.float32), "has size 5 at axis 1, outside seq=2..16/2"),
        (np.zeros((2, 4), np.int64), np.zeros((3, 4), np.float32), "has 2 samples of ids and 3 of mask"),
    ],
)
def test_sizes_outside_the_spec(tmp_path, ids, mask, said):
    with pytest.raises(DataError) as error:
        open_data(npz(tmp_path / "d.npz", ids=ids, mask=mask), IDS)
    assert said in message(error)


def test_inputs_without_an_axis_of_samples_are_told_to_take_one():
    """A graph is one call: its nodes run along axis 0 of one input, and edges have two rows."""
    nodes, ends = Dim(1, 30, name="nodes"), Dim(1, 60, name="edges")
    specs = (InputSpec("x", "float32", (nodes, fixed(3))), InputSpec("edges", "int64", (fixed(2), ends)))
    graph = [{"x": rows(7), "edges": np.zeros((2, 9), np.int64)}]
    with pytest.raises(DataError) as error:
        open_data(graph, specs)
    assert "7 samples of x and 2 of edges | samples run along axis 0 of every input: where a whole" in message(error)
    single = [InputSpec(spec.name, spec.dtype, (fixed(1), *spec.dims)) for spec in specs]
    assert len(open_data([{name: array[np.newaxis] for name, array in graph[0].items()}], single)) == 1


def test_a_sum_of_dims_is_checked(tmp_path):
    seq, past = Dim(1, 8, name="seq"), Dim(1, 8, name="past")
    total = Dim(2, 16, name="total", terms=("seq", "past"))
    specs = tuple(InputSpec(name, "float32", (BATCH, dim)) for name, dim in (("a", seq), ("b", past), ("c", total)))
    arrays = {"a": np.zeros((2, 3), np.float32), "b": np.zeros((2, 4), np.float32)}
    open_data(npz(tmp_path / "d.npz", **arrays, c=np.zeros((2, 7), np.float32)), specs)
    with pytest.raises(DataError, match=r"the input c of e\.npz has size 8 at axis 1, not total=seq\+past=7"):
        open_data(npz(tmp_path / "e.npz", **arrays, c=np.zeros((2, 8), np.float32)), specs)


@pytest.mark.parametrize(("value", "kind"), [(np.nan, "NaN"), (np.inf, "Inf"), (-np.inf, "Inf")])
def test_values_that_are_not_finite(tmp_path, value, kind):
    x = rows(100)
    x[70, 1] = value
    data = open_data(npz(tmp_path / "d.npz", x=x), X)
    with pytest.raises(DataError, match=rf"sample 70 of d\.npz has {kind} in the input x"):
        list(data)


def test_values_beyond_the_size_that_their_range_ends_with(tmp_path):
    inputs = parse_inputs(["x=float32[n=1..8,seq=2..16]", "lengths=int64[n] in 1..seq"])
    arrays = {"x": np.zeros((50, 4), np.float32), "lengths": np.full(50, 4)}
    assert sum(batch.count for batch in open_data(npz(tmp_path / "d.npz", **arrays), inputs)) == 50
    arrays["lengths"][41] = 5
    with pytest.raises(DataError, match=r"sample 41 of d\.npz has 5 in the input lengths, outside 1\.\.4"):
        list(open_data(npz(tmp_path / "d.npz", **arrays), inputs))


def test_values_outside_the_stated_range(tmp_path):
    ids = np.zeros((50, 4), np.int64)
    ids[41, 2] = 100
    data = open_data(npz(tmp_path / "d.npz", ids=ids, mask=np.zeros((50, 4), np.float32)), IDS)
    with pytest.raises(DataError, match=r"sample 41 of d\.npz has 100 in the input ids, outside 0\.\.99"):
        list(data)


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "there is no data file"), (b"", "is empty"), (b"PK\x03\x04 not a zip", "corrupt"), (b"text", "corrupt")],
)
def test_files_that_are_no_data(tmp_path, content, said):
    path = tmp_path / "d.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=said):
        open_data(str(path), X)


def test_a_member_that_is_no_array(tmp_path):
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(DataError, match=r"holds 'readme\.txt', which is not an array"):
        open_data(str(tmp_path / "d.npz"), X)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damage_inside_a_file_is_noticed(tmp_path, save):
    path = tmp_path / "d.npz"
    values = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)
    save(path, x=values)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"d\.npz (is corrupt|has)"):
        list(open_data(str(path), X))


def test_a_header_that_promises_more_than_there_is(tmp_path):
    whole = tmp_path / "x.npy"
    np.save(whole, rows(10))
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("x.npy", whole.read_bytes()[:-6])
    with pytest.raises(DataError, match=r"the array x of d\.npz ends early"):
        list(open_data(str(tmp_path / "d.npz"), X))


# functions and iterables


def test_a_function_of_the_user(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "def data():\n"
        "    return [{'x': np.full((2, 3), i, 'f'), 'labels': [i, i]} for i in range(3)]\n"
    )
    data = open_data(f"{tmp_path / 'mine.py'}:data", X)
    inputs, answers = all_rows(data)
    assert inputs[:, 0].tolist() == answers.tolist() == [0, 0, 1, 1, 2, 2]
    assert len(data) == 6


def test_a_data_loader():
    loader = DataLoader(TensorDataset(torch.from_numpy(rows(10)), torch.arange(10)), batch_size=3)
    data = open_data(loader, X)
    assert data.name == "the DataLoader"
    for size in (1, 4, 64):
        inputs, answers = all_rows(data, size)
        np.testing.assert_array_equal(inputs, rows(10))
        assert answers.tolist() == list(range(10))
    assert [batch.count for batch in data.batches(4)] == [4, 4, 2]


def test_a_tensor_that_needs_a_gradient_is_taken():
    (batch,) = open_data([torch.ones(2, 3, requires_grad=True)], X)
    assert batch.answers is None
    np.testing.assert_array_equal(batch.inputs["x"], np.ones((2, 3)))


def test_one_dict_of_arrays_is_one_batch():
    data = open_data({"x": rows(5), "labels": np.arange(5)}, X)
    assert all_rows(data, 2)[1].tolist() == [0, 1, 2, 3, 4]


def test_batches_of_other_lengths_are_not_mixed():
    batches = [(np.zeros((3, seq), np.int64), np.zeros((3, seq), np.float32)) for seq in (4, 4, 8)]
    data = open_data(batches, IDS)
    shapes = [(batch.inputs["ids"].shape, batch.count, batch.first) for batch in data.batches(4)]
    assert shapes == [((4, 4), 4, 0), ((2, 4), 2, 4), ((3, 8), 3, 6)]


def test_fixed_groups_run_across_the_users_batches():
    spec = (InputSpec("x", "float32", (fixed(4), fixed(3))),)
    data = open_data([(rows(3, first), np.arange(first, first + 3)) for first in (0, 3, 6)], spec)
    batches: Any = list(data)
    assert [(batch.count, batch.answers.tolist()) for batch in batches] == [
        (4, [0, 1, 2, 3]), (4, [4, 5, 6, 7]), (1, [8]),
    ]  # fmt: skip


class Broken:
    """Yields one batch and raises."""

    def __iter__(self):
        yield {"x": rows(2)}
        raise RuntimeError("the disk is on fire")


class Shuffling:
    """Gives its samples in another order each time."""

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def __iter__(self):
        yield {"x": rows(64)[self.rng.permutation(64)]}


@pytest.mark.parametrize(
    ("batches", "said"),
    [
        ((batch for batch in [rows(2)]), "the generator can be read only once"),
        ([], "the list has no samples"),
        ([{"x": rows(0)}], "the list has no samples"),
        ([{"y": rows(2)}], "batch 0 of the list has no array for the input 'x' | there are: y"),
        ([(rows(2), np.arange(2), 5)], "batch 0 of the list has 3 values for the 1 input of the model"),
        ([(rows(2), np.arange(3))], "batch 0 of the list has 2 samples of x and 3 of labels"),
        ([np.float32(3)], "x of batch 0 of the list has no axis"),
        ([{"x": [[1, 2], [3]]}], "x of batch 0 of the list raised ValueError"),
        ([{"x": [object()]}], "x of batch 0 of the list holds Python objects"),
        ([{"x": [[1.0, 2.0, 3.0]]}], "the input x of batch 0 of the list is float64"),
        ([{"x": torch.ones(2, 3, dtype=torch.bfloat16)}], "x of batch 0 of the list raised TypeError"),
        (5, "the data the int raised TypeError"),
    ],
)
def test_iterables_that_do_not_fit(batches, said):
    with pytest.raises(DataError) as error:
        open_data(batches, X)
    assert said in message(error)


@pytest.mark.parametrize(
    ("batches", "said"),
    [
        ([{"x": rows(2)}, {"x": rows(2)[:, :2]}], "the input x of batch 1 of the list has size 2 at axis 1"),
        ([{"x": rows(2), "labels": [0, 1]}, {"x": rows(2)}], "batch 1 of the list lacks answers"),
        ([{"x": rows(2)}, {"x": np.full((2, 3), np.nan, np.float32)}], "sample 2 of the list has NaN"),
        (Broken(), "the data the Broken raised RuntimeError at test_data.py"),
        (Shuffling(), "the Shuffling gives other samples when it is read again"),
    ],
)
def test_faults_that_show_later(batches, said):
    data = open_data(batches, X)
    with pytest.raises(DataError) as error:
        list(data)
    assert said in message(error)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def data(): return (i for i in [1])", "can be read only once"),
        ("def data(): raise ValueError('no network')", "raised ValueError at mine.py:1 in data: no network"),
        ("def data(): return None", "raised TypeError"),
        ("def dat(): return []", "data"),
    ],
)
def test_functions_that_do_not_fit(tmp_path, code, said):
    (tmp_path / "mine.py").write_text(code)
    with pytest.raises(DataError) as error:
        open_data(f"{tmp_path / 'mine.py'}:data", X)
    assert said in message(error)


# stacking


def spec(*dims):
    return [InputSpec(f"i{n}", "float32", (dim,)) for n, dim in enumerate(dims)]


@pytest.mark.parametrize(
    ("dims", "wanted", "size"),
    [
        ((Dim(1, 64, name="b"),), 32, 32),
        ((Dim(1, 8, name="b"),), 32, 8),
        ((Dim(40, 64, name="b"),), 32, 40),
        ((Dim(3, 100, 7, "b"),), 32, 31),
        ((fixed(4),), 32, 4),
        ((fixed(4), Dim(1, 64, name="b")), 32, 4),
        ((Dim(2, 64, 2, "b"), Dim(3, 63, 3, "c")), 32, 30),
        ((Dim(1, 2**40, name="b"),), 32, 32),
    ],
)
def test_the_size_of_a_batch(dims, wanted, size):
    assert batch_size(spec(*dims), wanted) == size


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (spec(fixed(2), fixed(3)), "no size in common (i0 2, i1 3)"),
        (spec(fixed(2), Dim(4, 8, name="b")), "no size in common (i0 2, i1 b=4..8)"),
        (spec(Dim(2, 9, name="t", terms=("a", "b"))), "axis 0 of i0, t, is a+b"),
        ([InputSpec("scale", "float32", ())], "the input scale is a single number"),
        ([], "no inputs"),
        ([*spec(Dim(1, 8, name="s")), InputSpec("y", "float32", (BATCH, Dim(1, 8, name="s")))], "is also an axis of y"),
    ],
)
def test_samples_that_cannot_be_stacked(inputs, said):
    with pytest.raises(DataError) as error:
        batch_size(inputs, 32)
    assert said in message(error)


def test_a_remainder_is_filled_to_a_legal_size(tmp_path):
    inputs = (InputSpec("x", "float32", (Dim(4, 64, 4, "batch"), fixed(3))),)
    data = open_data(npz(tmp_path / "d.npz", x=rows(21)), inputs)
    assert [(len(batch.inputs["x"]), batch.count) for batch in data.batches(8)] == [(8, 8), (8, 8), (8, 5)]
    assert filled_size(inputs, 1) == 4


@settings(max_examples=60, deadline=None)
@given(
    chunks=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    low=st.integers(1, 5),
    steps=st.integers(0, 6),
    step=st.integers(1, 4),
    wanted=st.integers(1, 20),
)
def test_every_sample_comes_once_in_legal_groups(chunks, low, steps, step, wanted):
    dim = Dim(low, low + steps * step, step, "batch")
    starts = np.cumsum([0, *chunks])
    data = open_data(
        [{"x": rows(count, start)} for count, start in zip(chunks, starts, strict=False)],
        (InputSpec("x", "float32", (dim, fixed(3))),),
    )
    batches = list(data.batches(wanted))
    assert np.concatenate([batch.indexes for batch in batches]).tolist() == list(range(sum(chunks)))
    for batch in batches:
        size = len(batch.inputs["x"])
        assert dim.low <= size <= dim.high
        assert (size - dim.low) % dim.step == 0
        np.testing.assert_array_equal(batch.inputs["x"][: batch.count, 0], batch.indexes)
        np.testing.assert_array_equal(batch.inputs["x"][batch.count :, 0], batch.indexes[-1])


# splitting


def test_a_split_is_disjoint_whole_and_seeded(tmp_path):
    data = open_data(npz(tmp_path / "d.npz", x=rows(101), labels=np.arange(101)), X)
    first, second = split(data, 0.3, 7)
    indexes = [np.concatenate([batch.indexes for batch in part]).tolist() for part in (first, second)]
    assert [len(part) for part in indexes] == [len(first), len(second)] == [30, 71]
    assert sorted(indexes[0] + indexes[1]) == list(range(101))
    for part, expected in zip((first, second), indexes, strict=True):
        inputs, answers = all_rows(part, 8)
        assert inputs[:, 0].tolist() == answers.tolist() == expected
    again = np.concatenate([batch.indexes for batch in split(data, 0.3, 7)[0]]).tolist()
    other = np.concatenate([batch.indexes for batch in split(data, 0.3, 8)[0]]).tolist()
    assert again == indexes[0] != other
    assert first.name == "d.npz (30 of 101 samples)"


def test_a_sample_that_comes_twice_is_never_on_both_ends(tmp_path):
    path = npz(tmp_path / "d.npz", x=np.concatenate([rows(80), rows(20)]))
    recipe = merge(None, {"source": "python:", "calibrate": str(path)})
    sets = datasets(recipe, Live(), Signature(tuple(X), ()), [PassSpec("int8-static")])
    assert sets.calibration is not None
    assert sets.evaluation is not None
    inside, outside = (
        {array.tobytes() for batch in part.batches() for array in batch.inputs["x"]}
        for part in (sets.calibration, sets.evaluation)
    )
    assert inside
    assert not inside & outside
    assert [note for note in sets.notes if "left out" in note]


def test_a_part_can_be_split_again():
    data = open_data([{"x": rows(40)}], X)
    part, _ = split(data, 0.5, 0)
    left, right = split(part, 0.5, 1)
    indexes = [set(np.concatenate([batch.indexes for batch in one]).tolist()) for one in (part, left, right)]
    assert indexes[1] | indexes[2] == indexes[0]
    assert not indexes[1] & indexes[2]


def test_one_source_of_equal_samples_is_told_to_hold_others(tmp_path):
    path = tmp_path / "same.npz"
    np.savez(path, x=np.ones((8, 3), np.float32))
    asked = merge(None, {"source": "m.onnx", "calibrate": str(path)})
    with pytest.raises(UsageError, match="every sample of the calibration data same") as caught:
        datasets(asked, Live(), Signature(X, ()), (PassSpec("int8-static"),))
    assert caught.value.hint == "it holds the same samples again and again: give others"


def test_one_sample_cannot_be_split():
    with pytest.raises(DataError, match="has 1 sample, too few to split"):
        split(open_data([{"x": rows(1)}], X), 0.5, 0)


def test_two_samples_give_one_to_each():
    parts = split(open_data([{"x": rows(2)}], X), 0.01, 0)
    assert [len(part) for part in parts] == [1, 1]
