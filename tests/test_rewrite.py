"""The verified line of passes: what it records and refuses, how it judges outputs, the final check of files."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest

from mlc.compare import Reference
from mlc.errors import PassError, TargetError, UsageError
from mlc.fusion import Fusion, constant, walk
from mlc.graph_pass import Change, Exactness, Pass
from mlc.registry import DEFAULT_PASSES, build
from mlc.rewriting import check_files, rewrite
from mlc.rewriting.final import lossy_difference
from mlc.rewriting.opset import raised
from mlc.rewriting.sessions import Runner, chosen
from mlc.rewriting.trials import culprit, secured
from mlc.types import Need, PassSpec, Target
from passes.fold_constants import FoldConstants
from passes.fuse_gelu import FuseGelu
from tests.graphs import ANY_CPU, answers, apply, artifact, graph, line, ops, random, references, same_numbers

pytestmark = pytest.mark.needs_onnxruntime

X = [{"x": random(1, 2, 3)}, {"x": random(2, 5, 3)}]
CHAIN = """g (float[batch,3] x) => (float[batch,3] y) <float[3,3] w = {1,2,3,4,5,6,7,8,9}>
{ h = MatMul(x, w) a = Sin(h) y = Neg(a) }"""


@pytest.fixture
def model():
    return graph(CHAIN)


@dataclass(frozen=True)
class Replace(Fusion):
    """``op(x)`` becomes ``other(x)``, for tests; ``factor`` makes it wrong by so much."""

    name: ClassVar[str] = "replace"
    exactness: ClassVar[Exactness] = Exactness.REASSOCIATES
    tolerance: ClassVar[float] = 1e-5

    op: str = "Neg"
    factor: float = -1.0

    def pattern(self, op, x):
        return getattr(op, self.op)(x)

    def rewrite(self, op, x):
        return op.Mul(x, constant(op, np.array(self.factor, np.float32)))


@dataclass(frozen=True)
class Halves(Pass):
    """``x`` becomes ``x`` rounded to a grid of ``step``, a loss on purpose."""

    name: ClassVar[str] = "halves"
    exactness: ClassVar[Exactness] = Exactness.LOSSY
    min_opset: ClassVar[int] = 20

    step: float = 0.01
    op: str = "Sin"
    reads: str = ""

    def needs(self, model):
        return (Need(self.reads, "range"),) if self.reads else ()

    def apply(self, model, ctx):
        if self.reads:
            assert ctx.statistics.range(self.reads)[0] < 0
        sites = []
        for prefix, each in walk(model):
            for node in list(each):
                if node.op_type == self.op and ctx.allow(f"{prefix}{node.outputs[0].name}"):
                    sites.append(f"{prefix}{node.outputs[0].name}")
                    self.coarsen(each, node)
        return Change(tuple(sites))

    def coarsen(self, each, node):
        value = node.outputs[0]
        uses = list(value.uses())
        name, value.name = value.name, f"{value.name}.fine"
        step = ir.Value(name=f"{name}.step", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([]))
        step.const_value = ir.tensor(np.array(self.step, np.float32))
        each.register_initializer(step)
        scaled = ir.Node("", "Div", [value, step])
        rounded = ir.Node("", "Round", scaled.outputs)
        coarse = ir.Node("", "Mul", [rounded.outputs[0], step])
        for index, made in enumerate((scaled, rounded, coarse)):
            made.name, made.outputs[0].name = f"{name}.{index}", f"{name}.{index}.value"
        each.insert_after(node, [scaled, rounded, coarse])
        coarse.outputs[0].name = name
        for use in uses:
            use.node.replace_input_with(use.idx, coarse.outputs[0])


# Steps


def test_a_step_says_what_happened(model, workspace):
    after, (step,) = line(model, [Replace()], X, workspace, requested={"replace"})
    assert (step.spec, step.exactness, step.requested) == (PassSpec("replace"), "reassociates", True)
    assert (step.sites, step.left_out, step.dropped, step.error) == (("y",), (), "", 0)
    assert (step.nodes_before, step.nodes_after) == (3, 3)
    assert step.seconds > 0
    assert step.verify_seconds > 0
    assert ops(after) == ["MatMul", "Sin", "Mul"]
    assert ops(model) == ["MatMul", "Sin", "Neg"], "the graph that was given stays"


def test_passes_run_in_order_and_their_steps_are_kept(model, workspace):
    _, steps = line(model, [Replace(op="Sin", factor=1.0), Replace(), PassSpec("fold-constants")], X, workspace)
    assert [step.spec.name for step in steps] == ["replace", "replace", "fold-constants"]
    assert [len(step.sites) for step in steps] == [0, 1, 0]
    assert [left.site for left in steps[0].left_out] == ["a"]


def test_progress_names_each_pass(model, workspace):
    heard: list[str] = []
    line(model, [Replace(), PassSpec("fold-constants")], X, workspace, progress=heard.append)
    assert heard == ["replace", "fold-constants"] * 2


def old(body, opset, head="(float[n,1,5,5] x) => (float[n,1,m,m] y)"):
    """A model as files of that time are."""
    return graph(f'<ir_version: 5, opset_import: ["":{opset}]> g {head} {{ {body} }}')


RAISED = [
    (9, 'r = Relu(x) y = Upsample<mode = "nearest">(r, s)', "<float[4] s = {1,1,2,2}>"),
    (10, "y = Pad<pads = [0,0,1,0,0,0,1,0]>(x)", ""),
    (10, "y = Clip<min = -0.5, max = 0.5>(x)", ""),
    (11, "y = Softmax<axis = 2>(x)", ""),
    (11, "h = Squeeze<axes = [1]>(x) y = Unsqueeze<axes = [1]>(h)", ""),
]


@pytest.mark.parametrize(("opset", "body", "weights"), RAISED)
def test_an_old_opset_is_raised_to_what_passes_need(opset, body, weights, workspace):
    head = f"(float[n,1,5,5] x) => (float[n,1,m,k] y) {weights}"
    model = old(body, opset, head)
    feeds = [{"x": random(1, 2, 1, 5, 5)}, {"x": random(2, 3, 1, 5, 5)}]
    kept = references(model, feeds, workspace)
    done = rewrite(
        artifact(model), [PassSpec("eliminate-dead-code")], references=kept, workspace=workspace, capabilities=ANY_CPU
    )
    assert done.steps[0].dropped == ""
    assert done.model.opset_imports[""] == 13
    assert f"opset {opset} was raised to 13" in done.origin.notes[0]
    assert model.opset_imports[""] == opset
    for feed in feeds:
        same_numbers(model, done.model, feed, workspace, 1e-6)


RESIZED = 'r = Resize<mode = "linear">(x, s)'
BRANCHED = (
    "y = If(f) <then_branch = t () => (float[a] p) { p = Neg(r) }, else_branch = e () => (float[a] p) { p = Abs(r) }>"
)
KEPT = [
    (f"{RESIZED} y = Relu(r)", "r differs by"),
    (f"{RESIZED} k = Mul(r, t) y = Add(k, u)", "r differs by"),
    (f"{RESIZED} {BRANCHED}", "it has branches"),
]


@pytest.mark.parametrize(("body", "reason"), KEPT)
def test_a_conversion_that_changes_a_number_is_not_made_and_the_pass_says_what_it_needs(body, reason, workspace):
    weights = "<float[4] s = {1,1,1.7,1.7}, float t = {1e-9}, float u = {1}, bool f = {1}>"
    model = old(body, 10, f"(float[n,1,5,5] x) => (float[n,1,8,8] y) {weights}")
    feeds = [{"x": random(1, 2, 1, 5, 5)}]
    after, (step,) = line(model, [PassSpec("fold-constants")], feeds, workspace)
    assert step.dropped == "it needs opset 13, the model has 10"
    assert ops(after) == ops(model)
    _, note = raised(model, 13, Runner(workspace), feeds)
    assert f"opset 10 could not be raised to 13: {reason}" in note
    said = f"the pass fold-constants needs opset 13, and opset 10 could not be raised to 13: {reason}"
    with pytest.raises(PassError, match=said):
        line(model, [PassSpec("fold-constants")], feeds, workspace, requested={"fold-constants"})


def test_a_requested_pass_without_a_site_is_no_error(model, workspace):
    _, (step,) = line(model, [Replace(op="Cos")], X, workspace, requested={"replace"}, strict=True)
    assert (step.sites, step.dropped) == ((), "")


def test_one_reference_is_enough(model, workspace):
    _, (step,) = line(model, [Replace()], X[:1], workspace)
    assert step.sites == ("y",)


def test_the_traced_and_one_other_size_are_chosen():
    kept = [Reference({"batch": size}, {}, {}) for size in (2, 1, 64, 3)]
    assert [reference.sizes["batch"] for reference in chosen(kept, {"batch": 3})] == [2, 3]
    assert [reference.sizes["batch"] for reference in chosen(kept, {"batch": 9})] == [2, 3]
    assert chosen(kept[:1], {"batch": 3}) == kept[:1]


# Weights


def test_weights_are_locked_and_the_original_keeps_its_own(model, workspace):
    held = secured(model, workspace)
    for value in held.graph.initializers.values():
        assert value.const_value is not None
        with pytest.raises(ValueError, match="read-only"):
            value.const_value.numpy()[...] = 0
        with pytest.raises(ValueError, match="cannot set WRITEABLE"):
            value.const_value.numpy().setflags(write=True)
    assert held.graph.initializers["w"].const_value is not model.graph.initializers["w"].const_value


def test_shared_tensors_stay_shared(workspace):
    shared = ir.tensor(random(1, 4))
    model = graph(
        """g (float[n,4] x) => (float[n,4] y) <float[4] a = {1,2,3,4}, float[4] b = {1,2,3,4}>
        { c = Add(x, a) y = Add(c, b) }"""
    )
    for name in ("a", "b"):
        model.graph.initializers[name].const_value = shared
    held = secured(model, workspace)
    assert held.graph.initializers["a"].const_value is held.graph.initializers["b"].const_value


@dataclass(frozen=True)
class Freeze(Pass):
    """Build on a default that a caller may override: ``x + default`` with the default's value of today."""

    name: ClassVar[str] = "freeze"
    exactness: ClassVar[Exactness] = Exactness.EXACT

    def apply(self, model, ctx):
        node = next(node for node in model.graph if node.op_type == "Add")
        if not ctx.allow("y"):
            return Change()
        frozen = ir.Value(name="frozen", type=ir.TensorType(ir.DataType.FLOAT), shape=node.inputs[1].shape)
        frozen.const_value = node.inputs[1].const_value
        model.graph.register_initializer(frozen)
        node.replace_input_with(1, frozen)
        return Change(("y",))


