"""Which nodes a user wants to stay float, by name or pattern."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import onnx_ir as ir

from mlc.errors import UsageError
from mlc.formats import product_of, site_of
from mlc.fusion import Places
from mlc.grammar import nearest


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
        found |= {places.site(inner) for site in meant for inner in _inside(sites[site])} & sites.keys()
    return frozenset(found)


def _inside(node: ir.Node) -> Iterator[ir.Node]:
    """Yield the nodes of a node's branches or body, and of those inside of these."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield from attribute.as_graph().all_nodes()
