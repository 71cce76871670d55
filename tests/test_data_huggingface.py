"""Datasets of Hugging Face on disk: columns are inputs by name; splits, lengths, images and labels are checked."""

from __future__ import annotations

import json
import socket

import numpy as np
import pytest

from mlc.data import open_data, split
from mlc.errors import DataError, UsageError
from mlc.grammar.images import Images
from mlc.types import Dim, InputSpec
from tests.test_data import BATCH, X, all_rows, fixed, message, rows

datasets = pytest.importorskip("datasets", reason="needs the package datasets")

pytestmark = pytest.mark.filterwarnings("error")

TOKENS = (InputSpec("ids", "int64", (BATCH, Dim(2, 16, name="seq"))),)
IMAGE = (InputSpec("pixels", "uint8", (BATCH, fixed(3), fixed(4), fixed(6))),)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refuse(*_arguments, **_keywords):
        raise AssertionError("something asked for a network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def dataset(columns, **kinds):
    made = datasets.Dataset.from_dict(columns)
    if not kinds:
        return made
    return datasets.Dataset.from_dict(columns, datasets.Features({**made.features, **kinds}))


def saved(path, columns, **kinds):
    dataset(columns, **kinds).save_to_disk(path)
    return path


def refused(place, inputs=X, images=None, kind=DataError):
    with pytest.raises(kind) as error:
        list(open_data(place, inputs, images=images))
    return message(error)


def pictures(count):
    return np.random.default_rng(0).integers(0, 256, (count, 4, 6, 3), np.uint8)


def with_pictures(path, values, **columns):
    image = pytest.importorskip("PIL.Image", reason="images need Pillow")
    images = [image.fromarray(pixels) for pixels in values]
    return saved(path, {"image": images, **columns}, image=datasets.Image())


# columns


@pytest.mark.parametrize("answers", ["label", "labels", "targets"])
def test_columns_are_inputs_and_answers(tmp_path, answers):
    data = open_data(saved(tmp_path / "d", {"x": rows(101), answers: np.arange(101)}), X)
    for size in (1, 7, 64):
        inputs, found = all_rows(data, size)
        np.testing.assert_array_equal(inputs, rows(101))
        np.testing.assert_array_equal(found, np.arange(101))
    assert (len(data), data.name, data.has_answers, data.source.notes) == (101, "d", True, ())
    first, second = split(data, 0.3, 0)
    for part in (first, second):
        places = np.concatenate([batch.indexes for batch in part])
        np.testing.assert_array_equal(all_rows(part)[0], rows(101)[places])


def test_other_columns_are_named_in_a_note(tmp_path):
    place = saved(tmp_path / "d", {"text": ["a", "b"], "x": rows(2), "idx": [0, 1]})
    data = open_data(place, X)
    assert data.source.notes == ("columns of d that are no input were not read: text, idx",)
    assert not data.has_answers


def test_narrower_numbers_are_widened(tmp_path):
    kind = datasets.Sequence(datasets.Value("int8"))
    data = open_data(saved(tmp_path / "d", {"ids": [[1, 2], [3, 4]]}, ids=kind), TOKENS)
    (batch,) = data
    assert batch.inputs["ids"].dtype == np.int64
    assert batch.inputs["ids"].tolist() == [[1, 2], [3, 4]]
    assert batch.inputs["ids"].flags.writeable


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("Array2D", np.arange(12, dtype=np.float32).reshape(2, 3, 2)),
        ("Sequence", np.arange(12, dtype=np.float32).reshape(2, 3, 2)),
    ],
)
def test_arrays_of_several_axes(tmp_path, kind, values):
    inputs = (InputSpec("x", "float32", (BATCH, fixed(3), fixed(2))),)
    kinds = {"x": datasets.Array2D((3, 2), "float32")} if kind == "Array2D" else {}
    data = open_data(saved(tmp_path / "d", {"x": list(values) if kinds else values}, **kinds), inputs)
    np.testing.assert_array_equal(all_rows(data)[0], values)


def test_labels_of_classes_have_names(tmp_path):
    kind = datasets.ClassLabel(names=["cat", "dog"])
    data = open_data(saved(tmp_path / "d", {"x": rows(3), "label": [1, 0, 1]}, label=kind), X)
    assert data.source.classes == ("cat", "dog")
    assert all_rows(data)[1].tolist() == [1, 0, 1]
    place = saved(tmp_path / "e", {"x": rows(3), "label": [1, 0, -1]}, label=kind)
    assert "sample 2 of e has no label: it is -1" in refused(place)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"xs": rows(2)}, "d has no column for the input 'x' | did you mean xs?"),
        ({"text": ["a"], "label": [1]}, "d has no column for the input 'x' | there are: text, label"),
        ({"x": rows(2), "label": [0, 1], "labels": [0, 1]}, "d has both label and labels"),
        ({"x": ["a", "b"]}, "the column x of d holds string, not numbers"),
        ({"x": [{"a": 1}]}, "the column x of d holds struct<a: int64>, not numbers"),
        ({"x": rows(2), "label": ["a", "b"]}, "the column label of d holds string, not numbers"),
        ({"x": rows(2).tolist()}, "the input x of d is float64, the model takes float32"),
        ({"x": rows(2)[:, :2]}, "the input x of d has size 2 at axis 1, the model takes 3"),
        ({"x": [*rows(2), None]}, "sample 2 has no value in the column x of d"),
        ({"x": rows(0)}, "d has no samples"),
        ({"x": np.full((2, 3), np.inf, np.float32)}, "sample 0 of d has Inf in the input x"),
    ],
)
def test_columns_that_do_not_fit(tmp_path, columns, said):
    assert said in refused(saved(tmp_path / "d", columns))


