"""The user's own model, kept to the end: export, passes and the final file are all compared with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from mlc.types import Signature

if TYPE_CHECKING:
    import numpy as np

    from mlc.types import Arrays


class Original(ABC):
    """A session over the user's own model.

    ``source`` is what was asked, ``digest`` names the state (sha256 of weights and code or file), ``example`` holds an
    example of every input by name, ``shown`` those that the user gave, ``notes`` what the user should know (eval mode
    set, prefix stripped). ``exporter`` names the module of mlc.exporting that turns it into ONNX, ``eager`` is what a
    run of the model itself is called in the report: nothing where it is ONNX already.
    """

    exporter: ClassVar[str]
    eager: ClassVar[str] = ""
    source: str
    digest: str
    signature: Signature
    example: Arrays
    shown: Arrays
    notes: tuple[str, ...]

    @abstractmethod
    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Run the user's model once: arrays by input name to arrays by output name, in the signature's order."""
