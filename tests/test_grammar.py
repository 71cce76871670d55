"""The grammar of inputs, passes, targets, drops and sizes: what it means, that it round-trips, where it points."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlc.errors import UsageError
from mlc.grammar.images import Images, images_text, parse_images, settings_text
from mlc.grammar.inputs import DTYPES, input_text, parse_inputs
from mlc.grammar.values import (
    drop_text,
    parse_drop,
    parse_number,
    parse_pass,
    parse_sizes,
    parse_target,
    parse_whole,
    pass_text,
    sizes_text,
    target_text,
)
from mlc.types import Ceiling, Dim, Drop, InputSpec, PassSpec, Target

STEADY = settings(deadline=None, derandomize=True)


def refused(parse, text):
    with pytest.raises(UsageError) as caught:
        parse(text)
    return caught.value


def pointed(error):
    """Return the part of the text that the caret line of a hint marks."""
    text, carets = error.hint.split("\n")[:2]
    return text[carets.index("^") : carets.rindex("^") + 1]


def inputs(*texts):
    return parse_inputs(texts)


def test_a_fixed_and_a_named_dim():
    (spec,) = inputs("x=float32[batch=1..64,3,224,224]")
    assert spec == InputSpec("x", "float32", (Dim(1, 64, 1, "batch"), Dim(3, 3), Dim(224, 224), Dim(224, 224)))


def test_a_step():
    (spec,) = inputs("x=float32[h=32..512/32]")
    assert spec.dims == (Dim(32, 512, 32, "h"),)


def test_a_sum_has_the_range_of_its_terms():
    *_, mask = inputs("past=float32[past=0..128]", "ids=int64[seq=1..16]", "mask=int64[total=past+seq]")
    assert mask.dims == (Dim(1, 144, 1, "total", ("past", "seq")),)


def test_a_bare_name_stands_for_a_range_or_a_sum_given_anywhere():
    first, second = inputs("a=int64[n,total]", "b=int64[n=1..4,total=n+n]")
    assert first.dims == second.dims == (Dim(1, 4, 1, "n"), Dim(2, 8, 1, "total", ("n", "n")))


def test_one_range_may_be_given_twice():
    first, second = inputs("a=int64[n=1..4]", "b=int64[n=1..4]")
    assert first.dims == second.dims


def test_no_dims_at_all():
    assert inputs("t=float32[]") == (InputSpec("t", "float32", ()),)


@pytest.mark.parametrize("name", ["x", "hidden.0", "images:0", "a/b", "input-ids", "_x", "0"])
def test_names_as_exporters_give_them(name):
    assert inputs(f"{name}=float32[1]")[0].name == name


@pytest.mark.parametrize("name", ["input ids", "serving default:0", "a=b", "l'été", 'say "x"', "x[0]", "", "a\\b"])
def test_other_names_stand_in_quotes(name):
    spec = InputSpec(name, "int64", (Dim(1, 1),))
    assert input_text(spec)[0] == '"'
    assert inputs(input_text(spec)) == (spec,)


def test_either_quotes_and_none_where_they_are_not_needed():
    assert [spec.name for spec in inputs("'a b'=float32[1]", '"c"=float32[1]')] == ["a b", "c"]
    assert input_text(inputs('"c"=float32[1]')[0]) == "c=float32[1]"


@pytest.mark.parametrize("text", ["input ids=int64[1]", "é=int64[1]"])
def test_a_name_that_lacks_its_quotes_is_told_of_them(text):
    with pytest.raises(UsageError, match=r'"x y".* for .* with spaces'):
        inputs(text)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("int64[1] in 0..30521", (0, 30521)),
        ("float32[3] in 0..1", (0.0, 1.0)),
        ("float32[3] in -1..1", (-1.0, 1.0)),
        ("float32[3] in -1.5..2.5e3", (-1.5, 2500.0)),
        ("float32[3] in .5...75", (0.5, 0.75)),
        ("int8[1]in-128..127", (-128, 127)),
        ("int64[] in 0..9007199254740993", (0, 9007199254740993)),
    ],
)
def test_value_ranges(text, values):
    found = inputs(f"x={text}")[0].values
    assert found == values
    assert [type(each) for each in found] == [type(each) for each in values]


@pytest.mark.parametrize(
    ("text", "values", "ceiling"),
    [
        ("int64[n] in 1..t", (1, 9), Ceiling("t")),
        ("int64[n] in 0 .. t - 1", (0, 8), Ceiling("t", 1)),
        ("float32[n=2..3,total=n+t] in -1..total", (-1.0, 12.0), Ceiling("total")),
    ],
)
def test_value_ranges_that_end_with_a_size(text, values, ceiling):
    specs = inputs(f"x={text}", "y=float32[n=2..3,t=1..9]")
    assert (specs[0].values, specs[0].ceiling) == (values, ceiling)
    assert inputs(*map(input_text, specs)) == specs


def test_spaces_mean_nothing():
    assert inputs(" x = float32 [ n = 1 .. 4 / 1 , 3 ]  in  0 .. 1 ") == inputs("x=float32[n=1..4,3] in 0..1")


WRONG_INPUTS = [
    ("", "", "the name of an input"),
    ("x", "", "= and a dtype"),
    ("x=float32", "", "[ and the dims"),
    ("x=flot32[1]", "flot32", "is not a dtype"),
    ("x=float32[1,]", "]", "a dim"),
    ("x=float32[1 2]", "2", "a comma or ]"),
    ("x=float32[-1]", "-", "a dim"),
    ("x=float32[?]", "?", "a dim"),
    ("x=float32[1.5]", ".", "a comma or ]"),
    ("x=float32[batch]", "batch", "has no range"),
    ("x=float32[3..4]", "3..", "is a range without a name"),
    ("x=float32[past+seq]", "past+", "begins a sum without a name"),
    ("x=float32[n=4]", "]", "the largest size of n"),
    ("x=float32[n=m]", "n=m", "gives one dim a second name"),
    ("x=float32[n=m+1]", "1", "no numbers"),
    ("x=float32[n=m+k]", "n=m+k", "adds m, which has no range"),
    ("x=float32[a=1..2,s=a+a,t=s+a]", "t=s+a", "is itself a sum"),
    ("x=float32[a=1..2,a=a+a]", "a=a+a", "has the range 1..2 too"),
    ("x=float32[a=1..2,b=1..2,s=a+b,s=b+a]", "s=b+a", "a second sum"),
    ("x=float32[n=1..4,n=1..5]", "n=1..5", "a second range"),
    ("x=float32[n=1..4,n=1..4/3]", "n=1..4/3", "a second range"),
    ("x=float32[n=8..1]", "n=8..1", "is an empty range"),
    ("x=float32[n=1..4/0]", "n=1..4/0", "has the step 0"),
    ("x=float32[n=4..4]", "n=4..4", "is a range of one size"),
    ("x=float32[n=4..9/8]", "n=4..9/8", "is a range of one size"),
    ("x=float32[n=1..x]", "x", "a whole number"),
    ("x=float32[99999999999999999999]", "99999999999999999999", "is larger"),
    ("x=float32[1] foo", "foo", "a value range"),
    ("x=float32[1] in 0..nan", "nan", "a finite number"),
    ("x=float32[1] in 0..inf", "inf", "a finite number"),
    ("x=float32[1] in 0..1e999", "1e999", "is too large"),
    ("x=float32[1] in 2..1", "2..1", "is an empty range"),
    ("x=int64[n=1..9] in 0..m", "m", "nor a dim with a range"),
    ("x=int64[n=1..9] in 1.5..n", "1.5..n", "is not a range of whole numbers"),
    ("x=int64[n=1..9] in 1..n-1", "1..n-1", "is empty at the smallest size"),
    ("x=int64[n=1..9] in 1..n-m", "m", "what is taken from the size"),
    ("x=int8[n=1..200] in 1..n", "1..n", "does not fit in int8"),
    ("x=int8[1] in 0..128", "0..128", "does not fit in int8"),
    ("x=uint8[1] in -1..1", "-1..1", "does not fit in uint8"),
    ("x=float16[1] in 0..1e6", "0..1e6", "does not fit in float16"),
    ("x=int8[1] in 0..1.5", "0..1.5", "whole numbers"),
    ("x=bool[1] in 0..1", "0..1", "of a bool"),
    ("x=float32[1] in 0..1 x", "x", "the end"),
]


@pytest.mark.parametrize(("text", "place", "reason"), WRONG_INPUTS, ids=[text for text, *_ in WRONG_INPUTS])
def test_a_wrong_input_is_pointed_at(text, place, reason):
    error = refused(inputs, text)
    assert reason in error.message
    if place:
        assert pointed(error) == place
        assert repr(place) in error.message


def test_the_nearest_dtype_is_named():
    assert "float32" in refused(inputs, "x=flot32[1]").hint
    assert "did you mean float32?" in refused(inputs, "x=f32[1]").hint
    assert "did you mean int64?" in refused(inputs, "x=long[1]").hint


def test_two_ranges_in_two_inputs():
    with pytest.raises(UsageError, match=r"gives n a second range, 1\.\.5 after 1\.\.4"):
        inputs("a=int64[n=1..4]", "b=int64[n=1..5]")


def test_a_bare_name_near_a_known_one():
    with pytest.raises(UsageError) as caught:
        inputs("a=int64[batch=1..4]", "b=int64[bach]")
    assert "did you mean batch?" in caught.value.hint


def test_an_input_given_twice():
    with pytest.raises(UsageError, match="x is given twice"):
        inputs("x=int64[1]", "x=int64[2]")


@STEADY
@given(st.text(max_size=30))
def test_any_text_is_an_input_or_a_usage_error(text):
    try:
        specs = inputs(text)
    except UsageError:
        return
    assert inputs(*map(input_text, specs)) == specs


SIZES = st.integers(0, 2**40)
NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,6}", fullmatch=True)
RANGES = st.builds(
    lambda low, steps, step: (low, low + steps * step, step), st.integers(0, 99), st.integers(1, 9), st.integers(1, 64)
)


@st.composite
def input_specs(draw):
    """Draw the inputs of one recipe: fixed dims, ranges with steps, sums, and value ranges."""
    ranges = draw(st.dictionaries(NAMES, RANGES, max_size=3))
    dims = [Dim(low, high, step, name) for name, (low, high, step) in ranges.items()]
    sums = []
    if len(dims) > 1:
        low, high = (sum(getattr(dim, end) for dim in dims) for end in ("low", "high"))
        name = draw(NAMES.filter(lambda name: name not in ranges))
        sums = [Dim(low, high, 1, name, tuple(ranges))]
    fixed = st.builds(lambda size: Dim(size, size), SIZES)
    names = draw(st.lists(st.from_regex(r"[A-Za-z0-9_.:/-]{1,8}", fullmatch=True), min_size=1, max_size=3, unique=True))
    specs = []
    for number, name in enumerate(names):
        own = dims if number == 0 else []
        others = draw(st.lists(st.one_of(fixed, *map(st.just, [*dims, *sums])), max_size=3))
        dtype = draw(st.sampled_from(DTYPES))
        specs.append(InputSpec(name, dtype, (*own, *others), draw(values_of(dtype))))
    return tuple(specs)


def values_of(dtype):
    if dtype == "bool":
        return st.none()
    if dtype.startswith("float") or dtype == "bfloat16":
        one = st.floats(-60000, 60000, width=64)
    else:
        one = st.integers(0, 127)
    return st.none() | st.tuples(one, one).map(sorted).map(tuple)


@STEADY
@given(input_specs())
def test_inputs_round_trip(specs):
    assert inputs(*map(input_text, specs)) == specs


def test_passes():
    assert parse_pass("int8-static") == PassSpec("int8-static")
    text = "p:a=1,b=true,c=1.5,d=min-max,e='1',f=\"a,b\",g=-2,h=1e-3"
    options = dict(parse_pass(text).options)
    assert options == {"a": 1, "b": True, "c": 1.5, "d": "min-max", "e": "1", "f": "a,b", "g": -2, "h": 0.001}
    assert [type(options[key]) for key in "abcde"] == [int, bool, float, str, str]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the name of a pass"),
        ("-p", "the name of a pass"),
        ("p:", "an option"),
        ("p:a", "= and the value"),
        ("p:a=", "the value"),
        ("p:a=1,", "an option"),
        ("p:a=1,a=2", "a second time"),
        ("p q", "or the end"),
        ("p:a='x", "the value"),
    ],
)
def test_wrong_passes(text, reason):
    assert reason in refused(parse_pass, text).message


OPTION_VALUES = st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text())
KEYS = st.from_regex(r"[a-z_][a-z0-9_]{0,5}", fullmatch=True)


@STEADY
@given(st.dictionaries(KEYS, OPTION_VALUES, max_size=4))
def test_passes_round_trip_type_for_type(options):
    spec = PassSpec("p", tuple(options.items()))
    found = parse_pass(pass_text(spec))
    assert found == spec
    assert [type(value) for _, value in found.options] == [type(value) for value in options.values()]


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("cpu", Target()),
        ("cpu:native", Target(device="native")),
        ("cuda:0,threads=2", Target(provider="cuda", device="0", threads=2)),
        ("openvino/cpu", Target(runtime="openvino")),
        ("openvino,device_type=GPU", Target(provider="openvino", options=(("device_type", "GPU"),))),
    ],
)
def test_targets(text, target):
    assert parse_target(text) == target
    assert target_text(target) == text


@pytest.mark.parametrize(
    ("text", "reason", "hint"),
    [
        ("", "a provider", ""),
        ("cpu:", "a device", ""),
        ("cpu,", "threads=N", ""),
        ("cpu,threads=0", "no thread", ""),
        ("cpu,threads=-1", "1 or more", ""),
        ("cpu,threads=1.5", "a comma or the end", ""),
        ("cpu,threads=1,threads=2", "a second time", ""),
        ("cpu,a=1,a=2", "a second time", ""),
        ("cpu,thread=2", "is not an option", "did you mean threads?"),
        ("onnxruntim/cpu", "is not a runtime", "did you mean onnxruntime?"),
        ("cpu gpu", "a comma or the end", ""),
    ],
)
def test_wrong_targets(text, reason, hint):
    error = refused(parse_target, text)
    assert reason in error.message
    assert hint in error.hint


@STEADY
@given(
    st.builds(
        Target,
        st.sampled_from(["onnxruntime", "openvino"]),
        st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,8}", fullmatch=True),
        st.none() | st.from_regex(r"[A-Za-z0-9_.:-]{1,8}", fullmatch=True),
        st.none() | st.integers(1, 512),
        st.dictionaries(st.sampled_from(["a", "b.c", "ep_x"]), st.text(), max_size=3).map(lambda o: tuple(o.items())),
    )
)
def test_targets_round_trip(target):
    assert parse_target(target_text(target)) == target


def test_drops():
    assert parse_drop("0.01") == Drop(0.01)
    assert parse_drop("1%") == Drop(0.01, relative=True)
    assert parse_drop("0") == Drop(0.0)
    assert parse_drop(" 100% ") == Drop(1.0, relative=True)


@pytest.mark.parametrize("text", ["", "x", "-1", "-1%", "nan", "inf", "1e999", "101%", "1%%", "1 2", "%"])
def test_wrong_drops(text):
    assert "the largest drop" in refused(parse_drop, text).message


@STEADY
@given(st.one_of(st.builds(Drop, st.floats(0, 1e300)), st.builds(Drop, st.floats(0, 1), st.just(value=True))))
def test_drops_round_trip_bit_for_bit(drop):
    assert parse_drop(drop_text(drop)) == drop


def test_sizes():
    assert parse_sizes("batch=8, seq=128") == {"batch": 8, "seq": 128}


@pytest.mark.parametrize("text", ["", "batch", "batch=", "batch=0", "batch=-1", "batch=1.5", "a=1,a=2", "a=1,", "8"])
def test_wrong_sizes(text):
    assert "the sizes" in refused(parse_sizes, text).message


@STEADY
@given(st.dictionaries(NAMES, st.integers(1, 2**63 - 1), min_size=1, max_size=4))
def test_sizes_round_trip(sizes):
    assert parse_sizes(sizes_text(sizes)) == sizes


@pytest.mark.parametrize("text", ["", "x", "nan", "inf", "1e999", "1 2", "0x10", "1_000"])
def test_wrong_numbers(text):
    assert "is not a number" in refused(parse_number, text).message


@pytest.mark.parametrize("text", ["1.0", "1e3", "x"])
def test_wrong_whole_numbers(text):
    refused(parse_whole, text)


def test_numbers():
    assert parse_number("2.5") == 2.5
    assert parse_whole("-3") == -3


# images


@pytest.mark.parametrize(
    ("text", "images"),
    [
        ("size=224", Images((224, 224))),
        ("size=224/160", Images((224, 160))),
        ("resize=256", Images(resize=256)),
        ("resize=stretch", Images(resize="stretch")),
        ("scale=1/255", Images(scale=1 / 255)),
        ("scale=1", Images(scale=1.0)),
        ("mean=0.5", Images(mean=(0.5,))),
        ("mean=-1e-3/.5/2,std=1/2/3", Images(mean=(-0.001, 0.5, 2.0), std=(1.0, 2.0, 3.0))),
        (" size = 8 / 9 , layout = NHWC ", Images((8, 9), layout="NHWC")),
    ],
)
def test_images(text, images):
    assert parse_images(text) == images
    assert parse_images(images_text(images)) == images


@pytest.mark.parametrize(
    ("text", "marked", "said"),
    [
        ("", "^", "ends where a setting (size, resize, scale, mean, std, layout) was expected"),
        ("sise=3", "sise", "is no setting of images"),
        ("size", "^", "= and the size"),
        ("size=", "^", "a number of pixels"),
        ("size=0", "0", "leaves nothing of an image"),
        ("size=3,size=4", "size", "is given a second time"),
        ("size=3x4", "x4", "a comma or the end"),
        ("resize=strech", "strech", "a number of pixels"),
        ("scale=0", "0", "is no scale"),
        ("scale=1/0", "1/0", "is no scale"),
        ("scale=-1", "-1", "is no scale"),
        ("scale=1e999", "1e999", "is too large"),
        ("mean=0.5/0.5", "0.5/0.5", "has 2 values"),
        ("std=1/0/1", "1/0/1", "cannot be divided by"),
        ("layout=CHW", "CHW", "is no layout of images"),
    ],
)
def test_wrong_images(text, marked, said):
    error = refused(parse_images, text)
    assert said in error.message
    assert marked in {"^", pointed(error) if text else "^"}


def test_images_by_name_are_the_same_settings():
    table = {"size": [224, 160], "resize": "stretch", "scale": "1/255", "mean": (0.5, 0.5, 0.5), "std": 2}
    assert parse_images(settings_text(table)) == parse_images(
        "size=224/160,resize=stretch,scale=1/255,mean=0.5/0.5/0.5,std=2"
    )


@pytest.mark.parametrize(
    ("key", "value"), [("sise", 3), ("mean", None), ("layout", "NCHW,size=3"), ("size", "3"), ("std", [True])]
)
def test_images_by_name_of_a_wrong_type(key, value):
    with pytest.raises(UsageError, match=key):
        settings_text({key: value})
