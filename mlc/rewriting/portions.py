"""How many values are fetched in one run: as many as fit into memory beside the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from mlc.compare.decisions import graph_values
from mlc.rewriting.sessions import Feeds

TOGETHER = 128 * 2**20
"""Bytes that the values of one run may take, before and after a pass."""

UNKNOWN = TOGETHER // 128
"""What a value is taken for whose size is not known: 64 of them are fetched together."""


def portions(graph: ir.Graph, names: Sequence[str], feeds: Sequence[Feeds]) -> list[list[str]]:
    """Return the names of values in order, in portions that fit into ``TOGETHER``, with one value at least in each."""
    sizes = _sizes(graph, feeds)
    values = {str(value.name): value for value in graph_values(graph)}
    found: list[list[str]] = []
    room = 0
    for name in names:
        taken = 2 * _bytes(values[name], sizes)
        if not found or taken > room:
            found.append([])
            room = TOGETHER
        found[-1].append(name)
        room -= taken
    return found


def _sizes(graph: ir.Graph, feeds: Sequence[Feeds]) -> dict[str, int]:
    """Return the largest size of each named axis of the inputs."""
    sizes: dict[str, int] = {}
    for value in graph.inputs:
        for feed in feeds:
            array = feed.get(str(value.name))
            if array is not None and value.shape is not None:
                for dim, size in zip(value.shape, array.shape, strict=True):
                    sizes[str(dim)] = max(size, sizes.get(str(dim), 0))
    return sizes


def _bytes(value: ir.Value, sizes: Mapping[str, int]) -> int:
    if value.dtype is None or value.shape is None:
        return UNKNOWN
    known = [dim if isinstance(dim, int) else sizes.get(str(dim)) for dim in value.shape]
    found = [size for size in known if size is not None]
    return math.ceil(math.prod(found) * value.dtype.itemsize) if len(found) == len(known) else UNKNOWN
