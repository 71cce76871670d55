"""The report in its forms: golden text and Markdown, strict JSON, and a page that needs nothing but itself."""

from __future__ import annotations

import dataclasses
import json as standard_json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mlc.errors import OutputError
from mlc.figures import decibels
from mlc.judging import Report, judge
from mlc.layer_errors import LayerError
from mlc.report import html, json, markdown, text, write_reports
from mlc.report.table import listed, plain, table
from mlc.runtimes.session import NodeRun, OperatorTime, Placement, Profile
from mlc.types import Drop, Interval, Limits, NodePlan, PassSpec, Plan, Refusal
from tests.report_sample import HOSTILE, INT8, rounds, sample, trials, validated

GOLDEN = Path(__file__).parent / "golden"
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Reads a page: its words, its tags with attributes, and whether every tag is closed in order."""

    def __init__(self, content):
        super().__init__()
        self.words, self.tips, self.tags, self.open = [], [], [], []
        self.feed(content)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] == ["title"] and "svg" in self.open:
            self.tips.append(data)
        elif self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def report():
    return sample()


@pytest.fixture(scope="module")
def page(report):
    return Page(html.render(report))


FORMS = {
    "report.txt": lambda: text.render(sample()),
    "report.md": lambda: markdown.render(sample()),
    "report.json": lambda: json.render(sample()),
    "report_validate.txt": lambda: text.render(validated()),
    "report_bench.txt": lambda: text.render_trials(trials()),
}


@pytest.mark.parametrize("name", FORMS)
def test_golden(name, request):
    written = FORMS[name]()
    golden = GOLDEN / name
    if request.config.getoption("--update-golden", default=False):
        golden.write_text(written, encoding="utf-8")
    assert written == golden.read_text(encoding="utf-8")


def test_the_page_is_well_formed_and_needs_nothing_else(page):
    assert page.open == []
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "img", "iframe", "object", "embed", "base"}
        for name, value in attributes.items():
            assert name not in {"src", "srcset", "href", "xlink:href", "action"}, (tag, name)
            assert "url(" not in (value or "")
            assert not name.startswith("on")
            assert "http" not in (value or "").lower() or name == "http-equiv"
    style = html.render(sample()).split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_the_page_says_everything(report, page):
    shown = page.text
    said = [report.first_line, report.origin.source, *report.saturation, *report.notes, *report.origin.notes]
    said += [part for verdict in report.verdicts for part in (verdict.limit, verdict.asked, verdict.measured)]
    for step in report.steps:
        said += [str(step.spec), step.dropped, *step.sites, *step.notes]
        said += [part for refusal in step.refused for part in (refusal.site, refusal.reason)]
        said += [part for left in step.left_out for part in (left.site, left.reason)]
    assert report.plan is not None
    said += [part for node in report.plan.nodes for part in (node.node, node.reason)]
    said += [check.name for check in report.checks] + ["batch=64", "1 node went elsewhere", "SomeProvider", "llvmpipe"]
    said += [layer.value for layer in report.layers]
    assert report.machine is not None
    said += [report.machine.cpu, *report.machine.versions.values(), *report.data.values()]
    said += ["int8-static: operator counts are those of the provisional model"]
    said += ["x=float32[batch=1..64,1,28,28]", "extra=float32[batch,?]", "0.021", "41.7 s"]
    missing = [words for words in said if " ".join(plain(words).split()) not in shown]
    assert missing == []
    for block in (report.loading, report.recipe_text):
        assert " ".join(block.split()) in shown


def test_the_page_draws_every_round_and_every_layer_once(report, page):
    drawn = [tip for tip in page.tips if re.fullmatch(r"process \d+, round \d+: \S+x", tip)]
    assert len(drawn) == sum(len(lane) for trial in report.trials for lane in trial.latency.ratios)
    layers = {f"{layer.value} ({layer.op}): {decibels(layer.sqnr)}" for layer in report.layers}
    assert layers <= set(page.tips)
    assert len(set(page.tips) & layers) == len(report.layers)


def test_the_page_follows_light_and_dark_and_prints():
    content = html.render(sample())
    assert "prefers-color-scheme: dark" in content
    assert "@media print" in content
    assert "color-scheme: light dark" in content


def test_hostile_names_stay_text(report):
    content = html.render(report)
    assert "<script" not in content
    assert "&lt;script&gt;alert(&#39;x&#39;)" in content
    for form in (content, markdown.render(report), text.render(report), json.render(report)):
        assert "\x1b" not in form
    assert "\n<script" not in markdown.render(report)


def test_names_keep_tables_of_markdown_whole(report):
    lines = markdown.render(report).splitlines()
    for number, line in enumerate(lines):
        if line.startswith("| ") and set(lines[number - 1]) - set("|- :") == set() and lines[number - 1]:
            columns = lines[number - 1].count("|")
            assert line.replace("\\|", "").count("|") == columns, line


def large(report):
    """Return a report as of a network of 20,000 nodes, every name 60 letters long."""
    names = [f"encoder/layer.{number:05d}/attention/output/dense/MatMul_quantized" for number in range(20_000)]
    runs = tuple(NodeRun("CPUExecutionProvider", "MatMul", name) for name in names)
    others = tuple(NodeRun("CPUExecutionProvider", "MatMul", f"{name}_fused") for name in names)
    placement = Placement("cpu", runs, others, 0, runs)
    profile = Profile(placement, tuple(OperatorTime("cpu", f"Kind{n}", n, float(n)) for n in range(300)))
    step = dataclasses.replace(
        report.steps[4],
        sites=tuple(names),
        refused=tuple(Refusal(name, "the weight is not constant and is shared") for name in names),
    )
    return dataclasses.replace(
        report,
        trials=tuple(dataclasses.replace(trial, profile=profile) for trial in report.trials),
        steps=tuple(dataclasses.replace(step, spec=PassSpec(f"pass-{n}")) for n in range(4)),
        layers=tuple(LayerError(name, "MatMul", 40.0 - n % 7) for n, name in enumerate(names)),
        plan=Plan(tuple(NodePlan(name, "MatMul", "int8", f"reason {n % 20}") for n, name in enumerate(names))),
    )


def timed_often(report):
    """Return a report with ten trials of ten processes of 300 rounds each."""
    baseline, int8, _ = report.trials
    often = dataclasses.replace(int8.latency, ratios=rounds(2.4, 0.05, 10, 300))
    named = [dataclasses.replace(int8.candidate, name=f"candidate-{number}") for number in range(9)]
    more = tuple(dataclasses.replace(int8, candidate=name, latency=often) for name in named)
    return dataclasses.replace(report, trials=(baseline, *more), shipped="candidate-0")


def test_a_report_of_a_large_network_stays_under_two_megabytes(report):
    content = html.render(timed_often(large(report)))
    assert len(content.encode()) < 2_000_000
    assert "19,000 more rows; all of them are in report.json" in content
    assert "Of 40 neighbouring values only the worst is drawn." in content
    assert re.search(r"One round in \d+ is drawn, and the fastest and slowest of each process.", content)


def test_json_round_trip(report):
    from pydantic import TypeAdapter

    def refuse(constant):
        raise AssertionError(constant)

    content = standard_json.loads(json.render(report), parse_constant=refuse)
    assert content.pop("schema") == 1
    assert content["layers"][0]["sqnr"] == "Infinity"
    read = TypeAdapter(Report).validate_python(content)
    renamed = [
        dataclasses.replace(each, candidate=dataclasses.replace(each.candidate, path=Path(each.candidate.path.name)))
        for each in report.trials
    ]
    assert read == dataclasses.replace(report, trials=tuple(renamed))


def test_json_holds_what_python_floats_hold():
    layers = tuple(LayerError("x", "Relu", value) for value in (math.nan, math.inf, -math.inf, 0.1 + 0.2))
    content = standard_json.loads(json.render(dataclasses.replace(sample(), layers=layers)))
    assert [layer["sqnr"] for layer in content["layers"]] == ["NaN", "Infinity", "-Infinity", 0.1 + 0.2]


def test_json_of_a_bench():
    content = standard_json.loads(json.render_trials(trials(), sample().machine))
    assert (content["schema"], [trial["candidate"]["name"] for trial in content["trials"]]) == (
        1,
        ["baseline", "int8-static", "exact"],
    )
    assert content["machine"]["cores"] == 2


def test_written_files_are_the_same_for_the_same_report(report, tmp_path):
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
        written = write_reports(report, folder)
        assert [path.name for path in written] == ["report.html", "report.md", "report.json"]
    for path in sorted(folders[0].iterdir()):
        assert path.read_bytes() == (folders[1] / path.name).read_bytes()


def test_a_report_that_cannot_be_written_says_so(report, tmp_path):
    with pytest.raises(OutputError, match=r"report\.html could not be written"):
        write_reports(report, tmp_path / "missing")


def test_a_name_that_is_no_unicode_is_still_written(report, tmp_path):
    odd = dataclasses.replace(report, recipe_text="# \udc80\n")
    write_reports(odd, tmp_path)
    assert standard_json.loads((tmp_path / "report.json").read_text())["recipe_text"] == "# \udc80\n"


def bare():
    """Return the least that a report can be: nothing measured."""
    full = sample()
    return Report(full.recipe, full.origin, full.signature, (), (), "")


def slower():
    """Return a report whose model is slower and misses a limit."""
    baseline, int8, _ = trials()
    assert int8.latency is not None
    slow = dataclasses.replace(int8, latency=dataclasses.replace(int8.latency, speedup=Interval(0.8, 0.79, 0.81)))
    verdicts, outcome, line = judge((baseline, slow), Limits(Drop(0.001)), requested=("int8-static",))
    return dataclasses.replace(sample(), trials=(baseline, slow), verdicts=verdicts, outcome=outcome, first_line=line)


def unmodified():
    """Return a report where the unmodified export ships."""
    baseline, _, exact = trials()
    verdicts, outcome, line = judge((baseline, exact))
    return dataclasses.replace(
        sample(), trials=(baseline, exact), shipped="baseline", verdicts=verdicts, outcome=outcome, first_line=line
    )


@pytest.mark.parametrize("build", [bare, validated, slower, unmodified])
def test_every_kind_of_run_has_every_form(build):
    report = build()
    assert text.render(report).startswith(plain(report.first_line))
    assert markdown.render(report).startswith("# mlc ")
    assert standard_json.loads(json.render(report))["schema"] == 1
    page = Page(html.render(report))
    assert page.open == []
    assert plain(report.first_line) in page.text


def test_what_did_not_hold_stands_first_and_slower_is_said():
    lines = text.render(slower()).splitlines()
    assert lines[0].startswith("Inconclusive: max-drop at most 0.001")
    assert "Slower than the unmodified export: 0.800 times its speed" in lines[0]
    assert lines[3].startswith("  inconclusive  max-drop")


def test_the_unmodified_export_is_called_written():
    shown = text.render(unmodified())
    assert "unmodified export (written)" in shown
    assert "exact (not written)" in shown


def test_checks_that_do_not_hold_are_named():
    report = sample()
    first = report.checks[0]
    broken = dataclasses.replace(first.differences[0], error=0.4, reason="0.4 is more than 1e-3")
    changed = dataclasses.replace(
        report, checks=(dataclasses.replace(first, differences=(broken,)), *report.checks[1:])
    )
    for form in (text.render(changed), markdown.render(changed), html.render(changed)):
        assert "logits: 0.4 is more than 1e-3" in form


def test_tables_and_lists():
    built = table("t", "ct", ("a", "b"), [(HOSTILE, "x\ny")])
    assert "\n" not in built.rows[0][1]
    assert not table("t", "t", ("a",), [])
    assert table("t", "t", ("a",), [("1",), ("2",)], "why").head(1).note.startswith("why; 1 more rows")
    assert listed(["a", "b", "c"], most=2) == "a, b and 1 more"
    assert listed(["a"]) == "a"


def test_the_recipe_of_the_sample_is_the_one_shown():
    assert str(INT8) in text.render(sample())
