"""Where along the network the error arises: the signal to noise ratio of every value."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mlc.figures import counted, decibels
from mlc.judging import Report
from mlc.layer_errors import LayerError
from mlc.report.plots.canvas import Canvas, Ink, Plot, canvas, limits

MOST_DOTS = 500
HEIGHT = 250

Dot = tuple[int, float, str]
"""A place along the network, the height in dB where it is drawn, and what is said of it."""


def layer_plots(report: Report) -> list[Plot]:
    """Return the error along the network; of very many values the worst of each group of neighbours."""
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
    return [Plot("", "", _drawn(worst, limits([0.0, *measured]), label), note=note)]


def _drawn(placed: Sequence[tuple[int, LayerError]], span: tuple[float, float], label: str) -> str:
    dots = [(place, min(max(layer.sqnr, span[0]), span[1]), _said(layer)) for place, layer in placed]
    equal = {place for place, layer in placed if layer.sqnr == math.inf}
    with canvas("layers", HEIGHT) as drawing:
        axes = drawing.axes
        axes.grid(visible=False, axis="x")
        axes.grid(visible=True, axis="y")
        axes.set(ylim=span, xticks=[], xlabel="from input to output", ylabel="SQNR, dB")
        axes.margins(x=0.02)
        axes.plot([dot[0] for dot in dots], [dot[1] for dot in dots], color=Ink.ACCENT, alpha=0.6, linewidth=1.4)
        _scatter(drawing, [dot for dot in dots if dot[0] not in equal], facecolor=Ink.ACCENT)
        _scatter(drawing, [dot for dot in dots if dot[0] in equal], facecolor=Ink.PAGE)
        return drawing.svg(label)


def _scatter(drawing: Canvas, dots: Sequence[Dot], facecolor: Ink) -> None:
    if dots:
        places, heights, texts = zip(*dots, strict=True)
        marks = drawing.axes.scatter(
            places, heights, s=32, facecolor=facecolor, edgecolor=Ink.ACCENT, clip_on=False, zorder=3
        )
        drawing.tip(marks, texts)


def _said(layer: LayerError) -> str:
    return f"{layer.value} ({layer.op}): {decibels(layer.sqnr)}"
