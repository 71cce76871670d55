"""Write calibration.npz and evaluation.npz beside this file: ``python sample_models/linear/data.py``."""

from pathlib import Path

import numpy as np
import torch
from model import model
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
CALIBRATION_ROWS, EVALUATION_ROWS = 32, 48
# In 1/256, both ends included. Their difference is odd, so no input lies halfway between two of the 255 steps that the
# range is cut into: an input's code does not hang on how a tie, or the last bit of a quotient, is rounded.
LOWEST, HIGHEST = -517, 830
# Chosen so that no int8 output lies within 1/1000 of a tie between two codes either.
SEED = 7


def draw(generator: np.random.Generator, rows: int) -> NDArray[np.float32]:
    """Uniform inputs in steps of 1/256: float32 [rows, 6]."""
    steps = generator.integers(LOWEST, HIGHEST, size=(rows, 6), endpoint=True)
    return (steps / 256).astype(np.float32)


def main() -> None:
    """Draw both sets, calibration with both ends of the range in it, and let the layer answer the evaluation rows."""
    generator = np.random.default_rng(SEED)
    calibration = draw(generator, CALIBRATION_ROWS)
    calibration[0, :2] = LOWEST / 256, HIGHEST / 256
    evaluation = draw(generator, EVALUATION_ROWS)
    layer, _ = model()
    with torch.inference_mode():
        targets = layer(torch.from_numpy(evaluation)).numpy()
    np.savez_compressed(HERE / "calibration.npz", x=calibration)
    np.savez_compressed(HERE / "evaluation.npz", x=evaluation, targets=targets)


if __name__ == "__main__":
    main()
