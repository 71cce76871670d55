"""A directory as a module: loaded by transformers, all weights in place, nothing made up."""

from __future__ import annotations

import inspect
from typing import Any

from mlc.errors import SourceError, first_line, foreign
from mlc.sources.huggingface.directory import CONFIG, SAVE_AGAIN, Directory
from mlc.sources.huggingface.tasks import model_class
from mlc.sources.weights.state import REFUSED
from mlc.sources.weights.tensors import listed

EAGER = "eager"
"""How transformers calls attention that is written in plain products, which torch.export follows best."""

POOLER = "add_pooling_layer"
"""The option of classes that can do without a pooler."""

SAID = 300
"""How many characters of what transformers says stand in a message."""


def load_model(library: Any, directory: Directory, task: str | None, *, trust: bool) -> tuple[Any, tuple[str, ...]]:
    """Return the model in evaluation mode, float32, without a cache, and notes on what was done to it.

    Raises SourceError where weights are missing, too few or of other shapes, UsageError for a task that is not its own.
    """
    import torch

    trusted = trust and bool(directory.code)
    config = _config(library, directory, trusted=trusted)
    chosen = model_class(library, directory, config, task)
    asked = {
        "config": config, "dtype": torch.float32, "attn_implementation": EAGER, "local_files_only": True,
        "weights_only": True, "ignore_mismatched_sizes": True, "output_loading_info": True,
        "trust_remote_code": trusted,
    }  # fmt: skip
    notes: tuple[str, ...] = ()
    with torch.random.fork_rng(devices=[]):
        model, found = _loaded(directory, chosen, asked)
        if _only_pooler(found["missing_keys"]) and POOLER in inspect.signature(type(model).__init__).parameters:
            model, found = _loaded(directory, chosen, {**asked, POOLER: False})
            notes = ("the weights have no pooler, and the model is loaded without one",)
    _check(directory, type(model).__name__, found, task)
    notes = (*_notes(library, directory, model, sorted(found["unexpected_keys"])), *notes)
    model.float()  # buffers that the code of transformers makes in half precision: their values stay what they are
    _without_cache(model)
    return model.eval(), notes


def _config(library: Any, directory: Directory, *, trusted: bool) -> Any:
    kind = directory.model_type
    if not trusted and kind not in library.CONFIG_MAPPING:
        raise SourceError(
            f"transformers {library.__version__} knows no model of type {kind!r}, which {directory.path} is",
            "a later transformers may, or write file.py:function that makes the model",
        )
    place = str(directory.path)
    try:
        with foreign("transformers"):
            return library.AutoConfig.from_pretrained(place, local_files_only=True, trust_remote_code=trusted)
    except SourceError as failed:
        raise _told(f"transformers cannot use {directory.path / CONFIG}", failed) from failed.__cause__


def _loaded(directory: Directory, chosen: Any, asked: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    try:
        with foreign("transformers"):
            model, found = chosen.from_pretrained(str(directory.path), **asked)
    except SourceError as failed:
        pickled = REFUSED.search(str(failed.__cause__))
        if pickled is None:
            raise _told(f"transformers cannot load {directory.path}", failed) from failed.__cause__
        raise SourceError(
            f"the weights in {directory.path} hold more than tensors: {pickled[1]} would have to be imported, and can "
            "run any code",
            "write them as safetensors where they come from",
        ) from failed
    return model, found


def _told(what: str, failed: SourceError) -> SourceError:
    """Return what transformers said, which takes several lines, in one."""
    raised = failed.__cause__ or failed
    return SourceError(f"{what}: {type(raised).__name__}: {' '.join(str(raised).split())[:SAID]}", SAVE_AGAIN)


def _only_pooler(missing: set[str]) -> bool:
    return bool(missing) and all("pooler" in key.split(".") for key in missing)


def _check(directory: Directory, kind: str, found: dict[str, Any], task: str | None) -> None:
    """Refuse a model of which transformers has made up a part."""
    shapes = [
        f"{key} (is {list(given)}, should be {list(wanted)})"
        for key, given, wanted in sorted(found["mismatched_keys"], key=str)
    ]
    missing = sorted(found["missing_keys"] - {key for key, *_ in found["mismatched_keys"]})
    facts = [
        f"{len(keys)} {what}: {listed(keys)}"
        for what, keys in (("missing", missing), ("of the wrong shape", shapes))
        if keys
    ]
    if facts:
        saved = f"leave --task out: they were saved from {' or '.join(directory.architectures)}"
        raise SourceError(
            f"the weights in {directory.path} are not those of {kind}; " + "; ".join(facts),
            saved if task is not None and directory.architectures else SAVE_AGAIN,
        )
    if found["error_msgs"]:
        raise SourceError(
            f"transformers cannot load {directory.path}: {first_line(ValueError(found['error_msgs'][0]))}", SAVE_AGAIN
        )


def _notes(library: Any, directory: Directory, model: Any, unexpected: list[str]) -> tuple[str, ...]:
    notes = [f"loaded as {type(model).__name__} by transformers {library.__version__}"]
    if directory.code:
        notes.append(f"code from the directory was run: {', '.join(directory.code_files)}")
    saved = str(directory.config.get("dtype") or directory.config.get("torch_dtype") or "float32")
    if saved != "float32":
        notes.append(f"the weights are {saved}, loaded as float32")
    if unexpected:
        notes.append(f"weights that {type(model).__name__} does not have are left out: {listed(unexpected)}")
    if (directory.path / "modules.json").is_file():
        notes.append("what modules.json puts behind the transformer (pooling, normalization) is no part of the model")
    if model.can_generate():
        notes.append("without a key-value cache: every call computes the whole sequence again")
    return tuple(notes)


def _without_cache(model: Any) -> None:
    """Have every part return named outputs and no cache: encoders and decoders have configurations of their own."""
    for part in model.modules():
        config = getattr(part, "config", None)
        if config is not None:
            config.return_dict = True
            if hasattr(config, "use_cache"):
                config.use_cache = False
