"""Where along the network the error arises: the signal to noise ratio of every value."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mlc.figures import counted, decibels
from mlc.judging import Report
from mlc.layer_errors import LayerError
from mlc.report.explaining import quantized
from mlc.report.plots.canvas import Plot, chart, dot, inlined, limits, ticks

MOST_DOTS = 500
HEIGHT = 250

SERIES = (("floats", False), ("values", True))
"""What is drawn under which name: float values below, quantized ones, or all where none is known to be, above."""

KEYS = ("float", "quantized")


def layer_plots(report: Report) -> list[Plot]:
    """Return the error along the network; of very many values the worst of each group of neighbours.

    Values that are computed on codes are told apart, where that is known.
    """
    layers = [(place, layer) for place, layer in enumerate(report.layers) if not math.isnan(layer.sqnr)]
    measured = [layer.sqnr for _, layer in layers if math.isfinite(layer.sqnr)]
    if not measured:
        return []
    size = -(-len(layers) // MOST_DOTS)
    groups = [layers[start : start + size] for start in range(0, len(layers), size)]
    worst = [min(group, key=lambda placed: placed[1].sqnr) for group in groups]
    note = f"Of {size} neighbouring values only the worst is drawn." if size > 1 else ""
    least = min((layer for _, layer in layers), key=lambda layer: layer.sqnr)
    label = f"Signal to noise ratio of {counted(len(layers), 'value')} along the network; the worst is {_said(least)}"
    figure = f"worst {decibels(least.sqnr)}"
    coded = quantized(report)
    drawn = _drawn(worst, limits([0.0, *measured]), label, coded)
    return [Plot(counted(len(layers), "value"), figure, drawn, KEYS if coded else (), note)]


def _drawn(
    placed: Sequence[tuple[int, LayerError]], span: tuple[float, float], label: str, coded: frozenset[str]
) -> str:
    titles = {"x_title": "from input to output", "y_title": "SQNR, dB"}
    drawing = chart("XY", HEIGHT, range=span, y_labels=ticks(span), show_x_labels=False, dots_size=3.5, **titles)
    least = min(layer.sqnr for _, layer in placed)
    for series, inside in SERIES:
        dots = [(place, layer) for place, layer in placed if (not coded or layer.value in coded) is inside]
        if dots:
            drawing.add(series, [_dot(place, layer, span, least) for place, layer in dots], stroke=not coded)
    return inlined(drawing, label)


def _dot(place: int, layer: LayerError, span: tuple[float, float], least: float) -> dict[str, object]:
    """Return a dot, at the end of the axis where the ratio is infinite, and hollow where the two are equal."""
    height = min(max(layer.sqnr, span[0]), span[1])
    look = {"class": "hollow"} if layer.sqnr == math.inf else {"class": "worst"} if layer.sqnr == least else {}
    return dot(place, height, _said(layer), **look)


def _said(layer: LayerError) -> str:
    return f"{layer.value} ({layer.op}): {decibels(layer.sqnr)}"
