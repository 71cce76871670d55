"""FuseLongAttention: golden graph, numbers, who has the kernel, each refusal by its reason, and what torch exports."""

from dataclasses import replace

import pytest

from mlc.graph_pass import Context
from mlc.types import Refusal, Target
from passes.fuse_attention import FuseAttention
from passes.fuse_long_attention import NO_KERNEL, FuseLongAttention
from passes.split_qkv import SplitQkv
from tests.graphs import ANY_CPU, graph, ops, random, same_numbers, text

pytestmark = pytest.mark.needs_onnxruntime

ABLE = replace(ANY_CPU, kernels=tuple(FuseLongAttention.may_use_kernels))
HEAD = "g (float[b,600,8] q, float[b,512,8] k, float[b,512,8] v) => (float[b,600,8] y)"
BODY = "y = Attention<q_num_heads = 2, kv_num_heads = 2, scale = 0.3>(q, k, v)"


def model(body=BODY, head=HEAD):
    return graph(f'<ir_version: 10, opset_import: ["":23]>\n{head} {{ {body} }}')


def apply(before, capabilities=ABLE):
    after = before.clone()
    return after, FuseLongAttention().apply(after, Context(capabilities))


def test_golden(golden):
    after, change = apply(model())
    assert change.sites == ("y",)
    golden("fuse_long_attention.onnxtxt", text(after))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("body", [BODY, BODY.replace(", scale = 0.3", "")])
def test_numbers(body, batch, workspace):
    before = model(body)
    after, _ = apply(before)
    assert ops(after) == ["MultiHeadAttention"]
    feeds = {name: random(length, batch, length, 8) for name, length in (("q", 600), ("k", 512))}
    feeds["v"] = random(3, batch, 512, 8)
    same_numbers(before, after, feeds, workspace, tolerance=FuseLongAttention.tolerance)


@pytest.mark.parametrize("able", [ANY_CPU, replace(ABLE, cpu=False)], ids=["no kernel", "no CPU"])
def test_where_the_target_is_no_cpu_that_has_the_kernel_it_says_so(able):
    after, change = apply(model(), able)
    assert change == type(change)((), (Refusal("y", NO_KERNEL),))
    assert ops(after) == ["Attention"]


def test_this_cpu_has_the_kernel():
    from mlc.runtimes.cpu import capabilities

    assert capabilities(Target(), {}, FuseLongAttention.may_use_kernels).kernels == ABLE.kernels


@pytest.mark.parametrize(
    "head",
    [HEAD.replace("512", "511"), HEAD.replace("600", "s"), HEAD.replace("b,512", "b,s")],
    ids=["short", "queries of any length", "keys of any length"],
)
def test_what_is_not_known_to_be_long_is_no_site(head):
    _, change = apply(model(head=head))
    assert change == type(change)((), ())


@pytest.mark.parametrize("length", [600, 500])
def test_four_axes_are_refused_where_they_are_long(length):
    head = "g (float[b,2,600,4] q, float[b,2,600,4] k, float[b,2,600,4] v) => (float[b,2,600,4] y)"
    _, change = apply(model("y = Attention(q, k, v)", head.replace("600", str(length))))
    reason = "its inputs have four axes: its heads are not split right before and joined right behind"
    assert [refusal.reason for refusal in change.refused] == ([reason] if length == 600 else [])


@pytest.mark.parametrize("length", [600, 500])
def test_a_long_attention_that_is_spelled_out_refers_to_what_would_fuse_it(length):
    import torch

    from tests.attention import Eager, exported

    class Factor(Eager):
        def attend(self, q, k, v, *mask):
            return torch.softmax(self.scores(q, k), dim=-1) * 0.9 @ v

    _, change = apply(exported(Factor(), torch.rand(1, length, 8), free=("batch",)))
    reason = "the attention is spelled out, not one Attention: fuse-attention says why"
    assert [refusal.reason for refusal in change.refused] == ([reason] if length == 600 else [])


@pytest.mark.parametrize(
    ("head", "body", "reason"),
    [
        (HEAD.replace("v)", "v, float[600,512] m)"), BODY.replace("v)", "v, m)"),
         "it has a mask or a cache"),
        (HEAD.replace("y)", "y, float[b,2,512,4] p)"), BODY.replace("y =", "y, , , p ="), "p is a graph output"),
        (HEAD, BODY.replace("scale", "is_causal = 1, scale"), "it is causal or its scores are capped"),
        (HEAD, BODY.replace("scale", "softcap = 2.0, scale"), "it is causal or its scores are capped"),
        (HEAD.replace("512,8", "512,4"), BODY.replace("kv_num_heads = 2", "kv_num_heads = 1"),
         "the keys have fewer heads than the queries"),
        (HEAD.replace("8] v", "6] v").replace("8] y", "6] y"), BODY,
         "the queries, keys and values are not known to be of one width"),
        (HEAD.replace("float[", "double["), BODY, "its values are not known to be float32"),
    ],
)  # fmt: skip
def test_refusals(head, body, reason):
    _, change = apply(model(body, head))
    assert change.sites == ()
    assert [(refusal.site, refusal.reason) for refusal in change.refused] == [("y", reason)]


def test_what_torch_exports(workspace):
    import torch

    class Attention(torch.nn.Module):
        """Attention over the pixels of an image, as diffusion models have it."""

        def __init__(self):
            super().__init__()
            self.qkv = torch.nn.Linear(8, 24)

        def forward(self, image):
            tokens = self.qkv(image.flatten(2).transpose(1, 2)).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
            return torch.nn.functional.scaled_dot_product_attention(*tokens.unbind(0)).transpose(1, 2).flatten(2)

    dims = {0: torch.export.Dim("batch", min=1, max=9)}
    program = torch.onnx.export(
        Attention().eval(), (torch.rand(2, 8, 32, 16),), dynamo=True, opset_version=23, dynamic_shapes=(dims,),
        verbose=False, input_names=["x"], output_names=["y"],
    )  # fmt: skip
    assert program is not None
    before = program.model.clone()
    for subject in (SplitQkv(), FuseAttention()):
        subject.apply(before, Context(ABLE))
    after, change = apply(before)
    assert len(change.sites) == 1
    assert "Attention" not in ops(after)
    for batch in (1, 3):
        same_numbers(before, after, {"x": random(1, batch, 8, 32, 16)}, workspace, tolerance=1e-4)
