"""Inputs to compare models with, at any legal size, and the answers of the original to them."""

from mlc.probes.runs import answer, check_example, drawn_inputs, probe, references, size_hint

__all__ = ["answer", "check_example", "drawn_inputs", "probe", "references", "size_hint"]
