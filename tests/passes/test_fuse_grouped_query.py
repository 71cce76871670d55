"""FuseGroupedQuery: golden graph, numbers with three and four axes, each refusal by its reason, what torch exports."""

import pytest

from passes.fuse_attention import FuseAttention
from passes.fuse_grouped_query import BEHIND, FuseGroupedQuery
from tests.graphs import apply, graph, line, ops, random, same_numbers, text

pytestmark = pytest.mark.needs_onnxruntime

VERSION = '<ir_version: 10, opset_import: ["":23]>\n'
HEAD = "g (float[batch,6,len,4] q, float[batch,2,keys,4] k, float[batch,2,keys,5] v) => (float[batch,6,len,5] y)"
NUMBERS = "int64[1] two = {2}, int64[1] one = {1}, int64[5] three = {1,1,3,1,1}, int64[5] threefold = {1,3,1,1,1}"
REPEATED = """ku = Unsqueeze(k, two) ke = Expand(ku, three) kr = Reshape(ke, k_shape)
    vu = Unsqueeze(v, two) ve = Expand(vu, three) vr = Reshape(ve, v_shape)"""
SHAPES = "int64[4] k_shape = {0,6,-1,4}, int64[4] v_shape = {0,6,-1,5}"
ATTENTION = "y = Attention<scale = 0.5, is_causal = 1>(q, kr, vr)"


def model(body=REPEATED, attention=ATTENTION, head=HEAD, shapes=SHAPES):
    """Six heads of queries over two of keys and values; -1 stands for the length, which shape inference leaves open."""
    return with_lengths(graph(f"{VERSION}{head} <{NUMBERS}, {shapes}> {{ {body} {attention} }}"))


def with_lengths(made):
    """Name the length of what is reshaped, as torch.onnx writes it beside the graph."""
    import onnx_ir as ir

    for node in made.graph:
        if node.op_type == "Reshape" and node.outputs[0].name in ("kr", "vr"):
            width = 4 if node.outputs[0].name == "kr" else 5
            node.outputs[0].shape = ir.Shape(["batch", 6, "keys", width])
    return made


def feeds(batch, length, keys):
    return {"q": random(1, batch, 6, length, 4), "k": random(2, batch, 2, keys, 4), "v": random(3, batch, 2, keys, 5)}


def test_golden(golden):
    after, change = apply(FuseGroupedQuery(), model())
    assert change.sites == ("y",)
    golden("fuse_grouped_query.onnxtxt", text(after))


@pytest.mark.parametrize("sizes", [(1, 1, 7), (3, 5, 4)])
@pytest.mark.parametrize("mask", ["", "float[len,keys] m", "bool[batch,1,len,keys] m", "float[batch,6,len,keys] m"])
def test_numbers(mask, sizes, workspace):
    read = ATTENTION.replace("vr)", "vr, m)") if mask else ATTENTION
    before = model(attention=read, head=HEAD.replace(") =>", f", {mask}) =>") if mask else HEAD)
    after, change = apply(FuseGroupedQuery(), before)
    assert (change.sites, ops(after)) == (("y",), ["Attention"])
    fed = feeds(*sizes)
    if mask:
        batch, length, keys = sizes
        whole = random(9, batch, 6, length, keys)
        fed["m"] = whole[:, :1] > 0 if "bool" in mask else whole if "6" in mask else whole[0, 0]
    same_numbers(before, after, fed, workspace, FuseGroupedQuery.tolerance)


@pytest.mark.parametrize("sizes", [(1, 1), (3, 5)])
def test_numbers_with_three_axes(sizes, workspace):
    """Behind positions that are rotated too: RotaryEmbedding gets three axes with the attention."""
    body = """qs = Reshape(a, wide) qt = Transpose<perm = [0,2,1,3]>(qs) q = RotaryEmbedding(qt, cos, sin)
        ks = Reshape(b, narrow) kt = Transpose<perm = [0,2,1,3]>(ks) k = RotaryEmbedding(kt, cos, sin)
        vs = Reshape(c, narrow) v = Transpose<perm = [0,2,1,3]>(vs)"""
    join = "o = Attention(q, kr, vr) ot = Transpose<perm = [0,2,1,3]>(o) y = Reshape(ot, join)"
    inputs = "float[batch,keys,24] a, float[batch,keys,8] b, float[batch,keys,10] c"
    caches = "float[batch,keys,2] cos, float[batch,keys,2] sin"
    shapes = f"{SHAPES}, int64[4] wide = {{0,0,6,-1}}, int64[4] narrow = {{0,0,2,-1}}, int64[3] join = {{0,0,30}}"
    before = model(f"{body} {REPEATED}", join, f"g ({inputs}, {caches}) => (float[batch,keys,30] y)", shapes)
    after, change = apply(FuseGroupedQuery(), before)
    assert (change.sites, ops(after)) == (("y",), ["RotaryEmbedding", "RotaryEmbedding", "Attention"])
    batch, length = sizes
    fed = {"a": random(1, batch, length, 24), "b": random(2, batch, length, 8), "c": random(3, batch, length, 10)}
    fed |= {"cos": random(4, batch, length, 2), "sin": random(5, batch, length, 2)}
    same_numbers(before, after, fed, workspace, FuseGroupedQuery.tolerance)


