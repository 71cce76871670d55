"""Weights in several safetensors files: which ones an index names, and whether they hold what it says."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from mlc.errors import SourceError, first_line
from mlc.sources.weights.tensors import listed

INDEX = ".safetensors.index.json"
WHOLE = "model.safetensors"


def index_in(folder: Path) -> Path:
    """Return the one index or ``model.safetensors`` in a folder. Raises SourceError for none and for several."""
    there = sorted(path for path in folder.iterdir() if path.name.endswith(INDEX) or path.name == WHOLE)
    if len(there) == 1:
        return there[0]
    if there:
        names = " and ".join(path.name for path in there)
        raise SourceError(f"the folder {folder} holds {names}", f"name one of them: {there[0]}")
    raise SourceError(f"the folder {folder} holds neither {WHOLE} nor model{INDEX}", "name the weights file itself")


def shards(index: Path) -> tuple[Path, ...]:
    """Return the files that an index names, in order: each in the index's own folder, with the keys that it says.

    Raises SourceError for an index that is none, a file outside the folder, and files or keys that are missing or too
    many.
    """
    wanted = _weight_map(index)
    files = {name: _inside(index, name) for name in sorted(set(wanted.values()))}
    missing = [name for name, file in files.items() if not file.is_file()]
    siblings = index.parent.glob(f"{index.name.removesuffix(INDEX)}-*-of-*.safetensors")
    unexpected = sorted({path.name for path in siblings} - set(files))
    if not missing:
        there = {(key, name) for name, file in files.items() for key in _keys(file)}
        missing += sorted(f"{key} in {name}" for key, name in {*wanted.items()} - there)
        unexpected += sorted(f"{key} in {name}" for key, name in there - {*wanted.items()})
    facts = [f"{len(names)} {what}: {listed(names)}" for what, names in _named(missing, unexpected) if names]
    if facts:
        raise SourceError(f"{index} does not fit its shards; " + "; ".join(facts), "copy all of its files again")
    return tuple(files.values())


def _named(missing: list[str], unexpected: list[str]) -> tuple[tuple[str, list[str]], ...]:
    return (("missing", missing), ("that it does not name", unexpected))


def _weight_map(index: Path) -> dict[str, str]:
    """Return the file of each key."""
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as bad:
        raise SourceError(f"{index} is not JSON: {first_line(bad)}", "write the weights again") from bad
    wanted = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(wanted, dict) or not wanted or not all(isinstance(name, str) for name in wanted.values()):
        raise SourceError(f"{index} has no weight_map of keys to files", "write the weights again")
    return wanted


def _inside(index: Path, name: str) -> Path:
    """Return the place of a shard. Raises SourceError where it is not a safetensors file of the index's own folder."""
    file = index.parent / name
    if not name.endswith(".safetensors"):
        raise SourceError(f"{index} names {name!r}, which is no .safetensors file", "write the weights as safetensors")
    within = not (Path(name).is_absolute() or name.startswith("\\") or ":" in name or ".." in _parts(name))
    if not (within and file.resolve().is_relative_to(index.parent.resolve())):
        raise SourceError(f"{index} names {name!r}, which lies outside its folder", "put the file itself beside it")
    return file


def _parts(name: str) -> tuple[str, ...]:
    return Path(name.replace("\\", "/")).parts


def _keys(file: Path) -> list[str]:
    try:
        with safe_open(file, framework="numpy") as opened:
            return list(opened.keys())
    except (SafetensorError, OSError, ValueError) as bad:
        raise SourceError(f"{file} is not a readable safetensors file: {first_line(bad)}", "copy it again") from bad
