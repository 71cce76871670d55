"""Functions of transformers with a loop over the sequence, replaced in a trace by what has the loop as an operator."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from types import ModuleType
from typing import Any

from torch import nn

from mlc.exporting.recurrences.delta_rule import gated_delta_rule
from mlc.exporting.recurrences.linear import linear_recurrence
from mlc.exporting.recurrences.matrix_memory import matrix_memory
from mlc.exporting.recurrences.state_space import selective_scan
from mlc.exporting.recurrences.weighted_keys import weighted_keys

MODELS = "transformers.models."
"""Where the functions come from: one of the same name elsewhere may compute something else."""

ROLLED: Mapping[str, Callable[..., Any]] = {
    "torch_chunk_gated_delta_rule": gated_delta_rule,
    "chunk_kimi_delta_attention": gated_delta_rule,
    "mamba_selective_scan": selective_scan,
    "rwkv_linear_attention": weighted_keys,
    "xLSTMBackend.forward": matrix_memory,
    "RecurrentGemmaRglru._rnn_scan": linear_recurrence,
}
"""By the name in their file what computes the same; that it does is seen where the export is compared."""


@contextmanager
def rolled(module: nn.Module) -> Iterator[set[str]]:
    """Replace them inside the block in the files that the module's parts come from; yields which of them are called."""
    called: set[str] = set()
    kinds = {kind.__module__ for part in module.modules() for kind in type(part).__mro__}
    own = []
    for file in sorted(kind for kind in kinds if kind.startswith(MODELS)):
        for name, replacement in ROLLED.items():
            holder, attribute = _place(sys.modules[file], name)
            found = vars(holder).get(attribute)
            own_here = getattr(found, "__module__", "") == file  # not one that is imported there
            if own_here and _takes_as_much(replacement, found):
                own.append((holder, attribute, found))
                told = f"{name} of {file.removeprefix(MODELS).partition('.')[0]}"
                setattr(holder, attribute, _noting(replacement, told, called))
    try:
        yield called
    finally:
        for holder, attribute, function in own:
            setattr(holder, attribute, function)


def _place(file: ModuleType, name: str) -> tuple[Any, str]:
    """Return what holds a function, a file or a class in it, and as what; the file where it has no such class."""
    kind, _, method = name.partition(".")
    return (vars(file)[kind], method) if method and kind in vars(file) else (file, name)


def _takes_as_much(replacement: Callable[..., Any], own: Any) -> bool:
    """Whether a replacement knows by name all that a function takes by name: an option of a newer release may be new.

    What the function itself takes by ``**kwargs`` it does not read.
    """
    ours, theirs = (_names(function) for function in (replacement, own))
    return len(ours) >= len(theirs) and all(one in {other, "self"} for one, other in zip(theirs, ours, strict=False))


def _names(function: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]


def rolled_note(called: set[str]) -> tuple[str, ...]:
    """Return a note where functions were replaced."""
    names = " and ".join(sorted(called))
    return (f"traced with a loop of the graph in the place of {names}, which torch.export unrolls",) if called else ()


def _noting(replacement: Callable[..., Any], told: str, called: set[str]) -> Callable[..., Any]:
    @wraps(replacement)
    def noted(*args: Any, **kwargs: Any) -> Any:
        called.add(told)
        return replacement(*args, **kwargs)

    return noted
