"""GroupNormToInstanceNorm: golden graph, numbers of every rank, each refusal, the target, and what torch exports."""

import warnings
from dataclasses import replace

import onnx_ir as ir
import pytest

from mlc.graph_pass import Context
from mlc.rewriting.differences import same_graph
from mlc.runtimes.cpu import capabilities
from mlc.runtimes.onnxruntime import open_session
from mlc.types import Capabilities
from passes.group_norm_to_instance_norm import KERNEL, WRITTEN, GroupNormToInstanceNorm
from tests.graphs import apply, graph, line, ops, random, same_numbers, text
from tests.targets import usable

pytestmark = pytest.mark.needs_onnxruntime

HEADER = '<ir_version: 10, opset_import: ["":21]>'
WEIGHTS = """<float[6] w = {1,-2,3,0.5,2,4}, float[6] b = {0.1,0.2,-0.3,4,1,-1}, float[3] few = {1,2,3},
    float[2] two = {1,2}>"""
NORMALIZE = "y = GroupNormalization<num_groups = 2, epsilon = 0.001>(x, w, b)"
PARTS = ["Reshape", "InstanceNormalization", "Shape", "Reshape", "Mul", "Add"]


def model(sizes="batch,6,h,v", normalize=NORMALIZE, weights=WEIGHTS, more=""):
    return graph(f"{HEADER} g (float[{sizes}] x{more}) => (float[{sizes}] y) {weights} {{ {normalize} }}")


def test_golden(golden):
    after, change = apply(GroupNormToInstanceNorm(), model())
    assert change.sites == ("y",)
    golden("group_norm_to_instance_norm.onnxtxt", text(after))


@pytest.mark.parametrize("sizes", [(3, 6), (1, 6, 5), (2, 6, 3, 4), (3, 6, 1, 1), (2, 6, 2, 3, 4)])
@pytest.mark.parametrize("normalize", [NORMALIZE, NORMALIZE.replace("= 2, epsilon = 0.001", "= 3"),
                                       NORMALIZE.replace("= 2, epsilon = 0.001", "= 1, epsilon = 0.5")])  # fmt: skip
def test_numbers_of_every_rank(sizes, normalize, workspace):
    before = model(",".join(["batch", "6", *"hvd"[: len(sizes) - 2]]), normalize)
    after, change = apply(GroupNormToInstanceNorm(), before)
    assert change.sites == ("y",)
    assert ops(after) == PARTS
    same_numbers(before, after, {"x": random(1, *sizes)}, workspace, GroupNormToInstanceNorm.tolerance)


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (model(more=", float[6] w"), "the weight is not constant"),
        (model(more=", float[6] b"), "the bias is not constant"),
        (model(normalize=NORMALIZE.replace("w,", "two,")), "the weight does not have one element for each channel"),
        (model(normalize=NORMALIZE.replace("b)", "few)")), "the bias does not have one element for each channel"),
        (model("batch,c,h,v"), "the weight does not have one element for each channel"),
        (model(normalize=NORMALIZE.replace("<", "<stash_type = 10, ")), "it is not computed in float32"),
        (model(more=", int64[k] sizes", normalize=f"r = Reshape(x, sizes) {NORMALIZE.replace('x', 'r')}"),
         "the rank of the input is not known"),
    ],
)  # fmt: skip
def test_refusals(before, reason):
    after, change = apply(GroupNormToInstanceNorm(), before)
    assert [(refusal.site, refusal.reason) for refusal in change.refused] == [("y", reason)]
    assert same_graph(after.graph, before.graph)


def test_other_types_than_float32_are_refused():
    weights = WEIGHTS.replace("float[", "double[")
    before = graph(f"{HEADER} g (double[n,6,4] x) => (double[n,6,4] y) {weights} {{ {NORMALIZE} }}")
    _, change = apply(GroupNormToInstanceNorm(), before)
    assert [refusal.reason for refusal in change.refused] == ["it is not computed in float32"]


def test_targets_with_a_kernel_are_refused_and_no_others():
    before = model()
    after = before.clone()
    card = Capabilities("any device of cuda", cpu=False, kernels=tuple(GroupNormToInstanceNorm.may_use_kernels))
    change = GroupNormToInstanceNorm().apply(after, Context(card))
    assert change.sites == ()
    assert [(each.site, each.reason) for each in change.refused] == [("y", "any device of cuda has a kernel for it")]
    assert same_graph(after.graph, before.graph)
    assert GroupNormToInstanceNorm().apply(after, Context(replace(card, kernels=()))).sites == ("y",)


def test_what_would_be_written_needs_a_kernel_of_its_own_where_it_is_another_operator():
    card = Capabilities("any device of cuda", cpu=False)
    newer = HEADER.replace("21", "22")
    before = graph(f"{newer} g (float[n,6,4] x) => (float[n,6,4] y) {WEIGHTS} {{ {NORMALIZE} }}")
    change = GroupNormToInstanceNorm().apply(before.clone(), Context(card))
    reason = "any device of cuda has no kernel for InstanceNormalization of opset 22, as which it would be written"
    assert [(each.site, each.reason) for each in change.refused] == [("y", reason)]
    for able in (replace(card, kernels=(WRITTEN,)), Capabilities("any x86 or ARM CPU")):
        assert GroupNormToInstanceNorm().apply(before.clone(), Context(able)).sites == ("y",)


@pytest.mark.parametrize("target", ["cpu", "webgpu"])
def test_what_the_runtime_puts_a_body_in_the_place_of_is_no_kernel(target, tmp_path):
    target, _ = usable(target)
    path = tmp_path / "model.onnx"
    ir.save(model(), path)
    with open_session(path, target) as session:
        has_one = "GroupNormalization" in {node.op for node in session.assignment()}
    found = capabilities(target, {}, GroupNormToInstanceNorm.may_use_kernels).kernels
    assert (KERNEL in found) == has_one


def test_what_torch_exports(workspace):
    import torch

    class Norms(torch.nn.Module):
        """Normalizations of three, four and five axes."""

        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.norms = torch.nn.ModuleList([torch.nn.GroupNorm(groups, 8, eps=0.01) for groups in (1, 2, 8)])
            for weight in self.parameters():
                torch.nn.init.normal_(weight)

        def forward(self, x):
            x = torch.relu(self.norms[0](x))
            x = torch.relu(self.norms[1](x.flatten(2)))
            return self.norms[2](x[:, :, None, None] + 1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dims = {0: torch.export.Dim("batch", min=1, max=9), 2: torch.export.Dim("height", min=2, max=99)}
        program = torch.onnx.export(
            Norms().eval(), (torch.rand(2, 8, 5, 6),), dynamo=True, opset_version=23, dynamic_shapes=(dims,),
            verbose=False, input_names=["x"], output_names=["y"],
        )  # fmt: skip
    assert program is not None
    assert ops(program.model).count("GroupNormalization") == 3
    feeds = [{"x": random(rows, rows, 8, rows + 2, 6)} for rows in (2, 3)]
    after, (step,) = line(program.model, [GroupNormToInstanceNorm()], feeds, workspace)
    assert (len(step.sites), step.left_out) == (3, ())
    assert "GroupNormalization" not in ops(after)
    same_numbers(program.model, after, {"x": random(5, 1, 8, 9, 6)}, workspace, 1e-4)
