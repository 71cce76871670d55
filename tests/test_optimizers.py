"""Runtime optimizers that may hurt: measured with and without, switched off only where that is clearly faster."""

import json

import pytest
import torch

import mlc
from mlc.artifact import Artifact, Origin
from mlc.grammar.values import parse_target
from mlc.pipeline import optimizers
from mlc.pipeline.optimizers import OPTION, SKIP, WITHOUT, settled, without_optimizers
from mlc.types import Interval, Signature, Target
from tests.graphs import graph
from tests.report_sample import trial

NORM = "a = Add(x, z) y = LayerNormalization(a, w)"
HEAD = "g (float[n,4] x, float[n,4] z) => (float[n,4] y) <float[4] w = {1,2,3,4}>"


def artifact(body):
    return Artifact({"model": graph(f"{HEAD} {{ {body} }}")}, Signature((), ()), Origin("test", "", "", 20, {}))


def timed(name, low, high):
    return trial(name, Interval((low + high) / 2, low, high), Interval(1.0, 0.98, 1.02), Interval(0.0, 0.0, 0.0))


def test_the_last_model_is_tried_without_what_joins_sums_and_normalizations():
    models = {"unmodified export": artifact(NORM), "rewritten": artifact(NORM)}
    tried = without_optimizers(models, Target())
    assert list(tried) == [*models, f"rewritten{WITHOUT}"]
    assert tried[f"rewritten{WITHOUT}"].session_options == {OPTION: SKIP}
    assert tried[f"rewritten{WITHOUT}"].model is models["rewritten"].model


@pytest.mark.parametrize(
    ("body", "target"),
    [
        ("a = Mul(x, z) y = LayerNormalization(a, w)", "cpu"),
        (NORM, "openvino/cpu"),
        (NORM, "webgpu"),
        (NORM, f"cpu,{OPTION}=GeluFusion"),
    ],
    ids=["nothing to join", "another runtime", "another provider", "asked for by the user"],
)
def test_nothing_is_tried_where_it_has_no_place(body, target):
    models = {"unmodified export": artifact(body)}
    assert without_optimizers(models, parse_target(target)) == models


@pytest.mark.parametrize(
    ("plain", "twin", "chosen", "shipped"),
    [
        ((1.2, 1.3), (1.4, 1.5), "rewritten", f"rewritten{WITHOUT}"),
        ((1.2, 1.3), (1.4, 1.5), f"rewritten{WITHOUT}", f"rewritten{WITHOUT}"),
        ((1.2, 1.3), (1.25, 1.4), f"rewritten{WITHOUT}", "rewritten"),
        ((0.97, 1.05), (1.04, 1.2), f"rewritten{WITHOUT}", f"rewritten{WITHOUT}"),
        ((1.2, 1.3), (0.9, 1.0), "rewritten", "rewritten"),
    ],
    ids=["clearly faster", "and chosen", "not clearly", "alone faster than the export", "slower"],
)
def test_an_option_has_to_earn_its_place(plain, twin, chosen, shipped):
    trials = [timed("unmodified export", 1.0, 1.0), timed("rewritten", *plain), timed(f"rewritten{WITHOUT}", *twin)]
    assert settled(trials, chosen) == shipped


class Residual(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.norm = torch.nn.Linear(16, 16), torch.nn.LayerNorm(16)

    def forward(self, x):
        return self.norm(x + self.linear(x))


@pytest.mark.parametrize("wins", [False, True])
def test_what_ships_says_so(tmp_path, monkeypatch, quick, wins):
    twin = f"unmodified export{WITHOUT}"
    monkeypatch.setattr("mlc.pipeline.line.settled", lambda trials, name: twin if wins else "unmodified export")
    report = mlc.compile(Residual(), torch.ones(2, 16), inputs=["x=float32[batch=1..4,16]"], out=tmp_path / "out")
    assert [each.candidate.name for each in report.trials] == ["unmodified export", twin]
    session = json.loads((tmp_path / "out" / "session.json").read_text())
    assert session["session_options"] == ({OPTION: SKIP} if wins else {})
    assert (OPTION in report.loading) is wins
    assert report.shipped == (twin if wins else "unmodified export")


def test_the_option_is_one_of_the_runtime(tmp_path):
    from mlc.runtimes.providers import check_session_entry

    check_session_entry(optimizers.OPTION)
