"""Which class of transformers a directory is loaded as: the one that it was saved from, or the one for a task."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Any

from mlc.errors import SourceError, UsageError
from mlc.grammar import nearest
from mlc.sources.huggingface.directory import Directory

AUTO = "AutoModelFor"

SEQUENCE_TO_SEQUENCE = ("text2text-generation", "summarization", "translation")
"""Tasks for which transformers has models and, from version 5 on, no pipeline any more."""


def model_class(library: Any, directory: Directory, config: Any, task: str | None) -> Any:
    """Return the class to load, whose ``from_pretrained`` reads the directory.

    Raises SourceError where nothing says which it is, UsageError for a task that is unknown or not this model's.
    """
    if task is not None:
        return _for_task(library, directory, config, task)
    if directory.code:
        return _own(library, directory)
    named = [getattr(library, name, None) for name in directory.architectures]
    known = [each for each in named if isinstance(each, type) and issubclass(each, library.PreTrainedModel)]
    if known:
        return known[0]
    missing = " or ".join(directory.architectures)
    raise SourceError(
        f"transformers {library.__version__} has no {missing}, which config.json of {directory.path} names"
        if missing
        else f"config.json of {directory.path} does not say which architecture it is",
        f"say what it is for with --task TASK; there is: {tasks_of(library, config)}",
    )


def known_tasks(library: Any) -> dict[str, tuple[Any, ...]]:
    """Return the automatic classes for each task: as the pipelines name them, and as the classes themselves do."""
    pipelines = import_module("transformers.pipelines")
    tasks = {name: tuple(task["pt"]) for name, task in pipelines.SUPPORTED_TASKS.items()}
    for name in dir(library):
        if name.startswith(AUTO):
            tasks.setdefault(_words(name.removeprefix(AUTO)), (getattr(library, name),))
    for name in SEQUENCE_TO_SEQUENCE:
        tasks.setdefault(name, (library.AutoModelForSeq2SeqLM,))
    for name, other in pipelines.TASK_ALIASES.items():
        tasks.setdefault(name, tasks[other])
    return tasks


def tasks_of(library: Any, config: Any) -> str:
    """Return the tasks for which transformers has a class for a kind of model, one name for each class."""
    found: dict[Any, str] = {}
    for name, autos in known_tasks(library).items():
        for each in _classes(autos, config):
            found.setdefault(each, name)
    return ", ".join(dict.fromkeys(found.values())) or "none"


def _for_task(library: Any, directory: Directory, config: Any, task: str) -> Any:
    tasks = known_tasks(library)
    if task not in tasks:
        raise UsageError(f"transformers has no task {task!r}", nearest(task, tasks))
    own = next((auto for auto in tasks[task] if auto.__name__ in directory.code), None)
    found = list(_classes(tasks[task], config))
    if own is None and not found:
        raise UsageError(
            f"transformers has no model of type {directory.model_type!r} for {task}",
            f"there is: {tasks_of(library, config)}",
        )
    return own or next((each for each in found if each.__name__ in directory.architectures), found[0])


def _classes(autos: Iterable[Any], config: Any) -> Iterator[Any]:
    """Yield the classes for a configuration behind automatic classes; one may have several."""
    for auto in autos:
        found = auto._model_mapping.get(type(config), ())  # noqa: SLF001 - transformers has no other way to ask
        yield from found if isinstance(found, (list, tuple)) else (found,)


def _own(library: Any, directory: Directory) -> Any:
    """Return the automatic class behind which the directory puts its own architecture, else the first that it has."""
    models = {auto: own for auto, own in directory.code.items() if auto.startswith("AutoModel")}
    for auto, own in models.items():
        if own.rpartition(".")[2] in directory.architectures:
            return getattr(library, auto)
    if models:
        return getattr(library, next(iter(models)))
    raise SourceError(f"auto_map in config.json of {directory.path} names no model", "say what it is for: --task TASK")


def _words(name: str) -> str:
    """Return ``question-answering`` for ``QuestionAnswering``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()