def test_a_value_that_is_missing_inside_a_sample(tmp_path):
    kind = datasets.Sequence(datasets.Value("float32"))
    place = saved(tmp_path / "d", {"x": [[1.0, 2.0, 3.0], [1.0, None, 3.0]]}, x=kind)
    assert "sample 1 has no value in the column x of d" in refused(place)


def test_samples_of_different_lengths_are_refused(tmp_path):
    short = saved(tmp_path / "d", {"ids": [[1, 2], [3, 4], [1, 2, 3]]})
    assert "the column ids of d has 2 values in sample 0 and 3 in sample 2 | pad them" in refused(short, TOKENS)
    later = saved(tmp_path / "e", {"ids": [[1, 2]] * 64 + [[1, 2, 3]] * 64})
    assert "the column ids of e has 2 values in sample 0 and 3 in sample 64" in refused(later, TOKENS)
    inner = saved(tmp_path / "f", {"x": [[[1, 2], [3, 4]], [[1, 2], [3]]]})
    said = refused(inner, (InputSpec("x", "int64", (BATCH, fixed(2), fixed(2))),))
    assert "the column x of f has 2 values in sample 0 and 1 in sample 1" in said


# directories


def test_a_split_is_a_folder_of_its_own(tmp_path):
    several = datasets.DatasetDict({"train": dataset({"x": rows(3)}), "test": dataset({"x": rows(2)})})
    several.save_to_disk(tmp_path / "d")
    said = refused(tmp_path / "d")
    assert f"{tmp_path / 'd'} is a DatasetDict of test, train" in said
    assert f"name one: {tmp_path / 'd' / 'test'} or {tmp_path / 'd' / 'train'}" in said
    data = open_data(str(tmp_path / "d" / "test"), X)
    assert (len(data), data.name) == (2, "d/test")


def test_the_only_split_needs_no_name(tmp_path):
    datasets.DatasetDict({"test": dataset({"x": rows(2)})}).save_to_disk(tmp_path / "d")
    data = open_data(tmp_path / "d", X)
    assert (len(data), data.name) == (2, "d/test")


def test_several_files(tmp_path, capsys):
    dataset({"x": rows(50)}).save_to_disk(tmp_path / "d", num_shards=20)
    capsys.readouterr()
    np.testing.assert_array_equal(all_rows(open_data(tmp_path / "d", X))[0], rows(50))
    assert capsys.readouterr() == ("", "")


def test_damaged_directories(tmp_path):
    place = saved(tmp_path / "d", {"x": rows(50)})
    (file,) = place.glob("*.arrow")
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    assert "the dataset d raised " in refused(place)
    state = json.loads((place / "state.json").read_text())
    state["_data_files"] = [{"filename": str(tmp_path / "other.arrow")}]
    (place / "state.json").write_text(json.dumps(state))
    assert "the dataset d names a file outside of its folder" in refused(place)
    (place / "state.json").write_text("{")
    assert "the dataset d raised JSONDecodeError" in refused(place)


# images


def test_a_column_of_images(tmp_path):
    values = pictures(5)
    data = open_data(with_pictures(tmp_path / "d", values, label=[0, 1, 0, 1, 0]), IMAGE)
    for size in (1, 64):
        np.testing.assert_array_equal(np.moveaxis(all_rows(data, size)[0], 1, -1), values)
    assert data.source.notes == ("the column image of d is the input pixels: it is the only one of images",)
    assert data.source.detail == "RGB 4 x 6"


def test_settings_of_images_hold_for_a_column_too(tmp_path):
    place = with_pictures(tmp_path / "d", pictures(2))
    inputs = (InputSpec("image", "float32", (BATCH, fixed(2), fixed(2), fixed(3))),)
    plain, normal = (open_data(place, inputs, images=images) for images in (None, Images(mean=(0.5,), std=(0.5,))))
    np.testing.assert_allclose(all_rows(plain)[0] * 2 - 1, all_rows(normal)[0], atol=1e-6)
    assert "scaled to 0..1 and not normalized" in plain.source.notes[0]
    assert normal.source.notes == ()
    assert "mean was given" in refused(place, IMAGE, Images(mean=(0.5,)), UsageError)


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (
            {"bytes": b"no image", "path": "cat.png"},
            "the image in sample 1 of the column image of d (cat.png) is corrupt",
        ),
        ({"bytes": None, "path": "/etc/hostname"}, "sample 1 has no image in the column image of d"),
        (None, "sample 1 has no image in the column image of d"),
    ],
)
def test_images_that_cannot_be_read(tmp_path, cell, said):
    arrow = pytest.importorskip("pyarrow", reason="datasets bring it")
    place = with_pictures(tmp_path / "d", pictures(2))
    (file,) = place.glob("*.arrow")
    with arrow.OSFile(str(file)) as stream:
        table = arrow.ipc.open_stream(stream).read_all()
    cells = arrow.array([table["image"][0].as_py(), cell], table.schema.field("image").type)
    with arrow.OSFile(str(file), "wb") as stream, arrow.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(arrow.table([cells], schema=table.schema))
    assert said in refused(place, IMAGE)


def test_a_column_of_images_for_an_input_that_takes_none(tmp_path):
    assert "the input x=float32[batch=1..64,3] takes no images" in refused(
        with_pictures(tmp_path / "d", pictures(1)), X
    )


def test_without_the_package_there_is_one_sentence(tmp_path, monkeypatch):
    place = saved(tmp_path / "d", {"x": rows(2)})
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    said = refused(place)
    assert "need the package datasets" in said
    assert "pip install 'mlc-toolchain[hf]'" in said
