"""The plots of the report: what they draw, where, and that they are at home in any page."""

from __future__ import annotations

import dataclasses
import importlib
import math
import re
import subprocess
import sys
import warnings
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlc.layer_errors import LayerError
from mlc.report import html, plots
from mlc.report.plots.canvas import ticks
from mlc.runtimes.session import OperatorTime
from mlc.types import Drop, Interval, Limits
from tests.report_sample import HOSTILE, sample

ALONE = """
import sys
from tests.report_sample import sample
from mlc.report import text
text.render(sample())
assert "pygal" not in sys.modules
"""


def changed(trial, **fields):
    """Return the sample with one of its trials' latency, accuracy or profile changed."""
    report = sample()
    name, value = next(iter(fields.items()))
    each = list(report.trials)
    each[trial] = dataclasses.replace(each[trial], **{name: dataclasses.replace(getattr(each[trial], name), **value)})
    return dataclasses.replace(report, trials=tuple(each))


EVERY = (plots.drop_plots, plots.ratio_plots, plots.operator_plots, plots.layer_plots)


def drawn(report, *draws):
    """Return the SVGs of a report that some of the functions draw, read."""
    return [ET.fromstring(plot.svg) for draw in draws for plot in draw(report)]  # noqa: S314 - drawn here


@pytest.fixture(scope="module")
def every():
    """Return every SVG of the sample: a drop, three trials' ratios, operators, layers."""
    return drawn(sample(), *EVERY)


def marks(svg, pattern=".*"):
    """Return the marks that stand with a tip, with the tips."""
    found = [(group[1], group.findtext("title")) for group in svg.iter("g") if group.find("title") is not None]
    return [(mark, tip) for mark, tip in found if re.fullmatch(pattern, tip)]


def words(svg):
    """Return the text that is drawn."""
    return [element.text for element in svg.iter("text")]


def test_colours_and_fonts_are_those_of_the_page(every):
    style = html.render(sample()).split("<style>")[1].split("</style>")[0]
    light, dark = style.split("{ color-scheme:")[1:3]
    coloured = "".join(line for line in style.splitlines() if line.startswith("svg"))
    for name in re.findall(r"var\((--\w+)\)", coloured):
        assert f"{name}: " in light
        assert f"{name}: " in dark
    for svg in every:
        names = {name for element in svg.iter() for name in element.get("class", "").split()}
        assert names <= set(re.findall(r"\.(\w+)", coloured))
        attributes = {name for element in svg.iter() for name in element.attrib}
        assert not attributes & {"style", "fill", "stroke", "font-family", "font-size"}


def test_an_svg_brings_nothing_of_its_own_into_the_page(every):
    for svg in every:
        assert set(svg.attrib) == {"viewBox", "role", "aria-label"}
        assert svg.get("role") == "img"
        assert {element.tag for element in svg.iter()} <= {"svg", "g", "path", "circle", "rect", "text", "title"}
        assert not [element for element in svg.iter() if {"id", "href"} & set(element.attrib)]
        assert svg.find("title") is None
        assert svg.find(".//text") is not None


def test_a_label_says_what_is_drawn(every):
    labels = [svg.get("aria-label") for svg in every]
    assert labels[0] == "int8-static (written): loss of top1: 0.0015 (-0.0006 to 0.0036); the limit is 0.01"
    assert labels[2] == "int8-static: 2.41 (2.35 to 2.47) times as fast as the baseline, in 120 rounds"
    assert "Conv, unmodified export: 0.820 ms in 9 nodes" in labels[4]
    assert labels[5].startswith("Signal to noise ratio of 16 values along the network; the worst is layer13.relu")


