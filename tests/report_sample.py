"""A report with every field filled in by hand, in the shape of a real run of int8 on a small ResNet."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

from mlc.artifact import LeftOut, Origin, Step, Way
from mlc.compare import Check, Difference
from mlc.explaining import (
    Between,
    Explanation,
    Inside,
    IntegerShare,
    Kept,
    NodeCost,
    NodeTime,
    ProductShare,
    TensorError,
)
from mlc.judging import Report, judge
from mlc.layer_errors import LayerError
from mlc.measuring import Accuracy, Arithmetic, Candidate, Latency, OutputAgreement, Trial
from mlc.recipe import Recipe
from mlc.runtimes.session import NodeRun, OperatorTime, Placement, Profile
from mlc.types import (
    Dim,
    Drop,
    InputSpec,
    Interval,
    Limits,
    Machine,
    NodePlan,
    OutputSpec,
    PassSpec,
    Plan,
    Refusal,
    Signature,
    Target,
)

HOSTILE = "</td><script>alert('x')</script>|`*&\x1b[31m"
"""A name as a careless or malicious model file may have it."""

INT8 = PassSpec("int8-static", (("method", "percentile"), ("percent", 99.99)))
LIMITS = Limits(max_drop=Drop(0.01), max_latency=0.6, min_speedup=2.0, max_size=0.5)
NOISE = Interval(1.002, 0.986, 1.017)


def wave(number: int) -> float:
    """Return a repeatable figure between -1 and 1 that looks like noise."""
    return math.sin(number * 12.9898) * math.cos(number * 78.233)


def rounds(middle: float, spread: float, processes: int = 5, count: int = 24) -> tuple[tuple[float, ...], ...]:
    """Return paired ratios by process, with one straggler."""
    lanes = [
        [middle * (1 + spread * (wave(process * 100 + place) + 0.4 * wave(process))) for place in range(count)]
        for process in range(1, processes + 1)
    ]
    lanes[1][7] = middle * 0.62
    return tuple(tuple(round(ratio, 5) for ratio in lane) for lane in lanes)


def latency(p50: float, speedup: Interval, spread: float = 0.03, noise: Interval = NOISE) -> Latency:
    """Return a latency whose other figures follow from its p50."""
    sizes = {"batch": 1}
    ratios = rounds(speedup.value, spread)
    return Latency(sizes, p50, p50 * 1.043, p50 * 1.21, speedup, noise, ratios, default_ms=p50 * 0.97)


def arithmetic(share: float) -> Arithmetic:
    """Return what a model computes at a share of the machine's peak."""
    return Arithmetic(72_400_000, share, 94.9e9, 2)


def trial(name: str, speedup: Interval | None, noise: Interval = NOISE, drop: Interval | None = None) -> Trial:
    """Return a trial of which only speed and drop matter."""
    timed = latency(1.24 / speedup.value, speedup, noise=noise) if speedup else None
    accuracy = None
    if drop is not None:
        value = Interval(0.912 - drop.value, 0.9 - drop.value, 0.924 - drop.value)
        accuracy = Accuracy("top1", higher_is_better=True, samples=2000, value=value, original=0.912, drop=drop)
    return Trial(Candidate(name, Path(f"{name}.onnx")), latency=timed, accuracy=accuracy, size_bytes=342_118)


def profile(scale: float, *, quantized: bool) -> Profile:
    """Return a profile with one node that fell back where quantized."""
    provider = "CPUExecutionProvider"
    conv = "QLinearConv" if quantized else "Conv"
    kinds = [(conv, 9, 820.0 * scale), ("Relu", 4, 61.2 * scale), ("Gemm", 1, 12.4), ("GlobalAveragePool", 1, 9.8)]
    if quantized:
        kinds = [kinds[0], ("QuantizeLinear", 2, 21.0), ("QLinearAdd", 3, 33.1), *kinds[2:]]
    operators = tuple(OperatorTime(provider, op, count, spent) for op, count, spent in kinds)
    ran = tuple(NodeRun(provider, op, f"node_{op}_{n}") for op, count, _ in kinds for n in range(count))
    strangers = (NodeRun("SomeProvider", "Conv", "node_stem_conv"),) if quantized else ()
    fallbacks = (NodeRun(provider, "TopK", HOSTILE),) if quantized else ()
    assigned = (*strangers, *fallbacks, *ran[1:])
    return Profile(Placement("SomeProvider", assigned, ran, 2 if quantized else 0, fallbacks, "llvmpipe"), operators)


