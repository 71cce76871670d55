"""What today's rewriters get wrong, one test for each class of mistake: generated graphs through all default passes."""

import random as draws
from itertools import count, cycle

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

import mlc
from mlc.fusion import sizes_of
from mlc.invariants import interface
from mlc.manifest import minimum_runtime
from mlc.registry import DEFAULT_PASSES, build, pass_class
from mlc.rewriting.opset import raised
from mlc.rewriting.sessions import Runner
from mlc.types import PassSpec
from tests.generated import Drawn, fed, generated
from tests.graphs import answers, apply, graph, line, ops, random, read_by, same_numbers
from tests.halves import holding
from tests.nested import nested

pytestmark = pytest.mark.needs_onnxruntime

DEFAULTS = [PassSpec(name) for name in DEFAULT_PASSES if not pass_class(name).needs_kernels]
NEEDS_OPSET = "it needs opset"
"""How a pass is dropped that the graph is too old for."""

UNJUDGED = "cannot be judged on its own"
"""Why a site in a branch is left out that no run may take."""

LARGEST, SMALLEST = 2**63 - 1, -(2**63)


def rewritten(model, feeds, workspace, others=(), tolerance=0.0):
    """The model after all default passes: nothing left out, the interface and the numbers kept."""
    after, steps = line(model, DEFAULTS, feeds, workspace)
    left_out = [left for step in steps for left in step.left_out if not left.reason.endswith(UNJUDGED)]
    assert left_out == []
    assert all(step.dropped.startswith(NEEDS_OPSET) for step in steps if step.dropped)
    assert interface(after) == interface(model)
    for feed in (*feeds, *others):
        same_numbers(model, after, feed, workspace, tolerance)
    return after


# constants


ZERO, ONE = np.float32(0), np.float32(1)
ALIKE = {
    "signed zeros": (ZERO, -ZERO),
    "signed zeros inside": (np.array([1, 0, 2], np.float32), np.array([1, -0.0, 2], np.float32)),
    "signed zeros of float64": (np.float64(0), np.float64(-0.0)),
    "signed zeros of float16": (np.float16(0), np.float16(-0.0)),
    "the same numbers of another dtype": (ONE, np.float64(1)),
    "the same bits of another dtype": (np.array([1, 0, 0, 0], np.int32), np.array([1, 0])),
    "a truth value and a byte": (np.array(True), np.uint8(1)),
    "another rank": (ONE, np.ones((1, 1), np.float32)),
    "another shape": (np.ones((1, 3), np.float32), np.ones((3, 1), np.float32)),
    "nothing of another shape": (np.zeros((0, 3), np.float32), np.zeros((0, 2), np.float32)),
}
NAMES = {"float32": "float", "float64": "double"}


@pytest.mark.parametrize("place", ["initializers", "nodes"])
def test_constants_that_only_look_alike_stay_apart(place, workspace):
    """Dtype and shape of each are those of an output, and its inverse shows the sign of a zero."""
    given = {
        f"{side}{number}": np.asarray(array)
        for number, pair in enumerate(ALIKE.values())
        for side, array in zip("ab", pair, strict=True)
    }
    outputs = ", ".join(
        f"{NAMES.get(array.dtype.name, array.dtype.name)}{list(array.shape) or ''} same_{name}, "
        f"float{list(array.shape) or ''} one_over_{name}"
        for name, array in given.items()
    )
    body = "".join(
        f"same_{name} = Identity({name}) f{name} = Cast<to = 1>({name}) one_over_{name} = Reciprocal(f{name}) "
        for name in given
    )
    model = holding(f"g (float[n] x) => ({outputs}, float[n] y) {{ {body} y = Neg(x) }}", **given)
    model = with_constant_nodes(model) if place == "nodes" else model
    rewritten(model, [{"x": random(n, n)} for n in (2, 3)], workspace)


