"""``mlc report``: one run shown again, several side by side, and the gate of a pipeline."""

from __future__ import annotations

import dataclasses
import json as standard_json
import subprocess
import sys

import pytest

from mlc.cli import main
from mlc.report import html, json, markdown, text, write_reports
from mlc.types import Interval, Machine
from tests.report_sample import sample, validated

RENDERERS = {"text": text, "md": markdown, "html": html, "json": json}

LIGHT = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "onnx", "onnxruntime", "onnx_ir", "onnxscript"}:
            sys.exit(f"{name} was imported")
sys.meta_path.insert(0, Blocked())
from mlc.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Return a function that writes reports into folders of an empty working directory."""
    monkeypatch.chdir(tmp_path)

    def write(**reports):
        for name, report in reports.items():
            (tmp_path / name).mkdir()
            write_reports(report, tmp_path / name)
        return tmp_path

    return write


def evaluated(report):
    """Return a report whose accuracies were all measured on one set."""
    trials = [
        dataclasses.replace(trial, accuracy=dataclasses.replace(trial.accuracy, evaluated="d1"))
        if trial.accuracy
        else trial
        for trial in report.trials
    ]
    return dataclasses.replace(report, trials=tuple(trials))


def slowed(report):
    """Return a report of a model that lost half of its speed-up."""
    trials = list(report.trials)
    latency = dataclasses.replace(trials[1].latency, speedup=Interval(1.2, 1.19, 1.21))
    trials[1] = dataclasses.replace(trials[1], latency=latency)
    return dataclasses.replace(report, trials=tuple(trials))


def elsewhere(report):
    return dataclasses.replace(report, machine=Machine("Another CPU", 64, 256.0, "Linux 6.1", "3.11"))


def run(capsys, *arguments):
    """Return exit code, stdout and stderr of mlc report."""
    code = main(["report", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("form", RENDERERS)
def test_one_run_is_shown_as_it_was(capsys, runs, form):
    place = runs(out=sample()) / "out"
    assert run(capsys, "out", "--format", form) == (0, RENDERERS[form].render(sample()), "")
    for name in ("report.html", "report.md", "report.json"):
        if name.endswith(form):
            assert run(capsys, "out", "--format", form)[1] == (place / name).read_text(encoding="utf-8")


def test_text_is_the_form_where_none_is_asked_for(capsys, runs):
    runs(out=validated())
    assert run(capsys, "out")[1] == text.render(validated())
    assert run(capsys, "out/report.json")[1] == text.render(validated())
    assert run(capsys, "out", "--json")[1] == json.render(validated())


@pytest.mark.parametrize(("name", "form"), [("a.html", "html"), ("a.md", "md"), ("a.JSON", "json"), ("a", "text")])
def test_a_file_is_written_in_the_form_that_it_is_named_by(capsys, runs, name, form):
    place = runs(out=sample())
    code, out, err = run(capsys, "out", "-o", name)
    assert (code, err) == (0, "")
    assert out == f"{sample().first_line}\n\nreport  {name}\n"
    assert (place / name).read_text(encoding="utf-8") == RENDERERS[form].render(sample())
    assert sorted(path.name for path in place.iterdir()) == sorted([name, "out"])


def test_what_is_asked_for_by_name_is_the_form_whatever_the_file_is_called(capsys, runs):
    place = runs(out=sample())
    assert run(capsys, "out", "-o", "a.txt", "--format", "md")[0] == 0
    assert (place / "a.txt").read_text(encoding="utf-8") == markdown.render(sample())


def test_a_file_that_exists_is_replaced_only_when_asked(capsys, runs):
    place = runs(out=sample())
    (place / "a.md").write_text("mine")
    code, out, err = run(capsys, "out", "-o", "a.md")
    assert (code, out) == (2, "")
    assert "the output a.md exists" in err
    assert (place / "a.md").read_text() == "mine"
    assert run(capsys, "out", "-o", "a.md", "--force")[0] == 0
    assert (place / "a.md").read_text(encoding="utf-8") == markdown.render(sample())


def test_a_report_is_not_put_among_the_files_of_an_artifact(capsys, runs):
    folder = runs(a=sample())
    (folder / "a" / "manifest.json").write_text("{}")
    (folder / "a" / "report.md").write_text("as written")
    code, _, err = run(capsys, "a", "-o", "a/report.md", "--force")
    assert code == 2
    assert "a is an artifact, whose files are all listed in it" in err
    assert (folder / "a" / "report.md").read_text() == "as written"


def test_a_disk_that_refuses_leaves_what_was_there(capsys, runs, monkeypatch):
    place = runs(out=sample())
    (place / "a.md").write_text("mine")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    code, out, err = run(capsys, "out", "-o", "a.md", "--force")
    assert (code, out) == (3, "")
    assert "the output a.md could not be written: No space left on device" in err
    assert (place / "a.md").read_text() == "mine"
    assert sorted(path.name for path in place.iterdir()) == ["a.md", "out"]


WRONG = [
    ("", 2, "mlc report needs DIR"),
    ("out out", 2, "out is given 2 times"),
    ("out --gate", 2, "--gate compares two runs, and one is given"),
    ("out new out/report.json --gate", 2, "--gate compares two runs, and 3 are given"),
    ("out --strict", 2, "--strict was given without --gate"),
    ("out --force", 2, "--force was given and no file to replace"),
    ("out --format pdf", 2, "--format: there is no form 'pdf'"),
    ("out --format md --json", 2, "--json was given, and --format md too"),
    ("out -o out", 2, "the output out is a directory"),
    ("out -o nowhere/a.md", 2, "there is no folder nowhere"),
    ("out --out=", 2, "--out: the text is empty"),
    ("nowhere", 3, "there is no nowhere"),
    ("out nowhere", 3, "there is no nowhere"),
    (".", 3, ". has no report.json"),
]


@pytest.mark.parametrize(("line", "code", "message"), WRONG, ids=[line or "(nothing)" for line, *_ in WRONG])
def test_wrong_use_is_one_sentence(capsys, runs, line, code, message):
    place = runs(out=sample(), new=sample())
    found, out, err = run(capsys, *line.split())
    assert (found, out) == (code, "")
    first, _, hint = err.partition("\n")
    assert first.startswith("mlc: error: ")
    assert message in first
    assert hint.startswith("mlc: hint: ") or "empty" in message
    assert sorted(path.name for path in place.iterdir()) == ["new", "out"]


def test_what_this_version_does_not_know_is_said(capsys, runs):
    place = runs(out=sample())
    content = {**standard_json.loads((place / "out" / "report.json").read_text()), "carbon": 3}
    (place / "out" / "report.json").write_text(standard_json.dumps(content))
    code, out, err = run(capsys, "out")
    assert (code, out) == (0, text.render(sample()))
    assert err == "mlc: note: out says what this version of mlc does not know: report.carbon\n"


def test_runs_that_share_everything_compare(capsys, runs):
    runs(a=evaluated(sample()), b=evaluated(slowed(sample())))
    code, out, _ = run(capsys, "a", "b")
    assert code == 0
    assert out.startswith("2 runs that share machine, runtime, target, sizes, source, baseline, data and metric:")
    lines = {line.strip().partition("  ")[0]: line for line in out.splitlines() if line.startswith("  ")}
    assert lines["speed-up"].split()[1:] == ["2.41x", "(2.35", "to", "2.47)", "1.200x", "(1.190", "to", "1.210)", "yes"]
    assert lines["machine"].endswith("same")


def test_runs_that_differ_do_not_pretend_to_compare(capsys, runs):
    runs(a=evaluated(sample()), b=elsewhere(sample()), c=validated())
    code, out, _ = run(capsys, "a", "b", "--json")
    found = standard_json.loads(out)
    assert code == 0
    assert found["first_line"].startswith("2 runs that differ in machine: only the figures that are marked so compare")
    figures = {figure["name"]: figure for figure in found["figures"]}
    assert figures["latency p50"]["differs"] == ["machine"]
    assert figures["accuracy"]["unknown"] == ["data"]
    assert figures["size"] == {
        "name": "size", "texts": ["0.342 MB", "0.342 MB"], "values": [342_118, 342_118], "differs": [], "unknown": [],
    }  # fmt: skip
    assert figures["speed-up"]["values"][0] == {"value": 2.413, "low": 2.352, "high": 2.471}
    assert {each["name"]: each["same"] for each in found["shared"]}["machine"] is False
    assert run(capsys, "a", "c")[1].startswith("2 runs; whether they share")


@pytest.mark.parametrize("form", RENDERERS)
@pytest.mark.parametrize("flags", [(), ("--gate",)])
def test_several_runs_have_every_form(capsys, runs, form, flags):
    runs(a=evaluated(sample()), b=evaluated(slowed(sample())))
    code, out, err = run(capsys, "a", "b", *flags, "--format", form)
    assert (code, err) == (len(flags), "")
    for said in ("Worse: latency", "2.41x") if flags else ("1.200x", "2.41x"):
        assert said in out
    assert {"json": "{", "html": "<!DOCTYPE html>", "md": "# mlc report"}.get(form, "") in out[:20]


def test_the_gate_fails_where_something_got_worse(capsys, runs):
    runs(old=evaluated(sample()), new=evaluated(slowed(sample())), same=evaluated(sample()))
    code, out, err = run(capsys, "--gate", "old", "new")
    assert (code, err) == (1, "")
    assert out.startswith("Worse: latency, 0.497 (0.485 to 0.511) times as fast.\n")
    assert "latency: the speed-ups over one unmodified export are compared" in out
    assert run(capsys, "--gate", "old", "same", "--strict")[0] == 0
    assert run(capsys, "--gate", "new", "old")[0] == 0


def test_what_the_gate_does_not_know_is_said_and_fails_when_asked(capsys, runs):
    runs(old=evaluated(sample()), new=sample())
    code, out, _ = run(capsys, "--gate", "old", "new")
    assert (code, out.splitlines()[0]) == (0, "Not comparable: accuracy. The rest did not get worse.")
    assert run(capsys, "--gate", "old", "new", "--strict")[0] == 1


def test_the_gate_is_data_too(capsys, runs):
    runs(old=evaluated(sample()), new=evaluated(slowed(sample())))
    code, out, _ = run(capsys, "--gate", "old", "new", "--json")
    found = standard_json.loads(out)
    assert (code, found["schema"], found["outcome"], found["old"]) == (1, 1, "worse", "old")
    verdicts = {each["figure"]: (each["verdict"], each["interval"]) for each in found["findings"]}
    assert verdicts["latency"][0] == "worse"
    assert verdicts["latency"][1]["high"] < 0.52
    assert verdicts["size"] == ("no different", None)


def test_a_gate_can_be_written_to_a_file_too(capsys, runs):
    place = runs(old=evaluated(sample()), new=evaluated(slowed(sample())))
    code, out, _ = run(capsys, "--gate", "old", "new", "-o", "gate.md")
    assert code == 1
    assert out.startswith("Worse: latency")
    assert "| worse | latency |" in (place / "gate.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("flags", [("--format", "html"), ("--gate", "new")])
def test_it_needs_no_torch_and_no_runtime(runs, flags):
    runs(out=evaluated(sample()), new=evaluated(sample()))
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, "report", "out", *flags], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_golden_help(capsys, monkeypatch, golden):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    code, out, err = run(capsys, "--help")
    assert (code, err) == (0, "")
    golden("help_report.txt", out)