@pytest.mark.parametrize("feeds", [X, X[:1]])
@pytest.mark.parametrize(("shape", "numbers"), [("[3]", "1,2,3"), ("", "2")])
def test_a_default_that_a_caller_may_override_is_overridden(feeds, shape, numbers, workspace):
    default = f"float{shape} d"
    model = graph(f"""g (float[batch,3] x, {default}) => (float[batch,3] y) <{default} = {{{numbers}}}>
        {{ y = Add(x, d) }}""")
    after, (step,) = line(model, [Freeze()], feeds, workspace)
    (left,) = step.left_out
    assert left.site == "y"
    assert left.reason.endswith("elements of y differ in bits")
    same_numbers(model, after, {**X[0], "d": np.full_like(np.zeros([3] if shape else []), 7, np.float32)}, workspace)


# Bisecting


@pytest.mark.parametrize("bad", range(9))
def test_the_culprit_is_found_in_few_trials(bad):
    sites, trials = [f"s{index}" for index in range(9)], []

    def wrong(chosen):
        trials.append(chosen)
        return f"s{bad}" in chosen

    assert culprit(sites, wrong) == f"s{bad}"
    assert len(trials) <= 6


def test_no_culprit_where_it_is_bad_without_any():
    assert culprit(["a", "b"], lambda chosen: True) is None
    assert culprit([], lambda chosen: True) is None