def with_constant_nodes(model):
    """The model with a Constant node in the place of each initializer."""
    proto = ir.to_proto(model)
    made = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in proto.graph.initializer]
    kept = list(proto.graph.node)
    del proto.graph.node[:], proto.graph.initializer[:]
    proto.graph.node.extend([*made, *kept])
    return ir.from_proto(proto)


DRAWN = {
    "RandomNormal": "RandomNormal<shape = [3]>()",
    "RandomNormal of one seed": "RandomNormal<shape = [3], seed = 7.0>()",
    "RandomNormalLike": "RandomNormalLike(k)",
    "RandomUniform": "RandomUniform<shape = [3]>()",
    "RandomUniformLike": "RandomUniformLike(k)",
    "Bernoulli": "Bernoulli(k)",
    "Multinomial": "Multinomial<sample_size = 3, dtype = 6>(p)",
    "Dropout": "Dropout(k, half, on)",
}
INSIDE = """y = If(flag) <then_branch = t () => (float u) {{ {two} u = ReduceSum<keepdims = 0>(d) }},
                          else_branch = e () => (float v) {{ {two} v = ReduceSum<keepdims = 0>(d) }}>"""


@pytest.mark.parametrize("place", ["the graph", "branches"])
@pytest.mark.parametrize("kind", DRAWN)
def test_what_is_drawn_twice_is_neither_merged_nor_drawn_once_and_for_all(kind, place):
    """Nothing verifies here: no two runs of such a graph agree."""
    two = f"a = {DRAWN[kind]} b = {DRAWN[kind]} f = Cast<to = 1>(a) g = Cast<to = 1>(b) d = Sub(f, g)"
    body = INSIDE.format(two=two) if place == "branches" else f"{two} y = ReduceSum<keepdims = 0>(d)"
    weights = "float[3] k = {0.25,0.5,0.75}, float[1,3] p = {-1,0,1}, float half = {0.5}, bool on = {1}"
    model = graph(f"g (bool flag) => (float y) <{weights}> {{ {body} }}")
    drawing = kind.split(maxsplit=1)[0]
    wanted = ops(model).count(drawing)
    for spec in DEFAULTS:
        model, _ = apply(build(spec), model)
        assert ops(model).count(drawing) == wanted
    assert wanted == (4 if place == "branches" else 2)


# the interface


COPIES = (
    "Identity({0})", "Dropout({0})", "Cast<to = 1>({0})", "Transpose<perm = [0, 1]>({0})", "Clip({0})",
    "Reshape({0}, {0}.shape)", "Flatten({0})", "Concat<axis = 0>({0})", "Sum({0})", "Expand({0}, one)",
)  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
def test_a_graph_that_only_hands_on_keeps_every_name(seed, workspace):
    """Chains of copies of the input; some values on the way, the input and a weight among them, are outputs."""
    draw = draws.Random(seed)  # noqa: S311
    values, lines = ["x"], []
    for place in range(draw.randint(1, 6)):
        read, name = draw.choice(values), f"v{place}"
        copy = draw.choice(COPIES)
        if "shape" in copy:
            lines.append(f"{name}s = Shape({read})")
        lines.append(f"{name} = {copy.replace('{0}.shape', f'{name}s').format(read)}")
        values.append(name)
    given = draw.sample(values, draw.randint(1, len(values)))
    outputs = ", ".join(f"float[n,3] {name}" for name in dict.fromkeys([*given, values[-1]]))
    head = f"g (float[n,3] x) => ({outputs}, int64[1] one) <int64[1] one = {{1}}>"
    rewritten(graph(f"{head} {{ {' '.join(lines)} }}"), [{"x": random(n, n, 3)} for n in (2, 3)], workspace)


OVERRIDABLE = 30
"""One in so many weights of a generated graph is overridable."""


