"""Folders of arrays: .npz files one after the other, an .npy file for each input, and everything that is neither."""

from __future__ import annotations

import os
import tracemalloc

import numpy as np
import pytest

from mlc.data import open_data, split
from mlc.errors import DataError
from mlc.types import Dim, InputSpec
from tests.test_data import BATCH, X, all_rows, fixed, message, rows

TWO = (*X, InputSpec("y", "int64", (BATCH,)))


def folder(path, **files):
    """Write arrays to .npy files, and dicts of arrays to .npz files, by name."""
    path.mkdir()
    for name, content in files.items():
        if isinstance(content, dict):
            np.savez(path / f"{name}.npz", **content)
        else:
            np.save(path / f"{name}.npy", content)
    return path


def refused(place, inputs=X):
    with pytest.raises(DataError) as error:
        list(open_data(str(place), inputs))
    return message(error)


# .npz files


def test_files_follow_each_other_by_name(tmp_path):
    place = folder(
        tmp_path / "d",
        b={"x": rows(3, 5), "labels": np.arange(5, 8)},
        a={"x": rows(5), "labels": np.arange(5)},
        c={"x": rows(40, 8), "labels": np.arange(8, 48)},
    )
    data = open_data(str(place), X)
    for size in (1, 4, 64):
        inputs, answers = all_rows(data, size)
        np.testing.assert_array_equal(inputs, rows(48))
        np.testing.assert_array_equal(answers, np.arange(48))
        assert np.concatenate([batch.indexes for batch in data.batches(size)]).tolist() == list(range(48))
    assert (len(data), data.name, data.has_answers) == (48, "d", True)


def test_a_folder_is_split_as_a_file_is(tmp_path):
    values = rows(60)
    np.savez(tmp_path / "d.npz", x=values)
    place = folder(tmp_path / "d", a={"x": values[:7]}, b={"x": values[7:]})
    whole, parts = open_data(str(tmp_path / "d.npz"), X), open_data(place, X)
    for one, other in zip(split(whole, 0.3, 5), split(parts, 0.3, 5), strict=True):
        np.testing.assert_array_equal(all_rows(one)[0], all_rows(other)[0])


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ({"y": rows(2)}, "d/b.npz has no array for the input 'x'"),
        ({"x": rows(2)}, "d/a.npz has an array 'labels' and d/b.npz has none"),
        ({"x": rows(2), "targets": [1, 2]}, "d/a.npz has an array 'labels' and d/b.npz has none"),
        ({"x": rows(2), "labels": np.ones(2, np.float32)}, "labels is int64 in d/a.npz and float32 in d/b.npz"),
        ({"x": rows(2).astype(np.float64), "labels": [1, 2]}, "the input x of d/b.npz is float64"),
        ({"x": rows(2)[:, :2], "labels": [1, 2]}, "the input x of d/b.npz has size 2 at axis 1"),
        ({"x": rows(0), "labels": np.arange(0)}, "d/b.npz has no samples"),
        ({"x": np.full((2, 3), np.nan, np.float32), "labels": [1, 2]}, "sample 0 of d/b.npz has NaN in the input x"),
    ],
)
def test_each_file_is_checked_under_its_name(tmp_path, second, said):
    assert said in refused(folder(tmp_path / "d", a={"x": rows(2), "labels": [0, 1]}, b=second))


def test_files_may_differ_in_a_size_that_is_a_range(tmp_path):
    inputs = (InputSpec("x", "float32", (BATCH, Dim(1, 9, name="n"))),)
    data = open_data(folder(tmp_path / "d", a={"x": rows(3)}, b={"x": rows(3)[:, :2]}), inputs)
    assert [batch.inputs["x"].shape for batch in data] == [(3, 3), (3, 2)]


# .npy files


def test_an_npy_file_for_each_input(tmp_path):
    data = open_data(folder(tmp_path / "d", x=rows(50), y=np.arange(50), labels=np.arange(50) * 2), TWO)
    for size in (1, 7, 64):
        inputs, answers = all_rows(data, size)
        np.testing.assert_array_equal(inputs, rows(50))
        np.testing.assert_array_equal(answers, np.arange(50) * 2)
    assert (len(data), data.name) == (50, "d")


def test_one_npy_file_is_the_input_of_a_model_that_has_one(tmp_path):
    np.save(tmp_path / "whatever.npy", rows(5).astype(">f4"))
    data = open_data(tmp_path / "whatever.npy", X)
    np.testing.assert_array_equal(all_rows(data)[0], rows(5))
    assert data.name == "whatever.npy"
    assert "give a folder with one for each: x.npy, y.npy" in refused(tmp_path / "whatever.npy", TWO)


