"""The grammar of passes, targets, drops and sizes, one for flags, TOML and Python."""

from __future__ import annotations

import difflib
import math
import re

from mlc.errors import UsageError
from mlc.grammar import NUMBER, Reader, nearest, number, quoted
from mlc.types_asked import Drop, OptionValue, PassSpec, Target

RUNTIMES = ("onnxruntime", "openvino")
_SIZE_NAME = r"[A-Za-z_][A-Za-z0-9_.:/-]*"
"""Wider than the name of a dim: files of others have symbols such as ``batch-size``."""

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_KEY = r"[A-Za-z_][A-Za-z0-9_.:-]*"
_PROVIDER = r"[A-Za-z][A-Za-z0-9_-]*"
_DEVICE = r"[A-Za-z0-9_.:-]+"
_DROP = NUMBER + "%?"
_WHOLE = 100
"""Percent."""

_BOOLEANS = {"true": True, "false": False}


def parse_pass(text: str) -> PassSpec:
    """Parse ``name`` or ``name:option=value,option=value``; a value is true, false, a number or text (in quotes)."""
    reader = Reader(text, "the pass")
    name = reader.take(_NAME, "the name of a pass")
    options: dict[str, OptionValue] = {}
    if reader.skip(":"):
        while True:
            start = reader.place()
            key = reader.take(_KEY, "an option, as in name:option=value,")
            reader.expect("=", "= and the value of the option")
            options_value, is_text = reader.value("the value of the option")
            if key in options:
                reader.refuse(start, f"gives {key} a second time")
            options[key] = options_value if is_text else _option_value(options_value)
            if not reader.skip(","):
                break
    if not reader.at_end():
        reader.fail("a comma or the end" if options else ": and options, or the end")
    return PassSpec(name, tuple(options.items()))


def pass_text(spec: PassSpec) -> str:
    """Return a pass as ``parse_pass`` reads it back, type for type."""
    options = ",".join(f"{key}={_option_text(value)}" for key, value in spec.options)
    return f"{spec.name}:{options}" if options else spec.name


def _option_value(text: str) -> OptionValue:
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    return number(text) if re.fullmatch(NUMBER, text) else text


def _option_text(value: OptionValue) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return repr(value)
    plain = quoted(value)
    return f'"{value}"' if plain == value and _option_value(value) != value else plain


def parse_target(text: str) -> Target:
    """Parse ``[runtime/]provider[:device][,threads=N][,option=value]``; whether it exists is the runtime's to say."""
    reader = Reader(text, "the target")
    start = reader.place()
    provider, runtime = reader.take(_PROVIDER, "a provider, such as cpu,"), RUNTIMES[0]
    if reader.skip("/"):
        runtime = provider
        if runtime not in RUNTIMES:
            reader.refuse(start, "is not a runtime", nearest(runtime, RUNTIMES))
        provider = reader.take(_PROVIDER, "a provider, such as cpu,")
    device = reader.take(_DEVICE, "a device, such as native or 0,") if reader.skip(":") else None
    threads: int | None = None
    options: dict[str, str] = {}
    while reader.skip(","):
        start = reader.place()
        key = reader.take(_KEY, "threads=N or option=value")
        reader.expect("=", f"= and the value of {key}")
        if key in options or (key == "threads" and threads is not None):
            reader.refuse(start, "gives it a second time")
        if key == "threads":
            threads = _threads(reader, start)
        elif difflib.get_close_matches(key.lower(), ["threads"], cutoff=0.75):
            reader.refuse(start, "is not an option of a target", "did you mean threads?")
        else:
            options[key] = reader.value(f"the value of {key}")[0]
    if not reader.at_end():
        reader.fail("a comma or the end")
    return Target(runtime, provider, device, threads, tuple(options.items()))


def _threads(reader: Reader, start: int) -> int:
    threads = reader.whole("a number of threads, 1 or more,")
    if threads == 0:
        reader.refuse(start, "is no thread at all", "leave threads out for one per core")
    return threads


def target_text(target: Target) -> str:
    """Return a target as ``parse_target`` reads it back."""
    prefix = f"{target.runtime}/" if target.runtime != RUNTIMES[0] else ""
    text = prefix + target.provider + (f":{target.device}" if target.device is not None else "")
    if target.threads is not None:
        text += f",threads={target.threads}"
    return text + "".join(f",{key}={quoted(value)}" for key, value in target.options)


def parse_drop(text: str) -> Drop:
    """Parse ``0.01`` (in the metric's units) or ``1%`` (of the original's value)."""
    from decimal import Decimal

    reader = Reader(text, "the largest drop")
    start = reader.place()
    written = reader.take(_DROP, "a number or a percentage, such as 0.01 or 1%,")
    if not reader.at_end():
        reader.fail("a number or a percentage, such as 0.01 or 1%,")
    relative = written.endswith("%")
    value = float(written.removesuffix("%"))
    if value < 0:
        reader.refuse(start, "is negative", "a drop of 0 accepts no loss")
    if not math.isfinite(value) or (relative and value > _WHOLE):
        reader.refuse(start, "is too large", "a percentage goes up to 100%")
    if relative and value > 0:
        value = float(Decimal(written[:-1]) / 100)
    return Drop(abs(value), relative)


def drop_text(drop: Drop) -> str:
    """Return a drop as ``parse_drop`` reads it back, bit for bit."""
    if not drop.relative:
        return repr(drop.value)
    from decimal import Decimal

    percent = Decimal(repr(drop.value)) * _WHOLE
    return f"{percent.normalize():f}%"


def parse_sizes(text: str) -> dict[str, int]:
    """Parse ``batch=8,seq=128``."""
    reader = Reader(text, "the sizes")
    sizes: dict[str, int] = {}
    while True:
        start = reader.place()
        name = reader.take(_SIZE_NAME, "a size, as in batch=8,")
        reader.expect("=", f"= and the size of {name}")
        size = reader.whole(f"the size of {name}, a whole number,")
        if name in sizes:
            reader.refuse(start, f"gives {name} a second size")
        if size == 0:
            reader.refuse(start, "leaves nothing to measure", "a size is 1 or more")
        sizes[name] = size
        if not reader.skip(","):
            break
    if not reader.at_end():
        reader.fail("a comma or the end")
    return sizes


def sizes_text(sizes: dict[str, int]) -> str:
    """Return sizes as ``parse_sizes`` reads them back."""
    return ",".join(f"{name}={size}" for name, size in sizes.items())


def parse_number(text: str) -> float:
    """Parse a finite number."""
    if re.fullmatch(NUMBER, text.strip()) is None or not math.isfinite(float(text)):
        raise UsageError(f"{text!r} is not a number", "write it as 12 or 0.5")
    return float(text)


def parse_whole(text: str) -> int:
    """Parse a whole number."""
    if re.fullmatch(r"[+-]?\d{1,30}", text.strip()) is None:
        raise UsageError(f"{text!r} is not a whole number", "write it as 12")
    return int(text)


def positive(value: float, what: str) -> float:
    """Return a limit that has to be a finite number above zero. Raises UsageError."""
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"{what} is {value:g}, not a number above 0", "give a number above 0")
    return float(value)


def whole_number(value: int, what: str, low: int, high: int) -> int:
    """Return a whole number that has to be inside a range. Raises UsageError."""
    if not low <= value <= high:
        raise UsageError(f"{what} is {value}, outside {low}..{high}", f"give a whole number from {low} to {high}")
    return value