@pytest.mark.parametrize("first", range(0, 300, 100))
def test_defaults_that_a_caller_overrides_are_never_built_in(first, workspace, monkeypatch):
    """Every second weight of a generated graph is an input with a default too."""
    plain = Drawn.chance
    monkeypatch.setattr(Drawn, "chance", lambda self, one_in: plain(self, 2 if one_in == OVERRIDABLE else one_in))
    seed, model, defaults = next(
        (seed, model, defaults)
        for seed in count(first)
        for model in [generated(seed)]
        for defaults in [[value for value in model.graph.inputs if value.const_value is not None]]
        if len(defaults) > 1
    )
    generator = np.random.default_rng(seed)
    others = {each.name: generator.uniform(0.5, 2, each.shape.numpy()).astype(np.float32) for each in defaults}
    feeds = [fed(seed, *size) for size in ((2, 3), (3, 5))]
    rewritten(model, feeds, workspace, [{**fed(seed, 4, 2), **others}], 1e-4)


SHARED = {
    "two convolutions": "a = Conv(p, w) c = Conv(p, v, b) y = Mul(a, c)",
    "two of one weight": "a = Conv(p, w) n = Neg(p) c = Conv(n, w) y = Mul(a, c)",
    "normalized convolutions": """a = Conv(p, w) d = BatchNormalization(a, s, b, b, s)
        c = Conv(p, v, b) e = BatchNormalization(c, s, b, b, s) y = Mul(d, e)""",
    "a convolution and an output": "c = Conv(p, w) y = BatchNormalization(c, s, b, b, s)",
    "a convolution and its normalization": "c = Conv(p, w) d = BatchNormalization(c, s, b, b, s) y = Mul(c, d)",
    "a convolution that pads too": "y = Conv<pads = [1, 0, 0, 1]>(p, w)",
}
PADS = {
    "zeros": "Pad(x, sizes)",
    "a number": "Pad(x, sizes, half)",
    "fewer": "Pad(x, fewer)",
    "reflected": 'Pad<mode = "reflect">(x, sizes)',
}


@pytest.mark.parametrize(("readers", "pad"), zip(SHARED, cycle(PADS), strict=False))
def test_what_several_nodes_read_is_theirs_alone(readers, pad, workspace):
    """A padded image, convolutions, or a weight: no reader gets what was made for another one."""
    also = {
        "a convolution and an output": ", float[n,2,i,j] p",
        "a convolution and its normalization": ", float[n,2,k,l] c",
    }
    body = f"p = {PADS[pad]} {SHARED[readers]}"
    held = read_by(
        body, w=random(1, 2, 2, 2, 2), v=random(2, 2, 2, 2, 2), b=random(3, 2), s=np.array([0.5, 2], np.float32),
        sizes=np.array([0, 0, 1, 1, 0, 0, 1, 2]), fewer=np.array([0, 0, -1, 1, 0, 0, 1, -1]), half=np.float32(0.5),
    )  # fmt: skip
    model = holding(f"g (float[n,2,5,5] x) => (float[n,2,k,l] y{also.get(readers, '')}) {{ {body} }}", **held)
    rewritten(model, [{"x": random(n, n, 2, 5, 5)} for n in (2, 3)], workspace, tolerance=1e-5)


# branches and loops


@pytest.mark.parametrize(("seed", "depth"), [(0, 1), (1, 1), (3, 2)])
def test_branches_and_loops_inside_of_each_other(seed, depth, workspace):
    feeds = [{"x": random(n, n, 3), "flag": np.array(n == 2)} for n in (2, 3)]
    others = [{"x": random(n, n, 3), "flag": np.array(n == 1)} for n in (1, 4)]
    rewritten(graph(nested(seed, depth)), feeds, workspace, others, 1e-5)


# slices


def slicing(draw, size, rank):
    """Starts, ends, axes and steps of one Slice of axes of up to ``size``, as wild as they are legal."""
    axes = draw.sample(range(rank), draw.randint(1, rank))
    steps = [draw.choice((1, 1, 2, -1, -2)) for _ in axes]
    ends = [draw.choice((LARGEST, SMALLEST, *range(-size - 2, size + 3))) for _ in axes]
    starts = [draw.choice((LARGEST, SMALLEST, 0, 0, *range(-size - 2, size + 3))) for _ in axes]
    return starts, ends, [axis - draw.choice((0, rank)) for axis in axes], steps


