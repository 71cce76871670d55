"""A ``.pt2`` file: a program that torch.export.save wrote."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from mlc.errors import SourceError, UsageError, first_line, foreign
from mlc.sources.asked import Asked
from mlc.sources.contents import TRUST, Kind, look
from mlc.sources.original import Original

if TYPE_CHECKING:
    from torch.export import ExportedProgram

NAME = "model"
"""What torch.export.save calls the one program that it writes."""

UNKNOWN = re.compile(r"resolve torch\.ops\.(\w+\.\w+)\S* to an operator")
"""How torch says that it does not know an operator."""


def opens(asked: Asked) -> bool:
    """Whether the source is written as a .pt2 file."""
    return asked.reference.lower().endswith(".pt2")


def load(asked: Asked) -> Original:
    """Return the program as an Original. Raises UsageError without trust: torch.export.load unpickles parts of a file.

    What was pickled into such a file, as one of its example inputs or weights, really runs when it is loaded.
    """
    path = Path(asked.reference)
    if asked.weights is not None:
        raise UsageError("a .pt2 file has its own weights", f"write {asked.reference}")
    contents = look(path)
    if contents.kind is not Kind.PROGRAM:
        raise SourceError(f"{path} is {contents}, not a program of torch.export", "name it by what it is, such as .pt")
    if NAME not in contents.programs:
        raise SourceError(
            f"{path} holds the programs {', '.join(contents.programs)}, and none called {NAME}",
            "write the one that is meant by itself, with torch.export.save",
        )
    if not asked.trust:
        raise UsageError(f"{path} is {contents}: loading it unpickles parts of it, which can run any code", TRUST)
    from mlc.sources.torch.program import ProgramOriginal

    return ProgramOriginal(read(path), asked.inputs, asked.example, source=asked.source, code=path)


def read(path: Path) -> ExportedProgram:
    """Load a program, which runs code that the file holds. Raises SourceError where torch cannot."""
    import torch

    told = _Told()
    try:
        with foreign("torch.export.load"), told.listening(), redirect_stdout(sys.stderr):
            return torch.export.load(path)
    except SourceError as failed:
        reason = _innermost(told.raised or failed.__cause__ or failed)
        operator = UNKNOWN.search(str(reason))
        if operator:
            raise SourceError(
                f"{path} calls the operator {operator[1]}, which is not registered here",
                "write file.py:function, import the operator's package there and return torch.export.load(...)",
            ) from failed
        raise SourceError(
            f"torch cannot load {path}: {type(reason).__name__}: {first_line(reason)}",
            "copy it again, or export the model again with the torch that is installed here",
        ) from failed


def _innermost(raised: BaseException) -> BaseException:
    while raised.__cause__ is not None:
        raised = raised.__cause__
    return raised


class _Told(logging.Handler):
    """Listens to torch, which logs what went wrong and then raises something else."""

    def __init__(self) -> None:
        super().__init__()
        self.raised: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Note the exception of a record."""
        self.raised = record.exc_info[1] if record.exc_info else self.raised

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the place of torch's own handlers, and silence its warnings, inside the block."""
        logger = logging.getLogger("torch.export")
        handlers, propagate = logger.handlers, logger.propagate
        logger.handlers, logger.propagate = [self], False
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            logger.handlers, logger.propagate = handlers, propagate