@dataclass(frozen=True)
class Vanishing(Pass):
    """Replaces ``Neg(Sin(x))``, so that the inner value is gone: its site names what does not survive."""

    name: ClassVar[str] = "vanishing"
    exactness: ClassVar[Exactness] = Exactness.REASSOCIATES
    tolerance: ClassVar[float] = 1e-5

    def apply(self, model, ctx):
        sites = []
        for node in list(model.graph):
            inner = node.inputs[0].producer() if node.op_type == "Neg" else None
            if inner is None or inner.op_type != "Sin" or not ctx.allow(inner.outputs[0].name):
                continue
            sites.append(inner.outputs[0].name)
            wrong = "Cos" if inner.outputs[0].name == "b" else "Sin"
            made = [ir.Node("", "Neg", inner.inputs)]
            made[0].outputs[0].name = f"{node.outputs[0].name}.odd"
            made.append(ir.Node("", wrong, made[0].outputs))
            old = node.outputs[0]
            name, old.name = old.name, f"{old.name}.old"
            made[1].outputs[0].name = name
            made[0].name, made[1].name = f"{name}.0", f"{name}.1"
            model.graph.insert_before(node, made)
            old.replace_all_uses_with(made[1].outputs[0], replace_graph_outputs=True)
            model.graph.remove([node, inner], safe=True)
        return Change(tuple(sites))