@pytest.mark.parametrize("seed", range(4))
def test_slices_of_slices(seed, workspace):
    """Of values, of weights, and of either in Constant nodes."""
    draw = draws.Random(seed)  # noqa: S311
    lines: list[str] = []
    outputs: list[str] = []
    arrays = {"w": random(seed, 2, 5, 4)}
    for source in ("x", "x", "w", "w"):
        name = f"{source}{len(outputs)}"
        last = source
        for place in range(draw.randint(2, 3)):
            four = {f"{name}_{place}_{index}": np.array(each) for index, each in enumerate(slicing(draw, 5, 3))}
            arrays |= four
            lines.append(f"{name}_{place} = Slice({last}, {', '.join(four)})")
            last = f"{name}_{place}"
        lines.append(f"{name} = Identity({last})")
        outputs.append(f"float[{name}i,{name}j,{name}k] {name}")
    model = holding(f"g (float[n,5,4] x) => ({', '.join(outputs)}) {{ {' '.join(lines)} }}", **arrays)
    model = with_constant_nodes(model) if seed % 2 else model
    rewritten(model, [{"x": random(n, n, 5, 4)} for n in (2, 3)], workspace, [{"x": random(7, 7, 5, 4)}])


@pytest.mark.parametrize("seed", range(6))
def test_sizes_that_are_sliced_are_those_that_the_runtime_gives(seed, workspace):
    draw = draws.Random(seed)  # noqa: S311
    known = 0
    for _ in range(5):
        starts, ends, axes, steps = slicing(draw, 4, 1)
        given = draw.choice((f"start, end, axes, {'steps'}", "start, end, , steps", "start, end, axes", "start, end"))
        body = f"s = Shape<start = {draw.randint(-4, 2)}>(x) a = Slice(s, {given}) t = Slice(a, {given})"
        arrays = {"start": starts, "end": ends, "axes": axes, "steps": steps}
        held = {name: np.array(each) for name, each in arrays.items() if name in given}
        model = holding(f"g (float[2,3,4,5] x) => (int64[k] t) {{ {body} }}", **held)
        found = sizes_of(model.graph.outputs[0])
        known += found is not None
        assert found in (None, answers(model, {"x": random(0, 2, 3, 4, 5)}, workspace)["t"].tolist())
    assert known


# what is easily taken for nothing


NONE, HALF = np.zeros((0, 3), np.float32), np.float32(0.5)
KEPT = {
    "a constant as an output": ("float[3] k", "k = Constant<value_floats = [1.0, -0.0, 3.0]>()"),
    "a constant and its copy": (
        "float[3] k, float[3] c", "k = Constant<value_floats = [1.0, 2.0, 3.0]>() c = Identity(k)",
    ),
    "a weight as an output": ("float[3] w", ""),
    "a weight and what is computed of it": ("float[3] w, float[3] e", "e = Exp(w)"),
    "dropout that a caller may switch on": ("float[n,3] d", "d = Dropout(x, half, flag)"),
    "dropout and its mask": ("float[n,3] d, bool[n,3] m", "d, m = Dropout(x, half, flag)"),
    "nothing beside something": ("float[n,3] c", "c = Concat<axis = 0>(x, none)"),
    "nothing beside nothing": ("float[0,3] c", "c = Concat<axis = 0>(none, none)"),
    "nothing cut out": ("float[n,0] c", "s = Slice(x, three, three, one) c = Exp(s)"),
    "an upper bound alone": ("float[n,3] c", "c = Clip(x, , half)"),
    "a lower bound alone": ("float[n,3] c", "c = Clip(x, half)"),
    "bounds in the wrong order": ("float[n,3] c", "low = Neg(half) c = Clip(x, half, low)"),
    "an optional input in the middle": ("float[n,1,6] c", "u = Unsqueeze(x, one) c = Resize(u, , scales)"),
}  # fmt: skip


