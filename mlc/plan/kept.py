"""Which nodes a user wants to stay float, by name or pattern."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlc.errors import UsageError
from mlc.formats import product_of, site_of
from mlc.fusion import walk
from mlc.grammar import nearest

if TYPE_CHECKING:
    import onnx_ir as ir


def nodes_by_site(model: ir.Model) -> dict[str, ir.Node]:
    """Return every node by its site, those in branches and bodies of loops with their path."""
    return {
        f"{prefix}{site_of(node)}": node
        for prefix, graph in walk(model)
        for node in graph
        if node.op_type != "Constant"
    }


def kept_sites(model: ir.Model, names: Sequence[str]) -> frozenset[str]:
    """Return the sites of the nodes that names or patterns (``*``, ``?``) mean: their own, or their first output's.

    A name that a node has is no pattern; that of an added bias means the product too, of which it is a part.
    Raises UsageError for one that means no node, with the nearest.
    """
    found: set[str] = set()
    sites = nodes_by_site(model)
    for name in names:
        own = {site for site, node in sites.items() if name in (site, node.name)}
        pattern = re.compile(re.escape(name).replace(r"\*", ".*").replace(r"\?", "."), re.DOTALL)
        meant = own or {
            site for site, node in sites.items() if pattern.fullmatch(site) or pattern.fullmatch(node.name or "")
        }
        if not meant:
            raise UsageError(f"--keep-float: no node is called {name!r}", nearest(name, sites))
        found |= meant | {site_of(product) for site in meant if (product := product_of(sites[site])) is not None}
    return frozenset(found)
