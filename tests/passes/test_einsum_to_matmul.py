"""EinsumToMatMul: golden graph, numbers of every form, each refusal by its reason, and what torch exports."""

from dataclasses import replace

import onnx_ir as ir
import pytest

from mlc.graph_pass import Context
from mlc.rewriting.differences import same_graph
from mlc.types import Target
from passes.einsum_to_matmul import EinsumToMatMul
from tests.graphs import ANY_CPU, apply, graph, line, ops, random, same_numbers, text, torch_model

pytestmark = pytest.mark.needs_onnxruntime

ABLE = replace(ANY_CPU, kernels=tuple(EinsumToMatMul.may_use_kernels))
SIZES = {"i": 3, "j": 4, "k": 5, "l": 6, "b": 2, "c": 7}


def einsum(equation, sizes=None):
    known = {**SIZES, **(sizes or {})}
    left, right = equation.split("->")[0].replace(" ", "").split(",")
    shapes = [",".join(str(known[index]) for index in operand) for operand in (left, right)]
    result = equation.partition("->")[2].strip()
    rank = ",".join(f"r{axis}" for axis in range(len(result)))
    declared = f"float[{rank}] y" if result else "float y"
    model = graph(f"""g (float[{shapes[0]}] a, float[{shapes[1]}] b) => ({declared}) {{
        y = Einsum<equation = "{equation}">(a, b)
    }}""")
    return model, {
        name: random(seed, *(known[index] for index in operand))
        for seed, name, operand in ((1, "a", left), (2, "b", right))
    }


def test_golden(golden):
    after, change = apply(EinsumToMatMul(), einsum("ikc,jkc->ijc")[0])
    assert change.sites == ("y",)
    golden("einsum_to_matmul.onnxtxt", text(after))


@pytest.mark.parametrize(
    "equation",
    [
        "ik,kj->ij",
        "ki,jk->ji",
        "ikc,jkc->ijc",
        "bcik,bcjk->bcij",
        "bick,bjck->bcij",
        "bik,bk->bi",
        "bk,bkj->bj",
        "bk,bk->b",
        "k,k->",
        "k,kj->j",
        "ik,k->i",
        "bijk,kl->bijl",
        "kl,bijk->bijl",
        "kl,bijk->lbij",
        "ik , kj -> ij",
    ],
)
def test_numbers(equation, workspace):
    model, feeds = einsum(equation)
    after, change = apply(EinsumToMatMul(), model)
    assert change.sites == ("y",), change.refused
    assert "Einsum" not in ops(after)
    same_numbers(model, after, feeds, workspace, EinsumToMatMul.tolerance)


def test_without_an_arrow_the_result_is_what_stands_once(workspace):
    model = graph('g (float[3,5] b, float[5,4] a) => (float[r,s] y) { y = Einsum<equation = "zk,ka">(b, a) }')
    after, change = apply(EinsumToMatMul(), model)
    assert change.sites == ("y",)
    same_numbers(model, after, {"b": random(1, 3, 5), "a": random(2, 5, 4)}, workspace, EinsumToMatMul.tolerance)


@pytest.mark.parametrize(
    ("equation", "reason"),
    [
        ("iik,kj->ij", "the index i is twice in one operand"),
        ("ik,kj->j", "the index i is summed in one operand alone"),
        ("i,j->ij", "no index is summed"),
        ("bi,bi->bi", "no index is summed"),
        ("ikl,jkl->ij", "several indices are summed"),
        ("bkic,bkjl->bicjl", "several rows or columns would have to be joined by a reshape"),
        ("bijk,bk->bij", "several rows or columns would have to be joined by a reshape"),
    ],
)
def test_refusals_by_equation(equation, reason):
    model, _ = einsum(equation)
    after, change = apply(EinsumToMatMul(), model)
    assert [(refusal.site, refusal.reason) for refusal in change.refused] == [("y", reason)]
    assert same_graph(after.graph, model.graph)


@pytest.mark.parametrize(
    ("inputs", "equation", "operands", "reason"),
    [
        ("float[3,3] a", "ii->i", "a", "it has 1 operands, not two"),
        ("float[3,4] a, float[4,5] b, float[5,6] c", "ij,jk,kl->il", "a, b, c", "it has 3 operands, not two"),
        ("float[2,3,4] a, float[2,4,5] b", "...ik,...kj->...ij", "a, b", "it has an ellipsis"),
        ("float[3,n] a, float[m,5] b", "ik,kj->ij", "a, b", "the sizes of k are not known to be equal"),
        ("float[3,1] a, float[4,5] b", "ik,kj->ij", "a, b", "the sizes of k are not known to be equal"),
        ("float[1,3,4] a, float[2,4,5] b", "bik,bkj->bij", "a, b", "the index b is broadcast"),
        ("float[n,3,4] a, float[2,4,5] b", "bik,bkj->bij", "a, b", "the sizes of b are not known to be equal"),
    ],
)
def test_refusals_by_operands(inputs, equation, operands, reason):
    rank = ",".join(f"r{axis}" for axis, _ in enumerate(equation.split("->")[1].replace("...", "b")))
    model = graph(f'g ({inputs}) => (float[{rank}] y) {{ y = Einsum<equation = "{equation}">({operands}) }}')
    _, change = apply(EinsumToMatMul(), model)
    assert [refusal.reason for refusal in change.refused] == [reason]


