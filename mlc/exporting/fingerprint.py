"""What decides an export, as one digest: the state, the code, the versions and the specs."""

from __future__ import annotations

import hashlib
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

from mlc.errors import foreign
from mlc.exporting.described import Description
from mlc.references import loaded_files
from mlc.sources.torch.module import TorchOriginal
from mlc.types import Sizes


def fingerprint(original: TorchOriginal, traced: Sizes, opset: int | None) -> str:
    """Return the sha256 of all that decides how a torch module is exported.

    Parameters and buffers come in by the original's own digest; what else the module holds, and what its functions
    name, as it is in memory, which may be older than the files; code by the bytes of every loaded Python file outside
    installed packages; those by their versions. Raises SourceError where a value of the module cannot be described.
    """
    module = original.module
    hashed = hashlib.sha256()
    with foreign("looking at what the module holds"):
        places = {id(part): path for path, part in module.named_modules()}
        told = Description(hashed, places)
        told.note(sys.version, original.exporter, str(opset), *_versions(), _own_code(), original.digest)
        told.note(repr((original.signature, sorted(traced.items()))))
        told.value((original.binding.names, dict(original.binding.arguments)))
        told.value(dict(original.example))
        held = original.held()
        told.value(held)
        for path, part in module.named_modules(remove_duplicate=False) if held is None else ():
            told.module(path, part)
        for file in sorted(loaded_files()):
            told.note(str(file), file.read_bytes() if file.is_file() else b"")
    return hashed.hexdigest()


@cache
def _versions() -> tuple[str, ...]:
    """Return name and version of every installed distribution: a model may compute with any of them."""
    return tuple(sorted(f"{one.name} {one.version}" for one in metadata.distributions()))


@cache
def _own_code() -> bytes:
    """Return a digest of mlc's own files: what it does to an export changes with them, whatever the version says."""
    hashed = hashlib.sha256()
    for file in sorted(Path(__file__).parents[1].rglob("*.py")):
        hashed.update(file.read_bytes())
    return hashed.digest()
