"""A directory that mlc wrote: the model in it, with the ranges of its signature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mlc.directory import MARK
from mlc.manifest import locate, read_manifest
from mlc.sources.asked import Asked
from mlc.sources.original import Original
from mlc.types import Dim, InputSpec


def opens(asked: Asked) -> bool:
    """Whether the source is a directory with a manifest of mlc's."""
    return Path(asked.reference, MARK).is_file()


def load(asked: Asked) -> Original:
    """Return the model as an Original, every digest checked; inputs without a spec are as the manifest says.

    Raises SourceError for a file that is not what was written.
    """
    folder = Path(asked.reference)
    located = locate(folder)
    written = located.signature.inputs if located.signature is not None else ()
    from mlc.sources.onnx.file import OnnxOriginal

    original = OnnxOriginal(located.path, overridden(written, asked.inputs), asked.example)
    manifest = read_manifest(folder)
    passes = ", ".join(done.spec for done in manifest.steps if done.sites) or "none"
    original.source = asked.source
    original.notes = (
        f"taken from {folder}, which mlc wrote from {manifest.source} ({manifest.exporter}; passes: {passes})",
        *original.notes,
    )
    return original


def overridden(written: Sequence[InputSpec], given: Sequence[InputSpec]) -> tuple[InputSpec, ...]:
    """Return the written specs with those that are given in their place; a range that is given holds for its dim."""
    asked = {spec.name: spec for spec in given}
    ranges = {dim.name: dim for specs in (written, given) for spec in specs for dim in spec.dims if dim.name}
    kept = [replace(spec, dims=tuple(_renewed(dim, ranges) for dim in spec.dims)) for spec in written]
    known = {spec.name for spec in written}
    return (*(asked.get(spec.name, spec) for spec in kept), *(spec for spec in given if spec.name not in known))


def _renewed(dim: Dim, ranges: Mapping[str, Dim]) -> Dim:
    """Return a dim with the range of its name; a sum has that of the names that it adds."""
    dim = ranges[dim.name] if dim.name else dim
    if not dim.terms:
        return dim
    return replace(
        dim, low=sum(ranges[term].low for term in dim.terms), high=sum(ranges[term].high for term in dim.terms)
    )
