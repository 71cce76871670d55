"""SplitQkv: golden graphs, bits of every way to take the parts, refusals by their reasons, and what torch exports."""

import warnings

import numpy as np
import pytest

from mlc.fusion import dims_of, infer_shapes
from mlc.rewriting.differences import same_graph
from passes.split_qkv import SplitQkv
from tests.graphs import apply, graph, line, ops, random, same_numbers, text, torch_model

pytestmark = pytest.mark.needs_onnxruntime

HEAD = "g (float[b,s,24] x) => (float[b,2,s,4] q, float[b,2,s,4] k, float[b,2,s,4] v)"
NUMBERS = """<int64[5] sizes = {0,0,3,2,4}, int64[5] joined = {0,-1,3,2,4}, int64 zero = {0}, int64 one = {1},
    int64 two = {2}, int64[1] z = {0}, int64[1] o = {1}, int64[1] t = {2}, int64[1] e = {3},
    int64[1] end = {9}, int64[3] ones = {1,1,1}>"""
PACKED = "r = Reshape(x, sizes) p = Transpose<perm = [2,0,3,1,4]>(r)"
GATHERS = "q = Gather(p, zero) k = Gather(p, one) v = Gather(p, two)"
FORMS = {
    "Gather": GATHERS,
    "in another order": "v = Gather<axis = 0>(p, two) q = Gather(p, zero) k = Gather(p, one)",
    "Gather from the end": """c = Constant<value_int = -3>() q = Gather(p, c) d = Constant<value_int = -2>()
        k = Gather(p, d) l = Constant<value_int = -1>() v = Gather(p, l)""",
    "Slice": """a = Slice(p, z, o, z) q = Squeeze(a, z) c = Slice(p, o, t, z, o) k = Squeeze(c, z) d = Slice(p, t, e)
        v = Squeeze(d, z)""",
    "Split": "a, c, d = Split(p, ones) q = Squeeze(a, z) k = Squeeze(c, z) v = Squeeze(d, z)",
    "Split by number": "a, c, d = Split<num_outputs = 3>(p) q = Squeeze(a, z) k = Squeeze(c, z) v = Squeeze(d, z)",
}


def model(body, head=HEAD, packed=PACKED):
    return graph(f"{head} {NUMBERS} {{ {packed} {body} }}")


def test_golden(golden):
    after, change = apply(SplitQkv(), model(GATHERS))
    assert change.sites == ("q",)
    golden("split_qkv.onnxtxt", text(after))


@pytest.mark.parametrize("sizes", [(1, 1), (3, 5), (0, 4), (2, 0)])
@pytest.mark.parametrize("form", FORMS)
def test_bits_whichever_way_the_parts_are_taken(form, sizes, workspace):
    before = model(FORMS[form])
    after, change = apply(SplitQkv(), before)
    assert (change.sites, change.refused) == (("q",), ())
    assert ops(after) == ["Split", "Reshape", "Reshape", "Reshape", "Transpose", "Transpose", "Transpose"]
    same_numbers(before, after, {"x": random(1, *sizes, 24)}, workspace)


def test_each_part_is_seen_to_keep_batch_and_length():
    after, _ = apply(SplitQkv(), model(GATHERS))
    infer_shapes(after)
    for node in after.graph:
        if node.op_type == "Reshape":
            assert dims_of(node.inputs[0]) == ["b", "s", 8]
            assert dims_of(node.outputs[0]) == ["b", "s", 2, 4]


def test_other_numbers_of_parts_and_other_orders(workspace):
    head = "g (float[b,s,16] x) => (float[b,s,2,4] k, float[b,s,2,4] v)"
    numbers = NUMBERS.replace("{0,0,3,2,4}", "{0,0,2,2,4}")
    before = graph(f"{head} {numbers} {{ {PACKED.replace('3,1,4', '1,3,4')} k = Gather(p, zero) v = Gather(p, one) }}")
    after, change = apply(SplitQkv(), before)
    assert change.sites == ("k",)
    assert ops(after) == ["Split", "Reshape", "Reshape"]
    same_numbers(before, after, {"x": random(1, 3, 5, 16)}, workspace)