@pytest.mark.parametrize("why", KEPT)
def test_what_is_easily_taken_for_nothing_is_kept(why, workspace):
    outputs, body = KEPT[why]
    held = read_by(
        f"{body} {outputs}", w=random(0, 3), none=NONE, half=HALF, one=np.array([1]), three=np.array([3]),
        scales=np.array([1, 1, 2], np.float32),
    )  # fmt: skip
    model = holding(f"g (float[n,3] x, bool flag) => ({outputs}, float[n,3] y) {{ {body} y = Neg(x) }}", **held)
    after = rewritten(model, [{"x": random(n, n, 3), "flag": np.array(False)} for n in (2, 3)], workspace)
    assert ops(after).count("Dropout") == ops(model).count("Dropout")


# versions


@pytest.mark.parametrize("scale", [0.5, 1.3, 1.7, 2.0])
@pytest.mark.parametrize(("opset", "operator"), [(10, "Resize"), (9, "Upsample")])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_an_opset_is_raised_where_every_number_stays_and_only_there(mode, opset, operator, scale, workspace):
    if operator == "Upsample" and scale < 1:
        pytest.skip("Upsample makes nothing smaller")
    header = f'<ir_version: 5, opset_import: ["" : {opset}]>'
    text = f'g (float[n,1,6,6] x) => (float[n,1,h,w] y) {{ r = {operator}<mode = "{mode}">(x, s) y = Relu(r) }}'
    model = holding(text, header, s=np.array([1, 1, scale, scale], np.float32))
    feeds = [{"x": random(n, n, 1, 6, 6)} for n in (2, 3)]
    after, note = raised(model, 13, Runner(workspace), feeds[:1])
    if after is model:
        assert f"opset {opset} could not be raised to 13: " in note
    else:
        assert after.opset_imports[""] == 13
        same_numbers(model, after, feeds[1], workspace, 1e-5)


@pytest.mark.parametrize(
    ("opset", "written", "lowest"), [(11, 8, 8), (17, 14, 8), (20, 10, 9), (23, 14, 11), (17, 7, 7)]
)
def test_a_file_is_written_for_runtimes_as_old_as_its_operators_allow(opset, written, lowest, tmp_path):
    text = f'<ir_version: {written}, opset_import: ["" : {opset}]> g (float[n,3] x) => (float[n,3] y) {{ y = Relu(x) }}'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "model.onnx")
    model = mlc.export(mlc.load(tmp_path / "model.onnx", inputs=["x=float32[n=1..4,3]"])).model
    assert (model.opset_imports[""], model.ir_version) == (opset, lowest)
    assert minimum_runtime(opset, lowest) == minimum_runtime(opset)


def with_functions(folder, opset=17):
    """A file with a function of that opset, called twice and by another one, whose values have names of the graph."""
    text = f"""<ir_version: 10, opset_import: ["" : 17, "own" : 1]>
        g (float[n,3] x, bool c) => (float[n,3] y) {{
            p = own.twice(x)
            y = If(c) <then_branch = t () => (float[n,3] o) {{ o = own.twice(p) }},
                       else_branch = e () => (float[n,3] o) {{ o = own.leaking<slope = 0.5>(x) }}>
        }}
        <domain: "own", opset_import: ["" : {opset}]> twice (x) => (q) {{ p = Neg(x) q = Sub(x, p) }}
        <domain: "own", opset_import: ["" : 17, "own" : 1]> leaking <slope> (p) => (y)
        {{ x = own.twice(p) y = LeakyRelu<alpha : float = @slope>(x) }}"""
    onnx.save(onnx.parser.parse_model(text), folder / "model.onnx")
    return mlc.export(mlc.load(folder / "model.onnx", inputs=["x=float32[n=1..4,3]", "c=bool[]"]))