def trials() -> tuple[Trial, ...]:
    """Return the unmodified export, int8, and the exact passes alone."""
    baseline = Trial(
        Candidate("baseline", Path("/runs/baseline.onnx")),
        (OutputAgreement("logits", 132.4, 0.9999999, 1.0, 3.1e-7),),
        Accuracy("top1", True, 2000, Interval(0.9125, 0.9, 0.9245), 0.9125, Interval(0.0, 0.0, 0.0)),
        dataclasses.replace(latency(1.2437, Interval(1.0, 1.0, 1.0), 0.012), arithmetic=arithmetic(0.6134)),
        0.0213,
        71.26,
        1_243_512,
        profile(1.0, quantized=False),
    )
    int8 = Trial(
        Candidate("int8-static", Path("/runs/int8.onnx"), {"session.set_denormal_as_zero": "1"}),
        (
            OutputAgreement("logits", 38.71, 0.99993, 0.9965, 0.0734, apart=(17, 402)),
            OutputAgreement(HOSTILE, math.inf, 1.0, None, 0.0),
        ),
        Accuracy("top1", True, 2000, Interval(0.911, 0.8981, 0.9229), 0.9125, Interval(0.0015, -0.0006, 0.0036)),
        dataclasses.replace(latency(0.5154, Interval(2.413, 2.352, 2.471)), arithmetic=arithmetic(1.4801)),
        0.0187,
        64.9,
        342_118,
        profile(0.36, quantized=True),
        ("operator counts are those of the provisional model",),
    )
    exact = Trial(
        Candidate("exact", Path("/runs/exact.onnx")),
        latency=latency(1.2381, Interval(1.0045, 0.995, 1.0141), 0.012),
        size_bytes=1_243_498,
    )
    return baseline, int8, exact


def steps() -> tuple[Step, ...]:
    """Return passes that did everything a pass can do."""
    return (
        Step(PassSpec("fold-constants"), "exact", False, ("val_3", "val_9"), seconds=0.0312, error=0.0, nodes_before=27,
             nodes_after=25, verify_seconds=0.118),
        Step(PassSpec("fold-batch-norm"), "reassociates", False, (), nodes_before=25, nodes_after=25, seconds=0.004,
             refused=(Refusal("conv_2", "the Conv output is also a graph output"),
                      Refusal(HOSTILE, "the variance is not constant"),
                      Refusal("conv_5", "the Conv output is also a graph output"))),
        Step(PassSpec("fold-layer-scale"), "reassociates", False, ("mul_1",), nodes_before=25, nodes_after=24,
             left_out=(LeftOut(HOSTILE, "differs from before", 0.0213),), error=4.1e-7, seconds=0.011,
             verify_seconds=0.21),
        Step(PassSpec("einsum-to-matmul"), "exact", False, dropped="it renamed the output logits",
             nodes_before=24, nodes_after=24),
        Step(INT8, "lossy", True, tuple(f"layer{n}.conv" for n in range(9)), seconds=0.42, verify_seconds=0.3,
             sqnr={"logits": 38.6, HOSTILE: math.inf}, nodes_before=24, nodes_after=61,
             refused=(Refusal("softmax", "a softmax stays float"),),
             notes=("a bias was split for two consumers: layer2.shortcut",)),
    )  # fmt: skip


def ways() -> tuple[Way, ...]:
    """Return two ways of exporting, the last of which was taken."""
    return (Way("as it is", "torch takes batch=4 for granted"), Way("as it is, guards put off"))


def explanation() -> Explanation:
    """Return what is told of a quantized model: more than is shown, and names that are not to be trusted."""
    tensors = [
        TensorError(f"layer{n}.conv", "activation", "uint8", 41.2 - n, 0.00021 * n, -0.3, 4.1 + n, -0.25, 3.9 + n,
                    (f"layer{n + 1}.conv",), 52.0 - n)
        for n in range(9)
    ]  # fmt: skip
    tensors += [
        TensorError("stem.weight", "weight", "int8", 44.6, 0.0, -0.71, 0.64, -0.71, 0.71, ("stem",)),
        TensorError(HOSTILE, "activation", "uint8", -math.inf, 1.0, math.inf, -math.inf, 0.0, 1.0),
    ]
    nodes = tuple(
        NodeCost(
            f"layer{n}.conv", "Conv", 52.0 - n, "logits", time=NodeTime(0.25 + n / 8, 0.125 + n / 8) if n else None
        )
        for n in range(9)
    )
    products = (ProductShare("QLinearConv", 9, 71_000_000, True), ProductShare("Gemm", 1, 1_400_000, False))
    between = (Between("softmax", "Softmax"), Between(HOSTILE, "Tanh"))
    share, notes = IntegerShare(products, between, 1), ("a sentence of its own",)
    inside = (Inside("loop.body/step", "MatMul", "int8-dynamic"), Inside(HOSTILE, "Gemm", "integers"))
    kept = (Kept("sum", "ReduceSum", "it adds up many values, and sums leave float16"), Kept(HOSTILE, "Tan"))
    return Explanation(64, tuple(tensors), nodes, share, notes, inside, kept)


