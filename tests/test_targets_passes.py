"""Passes for targets that have the kernels: seen, not believed; judged there; left out of portable output."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import ClassVar

import onnx
import onnx_ir as ir
import pytest

from mlc.cli import main
from mlc.describe_passes import describe, list_passes, reference
from mlc.errors import PassError, UsageError
from mlc.registry import DEFAULT_PASSES, GROUP, available, optional_probes_of, pass_class, probes_of, runnable, schedule
from mlc.rewriting import rewrite
from mlc.runtimes import kernels
from mlc.runtimes.cpu import capabilities
from mlc.runtimes.onnxruntime import open_session
from mlc.runtimes.opening import profile_run
from mlc.types import PassSpec, Target
from passes.fuse_group_norm import FuseGroupNorm
from passes.fuse_quick_gelu import FuseQuickGelu
from tests.graphs import artifact, graph, line, ops, random, references
from tests.targets import usable

pytestmark = pytest.mark.needs_onnxruntime

OURS = {
    "fuse-multi-head-attention", "fuse-quick-gelu", "fuse-bias-gelu", "fuse-skip-layer-norm", "fuse-group-norm",
}  # fmt: skip
CHOSEN = OURS - {"fuse-group-norm"}
KERNELS = tuple(
    f"com.microsoft.{op}" for op in ("MultiHeadAttention", "QuickGelu", "BiasGelu", "SkipLayerNormalization")
)

BLOCK = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(8), nn.LayerNorm(8)])
        self.layers = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)])
        self.qkv = nn.Linear(8, 24)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        x = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + nn.functional.silu(self.layers[0](self.norms[0](x)))
        y = x + self.layers[1](nn.functional.gelu(self.layers[2](x)))
        return self.norms[1](y)


def model():
    torch.manual_seed(0)
    block = Block()
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    return block
"""
INPUT = ["--input", "x=float32[batch=1..2,3,8]"]

SILU = "g (float[batch,4] x) => (float[batch,4] y, float[batch,4] z) { s = Sigmoid(x) y = Mul(x, s) z = Relu(y) }"


@pytest.fixture
def webgpu():
    return usable("webgpu")[0]


@pytest.fixture
def block(tmp_path, monkeypatch, quick):
    monkeypatch.chdir(tmp_path)
    Path("block.py").write_text(BLOCK)
    return "block.py:model"


@pytest.fixture
def net(tmp_path, monkeypatch, quick):
    monkeypatch.chdir(tmp_path)
    onnx.save(ir.to_proto(graph(SILU)), "net.onnx")
    return ["net.onnx", "--input", "x=float32[batch=1..2,4]"]


def run(capsys, *arguments):
    code = main([*arguments])
    return code, *capsys.readouterr()


# what a target has


def probes():
    return probes_of(PassSpec(name) for name in sorted(OURS))


def test_webgpu_is_seen_to_have_kernels(webgpu):
    assert set(capabilities(webgpu, probes()).kernels) == set(KERNELS)


def test_a_target_is_asked_once_in_a_process(webgpu, monkeypatch):
    first = kernels.kernels(webgpu, probes())
    monkeypatch.setattr(kernels, "open_session", None)
    assert kernels.kernels(webgpu, probes()) == first


@pytest.mark.parametrize(
    "target",
    [
        Target(),
        Target(device="native"),
        Target(provider="CPUExecutionProvider"),
        Target(provider="openvino"),
        Target("openvino", "cpu"),
        Target(provider="nowhere"),
    ],
)
def test_nothing_is_claimed_of_a_cpu_nor_of_what_is_not_there(target, monkeypatch):
    monkeypatch.setattr(kernels, "open_session", None)
    assert capabilities(target, probes()).kernels == ()


def test_nothing_is_claimed_of_a_provider_that_does_not_load(webgpu, monkeypatch):
    monkeypatch.setattr(kernels, "full_name", lambda _provider: "CUDAExecutionProvider")
    assert kernels.kernels(Target(provider="cuda:7"), probes()) == ()


def test_a_node_that_falls_back_is_no_kernel(webgpu):
    half = "(float[n] x, float[2,2] w) => (float[n] y) { a = Relu(x) d = Det(w) y = Mul(a, d) }"
    assert kernels.kernels(webgpu, {"com.microsoft.Half": half}) == ()


def test_whether_a_gpu_has_the_newer_operators_is_seen(webgpu, tmp_path):
    onnx.save(onnx.parser.parse_model(kernels.NEWER), tmp_path / "newer.onnx")
    with open_session(tmp_path / "newer.onnx", webgpu) as session:
        wholly = {node.provider for node in session.assignment()} == {session.provider}
    assert kernels.has_newer(webgpu) is wholly
    assert not kernels.has_newer(Target())


