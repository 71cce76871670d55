"""A written model as it lies on disk: an artifact with its history and digests, or an .onnx file of anybody's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mlc.errors import SourceError
from mlc.inspecting.facts import facts_of
from mlc.inspecting.nouns import Facts, Inspection
from mlc.inspecting.placing import shares
from mlc.manifest import MODEL, SESSION, Located, located, mismatches, read_manifest
from mlc.runtimes.one_node import try_target
from mlc.types import Sizes, Target


def inspect_model(
    model: Path,
    *,
    targets: Sequence[Target] = (),
    at: Sizes | None = None,
    progress: Callable[[str], None] = lambda _text: None,
) -> Inspection:
    """Say what is in a model, and of which nodes each target, else each installed provider, would run.

    An artifact whose files are not as its manifest says is described all the same, as far as it can be read: the
    ``mismatches`` name them. Raises SourceError for what is no model, UsageError for sizes in ``at`` that no input has,
    TargetError for a target in ``targets`` that does not start.
    """
    for target in targets:
        try_target(target)
    if not model.exists():
        raise SourceError(f"the model {model} does not exist", "give an artifact directory or an .onnx file")
    if model.is_file():
        facts = facts_of(model, at=at)
        return Inspection(
            str(model), facts, shares=shares(Located(model), facts, targets, progress), notes=tuple(_assumed(facts))
        )
    return _artifact(model, targets, at, progress)


def _assumed(facts: Facts) -> Iterator[str]:
    if facts.assumed:
        names = ", ".join(facts.assumed)
        yield f"the file leaves {names} open, taken as 1 here: --at takes other sizes of axes that have a name"


def _artifact(model: Path, targets: Sequence[Target], at: Sizes | None, progress: Callable[[str], None]) -> Inspection:
    progress("checking digests")
    manifest = read_manifest(model)
    wrong = tuple(mismatches(model, manifest))
    try:
        facts = facts_of(model / MODEL, manifest.signature.inputs, manifest.measured_at, at)
    except SourceError as unreadable:
        if not wrong:
            raise
        return Inspection(str(model), None, manifest, wrong, unreadable=unreadable.message)
    changed = SESSION in {mismatch.file for mismatch in wrong}
    place = Located(model / MODEL) if changed else located(model, manifest)
    notes = (f"{SESSION} is not as it was written: its options were left out",) if changed else ()
    return Inspection(str(model), facts, manifest, wrong, shares(place, facts, targets, progress), notes=notes)