def test_a_site_that_does_not_survive_is_blamed_for_what_it_went_into(workspace):
    body = "h = Relu(x) a = Sin(h) p = Neg(a) b = Sin(x) q = Neg(b) c = Sin(p) r = Neg(c) s = Add(q, r) y = Tanh(s)"
    model = graph(f"g (float[batch,3] x) => (float[batch,3] y) {{ {body} }}")
    _, (step,) = line(model, [Vanishing()], X, workspace)
    assert [left.site for left in step.left_out] == ["b"]
    assert step.sites == ("a", "c")


# Fusions


def test_a_rewrite_that_gives_an_input_back_is_copied(workspace):
    @dataclass(frozen=True)
    class DropDouble(Fusion):
        """``-(-x)`` becomes x."""

        name: ClassVar[str] = "drop-double"
        exactness: ClassVar[Exactness] = Exactness.EXACT

        def pattern(self, op, x):
            return op.Neg(op.Neg(x))

        def rewrite(self, op, x):
            return x

    model = graph("g (float[batch,3] x) => (float[batch,3] y) { a = Neg(x) y = Neg(a) }")
    after, (step,) = line(model, [DropDouble()], X, workspace)
    assert (step.sites, step.left_out) == (("y",), ())
    assert ops(after) == ["Identity"]
    assert [value.name for value in after.graph.inputs] == ["x"]


def test_a_fusion_of_several_values(workspace):
    @dataclass(frozen=True)
    class SplitNeg(Fusion):
        """``-a, -b`` of a Split becomes a Split of ``-x``."""

        name: ClassVar[str] = "split-neg"
        exactness: ClassVar[Exactness] = Exactness.EXACT

        def pattern(self, op, x):
            a, b = op.Split(x, _outputs=2, _allow_other_attributes=True)
            return op.Neg(a), op.Neg(b)

        def rewrite(self, op, x):
            return op.Split(op.Neg(x), axis=1, num_outputs=2, _outputs=2)

    model = graph(
        """g (float[batch,4] x) => (float[batch,2] y, float[batch,2] z)
        { a, b = Split<axis = 1, num_outputs = 2>(x) y = Neg(a) z = Neg(b) }"""
    )
    after, (step,) = line(model, [SplitNeg()], [{"x": random(1, n, 4)} for n in (2, 3)], workspace)
    assert (step.sites, step.left_out) == (("y",), ())
    assert ops(after) == ["Neg", "Split"]


