"""NVIDIA's libraries for the providers that need them: loaded from their packages, and named where they are missing."""

from __future__ import annotations

import contextlib
import ctypes
import io
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import onnxruntime

from mlc.errors import TargetError, first_line
from mlc.runtimes.library_text import END, holds

PREFIXES = ("CUDA", "Tensorrt")
"""How the names of onnxruntime's providers begin that load NVIDIA's libraries."""

DRIVER = ("libcuda.", "nvcuda")
TENSORRT = ("libnvinfer", "libnvonnxparser", "nvinfer", "nvonnxparser")
"""How the driver's and TensorRT's libraries are called; all others are in CUDA's packages."""

TF32 = "use_tf32"
"""The option of onnxruntime's CUDA provider that lets products of float32 be computed with ten bits of fraction."""


def needs_nvidia(provider: str) -> bool:
    """Whether a provider, by onnxruntime's own name, loads NVIDIA's libraries."""
    return provider.startswith(PREFIXES)


def defaults(provider: str) -> dict[str, str]:
    """Return the options that a provider is given where a target says nothing of them: floats computed in float32.

    Left to itself the CUDA provider takes TF32 for products of float32 on cards that have it.
    """
    return {TF32: "0"} if provider.startswith("CUDA") else {}


@cache
def load_libraries(provider: str) -> None:
    """Load a provider's library with what it needs, from NVIDIA's packages where they are installed.

    onnxruntime itself would say nothing of a library that is missing, and run on the CPU. Raises TargetError that names
    it.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find, also what is not needed
        onnxruntime.preload_dlls(msvc=False)
    for part, mode in (("shared", ctypes.RTLD_GLOBAL), (_short(provider), ctypes.DEFAULT_MODE)):
        for library in _libraries(part):
            try:
                ctypes.CDLL(str(library), mode)
            except OSError as error:
                told = first_line(error)
                raise TargetError(f"the provider {_short(provider)} does not load: {told}", _hint(told)) from error


def check_options(provider: str, options: Iterable[str]) -> None:
    """Raise TargetError for an option that a provider's library never heard of: it would end the process."""
    for key in options:
        if not holds(_libraries(_short(provider)), END + key.encode() + END):
            raise TargetError(f"the provider {_short(provider)} has no option {key!r}", "check the spelling")


def _short(provider: str) -> str:
    return provider.removesuffix("ExecutionProvider").lower()


def _libraries(part: str) -> tuple[Path, ...]:
    folder = Path(onnxruntime.__file__).parent / "capi"
    return tuple(sorted(folder.glob(f"*onnxruntime_providers_{part}.*")))


def _hint(told: str) -> str:
    if told.startswith(DRIVER):
        return "it needs a card of NVIDIA's and its driver"
    if told.startswith(TENSORRT):
        return "it needs TensorRT's libraries where the system looks for libraries"
    return "pip install 'onnxruntime-gpu[cuda,cudnn]' brings CUDA's libraries"


@cache
def device_text(options: tuple[tuple[str, str], ...]) -> str:
    """Return the card in its maker's words, its driver, and what floats are computed in; empty without nvidia-ml-py.

    The numbers of cards are not those of the provider where cards differ, so all that it may be are named.
    """
    if find_spec("pynvml") is None:
        return ""
    import pynvml

    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(place) for place in range(pynvml.nvmlDeviceGetCount())]
        names = dict.fromkeys(str(pynvml.nvmlDeviceGetName(handle)) for handle in handles)
        driver = str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return ""
    tf32 = dict(options).get(TF32)
    floats = "" if tf32 is None else f", floats in {'float32' if tf32 == '0' else 'TF32'}"
    return f"GPU {' or '.join(names)}, driver {driver}{floats}"
