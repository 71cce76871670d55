"""The emulated process of ``benchmarks.saturation``: runs files on the same inputs and keeps what they answer.

    qemu-x86_64 -cpu max python -m benchmarks.saturation_worker TARGET INPUTS.npz MODEL.onnx...

Beside each model its outputs are written as ``MODEL.npz``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from mlc.grammar.values import parse_target
from mlc.runtimes.opening import open_session

BATCH = 16


def main(target: str, inputs: Path, models: list[Path]) -> None:
    """Run every model over all samples on a target, as ``--target`` names it."""
    with np.load(inputs) as file:
        arrays = dict(file)
    count = len(next(iter(arrays.values())))
    for path in models:
        with open_session(path, parse_target(target)) as session:
            answers = [
                session.run({name: array[start : start + BATCH] for name, array in arrays.items()})
                for start in range(0, count, BATCH)
            ]
        outputs = {name: np.concatenate([one[name] for one in answers]) for name in answers[0]}
        np.savez(path.with_suffix(".npz"), **outputs)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), [Path(name) for name in sys.argv[3:]])