def test_a_part_that_nothing_reads_is_refused():
    head = "g (float[b,s,24] x) => (float[b,2,s,4] q, float[b,2,s,4] v)"
    _, change = apply(SplitQkv(), model("q = Gather(p, zero) v = Gather(p, two)", head=head))
    assert [(refusal.site, refusal.reason) for refusal in change.refused] == [("q", "not every part is read")]


PAIR = "c = Slice(p, o, end, z) q = Gather(p, zero) k = Gather(c, zero) v = Gather(c, one)"


@pytest.mark.parametrize(
    ("packed", "body", "reason"),
    [
        (PACKED, PAIR, "several parts are taken at once, and each of them from that"),
        (PACKED.replace("[2,0,3,1,4]", "[3,0,2,1,4]").replace("sizes", "by_head"), GATHERS, "but one behind the heads"),
        (PACKED.replace("[2,0,3,1,4]", "[4,0,2,1,3]").replace("sizes", "last"), GATHERS, "but one behind the heads"),
    ],
    ids=["a pair", "behind the heads", "last"],
)
def test_parts_in_another_place_or_together_are_refused(packed, body, reason):
    """As models do that pack by head, and as those that take keys and values together."""
    numbers = NUMBERS.replace("<", "<int64[5] by_head = {0,0,2,3,4}, int64[5] last = {0,0,2,4,3}, ")
    after, change = apply(SplitQkv(), graph(f"{HEAD} {numbers} {{ {packed} {body} }}"))
    assert [(refusal.site, reason in refusal.reason) for refusal in change.refused] == [("q", True)]
    assert "Split" not in ops(after)


MORE = HEAD.replace("v)", "v, float[b,s,3,2,4] r)")
WIDE = HEAD.replace("[b,s,24]", "[b,s,1,24]")


@pytest.mark.parametrize(
    ("head", "body", "reason"),
    [
        (MORE, GATHERS, "r is a graph output"),
        (MORE.replace("[b,s,3,2,4] r", "[3,b,2,s,4] p"), GATHERS, "p is a graph output"),
        (MORE.replace(" r)", " w)"), f"{GATHERS} w = Relu(r)", "r is used elsewhere"),
        (MORE.replace("[b,s,3,2,4] r", "[3,b,2,s,4] w"), f"{GATHERS} w = Relu(p)", "p is used elsewhere"),
        (MORE.replace("[b,s,3,2,4] r", "[2,b,2,s,4] w"), f"{GATHERS} w = Slice(p, z, t)", "p is used elsewhere"),
        (MORE.replace("[b,s,3,2,4] r", "[1,b,2,s,4] a"), FORMS["Slice"], "a is a graph output"),
    ],
)
def test_refusals_by_use(head, body, reason):
    before = model(body, head=head)
    after, change = apply(SplitQkv(), before)
    assert [(refusal.site, refusal.reason) for refusal in change.refused] == [("q", reason)]
    assert same_graph(after.graph, before.graph)


@pytest.mark.parametrize(
    ("head", "packed", "reason"),
    [
        (WIDE, PACKED.replace("sizes", "joined"), "what is packed is not [batch, length, features]"),
        (HEAD, PACKED.replace("sizes", "joined"), "batch and length are not known to stay"),
        (
            HEAD.replace("x)", "x, int64[5] given)"), PACKED.replace("sizes", "given"),
            "the number of parts or heads or their size is not known",
        ),
    ],
)  # fmt: skip
def test_refusals_by_sizes(head, packed, reason):
    _, change = apply(SplitQkv(), model(GATHERS, head=head, packed=packed))
    assert change.sites == ()
    assert [refusal.reason for refusal in change.refused] == [reason]


