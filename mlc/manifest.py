"""What lies in an artifact directory, with digests: written last, checked first."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mlc.artifact import Artifact
from mlc.directory import MARK
from mlc.errors import SourceError
from mlc.types import Ceiling, Dim, InputSpec, Machine, OutputSpec, Signature, Sizes, Target

SCHEMA = 1

MODEL, SESSION = "model.onnx", "session.json"

EXTRA = "was not written by mlc: the manifest does not list it"

MINIMUM_RUNTIME = {17: "1.12", 18: "1.14", 19: "1.15", 20: "1.17", 21: "1.18", 22: "1.21", 23: "1.23"}
"""The first onnxruntime release that implements an opset (its published table of versions)."""

MINIMUM_FOR_IR = {8: "1.12", 9: "1.15", 10: "1.18", 11: "1.23"}
"""The first onnxruntime release that reads an IR version: that of the ONNX release it was built with."""

NEWER = "a newer one"


@dataclass(frozen=True)
class Located:
    """A model file to load, the session options it ships with, and its signature where a manifest has one.

    ``sizes`` are those at which its latency was measured; empty where nothing says so. ``target`` is the one that
    it was made for.
    """

    path: Path
    session_options: Mapping[str, str] = field(default_factory=dict)
    signature: Signature | None = None
    sizes: Sizes = field(default_factory=dict)
    target: Target = field(default_factory=Target)


@dataclass(frozen=True)
class Written:
    """One file as it was written."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Done:
    """One pass as the manifest remembers it: as asked, how many sites it changed and left out, why it was dropped."""

    spec: str
    sites: int
    left_out: int
    dropped: str


@dataclass(frozen=True)
class Manifest:
    """What a manifest says: the files by name, where the model came from, what was done, where and at which sizes."""

    files: Mapping[str, Written]
    source: str
    digest: str
    exporter: str
    opset: int
    minimum_onnxruntime: str
    signature: Signature
    measured_at: Sizes
    steps: tuple[Done, ...]
    machine: Machine


@dataclass(frozen=True)
class Mismatch:
    """A file of an artifact directory that is not as the manifest says, and what is wrong with it."""

    file: str
    what: str