def test_a_chain_is_fused_to_its_end(workspace):
    weights = "float[3,3] w = {1,2,3,4,5,6,7,8,9}, float[3] b = {1,2,3}, float[3] s = {2,3,4}, float[3] t = {5,-6,7}"
    model = graph(
        f"""g (float[batch,3] x) => (float[batch,3] y) <{weights}>
        {{ h = MatMul(x, w) a = Add(h, b) c = Mul(a, s) y = Mul(c, t) }}"""
    )
    after, (step,) = line(model, [PassSpec("fold-layer-scale")], X, workspace)
    assert step.sites == ("c", "y")
    assert step.left_out == ()
    assert ops(after) == ["MatMul", "Add"]
    assert len(after.graph.initializers) == 2


# Discontinuities


DECIDING = {
    "an index": ("y = ArgMax<axis = 1, keepdims = 0>(a)", "int64[batch] y"),
    "a gathered row": ("i = ArgMax<axis = 1, keepdims = 0>(a) y = Gather(table, i)", "float[batch,2] y"),
    "existing quantization": ("q = QuantizeLinear(a, s, z) y = DequantizeLinear(q, s, z)", "float[batch,3] y"),
    "positions": ("g = Greater(a, half) y = NonZero(g)", "int64[2,n] y"),
}  # fmt: skip
DECIDED_WEIGHTS = "float[3,2] table = {1,2,30,40,500,600}, float s = {0.5}, uint8 z = {128}, float half = {0.25}"


@pytest.mark.parametrize("case", DECIDING)
def test_a_flip_within_the_tolerance_is_excused(case, workspace):
    """x is so near to a threshold that 1e-6 of it decides; the pass changes the float by less than its tolerance."""
    body, output = DECIDING[case]
    model = graph(f"g (float[batch,3] x) => ({output}) <{DECIDED_WEIGHTS}> {{ a = Neg(x) {body} }}")
    row = np.array([[-0.2499999, -0.2500001, 5.0]], np.float32)
    feeds = [{"x": np.repeat(row, rows, axis=0)} for rows in (2, 3)]
    after, (step,) = line(model, [Replace(factor=-1.000003)], feeds, workspace)
    assert (step.sites, step.left_out, step.dropped) == (("a",), (), "")
    assert ops(after)[0] == "Mul"


@pytest.mark.parametrize("case", DECIDING)
def test_a_flip_beyond_it_is_not(case, workspace):
    @dataclass(frozen=True)
    class Loose(Replace):
        """Allowed so much that only the outputs can tell."""

        tolerance: ClassVar[float] = 1e-9

    body, output = DECIDING[case]
    model = graph(f"g (float[batch,3] x) => ({output}) <{DECIDED_WEIGHTS}> {{ a = Neg(x) {body} }}")
    feeds = [{"x": np.repeat(np.array([[-0.24, -0.26, 5.0]], np.float32), rows, axis=0)} for rows in (2, 3)]
    _, (step,) = line(model, [Loose(factor=-1.1)], feeds, workspace)
    assert [left.site for left in step.left_out] == ["a"]


# Passes that lose


def test_a_lossy_pass_reports_its_ratios(model, workspace):
    given = []
    after, (step,) = line(
        model, [Halves()], X, workspace, requested={"halves"}, keep=lambda plan, statistics: given.append(statistics)
    )
    assert (step.exactness, step.sites, step.left_out) == ("lossy", ("a",), ())
    noise = [answers(after, feed, workspace)["y"] - answers(model, feed, workspace)["y"] for feed in X]
    signal = [answers(model, feed, workspace)["y"] for feed in X]
    powers = [sum(float(np.square(array, dtype=np.float64).sum()) for array in arrays) for arrays in (signal, noise)]
    assert step.sqnr["y"] == pytest.approx(10 * np.log10(powers[0] / powers[1]), rel=1e-4)
    assert given == [None]


