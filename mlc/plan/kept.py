"""Which nodes a user wants to stay float, by name or pattern."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlc.errors import UsageError
from mlc.formats import product_of, site_of
from mlc.fusion import Places, subgraphs
from mlc.grammar import nearest

if TYPE_CHECKING:
    import onnx_ir as ir


def nodes_by_site(model: ir.Model) -> dict[str, ir.Node]:
    """Return every node by its site, those in branches and bodies of loops with their path."""
    places = Places(model)
    return {places.site(node): node for node in places.nodes() if node.op_type != "Constant"}


def kept_sites(model: ir.Model, names: Sequence[str]) -> frozenset[str]:
    """Return the sites of the nodes that names or patterns (``*``, ``?``) mean: their own, or their first output's.

    The latter may stand with or without its path. A name that a node has is no pattern; that of an added bias means the
    product too, of which it is a part, that of an If or a loop all that is inside. Raises UsageError for one that means
    no node, with the nearest.
    """
    found: set[str] = set()
    sites, places = nodes_by_site(model), Places(model)
    known = {site: {site, site_of(node), node.name or ""} for site, node in sites.items()}
    for name in names:
        pattern = re.compile(re.escape(name).replace(r"\*", ".*").replace(r"\?", "."), re.DOTALL)
        meant = {site for site, own in known.items() if name in own}
        meant = meant or {site for site, own in known.items() if any(map(pattern.fullmatch, own))}
        if not meant:
            raise UsageError(f"--keep-float: no node is called {name!r}", nearest(name, sites))
        products = (product_of(sites[site]) for site in meant)
        found |= meant | {places.site(product) for product in products if product is not None}
        inside = (node for site in meant for graph in subgraphs(sites[site]) for node in graph.all_nodes())
        found |= {places.site(node) for node in inside} & sites.keys()
    return frozenset(found)
