"""Passes over a graph, each verified: invariants, every site in its place, the outputs; culprits are left out."""

from __future__ import annotations

from mlc.rewriting.final import check_files
from mlc.rewriting.line import rewrite

__all__ = ["check_files", "rewrite"]
