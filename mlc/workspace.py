"""A private folder for one run: weights laid out once, read-only, and graph files that point at them.

Weights are never serialized to verify or measure a graph: a graph file is some kilobytes, the session maps the rest.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import shutil
import sys
import tempfile
import weakref
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
import onnx_ir as ir

from mlc.errors import OutputError

SMALL = 1024
"""Initializers below this many bytes stay in the graph file, where shape inference can read shapes and axes."""

ALIGNMENT = 4096
"""Offsets are multiples of a page, so that each weight can be mapped."""


class Workspace:
    """A temporary folder, removed at the end of the ``with`` block."""

    def __init__(self, parent: Path | None = None) -> None:
        try:
            self.path = Path(tempfile.mkdtemp(prefix="mlc-", dir=parent))
        except OSError as error:
            raise OutputError(f"no temporary folder could be made: {error.strerror}", "set TMPDIR") from error
        self._numbers = itertools.count()
        self._held: list[weakref.ref[ir.ExternalTensor]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        if sys.platform == "win32":
            gc.collect()
            self.unmap()
        shutil.rmtree(self.path, ignore_errors=True)

    def unmap(self) -> None:
        """Let go of the weights that models still map; each is mapped again when it is read.

        What was read stays in this process's memory otherwise, beside what a session maps; and Windows deletes no file
        that is mapped.
        """
        alive = [(held, tensor) for held in self._held if (tensor := held()) is not None]
        self._held = [held for held, _ in alive]
        for _, tensor in alive:
            with contextlib.suppress(BufferError):  # an array of it is in use
                tensor.release()

    def hold(self, model: ir.Model) -> None:
        """Write out every large initializer of a model and put a read-only, memory-mapped tensor in its place.

        An edit in place raises from then on, instead of spoiling the original and the torch module that share
        the memory.
        Tensors already held are left as they are; a tensor shared by several initializers is written once. Small ones
        that lie beside another file are read: they stay in the graph file.
        """
        path = self.path / f"weights-{next(self._numbers)}.bin"
        written: dict[int, tuple[int, int]] = {}
        try:
            with path.open("wb") as file:
                for value in initializers(model):
                    tensor = value.const_value
                    if tensor is None or self._stays(tensor):
                        continue
                    if tensor.nbytes < SMALL:
                        value.const_value = ir.Tensor(np.array(tensor.numpy()), dtype=tensor.dtype, name=tensor.name)
                        continue
                    if id(tensor) not in written:
                        written[id(tensor)] = _append(file, tensor)
                    offset, length = written[id(tensor)]
                    held = ir.ExternalTensor(
                        path.name, offset, length, tensor.dtype,
                        shape=ir.Shape(tensor.shape.numpy()), name=value.name or "", base_dir=self.path,
                    )  # fmt: skip
                    value.const_value = held
                    self._held.append(weakref.ref(held))
        except OSError as error:
            raise OutputError(f"the weights could not be written to {self.path}: {error.strerror}") from error

    def _stays(self, tensor: ir.TensorProtocol) -> bool:
        if isinstance(tensor, ir.ExternalTensor):
            return Path(tensor.base_dir) == self.path
        return tensor.nbytes < SMALL or tensor.dtype == ir.DataType.STRING

    def save(self, model: ir.Model, name: str = "graph") -> Path:
        """Write a graph file that a session can load; weights not yet held are held first."""
        self.hold(model)
        path = self.path / f"{name}-{next(self._numbers)}.onnx"
        try:
            ir.save(model, path)
        except OSError as error:
            raise OutputError(f"a graph could not be written to {self.path}: {error.strerror}") from error
        return path

    def folder(self, name: str) -> Path:
        """Make and return a new folder of its own."""
        path = self.path / f"{name}-{next(self._numbers)}"
        path.mkdir()
        return path


def initializers(model: ir.Model) -> list[ir.Value]:
    """Return the initializers of a model and all its subgraphs."""
    return [value for graph in model.graphs() for value in graph.initializers.values()]


def _append(file: BinaryIO, tensor: ir.TensorProtocol) -> tuple[int, int]:
    """Write one tensor at the next aligned offset; return offset and length in bytes."""
    offset = -(-file.tell() // ALIGNMENT) * ALIGNMENT
    file.seek(offset)
    data = tensor.tobytes()
    file.write(data)
    return offset, len(data)
