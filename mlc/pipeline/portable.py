"""Portable output: only operators of ONNX's standard domain, seen in the written file itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

from mlc.errors import PassError, SourceError
from mlc.fusion import is_standard, opset_of

NAMED = 3
"""How many nodes an error names."""


def refuse_custom(model: ir.Model) -> None:
    """Raise SourceError where a model, before any pass, holds operators outside ONNX's standard domain."""
    told = _told(model)
    if told:
        raise SourceError(f"the model holds operators outside ONNX's standard domain: {told}", "leave out --portable")


def portable_sentence(path: Path) -> str:
    """Return what is true of a written file: that it holds standard operators only, and of which opset.

    Raises PassError where a pass has written another, so that the file is not kept.
    """
    model = ir.load(path)
    told = _told(model)
    if told:
        raise PassError(f"the passes wrote operators outside ONNX's standard domain: {told}", "leave out --portable")
    return f"portable: standard operators of opset {opset_of(model)} only"


def _told(model: ir.Model) -> str:
    """Return the first nodes of other domains, and how many more there are; empty text where there is none."""
    nodes = [f"{node.domain}.{node.op_type} {node.outputs[0].name}" for node in _nodes(model) if not is_standard(node)]
    more = f" and {len(nodes) - NAMED} more" if len(nodes) > NAMED else ""
    return ", ".join(nodes[:NAMED]) + more


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Yield every node, those of subgraphs and of the model's own functions included."""
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        yield from graph.all_nodes()
