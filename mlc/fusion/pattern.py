"""Fusions by a pattern of operators over named values, whichever way operands stand."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import onnx_ir as ir

from mlc.fusion.base import Finder, Match, Replacing


class Fusion(Replacing):
    """A pass that replaces matches of one pattern. Commuted forms of Add, Mul and the like are matched too.

    A subclass states ``pattern(op, x, ...)``; the values bound by its names go to ``check`` and ``rewrite``.
    """

    @abstractmethod
    def pattern(self, op: Any, *args: Any) -> Any:
        """Return the values to be replaced, as a pattern of operators over named values."""

    def finder(self, model: ir.Model) -> Finder:
        """Return what matches the pattern and its commuted forms."""
        from onnxscript.rewriter.pattern import RewriteRule

        rules = RewriteRule(self.pattern, self.rewrite).commute()

        def find(graph: ir.Graph, node: ir.Node) -> Iterator[Match]:
            for rule in rules:
                found = rule.match(model, graph, node, check_nodes_are_removable=False)
                if found:
                    yield Match(found.nodes, found.outputs, found.bindings)

        return find
