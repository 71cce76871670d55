"""A directory of Hugging Face transformers: config.json and weights."""

from __future__ import annotations

from pathlib import Path

from mlc.sources.asked import Asked
from mlc.sources.huggingface.directory import MARKS, read_directory
from mlc.sources.original import Original


def opens(asked: Asked) -> bool:
    """Whether the source is a directory with a file that Hugging Face's libraries write."""
    return any(Path(asked.reference, mark).is_file() for mark in MARKS)


def load(asked: Asked) -> Original:
    """Load the directory's model as the class that its task or its architecture names. Uses no network."""
    directory = read_directory(Path(asked.reference), trust=asked.trust)
    from mlc.sources.huggingface.library import offline, transformers
    from mlc.sources.huggingface.loading import load_model
    from mlc.sources.huggingface.original import HuggingFaceOriginal

    library = transformers()
    with offline(library):
        model, notes = load_model(library, directory, asked.task, trust=asked.trust)
    return HuggingFaceOriginal(model, directory, asked.inputs, asked.example, source=asked.source, notes=notes)
