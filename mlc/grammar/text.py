"""A cursor over one line of text whose errors point at the place, and the nearest match for an unknown word."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from mlc.errors import UsageError
from mlc.figures import listed

DIM_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
WHOLE = r"\d+"
NUMBER = r"[+-]?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?"
"""Tokens are texts of patterns, compiled where they are first used: start-up is a promise."""

LARGEST = 2**63 - 1
"""Sizes are 64-bit in ONNX."""

LISTED = 50
"""How many words a hint lists where none is near."""

_EXACT = 1e15
"""Whole floats below this are written as integers and come back equal."""

_PLAIN = r"[^\s,=\"'][^,=\"']*(?<!\s)"
_QUOTED = r'"((?:[^"\\]|\\.)*)"' + r"|'((?:[^'\\]|\\.)*)'"


class Reader:
    """Takes tokens off one line of text; spaces between them mean nothing.

    ``what`` names the text as the start of a sentence, such as ``the input spec``.
    """

    def __init__(self, text: str, what: str) -> None:
        self.text = text
        self.what = what
        self.position = 0

    def at_end(self) -> bool:
        """Return whether nothing but spaces is left."""
        self._skip()
        return self.position == len(self.text)

    def skip(self, literal: str) -> bool:
        """Step over a literal where it stands next; return whether it did."""
        self._skip()
        if not self.text.startswith(literal, self.position):
            return False
        self.position += len(literal)
        return True

    def expect(self, literal: str, expected: str) -> None:
        """Step over a literal. Raises UsageError that says what was expected where."""
        if not self.skip(literal):
            self.fail(expected)

    def take(self, pattern: str, expected: str) -> str:
        """Return the next token. Raises UsageError that says what was expected where."""
        self._skip()
        match = re.compile(pattern).match(self.text, self.position)
        if match is None:
            self.fail(expected)
        self.position = match.end()
        return match.group()

    def whole(self, expected: str) -> int:
        """Return the next token as a number from 0 to 2**63 - 1."""
        self._skip()
        start = self.position
        value = int(self.take(WHOLE, expected)[:30])
        if value > LARGEST:
            self.refuse(start, "is larger than 2**63 - 1")
        return value

    def value(self, expected: str, plain: str = _PLAIN) -> tuple[str, bool]:
        """Return the next value, up to a comma where ``plain`` says no other, unquoted, and whether it was quoted."""
        self._skip()
        quoted = re.compile(_QUOTED, re.DOTALL).match(self.text, self.position)
        if quoted is None:
            return self.take(plain, expected), False
        self.position = quoted.end()
        inner = quoted.group(1) if quoted.group(1) is not None else quoted.group(2)
        return re.sub(r"\\([\\\"'])", r"\1", inner), True

    def fail(self, expected: str, hint: str = "") -> NoReturn:
        """Raise UsageError: something else stands at the present place than what was expected."""
        self._skip()
        found = self._fragment()
        place = f"has {found!r} where {expected} was expected" if found else f"ends where {expected} was expected"
        raise UsageError(f"{self.what} {self.text!r} {place}", self._pointed(self.position, len(found), hint))

    def refuse(self, start: int, reason: str, hint: str = "") -> NoReturn:
        """Raise UsageError: what was taken from ``start`` on is well formed and wrong."""
        taken = self.text[start : self.position].strip()
        message = f"{taken!r} {reason}, in {self.what} {self.text!r}"
        raise UsageError(message, self._pointed(start, len(taken), hint))

    def place(self) -> int:
        """Return the position of the next token, for ``refuse``."""
        self._skip()
        return self.position

    def _pointed(self, start: int, length: int, hint: str) -> str:
        printable = "".join(letter if letter.isprintable() else "?" for letter in self.text)
        caret = " " * start + "^" * max(1, length)
        return f"{printable}\n{caret}" + (f"\n{hint}" if hint else "")

    def _fragment(self) -> str:
        match = re.compile(r"[A-Za-z0-9_]+|\.\.|.", re.DOTALL).match(self.text, self.position)
        return match.group() if match else ""

    def _skip(self) -> None:
        while self.position < len(self.text) and self.text[self.position].isspace():
            self.position += 1


def quoted(text: str, plain: str = _PLAIN) -> str:
    """Return a value as ``Reader.value`` reads it back, in quotes only where it needs them."""
    if re.fullmatch(plain, text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def number(text: str) -> int | float:
    """Return the number that a NUMBER token stands for, an int where it is written as one."""
    return int(text) if re.fullmatch(r"[+-]?\d{1,300}", text) else float(text)


def number_text(value: float) -> str:
    """Return the shortest text that ``number`` reads back as an equal value."""
    if isinstance(value, float) and math.isfinite(value) and value.is_integer() and abs(value) < _EXACT:
        return str(int(value))
    return repr(value)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint that names the nearest known words, whatever their case, or lists them, LISTED at most."""
    names = list(known)
    by_lower = {name.lower(): name for name in reversed(names)}
    close = [by_lower[each] for each in difflib.get_close_matches(word.lower(), by_lower, n=3, cutoff=0.5)]
    return f"did you mean {' or '.join(close)}?" if close else f"there are: {listed(names, LISTED)}"


@contextmanager
def within(place: str) -> Iterator[None]:
    """Say where a wrong text was given: ``--input`` or ``recipe.toml: inputs``, before its error."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{place}: {error.message}" if place else error.message, error.hint) from error