def test_an_unknown_rank_is_refused():
    model = graph("""g (float[3,4] a, int64[r] shape) => (float[i,j] y) {
        b = Reshape(a, shape)
        y = Einsum<equation = "ik,kj->ij">(a, b)
    }""")
    _, change = apply(EinsumToMatMul(), model)
    assert [refusal.reason for refusal in change.refused] == ["the rank of an operand is not known"]


def test_a_dim_of_one_name_is_one_size(workspace):
    model = graph("""g (float[n,3,k] a, float[n,k,5] b) => (float[n,3,5] y) {
        y = Einsum<equation = "bik,bkj->bij">(a, b)
    }""")
    feeds = [{"a": random(1, 2, 3, 4), "b": random(2, 2, 4, 5)}, {"a": random(3, 5, 3, 6), "b": random(4, 5, 6, 5)}]
    after, (step,) = line(model, [EinsumToMatMul()], feeds, workspace)
    assert step.sites == ("y",)
    assert ops(after) == ["MatMul"]


def test_what_torch_exports(workspace):
    import torch

    class Evoformer(torch.nn.Module):
        def forward(self, x, z):
            pair = torch.einsum("bikc,bjkc->bijc", x, z)
            return torch.einsum("bijc,bjkc->bikc", pair, x)

    model = torch_model(Evoformer(), (torch.rand(2, 4, 4, 3), torch.rand(2, 4, 4, 3)))
    feeds = [{"x0": random(1, n, 4, 4, 3), "x1": random(2, n, 4, 4, 3)} for n in (2, 3)]
    assert ops(model).count("Einsum") == 2
    after, (step,) = line(model, [EinsumToMatMul()], feeds, workspace)
    assert (len(step.sites), step.left_out) == (2, ())
    assert "Einsum" not in ops(after)


def apply_with_kernel(before, capabilities=ABLE):
    after = before.clone()
    return after, EinsumToMatMul().apply(after, Context(capabilities))


def products(model):
    """The matrix products of a graph: their operator and which operands they exchange axes of."""
    found = [node for node in model.graph if "MatMul" in node.op_type]
    return [
        (node.op_type, *(node.attributes[side].as_int() for side in ("transA", "transB") if side in node.attributes))
        for node in found
    ]


def test_golden_with_the_kernel(golden):
    after, change = apply_with_kernel(einsum("ikc,jkc->ijc")[0])
    assert change.sites == ("y",)
    golden("einsum_to_matmul_kernel.onnxtxt", text(after))


@pytest.mark.parametrize(
    ("equation", "exchanged"),
    [
        ("ikc,jkc->ijc", (0, 1)),
        ("kic,kjc->ijc", (1, 0)),
        ("kic,jkc->ijc", (1, 1)),
        ("bikc,bjkc->bijc", (0, 1)),
        ("bkic,bkjc->bcij", (1, 0)),
        ("kib,kb->bi", (1, 0)),
    ],
)
@pytest.mark.parametrize("sizes", [{}, {"i": 1, "j": 9, "c": 2, "b": 3}])
def test_numbers_with_the_kernel(equation, exchanged, sizes, workspace):
    model, feeds = einsum(equation, sizes)
    after, _ = apply_with_kernel(model)
    assert products(after) == [("FusedMatMul", *exchanged)]
    same_numbers(model, after, feeds, workspace, EinsumToMatMul.tolerance)


@pytest.mark.parametrize(
    "equation", ["ik,kj->ij", "bick,bjck->bcij", "bhqk,bkhd->bqhd", "bqhd,bkhd->bhqk", "ikc,kjc->ijc"]
)
def test_what_is_fast_to_transpose_is_left_to_matmul(equation):
    after, _ = apply_with_kernel(einsum(equation, {"h": 2, "q": 3, "d": 4})[0])
    assert products(after) == [("MatMul",)]


@pytest.mark.parametrize("able", [ANY_CPU, replace(ABLE, cpu=False)], ids=["no kernel", "no CPU"])
def test_matmul_where_the_target_is_no_cpu_that_has_the_kernel(able):
    after, _ = apply_with_kernel(einsum("ikc,jkc->ijc")[0], able)
    assert products(after) == [("MatMul",)]


def test_matmul_where_the_kernel_is_for_another_type():
    after, _ = apply_with_kernel(
        graph("""g (double[3,5,7] a, double[4,5,7] b) => (double[r,s,t] y) {
        y = Einsum<equation = "ikc,jkc->ijc">(a, b)
    }""")
    )
    assert products(after) == [("MatMul",)]


@pytest.mark.parametrize(
    ("a", "b", "wanted"),
    [
        ("float[n,5,i,7]", "float[n,5,4,7]", ["n", 7, "i", 4]),
        ("float[n,5,i,7]", "float[m,5,4,7]", [None, 7, "i", 4]),
    ],
)
def test_type_and_sizes_of_what_the_kernel_gives_are_told(a, b, wanted):
    """ONNX's inference would stop there, and be asked again by every pass."""
    model = graph(f"""g ({a} a, {b} b) => (float[r,s,t,u] y) {{ y = Einsum<equation = "nkic,nkjc->nicj">(a, b) }}""")
    after, _ = apply_with_kernel(model)
    (made,) = [node.outputs[0] for node in after.graph if node.op_type == "FusedMatMul"]
    assert (made.dtype, made.shape) == (ir.DataType.FLOAT, ir.Shape(wanted))


def test_this_cpu_has_the_kernel():
    from mlc.runtimes.cpu import capabilities

    assert capabilities(Target(), {}, EinsumToMatMul.may_use_kernels).kernels == ABLE.kernels
