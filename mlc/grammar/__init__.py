"""A cursor over one line of text whose errors point at the place, and the nearest match for an unknown word."""

from mlc.grammar.text import DIM_NAME, NUMBER, Reader, nearest, number, number_text, quoted, within

__all__ = ["DIM_NAME", "NUMBER", "Reader", "nearest", "number", "number_text", "quoted", "within"]