def layers() -> tuple[LayerError, ...]:
    """Return an error that grows along the network."""
    falling = tuple(
        LayerError(f"layer{number}.relu", "Relu", 47.3 - 0.9 * number + 1.5 * wave(number)) for number in range(14)
    )
    return (LayerError("stem", "Conv", math.inf), *falling, LayerError("logits", "Gemm", 38.7))


def sample() -> Report:
    """Return the report, judged."""
    measured = trials()
    shipped = "int8-static"
    verdicts, outcome, first_line = judge(measured, LIMITS, shipped=shipped, requested=("int8-static",))
    inputs = (
        InputSpec("x", "float32", (Dim(1, 64, 1, "batch"), Dim(1, 1), Dim(28, 28), Dim(28, 28))),
        InputSpec("mask", "int64", (Dim(1, 64, 1, "batch"),), (0.0, 1.0)),
    )
    outputs = (OutputSpec("logits", "float32", ("batch", 10)), OutputSpec("extra", "float32", ("batch", None)))
    sizes = {"batch": 2}
    recipe = Recipe(
        "sample_models/fashion_cnn/model.py:trained", inputs, (INT8,), target=Target(), limits=LIMITS, metric="top1",
        calibrate="calibration.npz", data="evaluation.npz", at={"batch": 1},
    )  # fmt: skip
    nodes = [NodePlan(f"layer{number}.conv", "Conv", "int8", "static: 8-bit weights by channel") for number in range(9)]
    nodes += [NodePlan("head", "Gemm", "int8", "static: 8-bit weights by channel")]
    nodes += [
        NodePlan("softmax", "Softmax", "float", "a softmax needs small values"),
        NodePlan(HOSTILE, "TopK", "float", "?"),
    ]
    notes = ("eval mode was set",)
    return Report(
        recipe=recipe,
        origin=Origin(recipe.source, "sha256:3b1f09", "torch 2.13.0 (dynamo)", 20, sizes, notes, ways()),
        signature=Signature(inputs, outputs),
        steps=steps(),
        trials=measured,
        shipped=shipped,
        verdicts=verdicts,
        outcome=outcome,
        first_line=first_line,
        checks=(
            Check("export", sizes, 1e-3, (Difference("logits", 3.1e-7),)),
            Check("export", {"batch": 64}, 1e-3, (Difference("logits", 3.4e-7),)),
            Check("model.onnx", {"batch": 1}, 0.3162, (Difference("logits", 0.012), Difference("extra", 0.0))),
        ),
        layers=layers(),
        plan=Plan(tuple(nodes)),
        saturation=("no product sum saturates on: onnxruntime (x86 without VNNI), OpenVINO",),
        explanation=explanation(),
        data={"calibration": "calibration.npz: 512 samples", "evaluation": "evaluation.npz: 2,000 samples"},
        machine=Machine("A CPU <with> a name", 2, 7.75, "Linux 6.1", "3.11", {"onnxruntime": "1.32", "onnx": "1.23"}),
        loading='import onnxruntime\n\nsession = onnxruntime.InferenceSession("model.onnx")\nsession.run(None, {})\n',
        notes=("data-dependent shapes were not run",),
        seconds={"export": 6.42, "rewrite": 3.1, "measure": 41.7},
        directory="build/demo",
        recipe_text='source = "sample_models/fashion_cnn/model.py:trained"\npasses = ["int8-static"]\n',
    )  # fmt: skip


def validated() -> Report:
    """Return what ``mlc validate`` reports: one model, no passes, nothing written."""
    full = sample()
    int8 = dataclasses.replace(full.trials[1], latency=None, profile=None)
    verdicts, outcome, first_line = judge((int8,), Limits(max_drop=Drop(0.01, relative=True)), written=False)
    return Report(
        full.recipe, full.origin, full.signature, (), (int8,), int8.candidate.name, verdicts, outcome, first_line,
        checks=full.checks, command="validate", machine=full.machine,
    )  # fmt: skip