def test_functions_of_a_file_are_written_out(tmp_path):
    exported = with_functions(tmp_path)
    assert not exported.model.functions
    assert exported.model.opset_imports == {"": 17}
    assert exported.model.ir_version == 8
    assert [node.op_type for graph in exported.model.graphs() for node in graph] == [
        "Neg", "Sub", "If", "Neg", "Sub", "Neg", "Sub", "LeakyRelu",
    ]  # fmt: skip
    told = "the model's own functions were written out where they are called: own.twice, own.leaking"
    assert exported.origin.notes == (told,)


def test_functions_of_another_opset_stay_and_keep_the_ir_version(tmp_path):
    exported = with_functions(tmp_path, opset=16)
    assert [name for _, name, _ in exported.model.functions] == ["twice"]
    assert exported.model.ir_version == 10
    assert "own functions own.twice, whose operators are of another opset than the model's:" in exported.origin.notes[1]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("opset", "converted"), [(20, 2), (18, 1)])
def test_products_in_functions_are_quantized_or_said_to_stay(tmp_path, opset, converted):
    text = f"""<ir_version: 10, opset_import: ["" : 20, "own" : 1]>
        g (float[n,32] x) => (float[n,32] y) {{ h = own.dense(x, a, b) r = Relu(h) y = MatMul(r, c) }}
        <domain: "own", opset_import: ["" : {opset}]> dense (x, w, b) => (y) {{ m = MatMul(x, w) y = Add(m, b) }}"""
    model = onnx.parser.parse_model(text)
    for name, shape in {"a": (32, 32), "b": (32,), "c": (32, 32)}.items():
        array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(model, tmp_path / "model.onnx")
    rows = [{"x": row} for row in np.random.default_rng(1).standard_normal((16, 1, 32)).astype(np.float32)]
    for to, data in {"int8": None, "int8-dynamic": None, "int8-static": rows}.items():
        report = mlc.compile(str(tmp_path / "model.onnx"), inputs=["x=float32[n=1..4,32]"], to=to, calibrate=data)
        assert report.plan is not None
        products = [entry for entry in report.plan.nodes if entry.op == "MatMul" and entry.format != "float"]
        assert len(products) == converted
        assert any("model's own functions" in note and "own.dense" in note for note in report.origin.notes)


# sequences

SEQUENCES = {
    "identities": "i = Identity(x) j = Identity(x) s = SequenceConstruct(i, j)",
    "a cast": "i = Cast<to = 1>(x) s = SequenceConstruct(i, x)",
    "twice the same": "i = Neg(x) j = Neg(x) s = SequenceConstruct(i, j)",
    "there and back": "i = Unsqueeze(x, axis) j = Squeeze(i, axis) s = SequenceConstruct(j, x)",
    "inserted": "e = SequenceEmpty() i = Identity(x) k = SequenceInsert(e, i) s = SequenceInsert(k, x)",
    "of a branch": """s = If(yes) <then_branch = t () => (seq(float[b,4]) r) { r = SequenceConstruct(x, x) },
        else_branch = e () => (seq(float[b,4]) q) { q = SequenceConstruct(x) }>""",
    "of a branch by value": """m = ReduceMax<keepdims = 0>(x) c = Cast<to = 9>(m)
        s = If(c) <then_branch = t () => (seq(float[b,4]) r) { i = Identity(x) r = SequenceConstruct(i, x) },
        else_branch = e () => (seq(float[b,4]) q) { q = SequenceConstruct(x) }>""",
}


@pytest.mark.parametrize("made", SEQUENCES)
def test_what_goes_into_a_sequence(made, workspace):
    model = graph(f"""<ir_version: 10, opset_import: ["":20]> g (float[b,4] x) => (float[b,c] y, float[b,4] z)
        <int64[1] axis = {{1}}, bool yes = {{1}}, int64 first = {{0}}> {{
        {SEQUENCES[made]} y = ConcatFromSequence<axis = 1>(s) z = SequenceAt(s, first)
    }}""")
    rewritten(model, [{"x": random(1, 2, 4)}], workspace, [{"x": random(2, 3, 4)}])
