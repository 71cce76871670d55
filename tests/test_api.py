"""The Python door: live objects in one call, the stages on their own, and nothing asked for that is ignored."""

from __future__ import annotations

import inspect

import numpy as np
import onnx
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import mlc
from mlc.cli import main
from mlc.errors import UsageError
from mlc.pipeline.data import datasets, replayable
from mlc.pipeline.run import Live
from mlc.recipe import Recipe, parse_inputs
from mlc.types import PassSpec, Signature

pytestmark = pytest.mark.usefixtures("quick")
INPUTS = ["x=float32[batch=1..8,6]"]
X = np.random.default_rng(0).normal(size=(120, 6)).astype(np.float32)


def module():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4)).train()


class Named(torch.nn.Module):
    """An input called x."""

    def __init__(self):
        super().__init__()
        self.inner = module()

    def forward(self, x):
        return self.inner(x)


EXAMPLE = torch.ones(2, 6)


def loader(first, last, shift=0):
    labels = torch.from_numpy(X[first:last].argmax(1) % 4 + shift)
    return DataLoader(TensorDataset(torch.from_numpy(X[first:last]), labels), batch_size=16)


def hits(outputs, answers):
    return (outputs["output"].argmax(1) == answers).astype(float)


def softer_hits(outputs, answers):
    return (outputs["output"].argmax(1) == answers).astype(float) * 0.5


def compiled(out, **changes):
    asked = {"calibrate": loader(0, 40), "data": loader(40, 120), "metric": hits, "max_drop": "90%", **changes}
    return mlc.compile(Named(), EXAMPLE, inputs=INPUTS, passes=["int8-static"], out=out, **asked)


def test_live_objects_in_one_call(tmp_path):
    report = compiled(tmp_path / "first")
    assert report.shipped == "int8-static"
    assert [(verdict.limit, verdict.outcome) for verdict in report.verdicts] == [("max-drop", "met")]
    assert (report.recipe.source[:7], report.recipe.opset) == ("python:", 23)
    assert report.eager is not None
    again = compiled(tmp_path / "second")
    assert again.recipe == report.recipe
    files = [
        (tmp_path / run / name).read_bytes() for name in ("model.onnx", "recipe.toml") for run in ("first", "second")
    ]
    assert files[0] == files[1]
    assert files[2] == files[3]


def test_a_recipe_of_live_objects_says_so_when_it_is_replayed(tmp_path, capsys):
    compiled(tmp_path / "out")
    recipe = tmp_path / "out" / "recipe.toml"
    text = recipe.read_text()
    assert text.startswith("# Live Python objects stood in the place of source, calibrate, data, metric:")
    assert text.count('"python:') == 4
    assert main(["compile", "--recipe", str(recipe), "-o", str(tmp_path / "again")]) == 2
    assert "source was a live Python object" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()


def digests(seed=0, **objects):
    """What a recipe holds in the place of live objects; one source has to calibrate and evaluate."""
    recipe = Recipe("python:", seed=seed)
    live = Live(**{"data": loader(40, 120), "metric": hits, **objects})
    inputs = parse_inputs(INPUTS)
    sets = datasets(recipe, live, Signature(inputs, ()), [PassSpec("int8-static")])
    found = replayable(recipe, live, "python:", sets)
    return found.data, found.metric


def test_a_digest_tells_objects_apart():
    """A constant in a metric and the answers make another; which samples a seed has picked does not."""
    data, metric = digests()
    assert digests() == digests(seed=1) == (data, metric)
    other, same = digests(metric=softer_hits)
    assert (other == data, same == metric) == (True, False)
    assert digests(data=loader(40, 120, shift=1))[0] != data


def test_the_module_and_stdout_are_left_as_they_were(capsys):
    live = Named()
    before = {name: tensor.clone() for name, tensor in live.state_dict().items()}
    mlc.compile(live, EXAMPLE)
    assert live.training
    assert all(torch.equal(before[name], tensor) for name, tensor in live.state_dict().items())
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"passs": []}, "there is no 'passs' in a recipe"),
        ({"metric": "top1"}, "a metric was given and no data"),
        ({"data": loader(0, 8), "metric": 5}, "the metric is an int, not a function"),
        ({"data": loader(0, 8), "max_drop": 0.1}, "no metric was given"),
        ({"calibrate": loader(0, 8)}, "no pass calibrates"),
        ({"passes": ["int8-static"]}, "needs data to calibrate on"),
        ({"passes": "int8-static"}, "expected a list"),
        ({"at": {"bach": 3}}, "no input has a dim 'bach'"),
    ],
)
def test_nothing_asked_for_is_ignored(asked, message):
    with pytest.raises(UsageError, match=message):
        mlc.compile(Named(), EXAMPLE, **{"inputs": INPUTS, **asked})


@pytest.fixture(scope="module")
def stages():
    original = mlc.load(Named(), EXAMPLE, inputs=INPUTS)
    return original, mlc.export(original)


def test_the_stages_on_their_own(stages):
    original, exported = stages
    quantized = mlc.rewrite(exported, original, passes=["int8-static"], calibrate=loader(0, 40))
    assert quantized.steps[-1].sites
    trials = mlc.measure(
        {"export": exported, "int8": quantized}, original, data=loader(40, 120), metric="top1", at="batch=3"
    )
    assert [trial.latency.sizes for trial in trials if trial.latency] == [{"batch": 3}] * 2
    judged = mlc.judge(trials, shipped="int8", max_drop="90%", max_size=1)
    assert [verdict.outcome for verdict in judged.verdicts] == ["met", "met"]


