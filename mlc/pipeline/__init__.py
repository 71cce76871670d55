"""The whole line on one screen: a recipe goes in, a verified, measured, reported artifact comes out."""

from mlc.pipeline.line import Live, bench, compile, validate  # noqa: A004 - the word of the field

__all__ = ["Live", "bench", "compile", "validate"]