TILED = """ku = Unsqueeze(k, one) ke = Expand(ku, threefold) kr = Reshape(ke, k_shape)
    vu = Unsqueeze(v, one) ve = Expand(vu, threefold) vr = Reshape(ve, v_shape)"""


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (TILED, "the heads are tiled, not repeated one by one"),
        ("kr = Tile(k, by_three) vr = Tile(v, by_three)", "the heads are tiled, not repeated one by one"),
        ("kr = Identity(k) vr = Identity(v)", ""),
        ("kr = Expand(k6, k_whole) vu = Unsqueeze(v, two) ve = Expand(vu, three) vr = Reshape(ve, v_shape)", "alike"),
        (REPEATED.replace("ke = Expand(ku, three)", "ke = Expand(ku, batches)"), "more than the heads is repeated"),
        (REPEATED.replace("ke, k_shape", "ke, k_other"), "the heads that are repeated do not become heads"),
        (REPEATED.replace("ke = Expand(ku, three)", "ke = Expand(ku, asked)"), "the sizes of the heads are not known"),
    ],
)
def test_refusals(body, reason):
    head = HEAD.replace(") =>", ", float[batch,6,keys,4] k6, int64[n] asked) =>")
    head = head.replace("float[batch,6,len,5] y", "float[e,f,g,h] y")
    shapes = f"{SHAPES}, int64[4] by_three = {{1,3,1,1}}, int64[4] k_whole = {{1,6,1,4}}"
    shapes += ", int64[5] batches = {5,1,3,1,1}, int64[4] k_other = {0,3,-1,8}"
    made = graph(f"{VERSION}{head} <{NUMBERS}, {shapes}> {{ {body} {ATTENTION} }}")
    if "k_other" not in body:
        made = with_lengths(made)
    _, change = apply(FuseGroupedQuery(), made)
    assert change.sites == ()
    assert [reason in refusal.reason for refusal in change.refused] == ([True] if reason else [])


def test_keys_and_values_that_are_not_repeated_alike_are_refused():
    body = REPEATED.replace("ve = Expand(vu, three)", "ve = Expand(vu, twice)")
    head = HEAD.replace("float[batch,2,keys,5] v", "float[batch,3,keys,5] v")
    _, change = apply(FuseGroupedQuery(), model(body, head=head, shapes=f"{SHAPES}, int64[5] twice = {{1,1,2,1,1}}"))
    assert [refusal.reason for refusal in change.refused] == ["keys and values are not repeated alike"]


def test_what_the_repetition_is_used_for_elsewhere_stays(workspace):
    before = model(head=HEAD.replace("=> (", "=> (float[batch,6,keys,4] kr, "))
    after, change = apply(FuseGroupedQuery(), before)
    assert change.sites == ("y",)
    assert ops(after).count("Expand") == 1
    same_numbers(before, after, feeds(3, 5, 4), workspace, FuseGroupedQuery.tolerance)


@pytest.mark.parametrize("opset", [20, 23])
@pytest.mark.parametrize(("name", "sites"), [("Grouped", 1), ("GroupedByElement", 1), ("Tiled", 0)])
def test_what_torch_exports(name, sites, opset, workspace):
    torch = pytest.importorskip("torch")
    from tests import attention

    model = attention.exported(getattr(attention, name)(), torch.rand(3, 5, 8), opset=opset)
    feeds = [{"x0": random(1, 3, 5, 8)}, {"x0": random(2, 2, 7, 8)}]
    after, (_, step) = line(
        model, [FuseAttention(), FuseGroupedQuery()], feeds, workspace, requested={"fuse-attention"}
    )
    assert (len(step.sites), len(step.refused), step.left_out) == (sites, 1 - sites, ())
    (node,) = [node for node in after.graph if node.op_type == "Attention"]
    assert ("kv_num_heads" in node.attributes) is bool(sites)