def test_every_round_stands_where_its_ratio_is(every):
    svg = every[2]
    found = marks(svg, r"process (\d+), round \d+: (.*)x")
    assert len(found) == 120
    numbers = [tuple(map(float, re.findall(r"process (\d+), .*: (.*)x", tip)[0])) for _, tip in found]
    across = [(ratio, float(mark.get("cx"))) for (_, ratio), (mark, _) in zip(numbers, found, strict=True)]
    (low, left), (high, right) = min(across), max(across)
    for ratio, x in across:
        assert x == pytest.approx(left + (right - left) * (ratio - low) / (high - low), abs=0.2)
    lanes = {(process, float(mark.get("cy"))) for (process, _), (mark, _) in zip(numbers, found, strict=True)}
    assert [process for process, _ in sorted(lanes, key=lambda lane: lane[1])] == [1, 2, 3, 4, 5]
    assert left < float(marks(svg, "95 % interval: .*")[-1][0].get("cx")) < right


def test_a_round_beyond_the_axis_is_hollow_at_its_end(every):
    baseline = plots.ratio_plots(sample())[0]
    assert baseline.note == "1 round beyond the axis: hollow, at its end."
    svg = every[1]
    least = min(marks(svg, "process .*"), key=lambda mark: float(mark[0].get("cx")))
    assert least[1] == "process 2, round 8: 0.6200x"
    assert least[0].get("class") == "hollow"
    assert [tip for mark, tip in marks(svg) if mark.get("class")] == [least[1]]


def test_of_very_many_rounds_the_extremes_of_each_process_are_kept():
    lanes = tuple(tuple(2 + 0.001 * ((n * 37) % 100) for n in range(800)) for _ in range(4))
    odd = (*lanes[:3], (*lanes[3][:401], 9.0, 0.5, *lanes[3][403:]))
    plot = plots.ratio_plots(changed(1, latency={"ratios": odd}))[1]
    assert "One round in 3 is drawn, and the fastest and slowest of each process." in plot.note
    assert "process 4, round 402: 9.000x" in plot.svg
    assert "process 4, round 403: 0.5000x" in plot.svg
    assert plot.svg.count("<title>process") < 1300


def test_limits_are_drawn_where_they_were_set(every):
    drop, _, ratios, *_ = every
    assert "limit 0.01" in words(drop)
    assert "asked 2x" in words(ratios)
    report = sample()
    free = dataclasses.replace(report, recipe=dataclasses.replace(report.recipe, limits=Limits()))
    assert not [word for svg in drawn(free, *EVERY) for word in words(svg) if word.startswith(("limit", "asked"))]
    relative = dataclasses.replace(report, recipe=dataclasses.replace(report.recipe, limits=Limits(Drop(0.1, True))))
    assert "limit 0.09125" in words(drawn(relative, plots.drop_plots)[0])


def test_bars_are_as_long_as_the_time(every):
    svg = every[4]
    lengths = {tip: float(mark.get("width", 0)) for mark, tip in marks(svg)}
    conv = lengths["Conv, unmodified export: 0.820 ms in 9 nodes"]
    assert lengths["QLinearConv, int8-static (written): 0.295 ms in 9 nodes"] == pytest.approx(conv * 0.36, abs=0.1)
    assert lengths["Conv, int8-static (written): 0 ms in 0 nodes"] == 0
    assert words(svg)[6::-1] == [
        "Conv",
        "QLinearConv",
        "Relu",
        "QLinearAdd",
        "QuantizeLinear",
        "Gemm",
        "GlobalAveragePool",
    ]


def test_operators_of_any_name_and_number_have_bars():
    odd = ["\N{SNOWMAN}$x^2$" + "y" * 40, HOSTILE, *(f"Kind{n}" for n in range(20))]
    operators = tuple(OperatorTime("cpu", name, 1, 100.0 - n) for n, name in enumerate(odd))
    report = changed(1, profile={"operators": operators})
    (plot,) = plots.operator_plots(report)
    assert plot.note == "The 14 operators that take longest; all are in the table."
    assert plot.keys == ("unmodified export", "int8-static (written)")
    shown = words(ET.fromstring(plot.svg))  # noqa: S314
    assert odd[0][:23] + "\N{HORIZONTAL ELLIPSIS}" in shown
    assert f"{odd[0]}, int8-static (written): 0.100 ms in 1 node" in plot.svg
    assert "<script" not in plot.svg


