"""What the plots share: a chart of pygal that the page's style sheet colours, small enough to be legible on a phone.

A series is added under the name of what it shows, which is the class that the style sheet knows it by.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from xml.etree import ElementTree as ET

from mlc.report.table import plain
from mlc.types import Interval

WIDTH = 420
"""Width of a plot in CSS pixels before the page scales it: about 0.85 on a phone, 1.15 at a desk."""

FONT = 13
"""Size of the text that room is made for; pygal counts 0.6 of it for a letter, more than the page's fonts take."""

GAP = 8
"""CSS pixels between text and what it belongs to."""

AXIS = 2 * (FONT + GAP)
"""CSS pixels below a plot that the figures of the axis and its title take."""

ABOVE = FONT + GAP
"""CSS pixels above a plot that what was asked for takes."""

BESIDE = 3 * FONT
"""CSS pixels right of a plot that half the text of a limit at its edge takes."""

LONG = re.compile(r"-?\d+\.\d+")
KEPT = {"x", "y", "guides", "title", "hollow", "worst"}
"""Classes of pygal's that the style sheet speaks of, beside the names of the series."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Plot:
    """One drawn plot: its heading, the figure it shows, the SVG element, the names of its colours, and a note."""

    heading: str
    figure: str
    svg: str
    keys: tuple[str, ...] = ()
    note: str = ""


@cache
def _library() -> Any:
    """Load pygal, and undo what it does to every later import of the process: an import hook for its own plug-ins."""
    import pygal

    sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != "pygal"]
    return pygal


def chart(kind: str, height: int, **options: Any) -> Any:
    """Return an empty chart of pygal; ``options`` are pygal's."""
    pygal = _library()
    text = pygal.style.Style(label_font_size=FONT, title_font_size=FONT, value_font_size=0)
    usual = {"style": text, "js": [], "show_legend": False, "truncate_label": -1, "print_labels": True, "spacing": GAP}
    around = {"margin": 5, "margin_right": 16, **options}
    return getattr(pygal, kind)(width=WIDTH, height=height, **usual, **around)


def dot(x: float, y: float, tip: str, **attributes: object) -> dict[str, object]:
    """Return a value of a chart that says ``tip`` where the pointer rests; ``attributes`` are those of its mark."""
    return {"value": (x, y), "tooltip": plain(tip), "node": attributes}


def add_interval(drawing: Any, interval: Interval, height: float, text: str) -> None:
    """Draw an interval and its middle, where they are finite."""
    if finite(interval):
        sized = ((interval.low, 1.5), (interval.value, 5), (interval.high, 1.5))
        drawing.add("interval", [dot(value, height, text, r=radius) for value, radius in sized])


def add_lines(drawing: Any, span: Point, equal: float, asked: float | None, text: str) -> None:
    """Draw a vertical line where nothing has changed, and one at what was asked for with its text above."""
    drawing.add("equal", [(equal, span[0]), (equal, span[1])], show_dots=False)
    if asked is not None:
        drawing.add("asked", [{"value": (asked, span[1]), "label": text}, (asked, span[0])])


def inlined(drawing: Any, label: str) -> str:
    """Return the ``<svg>`` element of a chart for the body of a page; ``label`` is for those who do not see it.

    What pygal means for a file of its own is left out: style sheet, scripts, ids, and data for its scripts.
    """
    root = ET.fromstring(drawing.render(disable_xml_declaration=True))  # noqa: S314 - as pygal wrote it a moment ago
    _localize(root, [options["title"] for _, options in drawing.raw_series])
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": plain(label)}
    return ET.tostring(root, encoding="unicode")


def _localize(element: ET.Element, series: Sequence[str]) -> None:
    """Take off an element what the page has no use for, and name its series."""
    kinds = element.attrib.pop("class", "").split()
    named = [series[int(kind.removeprefix("serie-"))] for kind in kinds if kind.startswith("serie-")]
    names = " ".join(named or [kind for kind in kinds if kind in KEPT])
    element.tag = element.tag.rpartition("}")[2]
    element.attrib = {name: LONG.sub(_rounded, value) for name, value in element.attrib.items() if name != "id"}
    if names:
        element.set("class", names)
    for child in list(element):
        _localize(child, series)
        needless = child.tag in {"defs", "desc"} or (child.tag == "g" and len(child) == 0)
        of_pygal = child.tag == "title" and (element.tag == "svg" or "guides" in kinds)
        background = child.tag == "rect" and element.tag == "g" and "bar" not in kinds
        if needless or of_pygal or background:
            element.remove(child)


def _rounded(match: re.Match[str]) -> str:
    return f"{float(match[0]):.1f}".removesuffix(".0")


def finite(interval: Interval) -> bool:
    """Whether an interval can be drawn."""
    return all(math.isfinite(value) for value in (interval.low, interval.value, interval.high))


def limits(values: Iterable[float]) -> Point:
    """Return the ends of an axis that holds all finite values with a little air."""
    kept = [value for value in values if math.isfinite(value)]
    low, high = min(kept), max(kept)
    size = max(abs(low), abs(high))
    air = (high - low) * 0.06 if high - low > 1e-6 * size else size * 0.1 or 1.0
    return low - air, high + air


def ticks(span: Point, most: int = 6) -> list[float]:
    """Return the multiples of 1, 2 or 5 times a power of ten within a span, at most about ``most`` of them."""
    rough = (span[1] - span[0]) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    numbers = range(math.ceil(span[0] / step), math.floor(span[1] / step) + 1)
    return [float(f"{number * step:.12g}") for number in numbers]


def shortened(text: str, most: int = 24) -> str:
    """Return a name out of the model, not too long to stand beside a plot."""
    known = plain(text)
    return known if len(known) <= most else f"{known[: most - 1]}\N{HORIZONTAL ELLIPSIS}"