@pytest.mark.parametrize(
    ("packed", "body"),
    [
        (PACKED.replace("2,0,3,1,4", "0,2,3,1,4"), GATHERS),
        (PACKED, "q = Gather<axis = 1>(p, zero) k = Gather<axis = 1>(p, one) v = Neg(q)"),
        (PACKED, "q = Gather(p, z) k = Gather(p, o) v = Gather(p, t)"),
        (PACKED, "q = Slice(p, z, t) k = Slice(p, o, end) v = Neg(q)"),
        (PACKED, "q, k, v = Split(p, ones)"),
    ],
    ids=["another axis", "another axis of the part", "axes stay", "two at once", "not squeezed"],
)
def test_what_takes_no_part_is_no_site(packed, body):
    _, change = apply(SplitQkv(), model(body, head="g (float[2,3,24] x) => (q, k, v)", packed=packed))
    assert change == type(change)((), ())


WEIGHT = f"float[2,24] w = {{{', '.join(f'{number:.3f}' for number in random(1, 48).tolist())}}}"


def layer(rows, body="m = MatMul(h, w) x = Add(m, c)", outputs=""):
    """A packed projection of so many rows in each batch, with further outputs."""
    bias = f"float[24] c = {{{', '.join(f'{number:.3f}' for number in random(2, 48).tolist()[:24])}}}"
    parts = ", ".join(f"float[b,2,{rows},4] {part}" for part in "qkv")
    numbers = NUMBERS.replace("<", f"<{WEIGHT}, {bias}, ")
    return graph(f"g (float[b,{rows},2] h) => ({parts}{outputs}) {numbers} {{ {body} {PACKED} {GATHERS} }}")


def test_golden_of_a_layer_of_many_rows(golden):
    after, change = apply(SplitQkv(), layer(512))
    assert change.sites == ("q",)
    golden("split_qkv_layer.onnxtxt", text(after))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("rows", [512, 700])
@pytest.mark.parametrize(
    ("body", "parts"),
    [
        ("m = MatMul(h, w) x = Add(m, c)", ["MatMul", "Add"]),
        ("m = MatMul(h, w) x = Add(c, m)", ["MatMul", "Add"]),
        ("x = MatMul(h, w)", ["MatMul"]),
    ],
)
def test_a_layer_of_many_rows_becomes_one_for_each_part(body, parts, rows, batch, workspace):
    before = layer(rows, body)
    after, change = apply(SplitQkv(), before)
    assert (change.sites, change.refused) == (("q",), ())
    assert ops(after) == [*parts * 3, *["Reshape"] * 3, *["Transpose"] * 3]
    same_numbers(before, after, {"h": random(3, batch, rows, 2)}, workspace, SplitQkv.tolerance)


@pytest.mark.parametrize(
    ("rows", "body", "outputs"),
    [
        (511, "m = MatMul(h, w) x = Add(m, c)", ""),
        ("s", "m = MatMul(h, w) x = Add(m, c)", ""),
        (512, "m = MatMul(h, w) x = Add(m, c) y = Neg(x)", ", float[b,512,24] y"),
        (512, "m = MatMul(h, w) x = Add(m, c) y = Neg(m)", ", float[b,512,24] y"),
        (512, "m = MatMul(h, w) x = Add(m, c) y = MatMul(h, w)", ", float[b,512,24] y"),
        (512, "m = MatMul(h, w) x = Add(m, c)", ", float[b,512,24] x"),
        (512, "m = MatMul(h, w) u = Tanh(c) x = Add(m, u)", ""),
        (512, "i = Identity(w) m = MatMul(h, i) x = Add(m, c)", ""),
    ],
    ids=[
        "few rows", "rows not known", "its result is read", "the product is read", "its weight is read",
        "it is an output", "its bias is computed", "its weight is computed",
    ],
)  # fmt: skip
def test_other_layers_stay_one(rows, body, outputs):
    after, change = apply(SplitQkv(), layer(rows, body, outputs))
    assert (change.sites, change.refused) == (("q",), ())
    assert "Split" in ops(after)