def test_a_graph_that_is_none_is_the_fault_of_the_pass(webgpu):
    with pytest.raises(PassError, match=r"the graph that asks for a kernel of com\.microsoft\.Odd raised ParseError"):
        kernels.kernels(webgpu, {"com.microsoft.Odd": "y = Odd(x)"})


@pytest.mark.parametrize("name", sorted(available()))
def test_every_pass_asks_for_what_it_writes(name):
    for operator, text in pass_class(name).needs_kernels.items():
        domain, _, op = operator.rpartition(".")
        model = onnx.parser.parse_model(kernels.HEAD.format(domain=domain, graph=text))
        onnx.checker.check_model(model)
        assert (domain, op) in {(node.domain, node.op_type) for node in model.graph.node}


# which passes run


def names(target, *asked, **options):
    requested = [PassSpec(name) for name in asked]
    specs = schedule(requested, **options)
    able = capabilities(target, probes_of(specs), optional_probes_of(specs))
    return [spec.name for spec in runnable(specs, requested, target, able)]


def test_by_default_none_of_them_runs_on_a_cpu():
    assert names(Target()) == [name for name in DEFAULT_PASSES if name not in OURS]


def test_by_default_those_run_whose_kernels_a_target_has(webgpu):
    assert names(webgpu) == list(DEFAULT_PASSES)
    assert set(DEFAULT_PASSES) & OURS == CHOSEN


def test_portable_output_has_none_of_them(webgpu):
    assert names(webgpu, portable=True) == names(Target())


@pytest.mark.parametrize("name", sorted(OURS))
def test_one_asked_for_by_name_on_a_cpu_is_refused(name):
    with pytest.raises(PassError) as caught:
        names(Target(), name)
    (operator,) = pass_class(name).needs_kernels
    assert caught.value.message == (
        f"the pass {name} is not for the target cpu: it writes {operator}, for GPUs whose provider has a kernel"
    )
    assert caught.value.hint == f"leave it out; `mlc passes {name}` says which targets here it is for"


def test_one_asked_for_by_name_without_its_kernel_is_refused(webgpu):
    with pytest.raises(PassError, match=r"fuse-group-norm is not for the target webgpu: it writes com\.microsoft\."):
        names(webgpu, "fuse-group-norm")


def test_one_asked_for_by_name_in_portable_output_is_wrong_use():
    with pytest.raises(UsageError) as caught:
        schedule([PassSpec("fuse-bias-gelu")], portable=True)
    assert caught.value.message == (
        "the pass fuse-bias-gelu writes com.microsoft.BiasGelu, which portable output does not have"
    )


def test_the_refusal_writes_nothing(block, capsys):
    code, out, error = run(capsys, "compile", block, *INPUT, "--pass", "fuse-skip-layer-norm", "-o", "out")
    assert (code, out) == (4, "")
    assert error.startswith("mlc: error: the pass fuse-skip-layer-norm is not for the target cpu: it writes")
    assert not Path("out").exists()


# where they are judged


@pytest.fixture
def opened(monkeypatch):
    """The targets on which graphs are run to judge a pass."""
    found = []

    def recording(path, target, **options):
        found.append(target)
        return open_session(path, target, **options)

    monkeypatch.setattr("mlc.runtimes.onnxruntime.open_session", recording)
    return found


def judged(subjects, model, workspace, opened, *, target, able):
    feeds = [{"x": random(1, 2, 4)}, {"x": random(2, 3, 4)}]
    kept = references(model, feeds, workspace)
    opened.clear()
    done = rewrite(
        artifact(model), subjects, references=kept, workspace=workspace, capabilities=able, target=target
    )  # fmt: skip
    return done, set(opened)


def test_they_are_judged_on_the_target_and_others_on_the_cpu(webgpu, opened, workspace):
    able = capabilities(webgpu, FuseQuickGelu.needs_kernels)
    done, where = judged([FuseQuickGelu()], graph(SILU), workspace, opened, target=webgpu, able=able)
    assert [(step.sites, step.left_out) for step in done.steps] == [(("y",), ())]
    assert where == {webgpu}
    plain = graph("g (float[batch,4] x) => (float[batch,4] y) { a = Identity(x) r = Reciprocal(a) y = Mul(x, r) }")
    (_, where) = judged([pass_class("reciprocal-to-div")()], plain, workspace, opened, target=webgpu, able=able)
    assert where == {Target()}


