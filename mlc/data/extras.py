"""Packages that only some data need."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from mlc.errors import DataError


def needed(module: str, extra: str, what: str) -> Any:
    """Import a package of an extra. Raises DataError that names the extra where it is not installed."""
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0].replace("PIL", "Pillow")
        hint = f"pip install 'mlc-toolchain[{extra}]'"
        raise DataError(f"{what} need the package {package}, which cannot be imported: {error}", hint) from error
