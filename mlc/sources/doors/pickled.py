"""A file of torch.save or torch.jit.save that stands alone: a pickled module, TorchScript, or only weights."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlc.errors import SourceError, UsageError, foreign, kind_of
from mlc.grammar.places import names_function
from mlc.references import beside
from mlc.sources.asked import Asked
from mlc.sources.contents import TRUST, Contents, Kind, look
from mlc.sources.original import Original

if TYPE_CHECKING:
    from torch import nn

ENDINGS = (".pt", ".pth", ".bin", ".torchscript")


def opens(asked: Asked) -> bool:
    """Whether the source is written as a file of torch.save or torch.jit.save."""
    return not names_function(asked.reference) and asked.reference.lower().endswith(ENDINGS)


def load(asked: Asked) -> Original:
    """Return the module in the file as an Original; weights alone are none.

    Raises UsageError without trust. A pickle runs whatever was put into it. A TorchScript archive runs no Python, but
    it is a program: torch.jit.load calls the ``__setstate__`` of its classes, which may call operators that open, make
    and overwrite files (torch.from_file with shared=True), and torch itself warns of made-up archives.
    """
    path = Path(asked.reference)
    if asked.weights is not None:
        raise UsageError(f"a {path.suffix} file has its own weights", f"write {path}, or file.py:function@{path}")
    contents = look(path)
    _refuse_others(path, contents, trust=asked.trust)
    from mlc.sources.live import original_of

    model, notes = (_script(path), ()) if contents.kind is Kind.TORCHSCRIPT else _module(path, contents)
    return original_of(model, asked.inputs, asked.example, source=asked.source, code=path, notes=notes)


def _refuse_others(path: Path, contents: Contents, *, trust: bool) -> None:
    """Raise for what holds no module, or one that must not be loaded without trust."""
    if contents.kind is Kind.PROGRAM:
        raise SourceError(f"{path} is {contents}", f"name it {path.with_suffix('.pt2')}")
    if contents.kind in {Kind.COMPILED, Kind.TENSOR, Kind.VALUE}:
        raise SourceError(f"{path} holds {contents}, not a module", "give a model: file.py:function")
    if trust:
        return
    if contents.kind is Kind.DICT:
        raise UsageError(
            f"{path} holds a dict, as weights and checkpoints do, not a module by itself",
            f"write file.py:function@{path} with the function that makes it; a pickled module inside needs --trust",
        )
    danger = "unpickling it can run any" if contents.kind is Kind.OBJECT else "loading it runs its"
    files = "" if contents.kind is Kind.OBJECT else ", which can write files"
    raise UsageError(f"{path} is {contents}: {danger} code{files}", TRUST)


def _script(path: Path) -> nn.Module:
    import torch

    hint = "write it again, with the torch that is installed here"
    with foreign(f"torch.jit.load of {path}", hint=hint), warnings.catch_warnings(), redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        module: nn.Module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    return module


def _module(path: Path, contents: Contents) -> tuple[nn.Module, tuple[str, ...]]:
    """Unpickle a module, which runs code; the working directory is where its classes are looked for too."""
    import torch

    with foreign(f"unpickling {path}"), beside(Path.cwd(), forget=False), redirect_stdout(sys.stderr):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = torch.load(path, map_location="cpu", weights_only=False)
        except (ModuleNotFoundError, AttributeError) as missing:
            raise _not_importable(path, contents, missing) from missing
    if isinstance(found, torch.nn.Module):
        return found, ()
    return _only_module(path, found)


def _not_importable(path: Path, contents: Contents, missing: ModuleNotFoundError | AttributeError) -> SourceError:
    """Return what a class that is not where the pickle says means."""
    holds = f" ({contents.pickled})" if contents.pickled else ""
    if contents.pickled.startswith("__main__."):
        return SourceError(
            f"the class of {path}{holds} was defined in a script that was run, where nothing can import it",
            "move it to a module of its own and save again, or save its state dict for file.py:function@weights.pt",
        )
    if isinstance(missing, ModuleNotFoundError):
        return SourceError(
            f"{path}{holds} needs the module {missing.name!r}, which cannot be imported",
            "run from the folder that has it, or install it",
        )
    return SourceError(
        f"{path}{holds} needs what its modules no longer have: {missing}",
        "run from the folder that has the classes as they were, or save the state dict",
    )


def _only_module(path: Path, found: Any) -> tuple[nn.Module, tuple[str, ...]]:
    """Return the one module in a checkpoint."""
    from torch import nn

    if not isinstance(found, Mapping):
        raise SourceError(f"{path} holds {kind_of(found)}, not a module", "save the module, or its state dict")
    inside = [key for key, value in found.items() if isinstance(value, nn.Module)]
    if len(inside) == 1:
        return found[inside[0]], (f"the module is the one under {inside[0]!r} in {path.name}",)
    what = f"{len(inside)} modules: {', '.join(map(str, inside))}" if inside else "no module, only weights"
    hint = "save the one that is meant" if inside else f"write file.py:function@{path}"
    raise SourceError(f"{path} holds {what}", hint)
