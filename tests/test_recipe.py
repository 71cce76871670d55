"""One recipe by three doors: what flags, TOML and keyword arguments make, and that a recipe file replays itself."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlc.errors import UsageError
from mlc.grammar.images import STRETCH, Images
from mlc.recipe import Recipe, check_sizes, live, merge, parse_inputs, read_recipe, recipe_toml
from mlc.types import Drop, Limits, PassSpec, Target
from tests.test_grammar import KEYS, NAMES, OPTION_VALUES, STEADY, input_specs

FULL = """
source = "model.py:model@weights.safetensors"
inputs = ["image=float32[batch=1..64,1,28,28]"]
passes = ["none", "int8-static:method=percentile,percent=99.9"]
target = "cpu:native,threads=2"
calibrate = "calibration.npz"
data = "data.py:evaluation"
metric = "top1"
at = "batch=8"
opset = 21
seed = 7
strict = true
strict_provider = true
portable = true
freeze = true
task = "image-classification"

[limits]
max_drop = "1%"
max_latency = 5
min_speedup = 1.5
max_size = 10.0

[images]
size = [28, 32]
resize = 40
scale = "1/255"
mean = 0.5
std = [0.2, 0.3, 0.4]
layout = "NCHW"
"""


def written(folder, text):
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(call, *arguments):
    with pytest.raises(UsageError) as caught:
        call(*arguments)
    return caught.value


def test_every_key_of_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    assert read_recipe(written(tmp_path / "sub", FULL)) == Recipe(
        source="sub/model.py:model@sub/weights.safetensors",
        inputs=parse_inputs(["image=float32[batch=1..64,1,28,28]"]),
        passes=(PassSpec("int8-static", (("method", "percentile"), ("percent", 99.9))),),
        defaults=False,
        target=Target(device="native", threads=2),
        calibrate="sub/calibration.npz",
        data="sub/data.py:evaluation",
        metric="top1",
        limits=Limits(Drop(0.01, relative=True), 5.0, 1.5, 10.0),
        at={"batch": 8},
        opset=21,
        seed=7,
        strict=True,
        strict_provider=True,
        portable=True,
        freeze=True,
        task="image-classification",
        images=Images((28, 32), 40, 1 / 255, (0.5,), (0.2, 0.3, 0.4), "NCHW"),
    )


def test_a_source_is_enough(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_recipe(written(tmp_path, 'source = "model.onnx"')) == Recipe("model.onnx")


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("package.module:function", "package.module:function"),
        ("package.module:function@w.safetensors", "package.module:function@sub/w.safetensors"),
        ("../model.py:f", "model.py:f"),
        ("model.onnx", "sub/model.onnx"),
        ("python:0123", "python:0123"),
    ],
)
def test_only_files_move_with_the_recipe(tmp_path, monkeypatch, source, found):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    assert read_recipe(written(tmp_path / "sub", f'source = "{source}"')).source == found


@pytest.mark.parametrize("metric", ["top1", "package.module:score"])
def test_a_metric_by_name_is_no_file(tmp_path, monkeypatch, metric):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    assert read_recipe(written(tmp_path / "sub", f'source = "m.onnx"\nmetric = "{metric}"')).metric == metric


def test_what_lies_outside_stays_absolute(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    found = read_recipe(written(tmp_path / "there", 'source = "m.onnx"'))
    assert found.source == str(tmp_path / "there" / "m.onnx")


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("sorce = 'a'", "there is no key 'sorce'", "did you mean source"),
        ("source = 'a'\nmax_drop = 0.1", "there is no key 'max_drop'", "below [limits]"),
        ("source = 'a'\n[limits]\nmax_drp = 0.1", "there is no key 'max_drp' in [limits]", "did you mean max_drop"),
        ("source = 'a'\n[limits]\nseed = 1", "there is no key 'seed' in [limits]", "above [limits]"),
        ("source = 'a'\nlimits = 3", "limits is not a table", "[limits]"),
        ("passes = []", "no source is given", "source ="),
        ("source = 3", "source: expected text, given 3", ""),
        ("source = ''", "source: the text is empty", ""),
        ("source = 'a'\ninputs = 'x=int8[1]'", "inputs: expected a list", "[ ]"),
        ("source = 'a'\ninputs = [1]", "inputs: expected text, given 1", ""),
        ("source = 'a'\ninputs = ['x']", "inputs: the input spec 'x' ends", ""),
        ("source = 'a'\npasses = ['none:x=1']", "passes: the pass none has no options", ""),
        ("source = 'a'\nopset = '20'", "opset: expected a whole number, given '20'", ""),
        ("source = 'a'\nopset = 20.0", "opset: expected a whole number, given 20.0", ""),
        ("source = 'a'\nopset = true", "opset: expected a whole number, given True", ""),
        ("source = 'a'\nseed = -1", "seed: the seed is -1", "0 to"),
        ("source = 'a'\nstrict = 1", "strict: expected true or false, given 1", ""),
        ("source = 'a'\ntarget = ['cpu']", "target: expected text, given a list", ""),
        ("source = 'a'\n[limits]\nmax_latency = '5'", "max_latency: expected a number, given '5'", ""),
        ("source = 'a'\n[limits]\nmax_latency = nan", "max_latency: the largest latency in ms is nan", ""),
        ("source = 'a'\n[limits]\nmin_speedup = 0", "min_speedup: the smallest speedup is 0", ""),
        ("source = 'a'\n[limits]\nmax_size = -1", "max_size: the largest size in MB is -1", ""),
        ("source = 'a'\n[limits]\nmax_drop = -0.1", "max_drop: '-0.1' is negative", ""),
        ("source = 'a'\n[limits]\nmax_drop = inf", "max_drop: the largest drop 'inf'", ""),
        ("source = 'a'\nsize = 3", "there is no key 'size'", "below [images]"),
        ("source = 'a'\n[images]\nseed = 3", "there is no key 'seed' in [images]", "above [images]"),
        ("source = 'a'\n[images]\nmaen = 3", "there is no key 'maen' in [images]", "did you mean mean"),
        ("source = 'a'\nimages = 'size=3'", "images is not a table", "[images]"),
        ("source = 'a'\n[images]\nsize = '224'", "images: size: given '224'", "write 224"),
        ("source = 'a'\n[images]\nsize = true", "images: size: given a bool", "write 224"),
        ("source = 'a'\n[images]\nsize = 2.5", "images: the image settings 'size=2.5' has '.'", ""),
        ("source = 'a'\n[images]\nmean = [0.5, 0.5]", "images: '0.5/0.5' has 2 values", ""),
        ("source = 'a'\n[images]\nstd = nan", "images: the image settings 'std=nan' has 'nan'", ""),
        ("source = 'a'\n[images]", "images: the image settings '' ends", ""),
        ("source = ", "is not TOML", ""),
        ("source = 'a'\nsource = 'b'", "is not TOML", ""),
    ],
)
def test_wrong_files(tmp_path, text, message, hint):
    path = written(tmp_path, text)
    error = refused(read_recipe, path)
    assert message in error.message
    assert str(path) in error.message
    assert hint in error.hint


def test_files_that_cannot_be_read(tmp_path):
    assert "there is no recipe" in refused(read_recipe, tmp_path / "none.toml").message
    assert "is a directory" in refused(read_recipe, tmp_path).message
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    assert "is not UTF-8" in refused(read_recipe, tmp_path / "binary.toml").message
    (tmp_path / "deep.toml").write_text("a = " + "[" * 5000)
    assert "is not TOML" in refused(read_recipe, tmp_path / "deep.toml").message


def test_flags_override_a_recipe():
    base = merge(None, {"source": "a.onnx", "passes": ["p"], "max_drop": "1%", "max_size": 3, "seed": 1})
    found = merge(base, {"source": None, "passes": ["none", "q:x=1"], "max_drop": 0.5, "target": "cpu,threads=1"})
    assert found == Recipe(
        "a.onnx",
        passes=(PassSpec("q", (("x", 1),)),),
        defaults=False,
        target=Target(threads=1),
        limits=Limits(max_drop=Drop(0.5), max_size=3.0),
        seed=1,
    )


def test_keyword_arguments_may_be_the_nouns_themselves():
    specs = parse_inputs(["x=int64[n=1..4]"])
    found = merge(
        None,
        {
            "source": "a.onnx",
            "inputs": specs,
            "passes": [PassSpec("p")],
            "target": Target(threads=3),
            "max_drop": Drop(0.1),
            "at": {"n": 2},
        },
    )
    assert found == Recipe(
        "a.onnx", specs, (PassSpec("p"),), target=Target(threads=3), limits=Limits(Drop(0.1)), at={"n": 2}
    )


def test_an_unknown_keyword_has_a_nearest_match():
    error = refused(merge, None, {"source": "a", "calibration": "x"})
    assert "calibration" in error.message
    assert "calibrate" in error.hint


def test_without_a_source():
    assert "no model is given" in refused(merge, None, {"seed": 1}).message


def test_sizes_are_checked_against_the_inputs():
    specs = parse_inputs(["x=int64[batch=1..8,h=32..96/32,total=batch+batch]"])
    check_sizes({"batch": 8, "h": 64}, specs)
    assert "did you mean batch?" in refused(check_sizes, {"bach": 1}, specs).hint
    assert "outside batch=1..8" in refused(check_sizes, {"batch": 9}, specs).message
    assert "outside h=32..96/32" in refused(check_sizes, {"h": 40}, specs).message
    assert "every dim of the inputs is fixed" in refused(check_sizes, {"n": 1}, ()).hint


def test_a_live_object_is_said_in_the_file(tmp_path):
    recipe = Recipe("python:0123", data="python:4567", calibrate="c.npz")
    assert live(recipe) == ("source", "data")
    text = recipe_toml(recipe, tmp_path)
    assert text.startswith("# Live Python objects stood in the place of source, data:")
    assert "cannot be run again" in text.splitlines()[0]
    path = written(tmp_path, text)
    assert live(read_recipe(path)) == ("source", "data")


def test_a_recipe_moves_with_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = recipe_toml(Recipe("model/m.py:f@model/w.safetensors", data=str(tmp_path / "d.npz")), tmp_path / "out")
    assert 'source = "../model/m.py:f@../model/w.safetensors"' in text
    assert 'data = "../d.npz"' in text


FILE_PARTS = st.from_regex(r"[A-Za-z0-9_ é-]{1,6}(/[A-Za-z0-9_-]{1,4}){0,2}", fullmatch=True).map(str.strip)
REFERENCES = st.one_of(
    FILE_PARTS.filter(bool).map(lambda part: f"{os.path.normpath(part)}.py:make"), st.just("package.module:make")
)
FILES = FILE_PARTS.filter(bool).map(lambda part: f"{os.path.normpath(part)}.npz")
VALUES = st.floats(-1e300, 1e300)
DEVIATIONS = st.floats(1e-300, 1e300)


def channels(values):
    """Nothing, one value, or one for each of three channels."""
    return st.just(()) | st.tuples(values) | st.tuples(values, values, values)


IMAGES = st.builds(
    Images,
    size=st.none() | st.tuples(st.integers(1, 4096), st.integers(1, 4096)),
    resize=st.none() | st.integers(1, 4096) | st.just(STRETCH),
    scale=st.none() | st.floats(1e-9, 1e9),
    mean=channels(VALUES),
    std=channels(DEVIATIONS),
    layout=st.sampled_from([None, "NCHW", "NHWC"]),
).filter(lambda images: images != Images())
POSITIVE = st.none() | st.floats(1e-9, 1e9)
RECIPES = st.builds(
    Recipe,
    source=st.one_of(REFERENCES, REFERENCES.map(lambda text: text + "@w.safetensors"), FILES),
    inputs=input_specs(),
    passes=st.lists(
        st.builds(
            PassSpec,
            st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True).filter(lambda name: name != "none"),
            st.dictionaries(KEYS, OPTION_VALUES, max_size=2).map(lambda options: tuple(options.items())),
        ),
        max_size=3,
    ).map(tuple),
    defaults=st.booleans(),
    target=st.builds(Target, device=st.sampled_from([None, "native", "0"]), threads=st.none() | st.integers(1, 64)),
    calibrate=st.none() | FILES | REFERENCES,
    data=st.none() | FILES | REFERENCES,
    images=st.none() | IMAGES,
    metric=st.none() | st.sampled_from(["top1", "cosine"]) | REFERENCES,
    limits=st.builds(Limits, st.none() | st.builds(Drop, st.floats(0, 1), st.booleans()), POSITIVE, POSITIVE, POSITIVE),
    at=st.dictionaries(NAMES, st.integers(1, 2**40), max_size=2),
    opset=st.integers(1, 99),
    seed=st.integers(0, 2**32 - 1),
    strict=st.booleans(),
    strict_provider=st.booleans(),
    portable=st.booleans(),
    freeze=st.booleans(),
    task=st.none() | st.sampled_from(["text-classification", "fill-mask"]),
)


@STEADY
@given(RECIPES, st.sampled_from([".", "out", "a/b"]))
def test_recipes_round_trip(tmp_path_factory, recipe, beside):
    folder = tmp_path_factory.getbasetemp() / "round" / beside
    folder.mkdir(parents=True, exist_ok=True)
    here = Path.cwd()
    os.chdir(tmp_path_factory.getbasetemp() / "round")
    try:
        path = written(folder, recipe_toml(recipe, folder))
        assert read_recipe(path) == recipe
        assert recipe_toml(read_recipe(path), folder) == path.read_text(encoding="utf-8")
    finally:
        os.chdir(here)


def test_every_field_is_written(tmp_path):
    import tomllib

    text = recipe_toml(
        Recipe(
            "a.onnx",
            parse_inputs(["x=int8[1]"]),
            to="int8",
            keep_float=("a",),
            plan="plan.toml",
            calibrate="c.npz",
            statistics="statistics.npz",
            data="d.npz",
            metric="top1",
            limits=Limits(Drop(0.1), 1.0, 1.0, 1.0),
            at={"n": 1},
            opset=20,
            strict_provider=True,
            portable=True,
            freeze=True,
            task="fill-mask",
            images=Images((1, 2), 2, 1.0, (0.0,), (1.0,), "NCHW"),
        ),
        tmp_path,
    )
    found = tomllib.loads(text)
    fields = {field.name for field in dataclasses.fields(Recipe)} - {"defaults"}
    assert set(found) == fields
    assert set(found["limits"]) == {field.name for field in dataclasses.fields(Limits)}
    assert set(found["images"]) == {field.name for field in dataclasses.fields(Images)}