@pytest.mark.parametrize(
    ("around", "inside", "made", "reasons"),
    [
        ("", f"{PACKED} {GATHERS}", True, []),
        (PACKED, GATHERS, False, ["q is not computed in the same branch or loop"]),
    ],
    ids=["the layer", "all but the parts"],
)
def test_what_is_computed_around_a_branch_stays_there(around, inside, made, reasons, workspace):
    part = "float[b,2,512,4]"
    layered = graph(f"""g (float[b,512,2] h, {part} u, bool c) => ({part} y) {NUMBERS.replace("<", f"<{WEIGHT}, ")} {{
        x = MatMul(h, w) {around}
        y = If(c) <then_branch = t () => ({part} s) {{ {inside} a = Add(q, k) s = Add(a, v) }},
                   else_branch = e () => ({part} f) {{ f = Neg(u) }}>
    }}""")
    after, change = apply(SplitQkv(), layered)
    assert [refusal.reason for refusal in change.refused] == reasons
    assert "MatMul" in ops(after)
    assert ("Split" in [node.op_type for each in after.graphs() for node in each]) == made
    feed = {"h": random(3, 2, 512, 2), "u": random(4, 2, 2, 512, 4)}
    for flag in (True, False):
        same_numbers(layered, after, {**feed, "c": np.array(flag)}, workspace)


@pytest.mark.parametrize("opset", [20, 23])
def test_what_torch_exports(opset, workspace):
    import torch

    class Attention(torch.nn.Module):
        """Projections packed as vision transformers have them: all three, or keys and values alone."""

        def __init__(self, way):
            super().__init__()
            self.way = way
            self.packed, self.query = torch.nn.Linear(12, 24 if way == "kv" else 36), torch.nn.Linear(12, 12)

        def forward(self, x):
            batch, length, _ = x.shape
            packed = self.packed(x).reshape(batch, length, -1, 3, 4).permute(2, 0, 3, 1, 4)
            if self.way == "kv":
                q, (k, v) = self.query(x).reshape(batch, length, 3, 4).transpose(1, 2), packed.unbind(0)
            elif self.way == "unbind":
                q, k, v = packed.unbind(0)
            elif self.way == "index":
                q, k, v = packed[0], packed[1], packed[2]
            else:
                q, k, v = (part.squeeze(0) for part in packed.chunk(3))
            scores = torch.softmax(q @ k.transpose(-2, -1) * 0.5, -1)
            return (scores @ v).transpose(1, 2).reshape(batch, length, 12)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dims = {0: torch.export.Dim("batch", min=1, max=9), 1: torch.export.Dim("length", min=1, max=99)}
        network = torch.nn.Sequential(*(Attention(way) for way in ("unbind", "index", "chunk", "kv"))).eval()
        program = torch.onnx.export(
            network, (torch.rand(2, 5, 12),), dynamo=True, opset_version=opset, dynamic_shapes=(dims,), verbose=False,
            input_names=["x"], output_names=["y"],
        )  # fmt: skip
    assert program is not None
    before = program.model
    feeds = [{"x": random(rows, rows, rows + 3, 12)} for rows in (2, 3)]
    after, (step,) = line(before, [SplitQkv()], feeds, workspace)
    assert (len(step.sites), step.left_out, step.dropped) == (4, (), "")
    assert not {"Gather", "Slice", "Squeeze"} & set(ops(after))
    assert all(len(node.attributes["perm"].as_ints()) == 4 for node in after.graph if node.op_type == "Transpose")
    same_numbers(before, after, {"x": random(5, 1, 1, 12)}, workspace)


def test_what_torch_exports_of_many_rows(workspace):
    import torch

    class Pixels(torch.nn.Module):
        """Packed projections of the pixels of an image, as diffusion models and the Evoformer have them."""

        def __init__(self):
            super().__init__()
            self.packed = torch.nn.Linear(4, 24)

        def forward(self, image):
            packed = self.packed(image.flatten(2).transpose(1, 2)).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
            q, k, v = packed.unbind(0)
            return torch.softmax(q @ k.transpose(-2, -1), -1) @ v

    before = torch_model(Pixels(), (torch.rand(2, 4, 32, 16),), fold=True)
    feeds = [{"x0": random(rows, rows, 4, 32, 16)} for rows in (1, 3)]
    after, (step,) = line(before, [SplitQkv()], feeds, workspace)
    assert (len(step.sites), step.left_out, step.dropped) == (1, (), "")
    assert "Split" not in ops(after)
    assert ops(after).count("MatMul") == ops(before).count("MatMul") + 2