def test_a_lossy_pass_below_its_floor_names_the_worst(model, workspace):
    with pytest.raises(PassError, match=r"the pass halves left y at -?\d+\.\d dB, below its floor of 10 dB") as raised:
        line(model, [Halves(step=3.0)], X, workspace, requested={"halves"})
    assert raised.value.hint.startswith("worst: Sin a (")


DECIDED = [
    ("int64[batch]", "y = ArgMax<axis = 1, keepdims = 0>(a)", "y (by a)"),
    ("bool[batch,3]", "y = Greater(a, k)", "y (by a)"),
    ("int64[batch,3]", "f = Floor(a) y = Cast<to = 7>(f)", "y (by a)"),
]


@pytest.mark.parametrize(("kind", "body", "judged"), DECIDED)
def test_an_integer_output_of_a_lossy_pass_is_judged_by_the_float_that_decides(kind, body, judged, workspace):
    weights = "float[3,3] w = {1,2,3,4,5,6,7,8,9}, float[3] k = {0.1,0.1,0.1}"
    model = graph(f"g (float[batch,3] x) => ({kind} y) <{weights}> {{ h = MatMul(x, w) a = Sin(h) {body} }}")
    _, (step,) = line(model, [Halves()], X, workspace)
    assert list(step.sqnr) == [judged]
    assert 30 < step.sqnr[judged] < 60
    with pytest.raises(PassError, match=r"the pass halves left y \(by a\) at -?\d+\.\d dB, below its floor of 10 dB"):
        line(model, [Halves(step=3.0)], X, workspace)


def test_what_cannot_be_judged_after_a_lossy_pass_is_said(workspace):
    body = "a = Sin(x) i = ArgMax<axis = 1>(a) y = Add(i, i) z = Add(n, n)"
    model = graph(f"g (float[batch,3] x, int64[batch] n) => (int64[batch,1] y, int64[batch] z) {{ {body} }}")
    feeds = [{**feed, "n": np.arange(len(feed["x"]))} for feed in X]
    _, (step,) = line(model, [Halves()], feeds, workspace)
    assert step.notes == ("nothing tells how much the output y lost: what decides it is not one float",)


def test_a_lossy_pass_that_converts_nothing_is_an_error_where_asked_for(model, workspace):
    with pytest.raises(PassError, match="the pass halves converted no node"):
        line(model, [Halves(op="Cos")], X, workspace, requested={"halves"})


def test_a_lossy_pass_gets_the_statistics_that_it_reads(model, workspace):
    from mlc.data import open_data

    with pytest.raises(UsageError, match="the pass halves needs calibration data"):
        line(model, [Halves(reads="h")], X, workspace)
    from tests.graphs import artifact

    data = open_data([{"x": random(7, 6, 3)}], artifact(model).signature.inputs, artifact(model).signature.outputs)
    _, (step,) = line(model, [Halves(reads="h")], X, workspace, calibration=data)
    assert step.sites == ("a",)


def test_a_lossy_pass_keeps_the_invariants(model, workspace):
    @dataclass(frozen=True)
    class Renames(Halves):
        """Renames the output."""

        def apply(self, model, ctx):
            model.graph.outputs[0].name = "other"
            return Change(("y",))

    with pytest.raises(PassError, match="the pass halves was dropped: the interface lost output y"):
        line(model, [Renames()], X, workspace, requested={"halves"})


# The final check


@pytest.fixture
def written(model, tmp_path):
    path = tmp_path / "model.onnx"
    ir.save(model, path)
    return path


def check(path, kept, tolerance=1e-3, floor=None):
    return check_files(path, kept, tolerance, floor, {}, Target())


def test_written_files_are_compared_at_every_size(model, written, workspace):
    kept = references(model, X, workspace)
    checks = check(written, kept)
    assert [dict(each.sizes) for each in checks] == [{"batch": 2}, {"batch": 3}]
    assert all(each.held for each in checks)
    wrong = [Reference(each.sizes, each.inputs, {"y": each.outputs["y"] * 1.01}) for each in kept]
    assert not any(each.held for each in check(written, wrong))
    assert check(written, wrong)[0].error > 1e-3


