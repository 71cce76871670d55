"""Fusions by looking around a node: for what has more forms than a pattern can name."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import onnx_ir as ir

from mlc.fusion.base import Finder, Match, Replacing
from mlc.fusion.graph import is_standard


class Search(Replacing):
    """A pass that replaces what ``look`` finds, where that ends at a node of one of the types in ``ends``."""

    ends: ClassVar[frozenset[str]]

    @abstractmethod
    def look(self, node: ir.Node) -> Match | None:
        """Return the match that ends at a node, or None."""

    def finder(self, model: ir.Model) -> Finder:  # noqa: ARG002 - a look needs no more than the node
        """Return what looks at nodes of the types in ``ends``."""

        def find(_graph: ir.Graph, node: ir.Node) -> Iterator[Match]:
            if node.op_type in self.ends and is_standard(node):
                found = self.look(node)
                if found is not None:
                    yield found

        return find
