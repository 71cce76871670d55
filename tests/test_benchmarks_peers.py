"""The comparison with other tools, as far as it goes without installing them: counting, mistakes, tables."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.peers.job import GIVEN, Ended, prepare, told
from benchmarks.peers.lines import counted, written
from benchmarks.peers.mistakes import MISTAKES
from benchmarks.peers.summary import mistake_text, saturates, summary
from benchmarks.peers.tools import FACTS, TOOLS

TRACEBACK = 'Traceback (most recent call last)\n  File "/home/me/x.py", line 1\nValueError: in /home/me/x.py, see https://a.b/c\n'


def figures(**changes):
    run = {"code": 1, "seconds": 1.0, "said": "no", "traceback": True, "wrote": False, "named": False}
    passed = {**run, "code": 0, "said": "", "traceback": False, "wrote": True, "top1": 0.5}
    return {
        "written": {"files": 1, "lines": 2, "characters": 30},
        "met": ["no module x -> pip install x"],
        "install_seconds": 3.0,
        "packages": 4,
        "bytes": 5_000_000,
        "versions": {"a": "1", "b": "2"},
        "reports": ["onnxruntime/capi/_pybind_state.py"],
        "code": 0,
        "seconds": 6.0,
        "said": "",
        "tells": {"accuracy before and after": True},
        "top1": 0.92,
        "model_bytes": 70_000,
        "saturation": ["no product sum saturates on: a, b"],
        "mistakes": {"one": run, "two": passed, "three": None},
        **changes,
    }


def measured():
    return {
        "benchmark": "peers",
        "date": "2026-01-01",
        "machine": {"cpu": "a CPU", "cores": 2, "python": "3.11", "versions": {"torch": "2"}},
        "settings": {"there": ["torch"], "pinned": ["onnx"], "batch": 8},
        "tools": {"mlc": figures(), "olive": figures(reports=["olive/telemetry/telemetry.py"])},
        "speed": {"fp32": {"ms": 1.0, "ratio": [1.0, 0.9, 1.1]}, "mlc": {"ms": 0.5, "ratio": [2.0, 1.9, 2.1]}},
        "fp32": 0.926,
    }


def test_only_lines_that_say_something_count(tmp_path):
    text = "# a comment\n\nimport x\nf(\n    1,  # one\n)\n}\n],\n"
    assert written(text) == ["import x", "f(", "1,  # one"]
    (tmp_path / "a.py").write_text(text)
    assert counted([tmp_path / "a.py"]) == {"files": 1, "lines": 3, "characters": 19}


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_every_tool_has_its_files_and_every_mistake_can_be_made(tool, tmp_path):
    assert counted(tool.files)["lines"] > 0
    assert set(tool.tells) <= set(FACTS)
    for number, mistake in enumerate(MISTAKES):
        folder = tmp_path / str(number)
        prepare(tool, folder)
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        assert {path.name for path in before} == {*GIVEN, *(path.name for path in tool.files)}
        made = mistake.make(folder, tool)
        after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        assert made == (after != before or any(path.is_dir() for path in folder.iterdir()))
        assert made or tool.name == "mlc"


def test_the_mistakes_are_the_ones_that_are_named(tmp_path):
    made = {mistake.text: mistake for mistake in MISTAKES}
    prepare(TOOLS[0], tmp_path / "nan")
    made["NaN in one calibration image"].make(tmp_path / "nan", TOOLS[0])
    with np.load(tmp_path / "nan" / "calibration.npz") as data:
        assert np.isnan(data["image"]).sum() == 1
    prepare(TOOLS[0], tmp_path / "empty")
    made["no image in the calibration file"].make(tmp_path / "empty", TOOLS[0])
    with np.load(tmp_path / "empty" / "calibration.npz") as data:
        assert data["image"].shape == (0, 1, 28, 28)
        assert data["labels"].shape == (0,)


def test_what_was_said_names_no_place_of_this_machine():
    ended = Ended(1, 1.0, "before\n" + TRACEBACK)
    assert ended.traceback
    assert ended.said == "ValueError: in x.py, see (address)"
    assert Ended(2, 1.0, "mlc: error: no\nmlc: hint: yes\n").said == "mlc: error: no; mlc: hint: yes"


def test_facts_are_found_in_what_a_tool_printed_and_wrote(tmp_path):
    olive = TOOLS[-1]
    prepare(olive, tmp_path / "job")
    assert told(olive, tmp_path / "job", "") == dict.fromkeys(olive.tells, False)
    (tmp_path / "job" / "metrics.json").write_text('{"accuracy-accuracy_score": 1}')
    found = told(olive, tmp_path / "job", "latency-avg")
    assert found == dict.fromkeys(olive.tells, True)


def test_the_tables_hold_every_figure():
    result = measured()
    text = summary(json.loads(json.dumps(result))).markdown(result, brief=False)
    for cell in (
        "1, 2, 30",
        "92.00%",
        "2.00 (1.90 to 2.10)",
        "fp32 92.60%",
        "no: it switches onnxruntime's off",
        "Olive",
    ):
        assert cell in text
    assert "mlc: mistakes that end with exit code 0 and a model" in text
    assert "| 1 of 2 " in text
    assert "no module x -> pip install x" in text
    brief = summary(result).markdown(result, brief=True)
    assert "no module x" not in brief


def test_a_mistake_in_a_few_words():
    assert mistake_text(None) == "-"
    assert mistake_text({"code": 3, "traceback": False, "wrote": False}) == "3"
    assert mistake_text({"code": 1, "traceback": True, "wrote": False}) == "1, traceback"
    assert mistake_text({"code": 0, "traceback": False, "wrote": True, "named": False, "top1": 0.1}) == (
        "0, a model with top-1 10.00%"
    )
    assert saturates({"saturation": ["product sums may saturate on OpenVINO in a, b"]}) == "OpenVINO"
