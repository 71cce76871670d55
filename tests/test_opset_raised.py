"""A file is raised to the opset of passes that nobody asked for where these find a site, and the target has kernels."""

import pytest

from mlc.errors import PassError
from mlc.plan import Planner
from mlc.rewriting import Raising, rewrite
from mlc.types import Capabilities, PassSpec, Target
from tests.graphs import ANY_CPU, artifact, graph, random, references
from tests.quantizing import build

pytestmark = pytest.mark.needs_onnxruntime

ATTENTION = "z = MatMul(q, k) w = Softmax<axis = -1>(z) y = MatMul(w, v)"
OTHER = ATTENTION.replace("Softmax<axis = -1>", "Relu")
BRANCH = """b = If(c) <then_branch = t () => (float[n,2,6,4] p) { p = Neg(v) },
                       else_branch = e () => (float[n,2,6,4] p) { p = Abs(v) }>"""


def attended(workspace, body=ATTENTION, opset=20, **how):
    """What fuse-attention makes of a graph."""
    model = graph(f"""<ir_version: 8, opset_import: ["" : {opset}]>
        g (float[n,2,5,4] q, float[n,2,6,4] x, float[n,2,6,4] v) => (float[n,2,5,4] y) <bool c = {{1}}> {{
        k = Transpose<perm = [0,1,3,2]>(x) {body} }}""")
    feeds = [{"q": random(1, n, 2, 5, 4), "x": random(2, n, 2, 6, 4), "v": random(3, n, 2, 6, 4)} for n in (2, 3)]
    return rewrite(
        artifact(model), [PassSpec("fuse-attention")], references=references(model, feeds, workspace),
        workspace=workspace, **{"capabilities": ANY_CPU, "raising": Raising.ANY, **how},
    )  # fmt: skip


@pytest.mark.parametrize("opset", [17, 20])
def test_a_file_is_raised_where_the_pass_finds_a_site(opset, workspace):
    done = attended(workspace, opset=opset)
    assert (done.steps[0].sites, done.model.opset_imports[""]) == (("y",), 23)
    assert done.origin.notes == (f"opset {opset} was raised to 23, which passes need; every value stayed what it was",)


@pytest.mark.parametrize(
    ("body", "how"),
    [
        (OTHER, {}),
        (ATTENTION, {"raising": Raising.NEVER}),
        (ATTENTION, {"raising": Raising.ASKED}),
        (ATTENTION, {"target": Target(runtime="openvino")}),
        (ATTENTION, {"capabilities": Capabilities("a GPU", cpu=False)}),
    ],
    ids=["no site", "the opset was asked for", "nobody asked for the pass", "another runtime", "no CPU"],
)
def test_otherwise_it_stays_and_the_pass_says_what_it_needs(body, how, workspace):
    done = attended(workspace, body, **how)
    assert done.steps[0].dropped == "it needs opset 23, the model has 20"
    assert (done.model.opset_imports[""], done.origin.notes) == (20, ())


def test_an_opset_that_was_asked_for_stays_for_a_pass_that_was_too(workspace):
    with pytest.raises(PassError, match="fuse-attention needs opset 23, and the model has 20") as caught:
        attended(workspace, raising=Raising.NEVER, requested={"fuse-attention"})
    assert caught.value.hint == "leave out --opset, which keeps it there, or what asked for the pass"


@pytest.mark.parametrize(
    ("body", "notes"),
    [
        (ATTENTION, ("opset 20 could not be raised to 23: it has branches or loops, which cannot be compared",)),
        (OTHER, ()),
    ],
    ids=["a site", "no site"],
)
def test_a_branch_forbids_it_which_is_told_where_it_matters(body, notes, workspace):
    done = attended(workspace, f"{BRANCH} {body.replace('v)', 'b)')}")
    assert (done.model.opset_imports[""], done.origin.notes) == (20, notes)


INSIDE = """g (float[n,2,5,4] q, float[n,2,6,4] x, float[n,2,6,4] v) => (float[n,2,5,4] y) <bool c = {1}> {
    k = Transpose<perm = [0,1,3,2]>(x) b = own.either(c, v)
    z = MatMul(q, k) w = Softmax<axis = -1>(z) y = MatMul(w, b) }
<domain: "own", opset_import: ["" : 20]> either (c, v) => (b) {
    b = If(c) <then_branch = t () => (p) { p = Neg(v) }, else_branch = e () => (p) { p = Abs(v) }> }"""
RESIZED = """g (float[n,1,i] t, float[n,2,5,4] q, float[n,2,6,4] x, float[n,2,6,4] v)
    => (float[n,1,w] r, float[n,2,5,4] y) <float[1] target = {24}, float[2] ones = {1,1}, int64[1] two = {2}> {
    k = Transpose<perm = [0,1,3,2]>(x)
    s = Shape(t) d = Gather(s, two) f = Cast<to = 1>(d) p = Div(target, f) scales = Concat<axis = 0>(ones, p)
    r = Resize<mode = "nearest">(t, scales) z = MatMul(q, k) w = Softmax<axis = 3>(z) y = MatMul(w, v) }"""


@pytest.mark.parametrize(
    ("opsets", "body", "reason"),
    [
        ('"" : 20, "own" : 1', INSIDE, "it has branches or loops, which cannot be compared"),
        ('"" : 10', RESIZED, "Resize r takes other neighbours from opset 11 on"),
    ],
    ids=["in a function", "resized"],
)
def test_what_no_run_may_show_forbids_it(opsets, body, reason, workspace):
    """The converter of ONNX resizes otherwise at sizes of which none is compared: here all those that divide 24."""
    model = graph(f"<ir_version: 8, opset_import: [{opsets}]> {body}")
    feeds = [
        {
            "q": random(1, n, 2, 5, 4),
            "x": random(2, n, 2, 6, 4),
            "v": random(3, n, 2, 6, 4),
            "t": random(4, n, 1, 4 * n),
        }
        for n in (1, 2)
    ]
    names = {value.name for value in model.graph.inputs}
    given = [{name: array for name, array in feed.items() if name in names} for feed in feeds]
    done = rewrite(
        artifact(model), [PassSpec("fuse-attention")], references=references(model, given, workspace),
        workspace=workspace, capabilities=ANY_CPU, raising=Raising.ANY,
    )  # fmt: skip
    assert any(note.endswith(reason) for note in done.origin.notes)


def test_a_format_that_is_only_for_outliers_raises_nothing(workspace):
    """It would take every product; whether one needs it is not known before."""
    model = build("g (float[n,64] x) => (float[n,64] y) { y = MatMul(x, w) }", {"w": random(1, 64, 64)})
    done = rewrite(
        artifact(model), [PassSpec("int8-dynamic"), PassSpec("int8-weights")], requested={"int8-dynamic"},
        references=references(model, [{"x": random(rows, rows, 64)} for rows in (2, 3)], workspace),
        workspace=workspace, capabilities=ANY_CPU, raising=Raising.ANY,
        planner=Planner(mixed=True, reserve=("int8-weights",)),
    )  # fmt: skip
    assert [(step.spec.name, step.sites) for step in done.steps] == [("int8-dynamic", ("y",))]
    assert (done.model.opset_imports[""], done.origin.notes) == (20, ())
