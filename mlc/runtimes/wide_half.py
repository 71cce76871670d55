"""Which kernels of a GPU compute float16 in float32 within: run on what float16 would lose, not believed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import onnx

from mlc.errors import TargetError
from mlc.runtimes.kernels import is_gpu, small_session
from mlc.types import Target

if TYPE_CHECKING:
    from mlc.types import Array

MODEL = """<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1]>
wide (float[{shape}] x, float[{channels}] ones) => (float[{axes}] y) {{
  h = Cast<to = 10>(x)
  w = Cast<to = 10>(ones)
  z = {call}
  y = Cast<to = 1>(z)
}}"""

FAR = np.tile(np.array([300, -300], np.float32), 32)
"""Values whose squares, 90,000, are more than float16 holds; divided by their spread they are 1 and -1."""

MANY = 70_000
"""So many ones have a sum that is more than float16 holds."""

LARGE = 2_000
"""Sixty-four of it have such a sum too."""

CLOSE = 0.01
"""How near to the right answer, over its size, a kernel comes that rounds only what it gives."""


@dataclass(frozen=True)
class Trial:
    """One operator on h, float16 [rows, ..., 64], and w, float16 ones by channel, and what it should give."""

    call: str
    given: Array
    expected: Array | float
    opset: int = 20

    @property
    def text(self) -> str:
        """The model, from float32 to float32."""
        shape = self.given.shape
        return MODEL.format(
            opset=self.opset, shape=", ".join(map(str, shape)), channels=len(self.feeds["ones"]),
            axes=", ".join("abc"[: len(shape)]), call=self.call,
        )  # fmt: skip

    @property
    def feeds(self) -> dict[str, Array]:
        """Its inputs, float32."""
        channels = self.given.shape[1] if "w, w" in self.call else self.given.shape[-1]
        return {"x": self.given.astype(np.float32), "ones": np.ones(channels, np.float32)}


_ROWS, _CHANNELS, _SIGN = np.tile(FAR, (2, 1)), np.tile(FAR, (2, 3, 1)), np.sign(FAR)

TRIALS = {
    "Softmax": Trial("Softmax(h)", np.zeros((1, MANY)), 1 / MANY),
    "LogSoftmax": Trial("LogSoftmax(h)", np.zeros((1, MANY)), -np.log(MANY)),
    "ReduceMean": Trial("ReduceMean(h)", np.full((2, 64), LARGE), LARGE),
    "LayerNormalization": Trial("LayerNormalization(h, w)", _ROWS, _SIGN),
    "RMSNormalization": Trial("RMSNormalization(h, w)", _ROWS, _SIGN, 23),
    "InstanceNormalization": Trial("InstanceNormalization(h, w, w)", _CHANNELS, _SIGN + 1),
    "SkipLayerNormalization": Trial("com.microsoft.SkipLayerNormalization(h, h, w)", _ROWS[None] / 2, _SIGN),
    "SkipSimplifiedLayerNormalization": Trial(
        "com.microsoft.SkipSimplifiedLayerNormalization(h, h, w)", _ROWS[None] / 2, _SIGN
    ),
}
"""By operator: normalizations, and sums whose result float16 holds where the sum itself is too large for it."""


@cache
def wide_half(target: Target) -> tuple[str, ...]:
    """Return the operators whose float16 kernels on a target give what only steps in float32 can.

    Nothing is said of what computes on the CPU, where float16 is converted on both sides of every operator. A session
    costs time: asked once in a process.
    """
    return tuple(op for op, trial in TRIALS.items() if _is_wide(op, trial, target)) if is_gpu(target) else ()


def _is_wide(op: str, trial: Trial, target: Target) -> bool:
    try:
        with small_session(onnx.parser.parse_model(trial.text), target) as session:
            ran = [node for node in session.assignment() if node.op == op]
            if not ran or any(node.provider != session.provider for node in ran):
                return False
            given = session.run(trial.feeds)["y"]
    except TargetError:
        return False
    return bool(np.all(np.abs(given - trial.expected) <= CLOSE * np.max(np.abs(trial.expected))))
