"""The opset of an export follows from the target and the passes, unless it is asked for or a file has its own."""

from __future__ import annotations

from functools import partial

import pytest
from torch import nn

from mlc.exporting import export
from mlc.pipeline.opset import export_opset, exported_for, without_kernel
from mlc.pipeline.quantizing import quantizing
from mlc.probes import references
from mlc.recipe import merge, parse_inputs
from mlc.registry import schedule
from mlc.sources.load import load
from mlc.types import Capabilities, Target
from tests.onnx_models import scaled

GPU = Capabilities("any device of cuda", cpu=False)
CPU = Capabilities("any x86 or ARM CPU")


def chosen(able=CPU, **asked):
    recipe = merge(None, {"source": "python:", **asked})
    original = load(nn.Linear(3, 3), parse_inputs(["input=float32[2,3]"]))
    return export_opset(recipe, schedule(quantizing(recipe).all, defaults=recipe.defaults), original, able)


@pytest.mark.parametrize(
    ("able", "asked", "opset"),
    [
        (CPU, {}, 23),
        (CPU, {"opset": 19}, 19),
        (CPU, {"passes": ["none"]}, None),
        (CPU, {"passes": ["none", "fuse-attention"]}, 23),
        (CPU, {"target": "openvino/cpu"}, None),
        (GPU, {"target": "cuda"}, None),
        (GPU, {"target": "cuda", "passes": ["fuse-rms-norm"]}, 23),
        (GPU, {"target": "cuda", "passes": ["fuse-gelu"]}, None),
        (CPU, {"to": "int4-weights", "passes": ["none"]}, 23),
        (GPU, {"target": "webgpu", "to": "int4-weights"}, 21),
        (GPU, {"target": "cuda", "to": "int8"}, 21),
        (GPU, {"target": "cuda", "to": "fp16"}, None),
    ],
    ids=str,
)
def test_the_opset_follows_from_target_and_passes(able, asked, opset):
    assert chosen(able, **asked) == opset


def test_a_gpu_with_kernels_for_the_newer_opset_is_given_it(monkeypatch):
    monkeypatch.setattr("mlc.pipeline.opset.has_newer", lambda target: target.provider == "cuda")
    assert chosen(GPU, target="cuda") == 23
    assert chosen(GPU, target="cuda", to="int4-weights") == 23
    assert chosen(GPU, target="webgpu") is None


def test_a_file_keeps_its_own(tmp_path):
    path = scaled(tmp_path / "model.onnx", 2.0)
    recipe = merge(None, {"source": str(path)})
    original = load(str(path), parse_inputs(["x=float32[batch=1..4,classes=1..4]"]))
    assert export_opset(recipe, schedule(()), original, CPU) is None


@pytest.mark.needs_onnxruntime
@pytest.mark.parametrize(
    ("layer", "opset", "lost"),
    [(nn.GroupNorm(2, 4), 20, ["GroupNormalization"]), (nn.MaxPool1d(3), 23, []), (nn.Softmax(1), 23, [])],
    ids=["group norm", "pooling", "softmax"],
)
def test_an_operator_that_would_fall_back_at_the_newer_opset_alone_decides(monkeypatch, workspace, layer, opset, lost):
    """The CPU provider stands for a GPU's here: it has no kernel for GroupNormalization, and one for MaxPool of 22."""
    monkeypatch.setattr("mlc.pipeline.opset.has_newer", lambda _target: True)
    recipe = merge(None, {"source": "python:"})
    specs = schedule(quantizing(recipe).all, defaults=recipe.defaults)
    original = load(nn.Sequential(nn.Conv1d(3, 4, 3), layer), parse_inputs(["input=float32[batch=1..4,3,9]"]))
    at = partial(export, original, references(original, None, 0)[0], workspace)
    assert list(without_kernel(at(23)[0].model, Target(), workspace, since=20)) == lost
    artifact, checks = exported_for(recipe, specs, original, GPU, workspace=workspace, export=at)
    assert artifact.origin.opset == opset
    assert len(checks) > 1
    said = [note for note in artifact.origin.notes if "has no kernel for" in note]
    assert said == [f"exported at opset 20: cpu has no kernel for {op} of 23" for op in lost]
    assert exported_for(recipe, specs, original, CPU, workspace=workspace, export=at)[0].origin.opset == 23
