"""matplotlib's SVG made part of the page: its colours and font are the page's, and marks say what they are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree as ET

from mlc.report.table import plain

REFERENCE = re.compile(r"#([\w.-]+)")
LONG = re.compile(r"-?\d+\.\d{3,}")
FONT = re.compile(r"font-(size|family): [^;]*;? ?")
COLOUR = re.compile(r"#[0-9a-f]{6}\b")


def inlined(drawn: str, label: str, colours: Mapping[str, str], tips: Mapping[str, Sequence[str]]) -> str:
    """Return the ``<svg>`` element of a drawing for the body of a page.

    ``colours`` are put in the place of those drawn; ``tips`` are texts for the marks of the group with that id. Nothing
    in it reaches beyond it: style sheets, metadata and ids that nothing refers to are left out.
    """
    root = ET.fromstring(drawn)  # noqa: S314 - as matplotlib wrote it a moment ago
    for element in root.iter():
        _localize(element, colours)
    groups = {name: group for group in root.iter("g") if (name := group.get("id"))}
    for group in root.iter("g"):
        _hoist(group)
    for name, texts in tips.items():
        _title(groups[name], texts)
    _prune(root)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": plain(label)}
    return ET.tostring(root, encoding="unicode")


def _localize(element: ET.Element, colours: Mapping[str, str]) -> None:
    """Take namespaces off the names, and the drawing's own colours, fonts and needless digits out of the attributes."""
    element.tag = element.tag.rpartition("}")[2]
    kept = {name.rpartition("}")[2]: LONG.sub(_rounded, value) for name, value in element.attrib.items()}
    if "style" in kept:
        kept["style"] = COLOUR.sub(lambda match: colours[match[0]], FONT.sub("", kept["style"]))
    if "d" in kept:
        kept["d"] = " ".join(kept["d"].split())
    if kept.get("transform", "").startswith("rotate(-0 "):
        del kept["transform"]
    element.attrib = kept
    if element.tag != "text":
        element.text = None
    element.tail = None


def _rounded(match: re.Match[str]) -> str:
    return f"{float(match[0]):.2f}".rstrip("0").rstrip(".")


def _hoist(group: ET.Element) -> None:
    """Say a style once that all marks of a group have."""
    styles = {mark.get("style") for mark in group}
    if len(group) > 1 and len(styles) == 1 and all(mark.tag == "use" for mark in group):
        for mark in group:
            style = mark.attrib.pop("style", "")
            group.set("style", style)


def _title(group: ET.Element, texts: Sequence[str]) -> None:
    """Give each mark of a group its text, which browsers show where the pointer rests."""
    marks = list(group.iter("use")) or group.findall("path")
    for mark, text in zip(marks, texts, strict=True):
        ET.SubElement(mark, "title").text = plain(text)


def _prune(root: ET.Element) -> None:
    """Leave out what belongs to a file of its own: the style sheet, which would hold for the whole page, and ids."""
    for element in root.iter():
        for child in [*element.findall("style"), *element.findall("metadata")]:
            element.remove(child)
    used = {name for element in root.iter() for value in element.attrib.values() for name in REFERENCE.findall(value)}
    for element in root.iter():
        if element.get("id") not in used:
            element.attrib.pop("id", None)
