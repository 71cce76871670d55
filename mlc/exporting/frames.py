"""The line of code to point at: the user's own, else that of the library which the model comes from."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import Path

from mlc.installed import package_of

TRACERS = frozenset({"torch", "onnxscript", "onnx_ir"})
"""Packages that a trace runs through: a line of theirs tells a user nothing."""

MODES = frozenset({
    "adaptive.py", "asked.py", "attention.py", "bags.py", "branches.py", "covariances.py", "distances.py", "elman.py",
    "experts.py", "fourier.py", "grids.py", "known.py", "multi_head.py", "packed.py", "pooling.py", "projected.py",
    "rearranging.py", "roots.py", "settled.py", "sizes_in_tensors.py", "spectrograms.py", "windows.py",
})  # fmt: skip
"""Files of ours through which torch's functions are called while a module is traced, below the user's line."""

INSIDE_VMAP = ", inside torch.vmap"
"""Said of a line whose call torch.vmap writes anew, for a whole batch: it may be that which fixes a size."""

VMAP = "torch/_functorch/vmap.py"


def user_frame(frames: Sequence[tuple[str, int, str, str]]) -> str:
    """Return ``model.py:12 in forward: `the line` `` for the innermost frame of the user's own code, or nothing.

    Where there is none, that of the innermost other package stands for it: the model is that package's. Frames above
    our own are those of who called us.
    """
    ours, standard = Path(__file__).parents[1], Path(traceback.__file__).parent
    inside = INSIDE_VMAP if any(Path(file).as_posix().endswith(VMAP) for file, *_ in frames) else ""
    library = ""
    for file, number, function, line in reversed(frames):
        path = Path(file)
        if Path(__file__).parent in path.parents and path.name in MODES:
            continue
        if ours in path.parents:
            break
        text = f": `{line.strip()}`" if line.strip() else ""
        place = f"{path.name}:{number} in {function}{text}{inside}"
        package = package_of(path)
        if package is None and standard not in path.parents and path.is_file():
            return place
        if package is not None and package not in TRACERS:
            library = library or place
    return library


def raised_at(raised: BaseException) -> str:
    """Return the line of code to point at of those that an exception went through, or nothing."""
    frames = [(f.filename, f.lineno or 0, f.name, f.line or "") for f in traceback.extract_tb(raised.__traceback__)]
    return user_frame(frames)
