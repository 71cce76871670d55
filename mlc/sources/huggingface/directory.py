"""What lies in a Hugging Face directory, looked at before transformers is imported; nothing of it is run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlc.errors import SourceError, UsageError
from mlc.sources.contents import TRUST

CONFIG = "config.json"
ADAPTER = "adapter_config.json"
PIPELINE = "model_index.json"
MARKS = (CONFIG, ADAPTER, PIPELINE)
"""Files of which one makes a directory one of Hugging Face's."""

SAFE, SAFE_INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
"""The weights that transformers looks for, in this order; of the pickled ones only tensors are read."""

PROCESSORS = ("preprocessor_config.json", "processor_config.json")

OWN_CODE = re.compile(r"\w+\.\w+")
"""How code in the directory itself is named: a file without its ending, and a class."""

LFS_POINTER = b"version https://git-lfs"
SAVE_AGAIN = "copy it whole, or write it again with save_pretrained"


@dataclass(frozen=True)
class Directory:
    """A directory, its config.json, and what its image or audio processor says, which may be nothing."""

    path: Path
    config: Mapping[str, Any]
    processor: Mapping[str, Any]

    @property
    def model_type(self) -> str:
        """The kind of model, such as ``bert``."""
        return str(self.config.get("model_type", ""))

    @property
    def architectures(self) -> tuple[str, ...]:
        """The classes that the weights were saved from."""
        named = self.config.get("architectures")
        return tuple(str(name) for name in named) if isinstance(named, list) else ()

    @property
    def code(self) -> dict[str, str]:
        """The classes that the directory brings as code, by the class of transformers whose place they take."""
        named = self.config.get("auto_map")
        items = named.items() if isinstance(named, dict) else ()
        return {str(auto): str(own) for auto, own in items if str(auto).startswith(("AutoConfig", "AutoModel"))}

    @property
    def code_files(self) -> tuple[str, ...]:
        """The names of the files with that code."""
        return tuple(sorted({own.partition(".")[0] + ".py" for own in self.code.values()}))


def read_directory(path: Path, *, trust: bool) -> Directory:
    """Return a directory that transformers can load. Raises SourceError for what cannot be, and why.

    Raises UsageError for code of its own without ``trust``; code that lies elsewhere is always refused.
    """
    if not (path / CONFIG).is_file():
        raise _other_kind(path)
    config = _json(path / CONFIG)
    if "_diffusers_version" in config:
        raise SourceError(f"{path} is a model of diffusers, not of transformers", "write file.py:function for it")
    directory = Directory(path, config, _processor(path))
    _check_code(directory, trust=trust)
    if not directory.model_type:
        raise SourceError(f"{path / CONFIG} has no model_type", SAVE_AGAIN)
    quantized = config.get("quantization_config")
    if quantized:
        method = quantized.get("quant_method") if isinstance(quantized, dict) else None
        by = f" by {method}" if method else ""
        raise SourceError(
            f"the weights in {path} are quantized already{by}, and mlc quantizes by itself",
            "give the model that they were made from",
        )
    _check_weights(path)
    return directory


def _other_kind(path: Path) -> SourceError:
    if (path / ADAPTER).is_file():
        return SourceError(
            f"{path} is an adapter without its model", "merge them once: merge_and_unload(), then save_pretrained"
        )
    return SourceError(
        f"{path} is a pipeline of several models", "name the directory of one of them, or write file.py:function"
    )


def _json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as bad:
        raise SourceError(f"{path} is not JSON: {bad}", SAVE_AGAIN) from bad
    if not isinstance(content, dict):
        raise SourceError(f"{path} holds no object", SAVE_AGAIN)
    return content


def _processor(path: Path) -> Mapping[str, Any]:
    """Return what the first processor's file says, from inside of it where it keeps an image processor there."""
    for name in PROCESSORS:
        if (path / name).is_file():
            content = _json(path / name)
            inner = content.get("image_processor")
            return inner if isinstance(inner, dict) else content
    return {}


def _check_code(directory: Directory, *, trust: bool) -> None:
    for own in directory.code.values():
        if not OWN_CODE.fullmatch(own) or not (directory.path / f"{own.partition('.')[0]}.py").is_file():
            raise SourceError(
                f"{directory.path / CONFIG} names the code {own!r}, which is not in the directory",
                "only code in the directory itself is run: save_pretrained of the model, once loaded, puts it there",
            )
    if directory.code and not trust:
        files = ", ".join(directory.code_files)
        raise UsageError(f"{directory.path} brings code of its own, which loading it would run: {files}", TRUST)


def _check_weights(path: Path) -> None:
    """Raise SourceError where the weights are missing, in part missing, or placeholders."""
    for file in _weights(path):
        if not file.is_file():
            raise SourceError(f"{file} is missing, a part of the weights that the index beside it names", SAVE_AGAIN)
        with file.open("rb") as opened:
            if opened.read(len(LFS_POINTER)) == LFS_POINTER:
                raise SourceError(f"{file} is a pointer of Git LFS, not the weights", "run git lfs pull")


def _weights(path: Path) -> Iterator[Path]:
    """Yield the files that hold the weights, in the order of preference of transformers."""
    for whole, index in ((SAFE, SAFE_INDEX), (PICKLED, PICKLED_INDEX)):
        if (path / whole).is_file():
            yield path / whole
            return
        if (path / index).is_file():
            yield from _shards(path / index)
            return
    hint = SAVE_AGAIN
    if (path / "model.onnx").is_file():
        hint = f"write {path / 'model.onnx'} for the ONNX model in it"
    raise SourceError(f"there are no weights in {path}: neither {SAFE} nor {PICKLED}, whole or with an index", hint)


def _shards(index: Path) -> Iterator[Path]:
    named = _json(index).get("weight_map")
    if not isinstance(named, dict) or not named:
        raise SourceError(f"{index} has no weight_map of keys to files", SAVE_AGAIN)
    for name in sorted(set(map(str, named.values()))):
        if Path(name).name != name:
            raise SourceError(f"{index} names {name!r}, which is no file beside it", SAVE_AGAIN)
        yield index.parent / name