def test_npy_files_are_never_held_whole(tmp_path):
    spec = (InputSpec("x", "float32", (BATCH, fixed(4096))),)
    np.save(tmp_path / "x.npy", np.ones((2000, 4096), np.float32))
    tracemalloc.start()
    try:
        total = sum(float(batch.inputs["x"].sum()) for batch in open_data(tmp_path / "x.npy", spec))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert total == 2000 * 4096
    assert peak < 2000 * 4096 * 4 / 8


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": rows(3)}, "d has no array for the input 'y' | it has: x"),
        ({"x": rows(3), "y": np.arange(3), "z": rows(3)}, "d has an array 'z' that is not an input of the model"),
        ({"x": rows(3), "y": np.arange(2)}, "d has 3 samples of x and 2 of y"),
        ({"x": np.asfortranarray(rows(3)), "y": np.arange(3)}, "the array x.npy is in Fortran order"),
        ({"x": np.array([1, "a"], object), "y": np.arange(3)}, "the array x.npy holds Python objects"),
        ({"x": np.float32(1), "y": np.arange(3)}, "the array x.npy has no axis that runs over samples"),
        ({"x": rows(0), "y": np.arange(0)}, "d has no samples"),
        ({"000": rows(1)[0], "001": rows(1)[0]}, "d has no array for the input 'x' | there are: 000, 001"),
    ],
)
def test_npy_files_that_do_not_fit(tmp_path, arrays, said):
    assert said in refused(folder(tmp_path / "d", **arrays), TWO)


def test_a_damaged_npy_file(tmp_path):
    place = folder(tmp_path / "d", x=rows(100))
    content = (place / "x.npy").read_bytes()
    (place / "x.npy").write_bytes(content[:-7])
    assert "the array x.npy ends early: the file is cut off" in refused(place)
    (place / "x.npy").write_bytes(content + b"more")
    assert "the array x.npy is longer than its header says" in refused(place)
    (place / "x.npy").write_bytes(b"not numpy at all")
    assert "x.npy is corrupt or not an .npy file" in refused(place)
    (place / "x.npy").write_bytes(b"")
    assert "x.npy is empty" in refused(place)


# whatever else there may be


def test_a_folder_of_something_else_is_listed(tmp_path):
    place = folder(tmp_path / "d", a={"x": rows(2)}, b={"x": rows(2)}, x=rows(2))
    (place / "readme.txt").write_text("hello")
    (place / "LICENSE").write_text("hello")
    (place / "sub").mkdir()
    said = refused(place)
    assert f"the folder {place} has 2 .npz, " in said
    for part in ("1 .npy", "1 .txt", "1 without an ending", " and folders (sub)"):
        assert part in said
    assert "give .npz files" in said


def test_an_empty_folder(tmp_path):
    assert f"the folder {tmp_path} has nothing in it" in refused(tmp_path)


def test_hidden_files_do_not_count(tmp_path):
    place = folder(tmp_path / "d", a={"x": rows(2)})
    (place / ".DS_Store").write_bytes(b"\0")
    (place / ".cache").mkdir()
    assert len(open_data(place, X)) == 2


def test_a_file_for_each_sample_is_refused(tmp_path):
    (tmp_path / "d").mkdir()
    folder(tmp_path / "d" / "x", a=rows(1)[0], b=rows(1)[0])
    assert "d/x has 2 .npy, and that of a class only images" in refused(tmp_path / "d")


def test_links_are_followed_to_files_and_refused_elsewhere(tmp_path):
    np.save(tmp_path / "elsewhere.npy", rows(4))
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x.npy").symlink_to(tmp_path / "elsewhere.npy")
    assert len(open_data(tmp_path / "d", X)) == 4
    (tmp_path / "elsewhere.npy").unlink()
    assert "x.npy is neither a file nor a folder" in refused(tmp_path / "d")
    (tmp_path / "d" / "x.npy").unlink()
    os.mkfifo(tmp_path / "d" / "x.npy")
    assert "x.npy is neither a file nor a folder" in refused(tmp_path / "d")


def test_a_folder_whose_name_has_a_colon(tmp_path):
    assert len(open_data(str(folder(tmp_path / "a:b", x=rows(3))), X)) == 3


def test_a_place_that_does_not_exist(tmp_path):
    for name in ("none", "none.npy", "none.npz", "none.png"):
        assert f"there is no data file {tmp_path / name}" in refused(tmp_path / name)
