"""Folders of images: decoded as photographs are seen, sized and normalized as asked, labels by sorted class names."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import onnx
import pytest

import mlc
from mlc.data import open_data, split
from mlc.errors import DataError, MlcError, UsageError
from mlc.grammar.images import Images, parse_images
from mlc.pipeline import compile as compile_recipe
from mlc.pipeline.data import datasets, refuse_contradictions
from mlc.pipeline.run import Live
from mlc.recipe import Recipe, read_recipe
from mlc.types import Dim, InputSpec, OutputSpec, Signature
from tests.test_data import BATCH, X, all_rows, fixed, message, rows

pytest.importorskip("PIL", reason="images need Pillow")
from PIL import Image

NORMAL = Images(mean=(0.5,), std=(0.25,))


def model(*sizes, dtype="float32", values=None):
    """The only input of a model: an axis for samples, then axes of sizes or dims."""
    dims = tuple(size if isinstance(size, Dim) else fixed(size) for size in sizes)
    return (InputSpec("x", dtype, (BATCH, *dims), values),)


RGB = model(3, 4, 6)
RAW = model(3, 4, 6, dtype="uint8")


def picture(height=4, width=6, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def saved(path, pixels, mode=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return path.parent


def read(place, inputs=RAW, images=None):
    """The samples of a folder, channels last."""
    return np.moveaxis(all_rows(open_data(str(place), inputs, images=images))[0], 1, -1)


def refused(place, inputs=RAW, images=None, kind=DataError):
    with pytest.raises(kind) as error:
        list(open_data(str(place), inputs, images=images))
    return message(error)


# files


def test_images_come_by_name_in_the_layout_of_the_input(tmp_path):
    pictures = np.stack([picture(seed=seed) for seed in range(40)])
    for number, pixels in enumerate(pictures):
        saved(tmp_path / f"{number:03}.png", pixels)
    for size in (1, 7, 64):
        np.testing.assert_array_equal(np.moveaxis(all_rows(open_data(tmp_path, RAW), size)[0], 1, -1), pictures)
    last = open_data(tmp_path, model(4, 6, 3, dtype="uint8"))
    np.testing.assert_array_equal(all_rows(last)[0], pictures)
    assert (len(last), last.name, last.has_answers) == (40, tmp_path.name, False)


def test_labels_are_the_places_of_sorted_class_names(tmp_path):
    for number, name in enumerate(["zebra", "Ant", "cat", "cat"]):
        saved(tmp_path / name / f"{number}.png", picture(seed=number))
    data = open_data(tmp_path, RAW)
    inputs, answers = all_rows(data)
    assert data.source.classes == ("Ant", "cat", "zebra")
    assert answers.tolist() == [0, 1, 1, 2]
    assert answers.dtype == np.int64
    np.testing.assert_array_equal(inputs[1], np.moveaxis(picture(seed=2), -1, 0))


def test_parts_decode_only_what_they_hold(tmp_path):
    for number in range(10):
        saved(tmp_path / f"{number % 2}" / f"{number}.png", picture(seed=number))
    data = open_data(tmp_path, RAW)
    inputs, answers = all_rows(data)
    first, second = split(data, 0.3, 0)
    for part in (first, second):
        places = np.concatenate([batch.indexes for batch in part.batches(2)])
        np.testing.assert_array_equal(all_rows(part, 2)[0], inputs[places])
        np.testing.assert_array_equal(all_rows(part, 2)[1], answers[places])
    spoiled = int(np.concatenate([batch.indexes for batch in second])[0])
    file = sorted(tmp_path.glob("*/*"))[spoiled]
    file.write_bytes(b"spoiled")
    list(first)
    with pytest.raises(DataError, match=f"{file.parent.name}/{file.name} is corrupt"):
        list(second)


def test_memory_is_flat(tmp_path):
    inputs = model(3, 256, 256)
    for number in range(96):
        saved(tmp_path / f"{number}.bmp", np.full((256, 256, 3), number, np.uint8))
    tracemalloc.start()
    try:
        count = sum(batch.count for batch in open_data(tmp_path, inputs).batches(2))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 96
    assert peak < 96 * 3 * 256 * 256 * 4 / 4


@pytest.mark.parametrize("name", ["a.JPG", "a.jpeg", "a.png", "a.bmp", "a.gif", "a.webp", "a.tif", "a.TIFF", "a.ppm"])
def test_kinds_of_files(tmp_path, name):
    saved(tmp_path / name, np.full((4, 6, 3), 255, np.uint8))
    assert read(tmp_path).min() >= 254


def test_folders_that_hold_something_else(tmp_path):
    saved(tmp_path / "d" / "a.png", picture())
    (tmp_path / "d" / "labels.csv").write_text("a")
    assert "d has 1 .png, 1 .csv | give .npz files" in refused(tmp_path / "d")
    (tmp_path / "d" / "labels.csv").unlink()
    saved(tmp_path / "d" / "cat" / "a.png", picture())
    assert "d has 1 .png and folders (cat)" in refused(tmp_path / "d")
    (tmp_path / "d" / "a.png").unlink()
    (tmp_path / "d" / "dog").mkdir()
    assert "d/dog has nothing in it, and that of a class only images" in refused(tmp_path / "d")
    saved(tmp_path / "d" / "dog" / "old" / "a.png", picture())
    assert "d/dog has folders (old), and that of a class only images" in refused(tmp_path / "d")


def test_one_image_is_no_folder(tmp_path):
    saved(tmp_path / "a.png", picture())
    assert "a.png is one image | name a folder of images" in refused(tmp_path / "a.png")


# decoding


def test_a_photograph_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    saved(tmp_path / "a.png", np.rot90(picture()).copy(), exif=exif)
    np.testing.assert_array_equal(read(tmp_path)[0], picture())


def test_gray_is_the_same_in_each_color_and_colors_become_their_luma(tmp_path):
    gray = picture()[:, :, 0]
    saved(tmp_path / "gray" / "a.png", gray)
    np.testing.assert_array_equal(read(tmp_path / "gray")[0], np.stack([gray] * 3, -1))
    np.testing.assert_array_equal(read(tmp_path / "gray", model(1, 4, 6, dtype="uint8"))[0, :, :, 0], gray)
    saved(tmp_path / "color" / "a.png", picture())
    luma = picture() @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(read(tmp_path / "color", model(1, 4, 6, dtype="uint8"))[0, :, :, 0], luma, atol=1)


@pytest.mark.parametrize("mode", ["P", "1", "CMYK", "L", "RGBA", "LA"])
def test_modes_of_pixels(tmp_path, mode):
    name = "a.tif" if mode == "CMYK" else "a.png"
    saved(tmp_path / name, np.full((4, 6, 3), 255, np.uint8), mode)
    assert read(tmp_path).min() == 255


@pytest.mark.filterwarnings("error")
def test_transparent_images_are_refused(tmp_path):
    palette = Image.new("P", (6, 4), 1)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    palette.info["transparency"] = bytes([0, 100])
    images = {"color": Image.new("RGBA", (6, 4), (1, 2, 3, 254)), "gray": Image.new("LA", (6, 4), (1, 0)), "p": palette}
    for place, image in images.items():
        (tmp_path / place).mkdir()
        image.save(tmp_path / place / "a.png")
        assert f"the image {place}/a.png is transparent | save it on the background" in refused(tmp_path / place)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_more_than_8_bits_are_refused(tmp_path, name):
    Image.fromarray(np.arange(24, dtype=np.uint16).reshape(4, 6)).save(tmp_path / name)
    assert f"/{name} has more than 8 bits a channel" in refused(tmp_path)


def test_colors_of_more_than_8_bits_are_refused(tmp_path):
    def part(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = part(b"IHDR", struct.pack(">IIBBBBB", 6, 4, 16, 2, 0, 0, 0))
    pixels = part(b"IDAT", zlib.compress(bytes(4 * (1 + 6 * 6))))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + pixels + part(b"IEND", b""))
    assert "/a.png has more than 8 bits a channel" in refused(tmp_path)


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tif"])
def test_animations_are_refused(tmp_path, name):
    frames = [Image.fromarray(picture(seed=seed)) for seed in range(3)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    assert f"/{name} has 3 frames" in refused(tmp_path)


def test_the_further_views_of_a_camera_are_left_out(tmp_path):
    frames = [Image.new("RGB", (6, 4), color) for color in ("white", "black")]
    frames[0].save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=frames[1:])
    assert read(tmp_path).min() >= 254


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.bmp", "a.gif", "a.webp", "a.tif"])
def test_cut_off_and_corrupt_images(tmp_path, name):
    saved(tmp_path / "z.png", picture(64, 64))
    saved(tmp_path / name, picture(64, 64))
    content = (tmp_path / name).read_bytes()
    for broken in (content[: len(content) // 2], content[:9], b"", b"no image"):
        (tmp_path / name).write_bytes(broken)
        said = refused(tmp_path)
        assert f"the image {tmp_path.name}/{name} " in said
        assert "remove or repair it" in said


def test_a_file_of_another_format_is_not_opened_by_its_name(tmp_path):
    """Pillow would run another program for PostScript."""
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 4\n%%EndComments\n")
    assert "/a.png is corrupt or no image | remove or repair it; images are PNG, JPEG" in refused(tmp_path)


@pytest.mark.parametrize("limit", [20, 10])
def test_what_unpacks_to_too_much(tmp_path, monkeypatch, limit):
    saved(tmp_path / "a.png", picture())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    assert "/a.png is too large: Image size (24 pixels) exceeds limit of" in refused(tmp_path)


def test_what_resizes_to_too_much(tmp_path):
    saved(tmp_path / "a.png", np.zeros((1, 60000, 3), np.uint8))
    assert "/a.png is 1 x 60000, and would be resized to 2240 x 134400000" in refused(tmp_path, model(3, 2240, 2240))


# sizes


def test_the_middle_is_cropped_after_the_shorter_side_has_its_length(tmp_path):
    wide = picture(30, 100)
    saved(tmp_path / "a.png", wide)
    resized = np.asarray(Image.fromarray(wide).resize((40, 12), Image.Resampling.BILINEAR))
    found = read(tmp_path, model(3, 10, 10, dtype="uint8"), Images(resize=12))
    np.testing.assert_array_equal(found[0], resized[1:11, 15:25])


@pytest.mark.parametrize(
    ("size", "full", "box"),
    [((30, 30), (100, 30), (0, 35)), ((15, 10), (50, 15), (0, 20)), ((3, 100), (100, 30), (14, 0))],
)
def test_without_a_length_an_image_just_covers_the_size(tmp_path, size, full, box):
    wide = picture(30, 100)
    saved(tmp_path / "a.png", wide)
    resized = np.asarray(Image.fromarray(wide).resize(full, Image.Resampling.BILINEAR))
    expected = resized[box[0] : box[0] + size[0], box[1] : box[1] + size[1]]
    np.testing.assert_array_equal(read(tmp_path, model(3, *size, dtype="uint8"))[0], expected)


def test_a_stretched_image_is_not_cropped(tmp_path):
    wide = picture(30, 100)
    saved(tmp_path / "a.png", wide)
    expected = Image.fromarray(wide).resize((8, 8), Image.Resampling.BILINEAR)
    found = read(tmp_path, model(3, 8, 8, dtype="uint8"), Images(resize="stretch"))
    np.testing.assert_array_equal(found[0], np.asarray(expected))


def test_a_size_that_is_a_range_has_to_be_asked_for(tmp_path):
    saved(tmp_path / "a.png", picture(64, 64))
    side = Dim(8, 64, 8, "side")
    inputs = model(3, side, side)
    assert read(tmp_path, inputs, Images(size=(16, 16))).shape == (1, 16, 16, 3)
    assert "no size of images was given, and the input x=float32[" in refused(tmp_path, inputs, kind=UsageError)
    assert "has size 12 at axis 2, outside side=8..64/8" in refused(tmp_path, inputs, Images(size=(12, 12)))
    assert "has size 16 at axis 3, while x has 8 for the same side" in refused(tmp_path, inputs, Images(size=(8, 16)))


# numbers


def test_values_are_scaled_to_one_and_that_is_said(tmp_path):
    saved(tmp_path / "a.png", picture())
    data = open_data(tmp_path, RGB)
    np.testing.assert_allclose(np.moveaxis(all_rows(data)[0][0], 0, -1), picture() / 255, rtol=1e-6)
    (note,) = data.source.notes
    assert f"the images of {tmp_path.name} were scaled to 0..1 and not normalized; if the model" in note
    assert open_data(tmp_path, RAW).source.notes == ()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_values_are_normalized_as_asked(tmp_path, dtype):
    saved(tmp_path / "a.png", picture())
    inputs = model(3, 4, 6, dtype=dtype)
    images = parse_images("mean=0.485/0.456/0.406,std=0.229/0.224/0.225")
    data = open_data(tmp_path, inputs, images=images)
    expected = (picture() / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    found = all_rows(data)[0]
    assert found.dtype == dtype
    np.testing.assert_allclose(np.moveaxis(found[0], 0, -1), expected, rtol=2e-3 if dtype == "float16" else 1e-6)
    assert data.source.notes == ()
    raw = read(tmp_path, inputs, Images(scale=1.0))
    np.testing.assert_array_equal(raw[0], picture())


def test_values_outside_the_stated_range_name_the_file(tmp_path):
    saved(tmp_path / "cat" / "a.png", np.zeros((4, 6, 3), np.uint8))
    saved(tmp_path / "cat" / "b.png", np.full((4, 6, 3), 255, np.uint8))
    said = refused(tmp_path, model(3, 4, 6, values=(0.0, 1.0)), Images(scale=1.0))
    assert f"sample 1 of {tmp_path.name} (cat/b.png) has 255.0 in the input x, outside 0..1" in said


def test_values_that_become_infinite_name_the_file(tmp_path):
    saved(tmp_path / "a.png", picture())
    said = refused(tmp_path, model(3, 4, 6, dtype="float16"), Images(scale=1e6))
    assert f"sample 0 of {tmp_path.name} (a.png) has Inf in the input x" in said


# what does not go together


@pytest.mark.parametrize(
    ("inputs", "images", "kind", "said"),
    [
        (RAW, NORMAL, UsageError, "mean was given, and the input x takes raw pixels: it is uint8"),
        (RAW, Images(scale=0.5), UsageError, "scale was given"),
        (
            RGB,
            Images(size=(5, 6)),
            UsageError,
            "images of 5 x 6 were asked for, and the input is x=float32[batch=1..64,3",
        ),
        (RGB, Images(resize=5), UsageError, "resize=5 leaves less of an image than the 4 x 6"),
        (RGB, Images(layout="NHWC"), UsageError, "layout=NHWC was given, and the input x=float32["),
        (model(3, 4, 3), None, UsageError, "may be NCHW or NHWC | give one, as in --images layout=NCHW"),
        (
            model(1, 4, 6),
            Images(mean=(0.1, 0.2, 0.3)),
            UsageError,
            "mean has a value a color, and the input x takes gray",
        ),
        (model(4, 4, 6), None, DataError, "takes no images | images need four axes, 1 or 3 channels"),
        (model(4, 6), None, DataError, "takes no images"),
        (
            model(3, 4, 6, dtype="int64"),
            None,
            DataError,
            "takes no images: they are uint8 or float16, float32, float64",
        ),
        ((*RGB, InputSpec("y", "float32", (BATCH,))), None, DataError, "has only images, and the model takes 2 inputs"),
    ],
)
def test_settings_and_inputs_that_contradict(tmp_path, inputs, images, kind, said):
    saved(tmp_path / "a.png", picture())
    assert said in refused(tmp_path, inputs, images, kind)


def test_a_layout_may_be_said_where_both_fit(tmp_path):
    saved(tmp_path / "a.png", picture(3, 4))
    (last,) = open_data(tmp_path, model(3, 4, 3, dtype="uint8"), images=Images(layout="NHWC"))
    np.testing.assert_array_equal(last.inputs["x"][0], picture(3, 4))


@pytest.fixture
def recipe(tmp_path):
    saved(tmp_path / "d" / "cat" / "a.png", picture())
    saved(tmp_path / "d" / "dog" / "b.png", picture(seed=1))
    np.savez(tmp_path / "d.npz", x=rows(3))
    return lambda **given: Recipe("model.onnx", **given)


def test_what_the_report_says_of_images(tmp_path, recipe):
    signature = Signature(RGB, (OutputSpec("scores", "float32", ("batch", 5)),))
    sets = datasets(recipe(data=str(tmp_path / "d"), images=NORMAL), Live(), signature, ())
    assert sets.described() == {"evaluation": "d, 2 samples, RGB 4 x 6, 2 classes: cat, dog"}
    (note,) = sets.notes
    assert "d has 2 classes and the model 5 scores" in note
    plain = datasets(recipe(data=str(tmp_path / "d")), Live(), Signature(RGB, ()), ())
    (note,) = plain.notes
    assert "scaled to 0..1 and not normalized" in note


def test_settings_of_images_without_images_are_refused(tmp_path, recipe):
    asked = recipe(data=str(tmp_path / "d.npz"), images=NORMAL)
    with pytest.raises(UsageError, match=r"settings of images were given, and there are no images in d\.npz"):
        datasets(asked, Live(), Signature(X, ()), ())
    with pytest.raises(UsageError, match="settings of images were given and no images"):
        refuse_contradictions(recipe(images=NORMAL), Live(), ())
    both = recipe(calibrate=str(tmp_path / "d"), data=str(tmp_path / "d"), images=NORMAL)
    with pytest.raises(UsageError, match="every sample of the calibration data d is in the evaluation data"):
        datasets(both, Live(), Signature(RGB, ()), ())


def test_without_pillow_there_is_one_sentence(tmp_path, monkeypatch):
    saved(tmp_path / "a.png", picture())
    monkeypatch.setitem(__import__("sys").modules, "PIL.Image", None)
    said = refused(tmp_path, kind=MlcError)
    assert "images need the package Pillow" in said
    assert "pip install 'mlc-toolchain[images]'" in said


@pytest.mark.needs_onnxruntime
def test_images_are_compiled_and_replayed_from_anywhere(tmp_path, monkeypatch, quick):
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> brightness (float[n,3,4,6] x) => (float[n,3] scores) '
        "{ scores = ReduceMean<axes = [2, 3], keepdims = 0>(x) }"
    )
    onnx.save(onnx.parser.parse_model(text), tmp_path / "model.onnx")
    for number, name in enumerate(["blue", "green", "red"]):
        pixels = np.zeros((9, 9, 3), np.uint8)
        pixels[:, :, 2 - number] = 200
        saved(tmp_path / "photos" / name / "a.png", pixels)
    monkeypatch.chdir(tmp_path)
    images = {"mean": [0.5, 0.5, 0.5], "std": 0.5}
    inputs = ["x=float32[n=1..4,3,4,6]"]
    report = mlc.compile("model.onnx", inputs=inputs, data="photos", images=images, metric="top1", out="out")
    assert report.data == {"evaluation": "photos, 3 samples, RGB 4 x 6, 3 classes: blue, green, red"}
    assert report.recipe.images == Images(mean=(0.5, 0.5, 0.5), std=(0.5,))
    accuracy = report.trials[0].accuracy
    assert accuracy is not None
    assert accuracy.original == pytest.approx(1 / 3)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = read_recipe(Path("../out/recipe.toml"))
    assert (again.data, again.images) == (str(tmp_path / "photos"), report.recipe.images)
    assert compile_recipe(again, None).data == report.data
