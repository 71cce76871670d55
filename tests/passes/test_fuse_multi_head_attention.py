"""FuseMultiHeadAttention: golden graph, numbers wherever there is a kernel, each refusal by its reason, modules."""

import pytest
import torch
from torch import nn

from mlc import api
from mlc.runtimes.cpu import capabilities
from mlc.types import Target
from passes.fuse_attention import FuseAttention
from passes.fuse_multi_head_attention import FuseMultiHeadAttention
from passes.split_qkv import SplitQkv
from tests.graphs import apply, graph, ops, random, text, torch_model
from tests.kernels import same_numbers_on
from tests.targets import usable

pytestmark = pytest.mark.needs_onnxruntime

HEAD = "g (float[b,s,8] q, float[b,t,8] k, float[b,t,8] v) => (float[b,s,8] y)"
SPLIT = """
    q3 = Reshape(q, heads) q4 = Transpose<perm = [0, 2, 1, 3]>(q3)
    k3 = Reshape(k, heads) k4 = Transpose<perm = [0, 2, 3, 1]>(k3)
    v3 = Reshape(v, heads) v4 = Transpose<perm = [0, 2, 1, 3]>(v3)
    a = MatMul(q4, k4) m = Mul(a, scale)"""
TAIL = "o = MatMul(p, v4) o3 = Transpose<perm = [0, 2, 1, 3]>(o) y = Reshape(o3, whole)"
PLAIN = f"{SPLIT} p = Softmax<axis = -1>(m) {TAIL}"


CONSTANTS = "int64[4] heads = {0, 0, 2, 4}, int64[3] whole = {0, 0, 8}, float scale = {0.3}"
WIDE = "int64[4] six = {0, 0, 2, 6}, int64[3] wide = {0, 0, 12}"


def model(body=PLAIN, head=HEAD, opset=20, constants=CONSTANTS):
    return graph(f'<ir_version: 10, opset_import: ["":{opset}]> {head} <{constants}> {{ {body} }}')


def feeds(batch=2, queries=5, keys=7):
    return {name: random(seed, batch, keys if seed else queries, 8) for seed, name in enumerate("qkv")}


def test_golden(golden):
    after, change = apply(FuseMultiHeadAttention(), model())
    assert change.sites == ("y",)
    golden("fuse_multi_head_attention.onnxtxt", text(after))


@pytest.mark.parametrize("target", ["cpu", "webgpu"])
@pytest.mark.parametrize("sizes", [(2, 5, 7), (1, 9, 3)])
def test_numbers(sizes, target, workspace):
    before = model()
    after, _ = apply(FuseMultiHeadAttention(), before)
    assert ops(after) == ["MultiHeadAttention"]
    same_numbers_on(target, before, after, feeds(*sizes), workspace, FuseMultiHeadAttention.tolerance)


def test_from_opset_23_on_onnx_has_its_own():
    after, change = apply(FuseMultiHeadAttention(), model(opset=23))
    assert change == type(change)(())
    assert "MultiHeadAttention" not in ops(after)
    after, change = apply(FuseAttention(), model(opset=23))
    assert ops(after) == ["Attention"]


FOUR = "g (float[b,2,s,4] q, float[b,2,s,4] k, float[b,2,s,4] v) => (float[b,2,s,4] y)"
WHOLE = "r = Transpose<perm = [0, 1, 3, 2]>(k) a = MatMul(q, r)"
WIDER = HEAD.replace("float[b,t,8] v", "float[b,t,12] v").replace("float[b,s,8] y", "float[b,s,12] y")


@pytest.mark.parametrize(
    ("head", "body", "reason"),
    [
        (FOUR, f"{WHOLE} p = Softmax<axis = -1>(a) y = MatMul(p, v)", "its heads are not split right before"),
        (
            HEAD.replace(") =>", ", float[s,t] mask) =>"),
            PLAIN.replace("p = Softmax<axis = -1>(m)", "w = Add(m, mask) p = Softmax<axis = -1>(w)"), "it has a mask",
        ),
        (
            WIDER, PLAIN.replace("Reshape(v, heads)", "Reshape(v, six)").replace("whole", "wide"),
            "the queries, keys and values are not known to be of one width",
        ),
        (HEAD, f"{PLAIN} z = Relu(p)", "p is used elsewhere"),
        (HEAD, PLAIN.replace("Softmax<axis = -1>", "Softmax<axis = 1>"), "the softmax is not over the last axis"),
        (HEAD, PLAIN.replace("Mul(a, scale)", "Tanh(a)"), "the scores go through Tanh before the softmax"),
    ],
    ids=["four axes", "a mask", "wider values", "used elsewhere", "another axis", "not a scale"],
)  # fmt: skip
def test_refusals(head, body, reason):
    before = model(body, head, constants=f"{CONSTANTS}, {WIDE}")
    _, change = apply(FuseMultiHeadAttention(), before)
    assert change.sites == ()
    (refusal,) = change.refused
    assert refusal.reason.startswith(reason)


class Seen(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4).unbind(0)
        return self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def test_what_torch_exports_below_opset_23_is_one_attention():
    split, _ = apply(SplitQkv(), torch_model(Seen(), (torch.zeros(2, 5, 32),), fold=True))
    after, change = apply(FuseMultiHeadAttention(), split)
    assert len(change.sites) == 1
    assert ops(after).count("MultiHeadAttention") == 1


def test_a_gpu_that_has_the_kernel_runs_it(tmp_path):
    usable("webgpu")
    target = Target(provider="webgpu")
    kernel = "com.microsoft.MultiHeadAttention"
    assert capabilities(target, FuseMultiHeadAttention.needs_kernels).kernels == (kernel,)
    assert capabilities(Target(), FuseMultiHeadAttention.needs_kernels).kernels == ()
    torch.manual_seed(0)
    original = api.load(Seen().eval(), (torch.randn(2, 5, 32),), inputs=["x=float32[batch=1..4,length=1..64,32]"])
    made = api.rewrite(api.export(original, opset=20), original, target=target)
    assert "MultiHeadAttention" in ops(made.model)