def test_layers_beyond_number_are_drawn_by_their_worst():
    layers = tuple(LayerError(f"v{n}", "Relu", 5.0 if n == 1234 else 40.0) for n in range(5000))
    report = dataclasses.replace(sample(), layers=layers)
    (plot,) = plots.layer_plots(report)
    assert plot.note == "Of 10 neighbouring values only the worst is drawn."
    found = marks(drawn(report, plots.layer_plots)[-1])
    assert len(found) == 500
    lowest = max(found, key=lambda mark: float(mark[0].get("cy")))
    assert lowest[1] == "v1234 (Relu): 5.0 dB"


def test_layers_without_a_number_have_no_dot_and_equal_ones_are_hollow():
    values = (math.inf, 30.0, math.nan, -math.inf, 20.0)
    report = dataclasses.replace(sample(), layers=tuple(LayerError(f"v{n}", HOSTILE, x) for n, x in enumerate(values)))
    heights = {tip[:2]: (float(mark.get("cy")), mark) for mark, tip in marks(drawn(report, plots.layer_plots)[-1])}
    assert sorted(heights, key=lambda name: heights[name][0]) == ["v0", "v1", "v4", "v3"]
    assert [name for name, (_, mark) in heights.items() if mark.get("class") == "hollow"] == ["v0"]


def test_layers_that_are_all_equal_have_no_plot():
    layers = (LayerError("a", "Relu", math.inf), LayerError("b", "Relu", math.nan))
    report = dataclasses.replace(sample(), layers=layers)
    assert plots.layer_plots(report) == []
    assert "equal" in html.render(report)


def test_a_drop_that_is_no_number_has_no_plot():
    report = changed(1, accuracy={"drop": Interval(math.nan, math.nan, math.nan)})
    assert plots.drop_plots(report) == []
    assert html.render(report)


RATIO = st.floats(1e-6, 1e6) | st.sampled_from([math.inf, math.nan, 1.0])


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(RATIO, max_size=9).map(tuple), max_size=4).map(tuple), RATIO, RATIO)
def test_ratios_of_any_kind_are_drawn_once_where_they_are_numbers(lanes, value, noise):
    changes = {"ratios": lanes, "speedup": Interval(value, value * 0.9, value * 1.1), "noise": Interval(1, noise, 1)}
    report = changed(1, latency=changes)
    only = dataclasses.replace(report, trials=report.trials[1:2])
    finite = [ratio for lane in lanes for ratio in lane if math.isfinite(ratio)]
    found = [marks(svg, "process .*") for svg in drawn(only, plots.ratio_plots)]
    assert list(map(len, found)) == ([len(finite)] if finite else [])


def test_ratios_that_hardly_differ_are_drawn():
    lanes = ((1.0, math.nextafter(1.0, 2.0)),)
    one = Interval(1.0, 1.0, 1.0)
    plot = plots.ratio_plots(changed(1, latency={"ratios": lanes, "speedup": one, "noise": one}))[1]
    assert plot.svg.count("<title>process") == 2


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        ((-0.0012, 0.0106), [0, 0.002, 0.004, 0.006, 0.008, 0.01]),
        ((0.983, 1.017), [0.99, 1.0, 1.01]),
        ((-3.0, 52.0), [0, 10, 20, 30, 40, 50]),
        ((9e5, 2.1e6), [1e6, 1.2e6, 1.4e6, 1.6e6, 1.8e6, 2e6]),
    ],
)
def test_ticks_are_round_figures_within_the_span(span, expected):
    assert ticks(span) == expected


def test_nothing_is_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        html.render(sample())


def test_pygal_is_imported_by_the_page_alone():
    done = subprocess.run(
        [sys.executable, "-c", ALONE], capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1]
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_drawing_leaves_no_import_hook_behind():
    """An unknown module is an ImportError as before, not a warning about somebody's hook."""
    html.render(sample())
    with pytest.raises(ModuleNotFoundError, match="nowhere_to_be_found"):
        importlib.import_module("nowhere_to_be_found")
