"""What a reader of a page types, in this process: a page's commands and its Python, one after another."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mlc.cli import main

SAMPLES = Path(__file__).parents[1] / "sample_models"
ENOUGH = 1000
"""Samples to be judged by that a page's commands need; the first, and with the answers that go with them."""


def lay_out_samples(place: Path) -> None:
    """Copy the sample models to where a reader's commands find them, with fewer samples to be judged by."""
    shutil.copytree(SAMPLES, place / "sample_models", ignore=shutil.ignore_patterns("__pycache__"))
    for path in place.glob("sample_models/*/evaluation.npz"):
        with np.load(path) as file:
            arrays = {name: file[name][:ENOUGH] for name in file.files}
        np.savez(path, **arrays)


def run_python(text: str) -> None:
    """Run a block of Python as a program of its own."""
    exec(compile(text, "page", "exec", dont_inherit=True), {"__name__": "__main__"})  # noqa: S102 - our own page


@contextmanager
def as_in_a_process_of_its_own() -> Iterator[None]:
    """Forget the reader's files that are imported meanwhile, so that a later command knows nothing of them."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file is not None and Path(file).absolute().is_relative_to(Path.cwd()):
            del sys.modules[name]


def run_console(text: str, capsys) -> int:
    """Run each line of a block, which has to succeed; return how many there were."""
    lines = [line for line in text.splitlines() if line]
    for line in lines:
        program, *arguments = shlex.split(line)
        with as_in_a_process_of_its_own():
            code = main(arguments)
        told = capsys.readouterr()
        expected = {0, 1} if "--gate" in arguments else {0}  # a gate may find that this machine was slower now
        assert program == "mlc"
        assert code in expected, f"{line}\n{told.out}\n{told.err}"
    return len(lines)
