"""A program of torch.export into ONNX by torch.onnx: the one place where it is called, and why it failed."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import onnx_ir as ir
import torch

from mlc.errors import SourceError, foreign
from mlc.exporting.branches import nested_bodies
from mlc.exporting.complex_numbers import sizes_of_complex
from mlc.exporting.errors import translation_error
from mlc.exporting.exact import exact_numbers
from mlc.exporting.operators import translations
from mlc.exporting.opset import check_written
from mlc.exporting.raised import raise_bodies
from mlc.exporting.running import by_scans

EXPORTER = f"torch.onnx.export(dynamo=True) torch {torch.__version__.partition('+')[0]}"

NOISY = ("torch.onnx", "torch.export", "torch._export", "torch.fx", "onnxscript", "onnx_ir")
"""Loggers that speak of things which the user cannot change."""


def written(program: torch.export.ExportedProgram, opset: int) -> ir.Model:
    """Return what torch.onnx writes of a program, with the exporter's own names.

    Raises SourceError with the user's line where it cannot, or writes another opset than it was asked for. Gradients
    are off as they were for the trace: with them attention has other strides, which the traced views do not fit.
    """
    try:
        with (
            torch.no_grad(),
            quiet(),
            exact_numbers(),
            nested_bodies(),
            sizes_of_complex(),
            foreign("torch.onnx.export"),
        ):
            program = by_scans(program)
            exported = torch.onnx.export(
                program, (), dynamo=True, opset_version=opset, verbose=False, custom_translation_table=translations()
            )
    except SourceError as failed:
        raise translation_error(failed.__cause__ or failed, program, opset) from failed.__cause__
    assert exported is not None
    check_written(exported.model, opset)
    raise_bodies(exported.model)
    return exported.model


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporters' warnings and log lines: what matters of them is checked."""
    loggers = [*map(logging.getLogger, NOISY), *_with_levels()]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _with_levels() -> list[logging.Logger]:
    """Return the loggers below the noisy ones that have levels of their own; the others go by those above them."""
    known = logging.Logger.manager.loggerDict
    below = [known[name] for name in known if name.startswith(tuple(f"{top}." for top in NOISY))]
    return [logger for logger in below if isinstance(logger, logging.Logger) and logger.level]
