"""The grammar of images: ``size=224,resize=256,mean=0.485/0.456/0.406,std=0.229/0.224/0.225``, for flags, TOML, Python.

::

    images  = setting {"," setting}
    setting = "size=" side ["/" side] | "resize=" (side | "stretch") | "scale=" number ["/" number]
            | "mean=" number {"/" number} | "std=" number {"/" number} | "layout=" ("NCHW" | "NHWC")
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mlc.errors import UsageError, kind_of
from mlc.grammar import NUMBER, Reader, nearest, number, number_text

STRETCH = "stretch"
LAYOUTS = ("NCHW", "NHWC")

_WORD = r"[A-Za-z_]+"
_COUNTS = (1, 3)
"""Channels that an image can have: gray, or red, green and blue."""


@dataclass(frozen=True)
class Images:
    """How images become an input; what is None or empty follows from the input, or is not done.

    ``size`` is height and width. ``resize`` is the length of the shorter side before ``size`` is cropped from the
    middle, or ``stretch``, which crops nothing; without it the image just covers the size. Values of 0 to 255 are
    multiplied by ``scale``, then ``mean`` is subtracted and the result divided by ``std``: one value, or one a channel.
    """

    size: tuple[int, int] | None = None
    resize: int | str | None = None
    scale: float | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    layout: str | None = None


def parse_images(text: str) -> Images:
    """Parse settings of images. Raises UsageError that points at the place."""
    reader = Reader(text, "the image settings")
    found: dict[str, Any] = {}
    while True:
        start = reader.place()
        key = reader.take(_WORD, f"a setting ({', '.join(SETTINGS)})")
        if key not in SETTINGS:
            reader.refuse(start, "is no setting of images", nearest(key, SETTINGS))
        if key in found:
            reader.refuse(start, "is given a second time")
        reader.expect("=", f"= and the {key}")
        found[key] = SETTINGS[key](reader)
        if not reader.skip(","):
            break
    if not reader.at_end():
        reader.fail("a comma or the end")
    return Images(**found)


def images_text(images: Images) -> str:
    """Return settings as ``parse_images`` reads them back."""
    return settings_text(images_table(images))


def images_table(images: Images) -> dict[str, Any]:
    """Return what is set as a TOML table holds it."""
    table: dict[str, Any] = {
        "size": list(images.size) if images.size and len(set(images.size)) > 1 else images.size and images.size[0],
        "resize": images.resize,
        "scale": images.scale,
        "mean": list(images.mean) or None,
        "std": list(images.std) or None,
        "layout": images.layout,
    }
    return {key: value for key, value in table.items() if value is not None}


def settings_text(table: Mapping[str, Any]) -> str:
    """Return the text of settings that are given by name, as TOML and Python do. Raises UsageError for a wrong type."""
    parts = []
    for key, value in table.items():
        if key not in SETTINGS:
            raise UsageError(f"there is no setting {key!r} of images", nearest(str(key), SETTINGS))
        items = value if isinstance(value, (list, tuple)) else [value]
        parts.append(f"{key}={'/'.join(_item_text(key, item) for item in items)}")
    return ",".join(parts)


def _item_text(key: str, item: Any) -> str:
    if isinstance(item, (int, float)) and not isinstance(item, bool):
        return number_text(item)
    if isinstance(item, str) and re.fullmatch(r"[A-Za-z]+|[\d.]+/[\d.]+", item):
        return item
    raise UsageError(f"{key}: given {repr(item) if isinstance(item, str) else kind_of(item)}", _FORMS[key])


def _size(reader: Reader) -> tuple[int, int]:
    height = _side(reader)
    return height, _side(reader) if reader.skip("/") else height


def _side(reader: Reader) -> int:
    start = reader.place()
    side = reader.whole("a number of pixels")
    if side == 0:
        reader.refuse(start, "leaves nothing of an image", "a side has 1 pixel or more")
    return side


def _resize(reader: Reader) -> int | str:
    return STRETCH if reader.skip(STRETCH) else _side(reader)


def _scale(reader: Reader) -> float:
    start = reader.place()
    value = _number(reader)
    if reader.skip("/"):
        divisor = _number(reader)
        value = value / divisor if divisor else 0.0
    if not 0 < value <= sys.float_info.max:
        reader.refuse(start, "is no scale", "write a number above 0, such as 1 or 1/255")
    return value


def _mean(reader: Reader) -> tuple[float, ...]:
    start = reader.place()
    values = [_number(reader)]
    while reader.skip("/"):
        values.append(_number(reader))
    if len(values) not in _COUNTS:
        reader.refuse(start, f"has {len(values)} values", "give one, or one for each of red, green and blue")
    return tuple(values)


def _std(reader: Reader) -> tuple[float, ...]:
    start = reader.place()
    values = _mean(reader)
    if min(values) <= 0:
        reader.refuse(start, "cannot be divided by", "a standard deviation is above 0")
    return values


def _number(reader: Reader) -> float:
    start = reader.place()
    value = number(reader.take(NUMBER, "a finite number"))
    if abs(value) > sys.float_info.max:
        reader.refuse(start, "is too large")
    return float(value)


def _layout(reader: Reader) -> str:
    start = reader.place()
    layout = reader.take(_WORD, " or ".join(LAYOUTS))
    if layout not in LAYOUTS:
        reader.refuse(start, "is no layout of images", nearest(layout, LAYOUTS))
    return layout


SETTINGS: dict[str, Callable[[Reader], Any]] = {
    "size": _size, "resize": _resize, "scale": _scale, "mean": _mean, "std": _std, "layout": _layout,
}  # fmt: skip
"""How each setting is read, in the order in which they are written."""

_FORMS = {
    "size": "write 224, or height and width as [224, 160]",
    "resize": f'write the length of the shorter side, such as 256, or "{STRETCH}"',
    "scale": 'write a number, or a fraction as "1/255"',
    "mean": "write a number, or one a channel as [0.485, 0.456, 0.406]",
    "std": "write a number, or one a channel as [0.229, 0.224, 0.225]",
    "layout": 'write "NCHW" or "NHWC"',
}
