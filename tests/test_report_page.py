"""The page: whole, safe and legible; it says everything, and a network of any size fits into it."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import itertools
import re
from html.parser import HTMLParser

import pytest

from mlc.figures import decibels
from mlc.layer_errors import LayerError
from mlc.report import history, html, results, setting
from mlc.report.table import plain
from mlc.runtimes.session import NodeRun, OperatorTime, Placement, Profile
from mlc.types import NodePlan, PassSpec, Plan, Refusal
from tests.report_sample import rounds, sample

VOID = {"meta", "br", "hr", "img", "link", "input"}
UNSEEN = {"style", "script"}


@pytest.fixture(scope="module")
def report():
    return sample()


class Page(HTMLParser):
    """Reads a page: its words, its tags with attributes, and whether every tag is closed in order."""

    def __init__(self, content):
        super().__init__()
        self.words, self.tips, self.tags, self.open, self.hidden = [], [], [], [], {}
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
        elif self.open and self.open[-1] in UNSEEN:
            self.hidden[self.open[-1]] = data
        elif self.open:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def page(report):
    return Page(html.render(report))


def test_the_page_is_well_formed_and_needs_nothing_else(page):
    assert page.open == []
    for tag, attributes in page.tags:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base", "form"}
        for name, value in attributes.items():
            assert name not in {"src", "srcset", "xlink:href", "action", "style"}, (tag, name)
            assert name != "href" or (value or "").startswith("#")
            assert "url(" not in (value or "")
            assert not name.startswith("on")
            assert "http" not in (value or "").lower() or name == "http-equiv"
    for word in ("url(", "@import", "fetch(", "XMLHttpRequest", "import(", "eval(", "innerHTML", "Storage"):
        assert word not in page.hidden["style"] + page.hidden["script"]


def test_the_policy_lets_the_page_run_its_own_style_and_script_and_nothing_else(page):
    (policy,) = [attributes["content"] for tag, attributes in page.tags if "http-equiv" in attributes]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    for kind in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(page.hidden[kind].encode()).digest()).decode()
        assert rules[f"{kind}-src"] == f"'sha256-{digest}'"
    assert len([tag for tag, _ in page.tags if tag in UNSEEN]) == 2


def test_links_of_the_page_lead_somewhere(page):
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {attributes["href"] for tag, attributes in page.tags if tag == "a"} <= {f"#{name}" for name in ids}


def test_headings_come_in_order_and_everything_has_a_name(page):
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= level + 1 for level, later in itertools.pairwise(levels))
    for tag, attributes in page.tags:
        if tag in {"svg", "table", "nav"}:
            assert attributes["aria-label"], tag
        if tag == "th":
            assert attributes["scope"] in {"row", "col"}


def luminance(colour):
    """Return the relative luminance of #rrggbb (WCAG 2)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first, second):
    """Return the contrast of two colours (WCAG 2)."""
    low, high = sorted(map(luminance, (first, second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_colours_have_enough_contrast(page, theme):
    colours = dict(re.findall(r"(--\w+): (#\w{6})\b", page.hidden["style"].split("{ color-scheme:")[theme + 1]))
    for background in ("--page", "--surface"):
        for words in ("--text", "--muted", "--accent", "--good", "--bad", "--warn"):
            assert contrast(colours[words], colours[background]) >= 4.5, (words, background)
    assert contrast(colours["--before"], colours["--page"]) >= 3


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
    said += [*results.peaks(report.trials), *history.near_misses(report), *setting.ways(report)]
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
    for scheme in ("color-scheme: light;", "color-scheme: dark;", ":root:has(#dark:checked)", "#light:checked"):
        assert scheme in content


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
    assert "850 more; all of them are in plan.toml" in content
    assert "the 1,000 of 20,000 that differ most; all of them are in report.json" in content
    assert re.search(r"One round in \d+ is drawn, and the fastest and slowest of each process.", content)


def test_figures_say_what_was_asked_of_them(page):
    assert "at most 0.01: met" in page.text
    assert "at least 2 times as fast: met" in page.text


def test_a_long_plan_is_grouped_by_format_and_reason(report):
    groups = history.plan_groups(large(report))
    assert len(groups) == 20
    assert {len(group.nodes) for group in groups} == {1000}
    assert groups[0].operators == "MatMul 1,000"
    content = html.render(large(report))
    assert content.count('<details class="group">') == 20
    assert content.count("1,000 nodes: MatMul 1,000") == 20
