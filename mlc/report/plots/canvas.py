"""What the plots are drawn on: one pair of matplotlib's axes, small enough that its text is legible on a phone."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from mlc.report.plots.inline import inlined
from mlc.types import Interval

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 420
"""Width of a plot in CSS pixels before the page scales it: about 0.85 on a phone, 1.15 at a desk."""

INCH = 72
"""Units of matplotlib's SVG in one inch."""


class Ink(StrEnum):
    """Colours that nothing else is drawn in; the page puts its variable of the same name in their place."""

    TEXT = "#010001"
    MUTED = "#010002"
    LINE = "#010003"
    ACCENT = "#010004"
    BEFORE = "#010005"
    WARN = "#010006"
    BAND = "#010007"
    PAGE = "#010008"


SETTINGS = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 13,
    "text.parse_math": False,
    "text.color": Ink.MUTED,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "x",
    "axes.labelcolor": Ink.MUTED,
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-5, 6),
    "grid.color": Ink.LINE,
    "grid.linewidth": 1,
    "xtick.color": Ink.MUTED,
    "ytick.color": Ink.MUTED,
    "xtick.bottom": False,
    "ytick.left": False,
    "savefig.facecolor": "none",
    **{f"axes.spines.{side}": False for side in ("left", "right", "top", "bottom")},
}
"""Over matplotlib's defaults, whatever the user's own are.

Text is laid out in the font that comes with matplotlib; it is wider than the page's, so nothing overlaps there.
"""

NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


@dataclass(frozen=True)
class Plot:
    """One drawn plot: its heading, the figure it shows, the SVG element, the names of its colours, and a note."""

    heading: str
    figure: str
    svg: str
    keys: tuple[str, ...] = ()
    note: str = ""


class Canvas:
    """Axes to draw on, and what is said where the pointer rests."""

    def __init__(self, figure: Figure) -> None:
        self.axes: Axes = figure.subplots()
        self._figure = figure
        self._tips: dict[str, Sequence[str]] = {}

    def tip(self, artist: Artist, texts: Sequence[str]) -> None:
        """Give each mark of an artist its text, in the order in which they were drawn."""
        name = f"tip{len(self._tips)}"
        artist.set_gid(name)
        self._tips[name] = texts

    def interval(self, interval: Interval, height: float, text: str) -> None:
        """Draw an interval and its middle, where they are finite."""
        if finite(interval):
            ends = self.axes.hlines(height, interval.low, interval.high, color=Ink.TEXT, linewidth=3, zorder=3)
            value = self.axes.scatter([interval.value], [height], s=60, color=Ink.TEXT, zorder=3)
            for artist in (ends, value):
                self.tip(artist, [text])

    def asked(self, value: float, text: str) -> None:
        """Draw a vertical line at what was asked for, with its text above."""
        low, high = self.axes.get_xlim()
        place = (value - low) / (high - low)
        side = "left" if place < 0.2 else "right" if place > 0.8 else "center"  # noqa: PLR2004 - near the edges
        self.axes.axvline(value, color=Ink.WARN, linewidth=1.6)
        across = self.axes.get_xaxis_transform()
        self.axes.text(value, 1.03, text, transform=across, color=Ink.WARN, horizontalalignment=side)

    def svg(self, label: str) -> str:
        """Return the plot as an element of the page; ``label`` says what it shows to those who do not see it."""
        drawn = io.StringIO()
        self._figure.savefig(drawn, format="svg", metadata=NO_METADATA)
        colours = {str(ink): f"var(--{ink.name.lower()})" for ink in Ink}
        return inlined(drawn.getvalue(), label, colours, self._tips)


@contextmanager
def canvas(name: str, height: float) -> Iterator[Canvas]:
    """Give axes of ``height`` CSS pixels; the ids within the SVG follow from ``name``, which is unique in the page."""
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(["default", {**SETTINGS, "svg.hashsalt": name}]):
        yield Canvas(Figure(figsize=(WIDTH / INCH, height / INCH), layout="constrained"))


def finite(interval: Interval) -> bool:
    """Whether an interval can be drawn."""
    return all(math.isfinite(value) for value in (interval.low, interval.value, interval.high))


def limits(values: Iterable[float]) -> tuple[float, float]:
    """Return the ends of an axis that holds all finite values with a little air."""
    kept = [value for value in values if math.isfinite(value)]
    low, high = min(kept), max(kept)
    air = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return low - air, high + air


def drawable(text: str, most: int = 24) -> str:
    """Return a name out of the model as the font that the plots are laid out in has it, and not too long."""
    known = text.encode("ascii", "replace").decode()
    return known if len(known) <= most else f"{known[: most - 3]}..."