def test_stages_ignore_nothing_either(stages):
    original, exported = stages
    for wrong, message in (
        (lambda: mlc.rewrite(exported, original, passes=["int8-static"]), "needs data to calibrate on"),
        (lambda: mlc.rewrite(exported, original, calibrate=loader(0, 8)), "no pass calibrates"),
        (lambda: mlc.rewrite(exported, original, opset=17), "there is no 'opset' in this stage"),
        (lambda: mlc.measure({"export": exported}, original, metric="top1"), "no data to compute it on"),
        (lambda: mlc.measure({"export": exported}, original, at="batch=80"), "batch=80 is outside"),
        (lambda: mlc.measure({"export": exported}, original, max_drop=0.1), "there is no 'max_drop' in this stage"),
        (lambda: mlc.measure({}, original), "none given"),
        (lambda: mlc.judge([]), "nothing can be judged"),
        (lambda: mlc.judge([], seed=1), "there is no 'seed' in this stage"),
    ):
        with pytest.raises(UsageError, match=message):
            wrong()


def test_an_onnx_file_keeps_its_opset_or_says_so(tmp_path):
    mlc.compile(Named(), EXAMPLE, inputs=INPUTS, opset=18, out=tmp_path / "first")
    file = tmp_path / "first" / "model.onnx"
    assert mlc.compile(file, inputs=INPUTS, out=tmp_path / "second").recipe.opset is None
    assert onnx.load(tmp_path / "second" / "model.onnx").opset_import[0].version == 18
    with pytest.raises(UsageError, match=r"opset 17 was asked for, and model\.onnx is written in opset 18"):
        mlc.compile(file, inputs=INPUTS, opset=17)
    assert main(["compile", "--recipe", str(tmp_path / "second" / "recipe.toml"), "-o", str(tmp_path / "third")]) == 0
    assert (tmp_path / "third" / "model.onnx").read_bytes() == (tmp_path / "second" / "model.onnx").read_bytes()


def test_notes_are_said_once():
    report = mlc.compile(Named(), EXAMPLE)
    from mlc.report.text import render

    assert render(report).count("the module was in training mode") == 1
    assert "torch eager, alone: p50" in render(report)


def test_a_pass_that_found_nothing_to_do_is_no_reason_to_ship_what_is_slower(tmp_path, monkeypatch):
    """Asked for by name, without a site: whether the defaults' result ships is decided by its speed."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
    model (float[batch,6] x) => (float[batch,6] y) <float a = {1}, float b = {2}> { c = Add(a, b) y = Mul(x, c) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "model.onnx")
    asked: list[bool] = []

    def choose(trials, named):
        asked.append(named)
        return trials[-1].candidate.name

    monkeypatch.setattr("mlc.pipeline.line.choose", choose)
    source = tmp_path / "model.onnx"
    report = mlc.compile(source, inputs=INPUTS, passes=["fold-layer-scale"])
    assert [step.spec.name for step in report.steps if step.sites] == ["fold-constants"]
    assert "by name" not in report.first_line
    mlc.compile(source, inputs=INPUTS, passes=["fold-constants"])
    assert asked == [False, True]


def test_what_passes_made_and_what_ships_without_it_is_told(tmp_path, monkeypatch):
    text = """<ir_version: 8, opset_import: ["" : 20]>
    model (float[batch,6] x) => (float[batch,6] y, float[batch,6] r) <float a = {1}, float b = {2}> {
        c = Add(a, b) m = Mul(x, c) r = Reciprocal(m) y = Mul(x, r) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "model.onnx")
    monkeypatch.setattr("mlc.pipeline.line.choose", lambda trials, _named: trials[0].candidate.name)
    report = mlc.compile(tmp_path / "model.onnx", inputs=INPUTS)
    assert (report.shipped, report.steps) == ("unmodified export", ())
    told = "\n".join(report.notes)
    assert "not in the written model: fold-constants (1 site)" in told
    assert "reciprocal-to-div: 1 near miss, the first at y: r is a graph output" in told
    assert "found no site: " in told
    monkeypatch.setattr("mlc.pipeline.line.choose", lambda trials, _named: trials[-1].candidate.name)
    assert not any("site" in note for note in mlc.compile(tmp_path / "model.onnx", inputs=INPUTS).notes)


def test_the_public_names_and_keywords_can_be_looked_up():
    assert dir(mlc) == ["MlcError", "compile", "export", "judge", "load", "measure", "rewrite"]
    assert {"inputs", "calibrate", "max_drop", "at", "seed", "strict"} <= set(inspect.signature(mlc.compile).parameters)
    with pytest.raises(UsageError, match="limits are given by their own names") as caught:
        mlc.compile(Named(), EXAMPLE, limits={"max_drop": 0.05})
    assert caught.value.hint == "give max_drop, max_latency, min_speedup, max_size"


def test_a_module_that_is_empty_is_a_module_too():
    """An empty Sequential is false where truth is asked, and still what was given."""
    report = mlc.compile(torch.nn.Sequential(), (torch.ones(2, 6),))
    assert report.recipe.source.startswith("python:")
    assert report.shipped == "unmodified export"
