"""The plots of the page, drawn by pygal as SVG: accuracy, latency, time by operator, error by layer."""

from __future__ import annotations

from mlc.report.plots.canvas import Plot
from mlc.report.plots.drop import drop_plots
from mlc.report.plots.layers import layer_plots
from mlc.report.plots.operators import operator_plots
from mlc.report.plots.ratios import ratio_plots

__all__ = ["Plot", "drop_plots", "layer_plots", "operator_plots", "ratio_plots"]
