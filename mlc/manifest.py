"""What lies in an artifact directory, with digests: written last, checked first."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mlc.artifact import Artifact
from mlc.directory import MARK
from mlc.errors import SourceError
from mlc.types import Dim, InputSpec, Machine, OutputSpec, Signature, Sizes

SCHEMA = 1

MINIMUM_RUNTIME = {17: "1.12", 18: "1.14", 19: "1.15", 20: "1.17", 21: "1.18", 22: "1.21", 23: "1.23"}
"""The first onnxruntime release that implements an opset (its published table of versions)."""


@dataclass(frozen=True)
class Located:
    """A model file to load, the session options it ships with, and its signature where a manifest has one.

    ``sizes`` are those at which its latency was measured; empty where nothing says so.
    """

    path: Path
    session_options: Mapping[str, str] = field(default_factory=dict)
    signature: Signature | None = None
    sizes: Sizes = field(default_factory=dict)


def digest(path: Path) -> str:
    """Return the sha256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def minimum_runtime(opset: int) -> str:
    """Return the lowest onnxruntime version that runs a model of this opset."""
    return next((version for known, version in MINIMUM_RUNTIME.items() if opset <= known), "a newer one")


def write_manifest(directory: Path, artifact: Artifact, machine: Machine, sizes: Sizes) -> None:
    """Describe everything that lies in ``directory``; the last file to be written.

    ``sizes`` are those of the named dims at which it was measured.
    """
    opset = artifact.model.opset_imports.get("", artifact.origin.opset)
    content = {
        "schema": SCHEMA,
        "files": {
            path.relative_to(directory).as_posix(): {"sha256": digest(path), "bytes": path.stat().st_size}
            for path in sorted(directory.rglob("*"))
            if path.is_file()
        },
        "source": {"given": artifact.origin.source, "sha256": artifact.origin.digest},
        "exporter": artifact.origin.exporter,
        "opset": opset,
        "minimum_onnxruntime": minimum_runtime(opset),
        "signature": asdict(artifact.signature),
        "measured_at": dict(sizes),
        "steps": [
            {"pass": str(step.spec), "sites": len(step.sites), "left_out": len(step.left_out), "dropped": step.dropped}
            for step in artifact.steps
        ],
        "machine": asdict(machine),
    }
    (directory / MARK).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def locate(path: Path) -> Located:
    """Find the model in an artifact directory, every digest checked, or take an ``.onnx`` file as it is.

    Raises SourceError for what is missing, is not a model, or is not what the manifest says.
    """
    if not path.exists():
        raise SourceError(f"the model {path} does not exist", "give an artifact directory or an .onnx file")
    if path.is_file():
        return Located(path)
    if not (path / MARK).is_file():
        raise SourceError(
            f"{path} is not an artifact: it has no {MARK}", "give a directory that mlc wrote, or an .onnx file"
        )
    content = _read(path / MARK)
    _check_files(path, content["files"])
    options = json.loads((path / "session.json").read_text(encoding="utf-8"))
    return Located(
        path / "model.onnx",
        options["session_options"],
        _signature(content["signature"]),
        content.get("measured_at", {}),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise SourceError(f"{path} cannot be read: {error}", "compile the model again") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise SourceError(f"{path} is of another version than this mlc reads ({SCHEMA})", "compile the model again")
    return content


def _check_files(directory: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    for name, entry in files.items():
        file = directory / name
        if not file.is_file():
            raise SourceError(f"{file} is missing, the manifest lists it", "copy the whole directory, or compile again")
        if file.stat().st_size != entry["bytes"] or digest(file) != entry["sha256"]:
            raise SourceError(
                f"{file} is not what was written: its digest differs from the manifest's", "compile again"
            )


def _signature(content: Mapping[str, Any]) -> Signature:
    return Signature(
        inputs=tuple(
            InputSpec(
                entry["name"],
                entry["dtype"],
                tuple(Dim(**{**dim, "terms": tuple(dim["terms"])}) for dim in entry["dims"]),
                tuple(entry["values"]) if entry["values"] else None,
            )
            for entry in content["inputs"]
        ),
        outputs=tuple(OutputSpec(entry["name"], entry["dtype"], tuple(entry["dims"])) for entry in content["outputs"]),
    )