def test_what_follows_them_is_judged_on_the_target_too(webgpu, opened, workspace):
    able = capabilities(webgpu, FuseQuickGelu.needs_kernels)
    model = graph(SILU.replace("z = Relu(y)", "r = Reciprocal(x) z = Mul(y, r)"))
    subjects = [FuseQuickGelu(), pass_class("reciprocal-to-div")()]
    done, where = judged(subjects, model, workspace, opened, target=webgpu, able=able)
    assert [step.sites for step in done.steps] == [("y",), ("z",)]
    assert where == {webgpu}


class WrongQuickGelu(FuseQuickGelu):
    """``x * sigmoid(alpha * x)`` becomes another QuickGelu."""

    def rewrite(self, op, x, alpha):
        return super().rewrite(op, x, alpha + 0.01)


def test_a_wrong_one_is_left_out(webgpu, opened, workspace):
    able = capabilities(webgpu, FuseQuickGelu.needs_kernels)
    done, where = judged([WrongQuickGelu()], graph(SILU), workspace, opened, target=webgpu, able=able)
    (step,) = done.steps
    assert (step.sites, [left.site for left in step.left_out]) == ((), ["y"])
    assert where == {webgpu}
    assert "Sigmoid" in ops(done.model)


def test_one_that_runs_nowhere_is_left_out_with_a_sentence(workspace):
    model = graph("""g (float[batch,3,2,4] x) => (float[batch,3,2,4] y)
        <int64[3] apart = {0,2,-1}, float[2] ones = {1,1}, float[2] zeros = {0,0}, float[4,1,1] w = {1,-2,3,0.5},
         float[4,1,1] b = {1,2,3,4}>
        { f = Transpose<perm = [0,3,1,2]>(x) r = Reshape(f, apart) i = InstanceNormalization(r, ones, zeros)
          k = Shape(f) u = Reshape(i, k) m = Mul(u, w) o = Add(m, b) y = Transpose<perm = [0,2,3,1]>(o) }""")
    _, (step,) = line(model, [FuseGroupNorm()], [{"x": random(n, n, 3, 2, 4)} for n in (2, 3)], workspace)
    (left,) = step.left_out
    assert (step.sites, left.site) == ((), "y")
    assert "its replacement does not run" in left.reason
    assert "GroupNorm" in left.reason


# the whole line, on webgpu


def test_a_module_compiled_for_webgpu_has_the_kernels(webgpu, block, capsys):
    asked = ["--target", "webgpu", "--strict-provider", "--strict", "--pass", "fuse-skip-layer-norm", "-o", "out"]
    code, _, error = run(capsys, "compile", block, *INPUT, *asked)
    assert code == 0, error
    report = json.loads(Path("out/report.json").read_text())
    sites = {step["spec"]["name"]: len(step["sites"]) for step in report["steps"]}
    assert {name: sites[name] for name in CHOSEN} == dict.fromkeys(CHOSEN, 1)
    found = ops(ir.load("out/model.onnx"))
    assert [found.count(name.rpartition(".")[2]) for name in KERNELS] == [1] * len(KERNELS)
    placement = profile_run(Path("out/model.onnx"), {"x": random(1, 2, 3, 8)}, webgpu).placement
    assert placement.fallbacks == ()


def test_the_stage_of_python_runs_them_too(webgpu, block):
    import mlc

    original = mlc.load(block, inputs=["x=float32[batch=1..2,3,8]"])
    done = mlc.rewrite(mlc.export(original), original, target="webgpu")
    assert {step.spec.name for step in done.steps if step.sites} >= CHOSEN
    with pytest.raises(PassError, match="the pass fuse-quick-gelu is not for the target cpu"):
        mlc.rewrite(mlc.export(original), original, passes=["fuse-quick-gelu"])


# portable output


SENTENCE = "portable: standard operators of opset 20 only"


def test_portable_output_says_so_and_its_recipe_asks_again(net, capsys):
    code, out, error = run(capsys, "compile", *net, "--portable", "-o", "out")
    assert code == 0, error
    assert f"note: {SENTENCE}" in out
    assert SENTENCE in Path("out/report.md").read_text()
    assert {node.domain for node in onnx.load("out/model.onnx").graph.node} == {""}
    assert "portable = true" in Path("out/recipe.toml").read_text().splitlines()
    code, out, error = run(capsys, "compile", "--recipe", "out/recipe.toml", "-o", "again")
    assert code == 0, error
    assert f"note: {SENTENCE}" in out
    assert Path("again/model.onnx").read_bytes() == Path("out/model.onnx").read_bytes()


