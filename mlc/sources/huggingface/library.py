"""The library transformers: imported where it is installed, silent, and cut off from the network while it works."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from mlc.errors import SourceError
from mlc.sources.silence import silent

INSTALL = "pip install 'mlc-toolchain[hf]'"


def transformers() -> Any:
    """Return the module transformers. Raises SourceError where it is not installed."""
    try:
        with silent():
            return import_module("transformers")
    except ImportError as missing:
        raise SourceError(
            f"a Hugging Face directory needs the package transformers, which cannot be imported: {missing}", INSTALL
        ) from missing


@contextmanager
def offline(library: Any) -> Iterator[None]:
    """Let transformers work without a network, without a progress bar and without a word inside the block."""
    constants: Any = import_module("huggingface_hub.constants")
    was_offline, had_bar = constants.HF_HUB_OFFLINE, library.logging.is_progress_bar_enabled()
    constants.HF_HUB_OFFLINE = True
    library.logging.disable_progress_bar()
    try:
        with silent():
            yield
    finally:
        constants.HF_HUB_OFFLINE = was_offline
        if had_bar:
            library.logging.enable_progress_bar()