def digest(path: Path) -> str:
    """Return the sha256 of a file, read in pieces. Raises SourceError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as refused:
        raise SourceError(f"{path} cannot be read: {refused.strerror}", "check its permissions") from refused


def minimum_runtime(opset: int, ir_version: int = 0) -> str:
    """Return the lowest onnxruntime version that runs a model of this opset and IR version."""
    for_opset, for_ir = _first(MINIMUM_RUNTIME, opset), _first(MINIMUM_FOR_IR, ir_version)
    if NEWER in (for_opset, for_ir):
        return NEWER
    return max(for_opset, for_ir, key=lambda version: [int(part) for part in version.split(".")])


def _first(table: Mapping[int, str], wanted: int) -> str:
    return next((version for known, version in table.items() if wanted <= known), NEWER)


def write_manifest(directory: Path, artifact: Artifact, machine: Machine, sizes: Sizes) -> None:
    """Describe everything that lies in ``directory``; the last file to be written.

    ``sizes`` are those of the named dims at which it was measured.
    """
    opset = artifact.model.opset_imports.get("", artifact.origin.opset)
    content = {
        "schema": SCHEMA,
        "files": {
            path.relative_to(directory).as_posix(): {"sha256": digest(path), "bytes": path.stat().st_size}
            for path in sorted(directory.rglob("*"), key=Path.as_posix)
            if path.is_file()
        },
        "source": {"given": artifact.origin.source, "sha256": artifact.origin.digest},
        "exporter": artifact.origin.exporter,
        "opset": opset,
        "minimum_onnxruntime": minimum_runtime(opset, artifact.model.ir_version),
        "signature": asdict(artifact.signature),
        "measured_at": dict(sizes),
        "steps": [
            {"pass": str(step.spec), "sites": len(step.sites), "left_out": len(step.left_out), "dropped": step.dropped}
            for step in artifact.steps
        ],
        "machine": asdict(machine),
    }
    (directory / MARK).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8", newline="\n")


def locate(path: Path) -> Located:
    """Find the model in an artifact directory, every digest checked, or take an ``.onnx`` file as it is.

    Raises SourceError for what is missing, is not a model, or is not what the manifest says.
    """
    if not path.exists():
        raise SourceError(f"the model {path} does not exist", "give an artifact directory or an .onnx file")
    if path.is_file():
        return Located(path)
    manifest = read_manifest(path)
    for mismatch in mismatches(path, manifest):
        if mismatch.what != EXTRA:
            raise SourceError(f"{path / mismatch.file} {mismatch.what}", "copy the whole directory, or compile again")
    return located(path, manifest)


def located(directory: Path, manifest: Manifest) -> Located:
    """Return the model of an artifact directory with the options that it ships with; no digest is checked."""
    path = directory / SESSION
    content = _json(path)
    try:
        options = {str(key): str(value) for key, value in content["session_options"].items()}
        target = Target(
            runtime=str(content.get("runtime", Target.runtime)),
            provider=str(content["provider"]),
            device=content.get("device"),
            threads=content.get("threads"),
            options=tuple(content.get("options", {}).items()),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise SourceError(f"{path} names no provider and session options", "compile the model again") from error
    return Located(directory / MODEL, options, manifest.signature, manifest.measured_at, target)


def read_manifest(directory: Path) -> Manifest:
    """Return what the manifest of an artifact directory says; its digests are not checked.

    Raises SourceError for a directory without one, and for one that cannot be read.
    """
    path = directory / MARK
    if not path.is_file():
        raise SourceError(
            f"{directory} is not an artifact: it has no {MARK}", "give a directory that mlc wrote, or an .onnx file"
        )
    content = _json(path)
    if content.get("schema") != SCHEMA:
        raise SourceError(f"{path} is of another version than this mlc reads ({SCHEMA})", "compile the model again")
    try:
        return _manifest(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SourceError(f"{path} is no manifest of mlc's: {error!r}", "compile the model again") from error


def mismatches(directory: Path, manifest: Manifest) -> Iterator[Mismatch]:
    """Yield every file that is missing, is not what was written, or that nobody wrote, in the order of their names."""
    there = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()} - {MARK}
    for name in sorted({*manifest.files, *there}):
        written, file = manifest.files.get(name), directory / name
        if written is None:
            yield Mismatch(name, EXTRA)
        elif name not in there:
            yield Mismatch(name, "is missing, the manifest lists it")
        elif file.stat().st_size != written.bytes or digest(file) != written.sha256:
            yield Mismatch(name, "is not what was written: its digest differs from the manifest's")


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise SourceError(f"{path} cannot be read: {error}", "compile the model again") from error
    if not isinstance(content, dict):
        raise SourceError(f"{path} holds no object", "compile the model again")
    return content


def _manifest(content: Mapping[str, Any]) -> Manifest:
    return Manifest(
        files={
            str(name): Written(str(entry["sha256"]), int(entry["bytes"])) for name, entry in content["files"].items()
        },
        source=str(content["source"]["given"]),
        digest=str(content["source"]["sha256"]),
        exporter=str(content["exporter"]),
        opset=int(content["opset"]),
        minimum_onnxruntime=str(content["minimum_onnxruntime"]),
        signature=_signature(content["signature"]),
        measured_at={str(name): int(size) for name, size in content.get("measured_at", {}).items()},
        steps=tuple(
            Done(str(step["pass"]), int(step["sites"]), int(step["left_out"]), str(step["dropped"]))
            for step in content["steps"]
        ),
        machine=Machine(**content["machine"]),
    )


def _signature(content: Mapping[str, Any]) -> Signature:
    return Signature(
        inputs=tuple(
            InputSpec(
                entry["name"],
                entry["dtype"],
                tuple(Dim(**{**dim, "terms": tuple(dim["terms"])}) for dim in entry["dims"]),
                tuple(entry["values"]) if entry["values"] else None,
                Ceiling(**entry["ceiling"]) if entry.get("ceiling") else None,
            )
            for entry in content["inputs"]
        ),
        outputs=tuple(OutputSpec(entry["name"], entry["dtype"], tuple(entry["dims"])) for entry in content["outputs"]),
    )