def test_without_it_nothing_is_said(net, capsys):
    code, out, _ = run(capsys, "compile", *net, "-o", "out")
    assert (code, "portable" in out) == (0, False)
    assert "portable" not in Path("out/recipe.toml").read_text()


def test_portable_output_for_webgpu_has_only_standard_operators(webgpu, net, capsys):
    code, out, error = run(capsys, "compile", *net, "--portable", "--target", "webgpu", "-o", "out")
    assert code == 0, error
    assert f"note: {SENTENCE}" in out
    steps = json.loads(Path("out/report.json").read_text())["steps"]
    assert not {step["spec"]["name"] for step in steps} & OURS


def test_portable_output_and_a_pass_that_is_not_contradict(net, capsys):
    asked = ["--portable", "--pass", "fuse-quick-gelu", "--target", "webgpu", "-o", "out"]
    code, out, error = run(capsys, "compile", *net, *asked)
    assert (code, out) == (2, "")
    assert error == (
        "mlc: error: the pass fuse-quick-gelu writes com.microsoft.QuickGelu, which portable output does not have\n"
        "mlc: hint: leave out --portable or --pass fuse-quick-gelu\n"
    )
    assert not Path("out").exists()


CUSTOM = """<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
g (float[2,4] x, bool[1] c) => (float[2,4] y) {
    a = com.microsoft.QuickGelu(x)
    y = If(c) <then_branch = t () => (float[2,4] p) { p = com.microsoft.QuickGelu(a) },
               else_branch = e () => (float[2,4] q) { r = com.microsoft.FastGelu(a) s = com.microsoft.FastGelu(r)
                                                      q = Relu(s) }> }"""


def test_a_source_that_is_not_portable_is_refused_with_its_nodes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    onnx.save(onnx.parser.parse_model(CUSTOM), "net.onnx")
    code, out, error = run(capsys, "compile", "net.onnx", "--portable", "-o", "out")
    assert (code, out) == (3, ""), error
    assert error == (
        "mlc: error: the model holds operators outside ONNX's standard domain: com.microsoft.QuickGelu a, "
        "com.microsoft.QuickGelu p, com.microsoft.FastGelu r and 1 more\n"
        "mlc: hint: leave out --portable\n"
    )
    assert not Path("out").exists()


@dataclass(frozen=True)
class Unsaid(FuseQuickGelu):
    """``x * sigmoid(alpha * x)`` becomes a QuickGelu, and no word of it is said."""

    name: ClassVar[str] = "unsaid"
    needs_kernels: ClassVar[Mapping[str, str]] = {}


def test_a_pass_that_does_not_say_what_it_writes_is_found_in_the_file(net, monkeypatch, capsys):
    points = {**available(), "unsaid": EntryPoint("unsaid", f"{__name__}:Unsaid", GROUP)}
    monkeypatch.setattr("mlc.registry.available", lambda: points)
    code, _, error = run(capsys, "compile", *net, "--portable", "--pass", "unsaid", "-o", "out")
    assert code == 4
    assert "mlc: error: the passes wrote operators outside ONNX's standard domain: com.microsoft.QuickGelu" in error
    assert not Path("out").exists()


# what is said about them


def test_the_list_says_for_which_targets_each_runs(monkeypatch):
    monkeypatch.setattr("mlc.runtimes.kernels.targets_with", lambda probes: ("cuda", "webgpu"))
    lines = {row.split()[0]: row for row in list_passes().splitlines() if row}
    assert "reassociates  default on cuda and webgpu  `x * sigmoid" in lines["fuse-quick-gelu"]
    assert "default" not in lines["fuse-group-norm"]
    assert "default on" not in lines["fuse-layer-norm"]


def test_a_description_says_which_targets_have_the_kernels(webgpu):
    said = describe("fuse-bias-gelu").splitlines()
    assert "targets    those with a kernel of com.microsoft.BiasGelu; here: webgpu" in said
    assert "default    yes, for these targets" in said
    said = describe("fuse-group-norm").splitlines()
    assert "targets    those with a kernel of com.microsoft.GroupNorm; here: none" in said
    assert "default    no, asked for by --pass fuse-group-norm" in said
    assert not [row for row in describe("fuse-layer-norm").splitlines() if row.startswith("targets")]


def test_the_page_on_all_passes_is_the_same_on_every_machine(monkeypatch):
    monkeypatch.setattr("mlc.runtimes.kernels.targets_with", None)
    assert "runs by default, for targets with a kernel of com.microsoft.BiasGelu alone" in reference()
