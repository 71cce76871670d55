"""What was asked of a source: what every door is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlc.grammar.places import split_weights
from mlc.types import InputSpec


@dataclass(frozen=True)
class Asked:
    """A source as it was written, ``reference@weights``, and all that decides how it is loaded.

    ``trust`` allows code from a model file to run. ``task`` is what a Hugging Face model is for, where its architecture
    does not say.
    """

    source: str
    inputs: tuple[InputSpec, ...] = ()
    example: Any = None
    trust: bool = False
    task: str | None = None

    @property
    def reference(self) -> str:
        """The model: what stands before the ``@``."""
        return split_weights(self.source)[0]

    @property
    def weights(self) -> str | None:
        """The weights file: what stands behind the ``@``; None without one."""
        return split_weights(self.source)[1]
