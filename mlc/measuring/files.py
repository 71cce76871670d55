"""The size of a written model."""

from __future__ import annotations

from pathlib import Path

from mlc.errors import SourceError, foreign


def file_bytes(path: Path) -> int:
    """Return the bytes of a model file and of the external data files that it names.

    Raises SourceError for a file that is missing or no model.
    """
    import onnx_ir as ir

    if not path.is_file():
        raise SourceError(f"there is no model file {path}", "check the path")
    with foreign(f"reading {path}", SourceError, "the file is corrupt or not an ONNX model"):
        model = ir.load(path)
    tensors = [value.const_value for graph in model.graphs() for value in graph.initializers.values()]
    beside = {Path(tensor.path) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}
    for file in beside:
        if not file.is_file():
            raise SourceError(f"{path.name} needs {file.name} beside it, and it is missing", "copy both files together")
    return path.stat().st_size + sum(file.stat().st_size for file in beside)
