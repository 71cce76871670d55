"""What newcomers do wrong, done to a folder in which everything was right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from safetensors.numpy import load_file, save_file

from benchmarks.peers.tools import Tool, Typo

MINE = b"this is mine\n"
"""What stands where the output goes, and would be lost."""

Edit: TypeAlias = Callable[[Path, Tool], bool]
"""Makes the mistake; False where a tool has nothing that it could be made with."""


@dataclass(frozen=True)
class Mistake:
    """What is wrong, as a row of the table says it, and the word by which a tool that saw it would name it."""

    text: str
    make: Edit
    word: Callable[[Tool], str] = lambda _tool: ""


def _typo(typo: Typo | None, folder: Path) -> bool:
    if typo is None:
        return False
    path = folder / typo.file
    text = path.read_text(encoding="utf-8")
    assert typo.right in text, f"{typo.right} is not in {typo.file}"
    path.write_text(text.replace(typo.right, typo.wrong), encoding="utf-8")
    return True


def _option(folder: Path, tool: Tool) -> bool:
    return _typo(tool.option, folder)


def _node(folder: Path, tool: Tool) -> bool:
    return _typo(tool.node, folder)


def _without(name: str) -> Edit:
    def make(folder: Path, _tool: Tool) -> bool:
        (folder / name).unlink()
        return True

    return make


def _other_weights(folder: Path, _tool: Tool) -> bool:
    weights = load_file(folder / "weights.safetensors")
    weights["head.wieght"] = weights.pop("head.weight")
    save_file(weights, folder / "weights.safetensors")
    return True


def _calibration(change: Callable[[np.ndarray], np.ndarray], name: str = "image") -> Edit:
    """Return what calibrates with changed images, or under another name."""

    def make(folder: Path, _tool: Tool) -> bool:
        with np.load(folder / "calibration.npz") as data:
            images, labels = change(data["image"].copy()), data["labels"]
        np.savez(folder / "calibration.npz", **{name: images, "labels": labels[: len(images)]})
        return True

    return make


def _with_nan(images: np.ndarray) -> np.ndarray:
    images[7, 0, 14, 14] = np.nan
    return images


def _exists(folder: Path, tool: Tool) -> bool:
    """Leave a file of the user's where the model goes, and beside it where that is a folder of its own."""
    place = folder / tool.artifact
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(MINE)
    return True


def _blocked(folder: Path, tool: Tool) -> bool:
    """Put a file where a folder is to be made, or a folder where a file is to be written."""
    place = folder / tool.artifact
    if place.parent == folder:
        (place / "notes").mkdir(parents=True)
    else:
        place.parent.write_bytes(MINE)
    return True


MISTAKES = (
    Mistake("an option misspelt", _option, lambda tool: tool.option.word if tool.option else ""),
    Mistake("a node to keep float, misspelt", _node, lambda tool: tool.node.word if tool.node else ""),
    Mistake("no weights file", _without("weights.safetensors")),
    Mistake("weights with one name wrong", _other_weights),
    Mistake("no calibration file", _without("calibration.npz")),
    Mistake("no image in the calibration file", _calibration(lambda images: images[:0])),
    Mistake("NaN in one calibration image", _calibration(_with_nan), lambda _tool: "NaN"),
    Mistake(
        "calibration images of another size",
        _calibration(lambda images: np.pad(images, [(0, 0), (0, 0), (2, 2), (2, 2)])),
    ),
    Mistake("calibration images under another name", _calibration(lambda images: images, "images")),
    Mistake("calibration images all zero", _calibration(np.zeros_like)),
    Mistake("a file of the user's where the model goes", _exists),
    Mistake("the place of the output taken", _blocked),
)
"""In the order of the table."""
