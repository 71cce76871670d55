"""A written model run once on the arrays of a file: no torch, no original."""

from mlc.running.nouns import RanOutput, Running
from mlc.running.runs import run_model

__all__ = ["RanOutput", "Running", "run_model"]