def by_hand(q, k, v):
    import torch

    return torch.softmax(q @ k.transpose(-1, -2) * 0.5, dim=-1) * 0.9 @ v


def otherwise():
    import torch

    return {
        "the heads are tiled, not repeated one by one": lambda x: torch.cat((x, x), dim=1),
        "the heads are joined from copies, not expanded": lambda x: torch.stack((x, x), dim=2).flatten(1, 2),
        "the heads are taken by an index, not expanded": lambda x: x[:, torch.tensor([0, 0, 1, 1])],
    }


@pytest.mark.parametrize("reason", otherwise())
def test_heads_that_are_repeated_in_another_way_are_said(reason):
    import torch

    from tests import attention

    class Near(attention.Grouped):
        def repeat(self, x):
            return otherwise()[reason](x)

    _, change = apply(FuseGroupedQuery(), attention.exported(Near(), torch.rand(3, 5, 8)))
    assert (change.sites, [refusal.reason for refusal in change.refused]) == ((), [reason])


def behind(split):
    """Return an attention whose heads are repeated behind the length, then moved in front of it."""
    import torch

    from tests import attention

    class Behind(attention.Grouped):
        def repeat(self, x):
            few = x.transpose(1, 2)[:, :, :, None]
            many = few.expand(-1, -1, -1, 2, -1).reshape(x.shape[0], x.shape[2], 16 if split else 4, 1 if split else 4)
            return many.reshape(x.shape[0], x.shape[2], 4, 4).transpose(1, 2)

    return attention.exported(Behind(), torch.rand(3, 5, 8))


def test_heads_that_are_repeated_behind_the_length_are_read_once(workspace):
    """As Llama's own code repeats them."""
    feeds = [{"x0": random(1, 3, 5, 8)}, {"x0": random(2, 2, 7, 8)}]
    made, steps = line(behind(False), [FuseAttention(), FuseGroupedQuery()], feeds, workspace)
    assert [len(step.sites) for step in steps if step.spec.name == "fuse-grouped-query"] == [1]
    assert not {"Expand", "Unsqueeze"} & set(ops(made))


def test_heads_that_are_moved_in_two_steps_are_said():
    model = behind(True)
    for subject in (FuseAttention(), FuseGroupedQuery()):
        model, change = apply(subject, model)
    assert [refusal.reason for refusal in change.refused] == [BEHIND]


def test_an_attention_that_is_spelled_out_refers_to_what_would_fuse_it(monkeypatch):
    import torch

    from tests import attention

    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", by_hand)
    _, change = apply(FuseGroupedQuery(), attention.exported(attention.Grouped(), torch.rand(3, 5, 8)))
    reason = "the attention is spelled out, not one Attention: fuse-attention says why"
    assert (change.sites, [refusal.reason for refusal in change.refused]) == ((), [reason])


def test_one_head_that_is_expanded_to_all(workspace):
    import torch

    from tests import attention

    class Single(attention.Grouped):
        def __init__(self):
            super().__init__()
            self.k, self.v = torch.nn.Linear(8, 4), torch.nn.Linear(8, 4)

        def repeat(self, x):
            return x.expand(-1, 4, -1, -1)

    model = attention.exported(Single(), torch.rand(3, 5, 8))
    feeds = [{"x0": random(1, 3, 5, 8)}, {"x0": 1e4 * random(2, 2, 7, 8)}, {"x0": 1e-6 * random(2, 1, 9, 8)}]
    after, (_, step) = line(
        model, [FuseAttention(), FuseGroupedQuery()], feeds, workspace, requested={"fuse-attention"}
    )
    assert (len(step.sites), step.refused, step.left_out) == (1, (), ())
    (node,) = [node for node in after.graph if node.op_type == "Attention"]
    assert node.attributes["kv_num_heads"].as_int() == 1


def test_what_is_expanded_over_the_batch_is_no_site():
    """Keys and values that are learned, the same for every sample."""
    import torch

    from tests import attention

    class Learned(attention.Grouped):
        def __init__(self):
            super().__init__()
            self.memory = torch.nn.Parameter(torch.rand(1, 4, 3, 4))

        def repeat(self, x):
            return self.memory.expand(x.shape[0], -1, -1, -1)

    _, change = apply(FuseGroupedQuery(), attention.exported(Learned(), torch.rand(3, 5, 8)))
    assert change == type(change)((), ())
