"""FuseGroupNorm: golden graph, numbers where a runtime computes the operator, each refusal by its reason, torch's form.

No provider that is tested here has a kernel for it; OpenVINO's own runtime reads the operator and computes it.
"""

import numpy as np
import onnx
import pytest

from mlc.runtimes.opening import open_session
from passes.fuse_group_norm import FuseGroupNorm
from tests.graphs import answers, apply, graph, ops, random, text, torch_model
from tests.targets import usable

pytestmark = pytest.mark.needs_onnxruntime

HEAD = "g (float[batch,3,2,4] x) => (float[batch,3,2,4] y)"
CONSTANTS = """<int64[3] apart = {0,2,-1}, float[2] ones = {1,1}, float[2] zeros = {0,0},
    float[4,1,1] w = {1,-2,3,0.5}, float[4,1,1] b = {0.1,0.2,-0.3,4}, float[4] v = {1,-2,3,0.5},
    float[4] c = {0.1,0.2,-0.3,4}>"""
BEFORE, AFTER = "f = Transpose<perm = [0,3,1,2]>(x)", "y = Transpose<perm = [0,2,3,1]>(o)"
SPELLED = """r = Reshape(f, apart) i = InstanceNormalization<epsilon = 0.001>(r, ones, zeros) k = Shape(f)
    u = Reshape(i, k) m = Mul(u, w) o = Add(m, b)"""
FORMS = {
    "spelled out": f"{BEFORE} {SPELLED} {AFTER}",
    "operands the other way": f"{BEFORE} {SPELLED.replace('(u, w)', '(w, u)').replace('(m, b)', '(b, m)')} {AFTER}",
    "of opset 21": f"{BEFORE} o = GroupNormalization<num_groups = 2, epsilon = 0.001>(f, v, c) {AFTER}",
    "with silu": f"{BEFORE} {SPELLED} h = Sigmoid(o) l = Mul(o, h) {AFTER.replace('(o)', '(l)')}",
    "with silu fused": f"{BEFORE} {SPELLED} l = com.microsoft.QuickGelu<alpha = 1.0>(o) {AFTER.replace('(o)', '(l)')}",
}


def model(body, head=HEAD, constants=CONSTANTS):
    return graph(f'<ir_version: 10, opset_import: ["":21, "com.microsoft":1]> {head} {constants} {{ {body} }}')


def test_golden(golden):
    after, change = apply(FuseGroupNorm(), model(FORMS["with silu"]))
    assert change.sites == ("y",)
    golden("fuse_group_norm.onnxtxt", text(after))


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("form", FORMS)
def test_numbers_whichever_way_it_is_written(form, rows, workspace, tmp_path):
    before = model(FORMS[form])
    after, change = apply(FuseGroupNorm(), before)
    assert change.sites == ("y",)
    assert ops(after) == ["GroupNorm"]
    target, _ = usable("openvino/cpu")
    x = {"x": random(1, rows, 3, 2, 4) + 1}
    (tmp_path / "after.onnx").write_bytes(onnx.parser.parse_model(text(after)).SerializeToString())
    with open_session(tmp_path / "after.onnx", target) as session:
        found = session.run(x)["y"]
    expected = answers(before, x, workspace)["y"]
    assert np.abs(found - expected).max() <= FuseGroupNorm.tolerance * np.sqrt(np.mean(np.square(expected)))


def test_a_transpose_that_is_read_elsewhere_stays(workspace):
    head = "g (float[batch,3,2,4] x) => (float[batch,3,2,4] y, float[batch,4,3,2] z)"
    after, change = apply(FuseGroupNorm(), model(f"{FORMS['spelled out']} z = Relu(f)", head))
    assert change.sites == ("y",)
    assert sorted(ops(after)) == ["GroupNorm", "Relu", "Transpose"]


FIRST = "g (float[batch,4,3,2] f) => (float[batch,4,3,2] o)"
NOT_BACK = "its values are channels-last, but no Transpose back to that follows it or its SiLU"
NOT_LAST = "its values are not channels-last, as the operator takes them"


@pytest.mark.parametrize(
    ("head", "old", "new", "reason"),
    [
        (FIRST, f"{BEFORE} {SPELLED} {AFTER}", SPELLED, NOT_LAST),
        ("g (float[batch,4,3,2] f) => (float[batch,3,2,4] y)", BEFORE, "", NOT_LAST),
        ("g (float[batch,3,2,4] x) => (float[batch,4,3,2] o)", AFTER, "", NOT_BACK),
        (HEAD, AFTER, f"l = Relu(o) {AFTER.replace('(o)', '(l)')}", NOT_BACK),
        ("g (float[batch,3,4,2] x) => (float[batch,3,2,4] y)", "[0,3,1,2]", "[0,2,1,3]", NOT_LAST),
        ("g (float[batch,5,4] f) => (float[batch,5,4] o)", FORMS["spelled out"],
         SPELLED.replace("w)", "w1)").replace("b)", "b1)"), "the values do not have four axes"),
        (HEAD, "(u, w)", "(u, v1)", "the weight is not constant with one element for each channel"),
        (HEAD, "(m, b)", "(m, v1)", "the bias is not constant with one element for each channel"),
        (HEAD, "u = Reshape(i, k)", "u = Reshape(i, other)", "the result is not known to have the shape of the values"),
        ("g (float[batch,3,2,4] x) => (float[batch,3,2,4] y, float[batch,2,n] i)", "", "", "i is a graph output"),
        (HEAD.replace("float[", "double["), "", "", "its values are not known to be float32"),
    ],
)  # fmt: skip
def test_refusals(head, old, new, reason):
    constants = CONSTANTS.replace(">", ", float[2] v1 = {1,2}, float[5,1] w1 = {1,2,3,4,5}, float[5,1] b1 = {1,2,3,4,5}"
        ", int64[4] other = {-1,4,3,2}>")  # fmt: skip
    if "double" in head:
        constants = constants.replace("float[", "double[")
    body = FORMS["spelled out"].replace(old, new) if old else FORMS["spelled out"]
    _, change = apply(FuseGroupNorm(), model(body, head, constants))
    assert change.sites == ()
    (refusal,) = change.refused
    assert refusal.reason.startswith(reason)


@pytest.mark.parametrize(
    ("old", "new"),
    [("ones = {1,1}", "ones = {1,2}"), ("zeros = {0,0}", "zeros = {0,1}"), ("apart = {0,2,-1}", "apart = {-1,2,12}")],
)
def test_another_normalization_is_no_site(old, new):
    _, change = apply(FuseGroupNorm(), model(FORMS["spelled out"], constants=CONSTANTS.replace(old, new)))
    assert change == type(change)((), ())


def test_what_torch_exports():
    import torch

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = torch.nn.GroupNorm(2, 4), torch.nn.GroupNorm(1, 3)
            for parameter in self.parameters():
                torch.nn.init.normal_(parameter)

        def forward(self, x):
            x = torch.nn.functional.silu(self.last(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
            return self.first(x)

    after, change = apply(FuseGroupNorm(), torch_model(Block(), (torch.rand(2, 3, 5, 4),), fold=True))
    assert len(change.sites) == 1
    assert [refusal.reason.startswith(NOT_LAST) for refusal in change.refused] == [True]
    assert ops(after).count("GroupNorm") == 1
    assert "Transpose" not in ops(after)
