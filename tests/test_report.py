"""The report in its forms: golden text and Markdown, strict JSON, and a page that needs nothing but itself."""

from __future__ import annotations

import dataclasses
import json as standard_json
import math
from pathlib import Path

import pytest

from mlc.errors import OutputError
from mlc.figures import listed
from mlc.judging import Report, judge
from mlc.layer_errors import LayerError
from mlc.report import history, html, json, markdown, results, setting, text, write_reports
from mlc.report.table import plain, table
from mlc.types import Drop, Interval, Limits, PassSpec
from tests.report_sample import HOSTILE, INT8, sample, trials, validated
from tests.test_report_page import Page

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def report():
    return sample()


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


def test_hostile_names_stay_text(report):
    content = html.render(report)
    assert content.count("<script") == 1
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


def test_a_share_of_the_peak_needs_a_latency_and_known_arithmetic():
    baseline, int8, _ = trials()
    assert results.peaks([baseline]) == [
        "baseline runs at 61 % of this machine's measured float32 peak of 94.9 GFLOP/s (2 threads)"
    ]
    assert baseline.latency is not None
    assert baseline.latency.arithmetic is not None
    own = dataclasses.replace(baseline.latency.arithmetic, threads=None)
    free = dataclasses.replace(baseline, latency=dataclasses.replace(baseline.latency, arithmetic=own))
    assert results.peaks([free])[0].endswith("GFLOP/s (as many threads as the runtime takes)")
    uncounted = dataclasses.replace(baseline, latency=dataclasses.replace(baseline.latency, arithmetic=None))
    half = dataclasses.replace(sample(), trials=(uncounted, int8))
    assert ("share of the measured peak", "not known", "150 %") in results.figures(half).rows
    bare = dataclasses.replace(sample(), trials=(uncounted, dataclasses.replace(int8, latency=None)))
    for form in (text.render(bare), markdown.render(bare), html.render(bare)):
        assert "measured peak" not in form
        assert "float32 peak" not in form


def test_a_pass_says_what_it_nearly_did_and_no_more_where_it_found_nothing(report):
    quiet = dataclasses.replace(report.steps[1], refused=())
    several, quantizing = report.steps[1], report.steps[-1]
    shown = text.render(dataclasses.replace(report, steps=(quiet,)))
    (line,) = [line for line in shown.splitlines() if "fold-batch-norm" in line]
    assert line.endswith("found no site")
    assert history.near_misses(dataclasses.replace(report, steps=(quiet, quantizing))) == []
    one = dataclasses.replace(several, refused=several.refused[:1])
    assert history.near_misses(dataclasses.replace(report, steps=(one, several))) == [
        "fold-batch-norm: 1 near miss, the first at conv_2: the Conv output is also a graph output",
        (
            "fold-batch-norm: 3 near misses (1 for other reasons), the first at conv_2: "
            "the Conv output is also a graph output"
        ),
    ]


@pytest.mark.parametrize(
    ("recipe", "asked"),
    [
        ({"passes": (PassSpec("int8-static"),)}, "by name"),
        ({"passes": (PassSpec("int8-static"),), "to": "int8"}, "by name"),
        ({"to": "int8"}, "--to int8"),
        ({"plan": "plan.toml"}, "--plan plan.toml"),
    ],
)
def test_what_asked_for_a_pass_is_told_as_it_was_written(report, recipe, asked):
    changed = {"passes": (), **recipe}
    table = history.passes(dataclasses.replace(report, recipe=dataclasses.replace(report.recipe, **changed)))
    assert {row[0].partition(":")[0]: row[2] for row in table.rows}["int8-static"] == asked
    assert {row[2] for row in table.rows} == {"default", asked}


def test_a_lossy_pass_that_nobody_asked_for_is_for_outliers(report):
    reserve = dataclasses.replace(report.steps[-1], exactness="lossy", requested=False)
    table = history.passes(dataclasses.replace(report, steps=(*report.steps[:-1], reserve)))
    assert table.rows[-1][2] == "in the place of float, for outliers"


def test_one_way_of_exporting_needs_no_words(report):
    assert [line.rpartition(": ")[2] for line in setting.ways(report)][-1] == "taken"
    plainly = dataclasses.replace(report, origin=dataclasses.replace(report.origin, ways=report.origin.ways[-1:]))
    for form in (text.render(plainly), markdown.render(plainly), html.render(plainly)):
        assert "of exporting" not in form


def test_tables_and_lists():
    built = table("t", "ct", ("a", "b"), [(HOSTILE, "x\ny")])
    assert "\n" not in built.rows[0][1]
    assert not table("t", "t", ("a",), [])
    assert table("t", "t", ("a",), [("1",), ("2",)], "why").head(1).note.startswith("why; 1 more row;")
    assert listed(["a", "b", "c"], most=2) == "a, b and 1 more"
    assert listed(["a"]) == "a"


def test_the_recipe_of_the_sample_is_the_one_shown():
    assert str(INT8) in text.render(sample())


def test_a_report_is_called_by_what_was_done():
    assert markdown.render(sample()).startswith("# mlc quantize: sample_models/fashion_cnn/model.py:trained")
    assert markdown.render(dataclasses.replace(sample(), steps=sample().steps[:4])).startswith("# mlc compile: ")
    assert markdown.render(validated()).startswith("# mlc validate: ")
    assert "<title>mlc quantize: model.py:trained</title>" in html.render(sample())


def test_what_stays_float_is_the_last_group(report):
    groups = history.plan_groups(report)
    assert [group.format for group in groups] == ["int8", "float", "float"]
    assert groups[0].operators == "Conv 9, Gemm 1"


def test_the_largest_errors_are_the_worst_first(report):
    rows = results.worst_layers(report).rows
    assert [row[0] for row in rows][:2] == ["layer13.relu", "layer11.relu"]
    assert len(rows) == 5


def test_a_limit_on_rows_keeps_the_worst_of_many_that_are_alike(report):
    alike = [LayerError(f"v{number}", "Add", math.inf) for number in range(5)]
    shown = results.layers(dataclasses.replace(report, layers=(*alike, LayerError("last", "Mul", 3.0))), 2)
    assert [row[0] for row in shown.rows] == ["v0", "last"]


def test_a_limit_on_rows_keeps_the_worst_layers(report):
    few = results.layers(report, 3)
    assert {row[0] for row in few.rows} == {"layer13.relu", "layer11.relu", "layer12.relu"}
    assert few.note == "the 3 of 16 that differ most; all of them are in report.json"