def test_a_lossy_file_is_judged_by_its_floor(model, written, workspace):
    kept = [Reference({}, X[0], {"y": answers(model, X[0], workspace)["y"] * 1.05})]
    assert check(written, kept, floor=10.0)[0].held
    (found,) = check(written, kept, floor=40.0)
    assert found.differences[0].reason.startswith("y is at 26.")


@pytest.mark.parametrize(("batch", "held"), [(1, True), (9, False)])
def test_few_numbers_near_zero_are_held_against_what_the_output_has_elsewhere(batch, held, tmp_path, workspace):
    model = graph("g (float[batch,3] x) => (float[batch,1] y) <int64[1] last = {1}> { y = ReduceSum(x, last) }")
    ir.save(model, tmp_path / "m.onnx")
    usual, near = {"x": random(1, 5, 3)}, {"x": random(2, batch, 3)}
    wanted = [answers(model, feeds, workspace)["y"] for feeds in (usual, near)]
    near["x"][:, 0] -= wanted[1][:, 0] - 0.01
    kept = [
        Reference({"batch": 5}, usual, {"y": wanted[0]}),
        Reference({"batch": batch}, near, {"y": np.full((batch, 1), 0.05, np.float32)}),
    ]
    assert [each.held for each in check(tmp_path / "m.onnx", kept, floor=10.0)] == [True, held]
    assert not check(tmp_path / "m.onnx", kept[1:], floor=10.0)[0].held, "there is nothing else to hold it against"


def test_integers_of_a_lossy_file_are_counted(tmp_path, workspace):
    model = graph("g (float[batch,3] x) => (int64[batch] i) { i = ArgMax<axis = 1, keepdims = 0>(x) }")
    ir.save(model, tmp_path / "m.onnx")
    answer = answers(model, X[1], workspace)["i"]
    kept = [Reference({}, X[1], {"i": np.array([*answer[:4], 2 - answer[4] if answer[4] != 1 else 0])})]
    (found,) = check(tmp_path / "m.onnx", kept, floor=10.0)
    assert found.held
    assert found.differences[0].error == pytest.approx(0.2)


def test_a_decided_output_of_a_file_is_judged_by_what_decides(tmp_path, workspace):
    model = graph("g (float[batch,3] x) => (int64[batch] i) { n = Neg(x) i = ArgMax<axis = 1, keepdims = 0>(n) }")
    ir.save(model, tmp_path / "m.onnx")
    near = {"x": np.array([[-1.0, -1.00001, 3.0]], np.float32)}
    assert check(tmp_path / "m.onnx", [Reference({}, near, {"i": np.array([0])})])[0].held
    assert not check(tmp_path / "m.onnx", [Reference({}, near, {"i": np.array([2])})])[0].held


def test_the_fusion_base_finds_nothing_without_its_pattern(model):
    _, change = apply(Replace(op="Cos"), model)
    assert change == Change()


SEQUENCE = """<ir_version: 7, opset_import: ["":13]> g (float[2] x) => (float[2] y) {
    s = SequenceConstruct(x) i = Constant<value_int=0>() a = SequenceAt(s, i) y = Neg(a)
}"""
OLD_IR = """<ir_version: 3, opset_import: ["":6]> g (float[2] x) => (float[1,2] y) {
    s = Constant<value = int64[2] {1,2}>() y = Reshape(x, s)
}"""
NO_STANDARD = """<ir_version: 8, opset_import: ["ai.onnx.ml":3]> g (float[2,2] x) => (float[2,2] y) {
    y = ai.onnx.ml.Scaler<offset=[1.0,2.0], scale=[1.0,1.0]>(x)
}"""
EIGHT_BITS = """<ir_version: 10, opset_import: ["":20]> g (float[2] x, bool c) => (float[2] y) <float[2] w = {1,2.3}> {
    y = If (c) <then_branch = t () => (float[2] a) { a = Neg(x) },
                else_branch = e () => (float[2] b) { v = Cast<to=17>(w) z = Cast<to=1>(v) b = Add(x, z) }>
}"""


