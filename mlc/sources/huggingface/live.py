"""A module that holds models of transformers, made by the user's own code."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, ClassVar

from torch import nn

from mlc.sources.silence import silent
from mlc.sources.torch.module import TorchOriginal

if TYPE_CHECKING:
    import numpy as np

    from mlc.types import Arrays


class TransformersOriginal(TorchOriginal):
    """A module of transformers, or one that has such parts: its exporter knows their attention and their experts."""

    exporter: ClassVar[str] = "huggingface"

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Run the module once, as any torch module, without what the library says while it runs."""
        with silent():
            return super().run(inputs)


def holds_transformers(module: nn.Module) -> bool:
    """Whether a module or a part of it is a model of transformers, which is not imported for that."""
    library = sys.modules.get("transformers")
    return library is not None and any(isinstance(part, library.PreTrainedModel) for part in module.modules())
