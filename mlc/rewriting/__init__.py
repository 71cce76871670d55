"""Passes over a graph, each verified: invariants, every site in its place, the outputs; culprits are left out."""

from __future__ import annotations

from mlc.rewriting.final import check_files, check_half
from mlc.rewriting.line import Raising, rewrite
from mlc.rewriting.quantizing import Amend, as_planned

__all__ = ["Amend", "Raising", "as_planned", "check_files", "check_half", "rewrite"]