@pytest.mark.parametrize("text_", [SEQUENCE, OLD_IR], ids=["a sequence", "an old IR version"])
def test_models_of_old_opsets_are_raised_and_folded(text_, workspace):
    before = graph(text_)
    shape = tuple(before.graph.inputs[0].shape.numpy())
    after, steps = line(before, [FoldConstants(), FuseGelu()], [{"x": random(1, *shape)}], workspace)
    assert after.opset_imports[""] == 20
    assert (steps[0].left_out, steps[0].dropped) == ((), "")
    same_numbers(before, after, {"x": random(2, *shape)}, workspace)


def test_a_model_without_standard_operators_gets_none(workspace):
    before = graph(NO_STANDARD)
    after, _ = line(before, [FoldConstants()], [{"x": random(1, 2, 2)}], workspace)
    assert dict(after.opset_imports) == {"ai.onnx.ml": 3}


def test_floats_of_8_bits_are_not_folded_into_integers(workspace):
    """The runtime hands them out as unsigned integers, and a branch that no run takes shows no difference."""
    before = graph(EIGHT_BITS)
    after, _ = line(before, [FoldConstants()], [{"x": random(1, 2), "c": np.array(True)}], workspace)
    same_numbers(before, after, {"x": random(2, 2), "c": np.array(False)}, workspace)


def test_where_the_original_gives_nan_a_quantized_model_may_give_any_number():
    expected = np.array([np.nan, 1.0, 2.0], np.float32)
    assert not lossy_difference("y", expected, {"y": np.array([0.0, 1.0, 2.0], np.float32)}, 10.0)
    broken = lossy_difference("y", expected, {"y": np.array([0.0, np.nan, 2.0], np.float32)}, 10.0)
    assert "NaN or Inf at other positions" in broken.reason


@pytest.mark.parametrize("refused", [{"Mul"}, {"Mul", "Neg"}])
def test_a_site_that_leaves_what_the_target_does_not_load_is_left_out(refused, workspace, monkeypatch):
    """The Mul in the place of y's Neg is too much for the runtime; where it does not load the Neg either, none is."""

    def loaded(path, target):
        if ops(ir.load(path))[-1] in refused:
            raise TargetError(f"loading {path.name} on {target.runtime}/{target.provider} failed: it is too much")
        return nullcontext()

    monkeypatch.setattr("mlc.runtimes.opening.open_session", loaded)
    before = graph("g (float[batch,3] x) => (float[batch,3] y) { h = Neg(x) a = Sin(h) y = Neg(a) }")
    after, (step,) = line(before, [Replace()], X, workspace, target=Target("openvino", "cpu"))
    if "Neg" in refused:
        assert (ops(after), step.left_out) == (["Mul", "Sin", "Mul"], ())
        return
    assert ops(after) == ["Mul", "Sin", "Neg"]
    assert [(each.site, each.reason) for each in step.left_out] == [("y", "openvino does not load it: it is too much")]


def test_passes_run_to_a_fixed_point(workspace):
    """An Einsum becomes a product of a weight's Transpose, which folding constants, earlier in the order, takes."""
    before = graph(
        "g (float[n,2,3] x) => (float[n,2,4] y) <float[4,3] w = {1,2,3,4,5,6,7,8,9,10,11,12}>"
        ' { y = Einsum<equation = "bij,kj->bik">(x, w) }'
    )
    feeds = [{"x": random(1, n, 2, 3)} for n in (2, 3)]
    defaults = [build(PassSpec(name)) for name in dict.fromkeys(DEFAULT_PASSES)]
    after, steps = line(before, defaults, feeds, workspace)
    assert ops(after) == ["MatMul"]
    again, repeated = line(after, defaults, feeds, workspace)
    assert ops(again) == ["MatMul"]
    assert not any(step.sites for step in repeated)
    assert len([step for step in steps if step.spec.name == "fold-constants"]) == 2
